"""The training loop: goes through a run's phases, compiles and enters each, and saves."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from alexatm_jax import cluster
from alexatm_jax.model.transformer import Transformer
from alexatm_jax.partitioning import Partitioning, batch_sharding
from alexatm_jax.training.checkpoint import Checkpoints
from alexatm_jax.training.config import TrainingConfig
from alexatm_jax.training.goodput import Clock
from alexatm_jax.training.phases import ResolvedPhase
from alexatm_jax.training.profiling import Profile
from alexatm_jax.training.progress import ProgressLog
from alexatm_jax.training.state import (
    TrainState,
    abstract_state,
    create_state,
    entered,
    state_shardings,
)
from alexatm_jax.training.step import make_train_step
from alexatm_jax.training.stepping import Reader, Stepping
from alexatm_jax.training.stopping import termination
from alexatm_jax.training.validation import OpenBatches, Validate, make_validate
from alexatm_jax.training.warm_start import PreparedStart

logger = logging.getLogger(__name__)

ReaderState = dict[str, Any]


class OpenReader(Protocol):
    """Opens the batches of a phase."""

    def __call__(self, phase: ResolvedPhase, state: ReaderState | None, crossing: bool) -> Reader:
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
    *,
    merged: Callable[[list[ReaderState]], ReaderState] = lambda states: states[0],
    on_checkpoint: Callable[[ReaderState], None] = lambda state: None,
    warm_start: PreparedStart | None = None,
    validation_batches: OpenBatches | None = None,
    clock: Clock | None = None,
) -> TrainState:
    """Trains to `train_steps`, continuing from the newest checkpoint in `model_dir` if any.

    A run stopped anywhere and started again takes the same batches and makes the same losses. On
    SIGTERM it saves a checkpoint and raises SystemExit; when the reader has no more batches, it
    saves one and raises NoMoreBatches.
    Each phase has a step of its own, and all are compiled before any update; the checkpoint at the
    step where two meet is as the first left it, and a run that goes on from there enters the
    second. Every process of the run calls this; the first one writes what is not an array.

    Args:
      phases: `config.resolved_phases` of the model, the batch size and the lengths.
      open_reader: opens this process's part of the batches of a phase.
      model_dir: gets `checkpoints/`, `metrics.jsonl`, `goodput.jsonl`, `tensorboard/`, `profile/`.
      provenance: kept with every checkpoint.
      merged: puts the readers' states of all processes together.
      on_checkpoint: called with that whenever a checkpoint is saved.
      warm_start: parameters that start from elsewhere, read if there is no checkpoint yet.
      validation_batches: opens what `config.validation` measures the loss on.
      clock: what has counted the run's time so far.

    Returns:
      The final state.
    """
    run = _Run(model, config, partitioning, mesh, clock or Clock())
    with (
        contextlib.ExitStack() as listening,  # until the last checkpoint is written
        Checkpoints(Path(model_dir) / "checkpoints", config.max_checkpoints) as checkpoints,
    ):
        restored = checkpoints.latest_step()
        first = phase_that_left(phases, restored or 0)
        state, reader_state = run.begin(first, checkpoints, restored, warm_start)
        if restored is not None and restored >= config.train_steps:
            logger.info("nothing to do: %d steps were asked for", config.train_steps)
            return state

        def save(state: TrainState, reader_state: ReaderState) -> None:
            with run.clock.spending("checkpoint"):
                everybody = merged(cluster.gathered(reader_state))
                checkpoints.save(state, everybody, provenance)
                on_checkpoint(everybody)
            logger.info("%s", run.clock.goodput().line())

        validate = run.validate(validation_batches, phases[0])
        agreed = listening.enter_context(termination())
        opened = run.stepping(Path(model_dir), restored or 0, agreed, validate, checkpoints.wait)
        with opened as stepping:
            coming = [p for p in phases[first.number :] if p.end_step != restored]
            programs = run.compile(coming)
            for phase in coming:
                logger.info("%s", phase.description())
                crossing = 0 < int(state.step) == phase.start_step
                reader = open_reader(phase, reader_state, crossing)
                state = run.enter(phase, state)
                # Nobody but the phase's steps keeps its program, whose memory goes with them.
                steps = stepping.run(state, reader, programs.popleft(), phase)
                for state, reader_state in steps:
                    save(state, reader_state)
            logger.info("%s", stepping.closing_line())
    return state


def phase_that_left(phases: Sequence[ResolvedPhase], step: int) -> ResolvedPhase:
    """Gives the phase whose update led to a step; the first one before any update."""
    return next(p for p in reversed(phases) if p.start_step < step or p.number == 0)


@dataclasses.dataclass(frozen=True)
class _Run:
    """What all phases have in common."""

    model: Transformer
    config: TrainingConfig
    partitioning: Partitioning
    mesh: Mesh
    clock: Clock

    def begin(
        self,
        phase: ResolvedPhase,
        checkpoints: Checkpoints,
        restored: int | None,
        warm_start: PreparedStart | None,
    ) -> tuple[TrainState, ReaderState | None]:
        """Makes the first state, or restores the one that `phase` left, and its reader's."""
        optimizer, shardings = self.config.optimizer, self._shardings(phase)
        with self.clock.spending("restore"):
            if restored is None:
                given = warm_start.read(shardings.params) if warm_start else {}
                seed = self.config.seed
                return create_state(self.model, optimizer, phase, shardings, seed, given), None
            abstract = abstract_state(self.model, optimizer, phase, shardings)
            found = checkpoints.restore(restored, abstract)
        logger.info("continuing from the checkpoint of step %d", restored)
        return found

    def enter(self, phase: ResolvedPhase, state: TrainState) -> TrainState:
        """Turns the state that the phase before left into this phase's."""
        with self.clock.spending("restore"):
            shardings = self._shardings(phase)
            return entered(state, self.model, self.config.optimizer, phase, shardings)

    def compile(self, phases: Sequence[ResolvedPhase]) -> collections.deque[jax.stages.Compiled]:
        """Compiles the steps of all phases, so that one that cannot be ends no run days later."""
        programs: collections.deque[jax.stages.Compiled] = collections.deque()
        for phase in phases:
            if len(phases) > 1:
                logger.info("compiling the step of %s", phase)
            with self.clock.spending("compile"):
                programs.append(
                    compile_step(self.model, self.config, phase, self.partitioning, self.mesh)
                )
        return programs

    @contextlib.contextmanager
    def stepping(
        self,
        model_dir: Path,
        restored: int,
        agreed: Callable[[int], bool],
        validate: Validate | None,
        saved: Callable[[], None],
    ) -> Iterator[Stepping]:
        """Opens the logs, and in the end counts the wait until all is `saved`."""
        writes, config = cluster.is_first(), self.config
        with contextlib.ExitStack() as closing:
            log = ProgressLog(model_dir, restored, config.train_steps, writes=writes)
            closing.callback(log.close)
            self.clock.open(model_dir, restored, writes=writes)
            closing.callback(self.clock.close)
            closing.callback(self.clock.spending("checkpoint")(saved))
            profile = Profile(config.profile_steps if writes else None, model_dir / "profile")
            about = (self.model.config, config, self.mesh)
            yield Stepping(*about, log, self.clock, profile, agreed, validate)

    def validate(self, batches: OpenBatches | None, phase: ResolvedPhase) -> Validate | None:
        """Compiles validation, on batches as large as the first phase's in all phases."""
        if batches is None or self.config.validation is None:
            return None
        with self.clock.spending("compile"):
            return make_validate(
                self.model,
                self.config.validation,
                self.partitioning,
                self.mesh,
                batches,
                phase.batch_shapes,
                num_microbatches=self.config.num_microbatches,
                loss_chunk_length=self.config.loss_chunk_length,
            )

    def _shardings(self, phase: ResolvedPhase) -> TrainState:
        optimizer = self.config.optimizer
        return state_shardings(self.model, optimizer, phase, self.partitioning, self.mesh)


def compile_step(
    model: Transformer,
    config: TrainingConfig,
    phase: ResolvedPhase,
    partitioning: Partitioning,
    mesh: Mesh,
) -> jax.stages.Compiled:
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
