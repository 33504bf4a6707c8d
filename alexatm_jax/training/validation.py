"""The loss on held-out text, measured while training goes on."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from alexatm_jax.batch import OBJECTIVES, Batch, check_batch
from alexatm_jax.model.transformer import Transformer
from alexatm_jax.partitioning import Partitioning, batch_sharding, replicated, to_devices
from alexatm_jax.training.state import Sums, abstract_params
from alexatm_jax.training.step import DeviceBatch, batch_loss

logger = logging.getLogger(__name__)

OpenBatches = Callable[[], Iterator[Batch]]
"""Opens this host's rows of the same batches, from the first one, at every call."""

Validate = Callable[[Any], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """On what to measure the loss, and when.

    Attributes:
      mixture_or_task_name: held-out text, in the cache that training reads.
      num_batches: measured each time, always the first ones; of the run's batch size.
      period_steps: updates between two measurements.

    Raises:
      ValueError: if a count is not positive.
    """

    mixture_or_task_name: str
    num_batches: int = 16
    period_steps: int = 1000

    def __post_init__(self) -> None:
        for name in ("num_batches", "period_steps"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"ValidationConfig.{name} is {getattr(self, name)}; it must be at least 1."
                )


def make_validate(
    model: Transformer,
    config: ValidationConfig,
    partitioning: Partitioning,
    mesh: Mesh,
    open_batches: OpenBatches,
    batch_shapes: dict[str, tuple[int, ...]],
    *,
    num_microbatches: int = 1,
    loss_chunk_length: int | None = None,
) -> Validate:
    """Compiles the measurement: no dropout, no gradients, as many rows at a time as a step has.

    Args:
      open_batches: opens the batches of `config.mixture_or_task_name`.
      batch_shapes: of the global batch, from `alexatm_jax.batch.batch_shapes`.
      num_microbatches: parts of a batch that are computed one after the other.
      loss_chunk_length: see `training.loss`.

    Returns:
      What maps parameters, placed as in training, to nats per target token over all batches:
      "validation_loss", and "validation_loss/denoising" and so on for each objective they have.
    """

    def sums_of(params: Any, batch: DeviceBatch) -> Sums:
        def measured(rows: DeviceBatch) -> Sums:
            sums = batch_loss(model, params, rows, None, loss_chunk_length)[1]
            return {name: sums[name] for name in ("loss", "weight")}

        # Every device keeps rows of its own, as in a training step.
        split = jax.tree.map(
            lambda x: x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1), batch
        )
        return jax.tree.map(lambda x: x.sum(axis=0), jax.lax.map(measured, split))

    rows = batch_sharding(mesh)
    shapes = {
        name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows)
        for name, shape in batch_shapes.items()
    }
    params = partitioning.placed_params(abstract_params(model), mesh)
    start = time.perf_counter()
    with jax.set_mesh(mesh), nn.logical_axis_rules(partitioning.rules):
        step = jax.jit(sums_of, out_shardings=replicated(mesh)).lower(params, shapes).compile()
    logger.info("compiled validation in %.1f s", time.perf_counter() - start)

    def validate(params: Any) -> dict[str, float]:
        loss, weight = np.zeros((2, len(OBJECTIVES)))
        for batch in itertools.islice(open_batches(), config.num_batches):
            check_batch(batch)
            sums = jax.device_get(step(params, to_devices(batch, rows)))
            loss, weight = loss + sums["loss"], weight + sums["weight"]
        return _means(loss, weight)

    return validate


def _means(loss: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    """Divides sums per objective by their tokens."""
    per_objective = {
        f"validation_loss/{name}": float(loss[i] / weight[i])
        for i, name in enumerate(OBJECTIVES)
        if weight[i]
    }
    return {"validation_loss": float(loss.sum() / max(weight.sum(), 1))} | per_objective
