"""Run mode `cache`, and the cache that every other mode reads."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path

from alexatm_jax import preflight
from alexatm_jax.data import cache


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to read, and where its cache is.

    Attributes:
      mixture_or_task_name: a registered SeqIO mixture or task of pre-training.
      cache_dir: where tokenized documents are, or will be written.
      evaluation_tasks: few-shot tasks to keep in the cache beside them.
      task_modules: modules that register tasks, imported when the cache lacks something.
      max_documents: the first training run caches by itself only corpora up to this size;
        `--run_mode=cache` caches any.
    """

    mixture_or_task_name: str
    cache_dir: str
    evaluation_tasks: Sequence[str] = ()
    task_modules: Sequence[str] = ("alexatm_jax.tasks",)
    max_documents: int = 1_000_000


def build_cache(data: DataConfig, max_documents: int | None = None) -> cache.MixtureSpec:
    """Run mode `cache`: writes the mixture's documents and its evaluation tasks.

    Needs TensorFlow and SeqIO, the extra [data].
    """
    with preflight.refusing():
        preflight.check_writable(data.cache_dir)
        try:
            seqio_tasks = importlib.import_module("alexatm_jax.data.seqio_tasks")
        except ImportError as error:
            raise ImportError(
                f"the cache {data.cache_dir} lacks {data.mixture_or_task_name!r} or its evaluation "
                f"tasks, and SeqIO cannot be imported to make them ({error}); install "
                "alexatm_jax[data], or copy a cache made elsewhere with --run_mode=cache."
            ) from error
        for module in data.task_modules:
            importlib.import_module(module)
        spec: cache.MixtureSpec = seqio_tasks.build_cache(
            data.cache_dir,
            data.mixture_or_task_name,
            evaluation_tasks=data.evaluation_tasks,
            max_documents=max_documents,
        )
    return spec


def open_cache(data: DataConfig) -> cache.MixtureSpec:
    """Reads the mixture from the cache; makes the cache if something is not there yet."""
    with preflight.refusing():
        if _is_cached(data):
            return cache.read_mixture(data.cache_dir, data.mixture_or_task_name)
    return build_cache(data, data.max_documents)


def _is_cached(data: DataConfig) -> bool:
    folder = Path(data.cache_dir)
    wanted = [folder / "mixtures" / f"{data.mixture_or_task_name}.json"]
    wanted += [folder / "evaluation" / f"{name}.json" for name in data.evaluation_tasks]
    return all(path.exists() for path in wanted)
