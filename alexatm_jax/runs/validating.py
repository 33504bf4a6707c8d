"""The held-out text of a training run, from the cache that it reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from jax.sharding import Mesh

from alexatm_jax.batch import Batch
from alexatm_jax.data import cache, pipeline
from alexatm_jax.partitioning import row_share
from alexatm_jax.runs.caching import DataConfig
from alexatm_jax.training.validation import OpenBatches, ValidationConfig


def open_validation(
    data: DataConfig, config: ValidationConfig, reading: pipeline.ReaderConfig, mesh: Mesh
) -> OpenBatches:
    """Opens this host's part of the validation mixture.

    Args:
      data: where the cache is, and what training reads.
      reading: how training reads; the batches are as large, and drawn with the same seed. The
        mixture has rates of its own, and is read as often as it takes.

    Raises:
      ValueError: if the mixture is not in the cache, or shares text with the training mixture.
    """
    name = config.mixture_or_task_name
    try:
        spec = cache.read_mixture(data.cache_dir, name)
    except cache.CacheError as error:
        raise ValueError(
            f"validation reads {name!r}: {error} --run_mode=cache with "
            f"--gin.MIXTURE_OR_TASK_NAME=\"'{name}'\" puts it there."
        ) from error
    trained_on = cache.read_mixture(data.cache_dir, data.mixture_or_task_name).corpora
    if shared := sorted(set(spec.corpora) & set(trained_on)):
        raise ValueError(
            f"validation reads {name!r}, and training reads its text too ({', '.join(shared)}), "
            "so its loss would say nothing of new text; validate on a mixture of other corpora."
        )
    reading = dataclasses.replace(reading, max_epochs=None, rate_factors={})
    reader = pipeline.open_reader(data.cache_dir, name, reading, *row_share(mesh))
    beginning = reader.get_state()

    def batches() -> Iterator[Batch]:
        reader.set_state(beginning)
        return reader

    return batches
