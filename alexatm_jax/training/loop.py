"""The training loop: goes through a run's phases, compiles and enters each, and saves."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from alexatm_jax.model.transformer import Transformer
from alexatm_jax.partitioning import Partitioning, batch_sharding
from alexatm_jax.training.checkpoint import Checkpoints
from alexatm_jax.training.config import TrainingConfig
from alexatm_jax.training.phases import ResolvedPhase
from alexatm_jax.training.progress import ProgressLog
from alexatm_jax.training.state import (
    TrainState,
    abstract_state,
    create_state,
    entered,
    state_shardings,
)
from alexatm_jax.training.step import TrainStep, make_train_step
from alexatm_jax.training.stepping import Reader, Stepping
from alexatm_jax.training.warm_start import PreparedStart

logger = logging.getLogger(__name__)


class OpenReader(Protocol):
    """Opens the batches of a phase."""

    def __call__(
        self, phase: ResolvedPhase, state: dict[str, Any] | None, crossing: bool
    ) -> Reader:
        """Opens them behind a saved state, or from the first.

        Args:
          crossing: the state is of the phase before, at its end.
        """


def train(
    model: Transformer,
    config: TrainingConfig,
    phases: Sequence[ResolvedPhase],
    partitioning: Partitioning,
    mesh: Mesh,
    open_reader: OpenReader,
    model_dir: str | Path,
    provenance: dict[str, Any],
    on_checkpoint: Callable[[dict[str, Any]], None] = lambda reader_state: None,
    warm_start: PreparedStart | None = None,
) -> TrainState:
    """Trains to `train_steps`, continuing from the newest checkpoint in `model_dir` if any.

    A run stopped anywhere and started again takes the same batches and makes the same losses. On
    SIGTERM, or when the reader has no more batches, it saves a checkpoint and raises SystemExit.
    Each phase has a compiled step of its own; the checkpoint at the step where two meet is as the
    first left it, and a run that goes on from there enters the second.

    Args:
      phases: `config.resolved_phases` of the model, the batch size and the lengths.
      open_reader: opens the batches of a phase.
      model_dir: gets `checkpoints/`, `metrics.jsonl` and `tensorboard/`.
      provenance: kept with every checkpoint.
      on_checkpoint: called with the reader's state whenever one is saved.
      warm_start: parameters that start from elsewhere, read if there is no checkpoint yet.

    Returns:
      The final state.
    """
    with Checkpoints(Path(model_dir) / "checkpoints", config.max_checkpoints) as checkpoints:
        restored = checkpoints.latest_step()
        first = _phase_that_left(phases, restored or 0)
        shardings = state_shardings(model, config.optimizer, first, partitioning, mesh)
        reader_state = None
        if restored is None:
            given = warm_start.read(shardings.params) if warm_start else {}
            state = create_state(model, config.optimizer, first, shardings, config.seed, given)
        else:
            abstract = abstract_state(model, config.optimizer, first, shardings)
            state, reader_state = checkpoints.restore(restored, abstract)
            logger.info("continuing from the checkpoint of step %d", restored)
            if restored >= config.train_steps:
                logger.info("nothing to do: %d steps were asked for", config.train_steps)
                return state
        log = ProgressLog(model_dir, restored or 0, config.train_steps)
        try:
            with _termination() as terminated:
                stepping = Stepping(model.config, config, mesh, log, terminated)
                for phase in phases[first.number :]:
                    if restored == phase.end_step:
                        continue
                    logger.info("%s", phase.description())
                    shardings = state_shardings(model, config.optimizer, phase, partitioning, mesh)
                    state = entered(state, model, config.optimizer, phase, shardings)
                    train_step = compile_step(model, config, phase, partitioning, mesh)
                    crossing = 0 < int(state.step) == phase.start_step
                    reader = open_reader(phase, reader_state, crossing)
                    saves = stepping.run(state, reader, train_step, phase)
                    for state, reader_state in saves:
                        checkpoints.save(state, reader_state, provenance)
                        on_checkpoint(reader_state)
        finally:
            log.close()
    return state


def _phase_that_left(phases: Sequence[ResolvedPhase], step: int) -> ResolvedPhase:
    """Gives the phase whose update led to a step; the first one before any update."""
    return next(p for p in reversed(phases) if p.start_step < step or p.number == 0)


def compile_step(
    model: Transformer,
    config: TrainingConfig,
    phase: ResolvedPhase,
    partitioning: Partitioning,
    mesh: Mesh,
) -> TrainStep:
    """Compiles the step of a phase ahead, so that no progress line holds compile time.

    Returns:
      What `make_train_step` gives, compiled: it takes and gives states placed by
      `state_shardings`, the one that it takes being donated.
    """
    shardings = state_shardings(model, config.optimizer, phase, partitioning, mesh)
    train_step = make_train_step(
        model,
        config.optimizer,
        phase,
        seed=config.seed,
        log_period_steps=config.log_period_steps,
        num_microbatches=config.num_microbatches,
        loss_chunk_length=config.loss_chunk_length,
    )
    rows = batch_sharding(mesh)
    jitted = jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(shardings, rows),
        out_shardings=(shardings, shardings.sums),
    )
    batch = {
        name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows)
        for name, shape in phase.batch_shapes.items()
    }
    state = abstract_state(model, config.optimizer, phase, shardings)
    start = time.perf_counter()
    with jax.set_mesh(mesh), nn.logical_axis_rules(partitioning.rules):
        compiled = jitted.lower(state, batch).compile()
    logger.info("compiled the training step in %.1f s", time.perf_counter() - start)
    return compiled


@contextmanager
def _termination() -> Iterator[Callable[[], bool]]:
    """Turns SIGTERM into a flag for as long as the loop runs."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, previous)
