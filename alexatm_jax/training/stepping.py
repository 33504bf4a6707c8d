"""Takes the steps of a phase: feeds batches, keeps the clock, says when a save is due."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from alexatm_jax.batch import Batch, NoMoreBatches, check_batch
from alexatm_jax.model.config import ModelConfig
from alexatm_jax.partitioning import batch_sharding, to_devices
from alexatm_jax.training.config import TrainingConfig
from alexatm_jax.training.phases import ResolvedPhase
from alexatm_jax.training.progress import ProgressLog, Row, summarise
from alexatm_jax.training.state import TrainState
from alexatm_jax.training.step import TrainStep

Reader = Iterator[tuple[Batch, dict[str, Any]]]
"""Batches, each with the reader's state behind it; `data.pipeline.Prefetcher` is one."""

MAX_STEPS_IN_FLIGHT = 2
"""Steps given to the devices but not finished: one computes while the next one waits."""


@dataclasses.dataclass(frozen=True)
class Stepping:
    """What takes steps, in any phase.

    Attributes:
      model, config, mesh: of the run.
      log: gets the progress lines.
      terminated: whether the run is to end after the step just given to the devices.
    """

    model: ModelConfig
    config: TrainingConfig
    mesh: Mesh
    log: ProgressLog
    terminated: Callable[[], bool]

    def run(
        self, state: TrainState, reader: Reader, train_step: TrainStep, phase: ResolvedPhase
    ) -> Iterator[tuple[TrainState, dict[str, Any]]]:
        """Trains to the end of a phase.

        Yields:
          Train and reader state where a checkpoint is due, at the end of the phase too.

        Raises:
          SystemExit: after the last checkpoint, if the run is terminated or has no more batches.
          FloatingPointError: if a loss or gradient is no number.
        """
        rows = batch_sharding(self.mesh)
        period = _Period()
        in_flight: collections.deque[Any] = collections.deque()
        saved = int(state.step)
        sums: dict[str, Any] = {}
        for done in range(saved + 1, phase.end_step + 1):
            asked = time.perf_counter()
            try:
                batch, reader_state = next(reader)
            except NoMoreBatches as end:
                if saved < done - 1:
                    _check_finite(jax.device_get(sums), done - 1)
                    yield state, reader_state
                raise SystemExit(f"stopped after step {done - 1}: {end}") from end
            if all(output.is_ready() for output in in_flight):
                # The devices had nothing left to do; otherwise nobody waited.
                period.waited_seconds += time.perf_counter() - asked
            check_batch(batch)
            if len(in_flight) == MAX_STEPS_IN_FLIGHT:
                jax.block_until_ready(in_flight.popleft())
            state, sums = train_step(state, to_devices(batch, rows))
            in_flight.append(sums["steps"])
            period.steps += 1
            # Asked once a step: a signal that comes later stops, and saves, the next one.
            last, stopping = done == phase.end_step, self.terminated()
            line_due = last or done % self.config.log_period_steps == 0
            save_due = last or stopping or done % self.config.checkpoint_period_steps == 0
            if line_due or save_due:
                totals = jax.device_get(sums)
                _check_finite(totals, done)
            if line_due:
                self.log.write(self._row(totals, done, phase, period))
                period = _Period()
            if save_due:
                yield state, reader_state
                saved = done
            if stopping:
                raise SystemExit(f"stopped by SIGTERM after step {done}; the same command goes on.")

    def _row(
        self, totals: Mapping[str, Any], done: int, phase: ResolvedPhase, period: _Period
    ) -> Row:
        return summarise(
            totals,
            config=self.model,
            step=done,
            total_steps=self.config.train_steps,
            timed_steps=period.steps,
            seconds=time.perf_counter() - period.start,
            input_wait_seconds=period.waited_seconds,
            learning_rate=float(phase.schedule(done - 1)),
        )


@dataclasses.dataclass
class _Period:
    """What the clock saw since the last progress line."""

    start: float = dataclasses.field(default_factory=time.perf_counter)
    waited_seconds: float = 0.0
    steps: int = 0


def _check_finite(sums: Mapping[str, Any], step: int) -> None:
    loss, norm = float(sums["loss"].sum()), float(sums["gradient_norm"])
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise FloatingPointError(
            f"by step {step} the loss is {loss} and the gradient's norm {norm}; nothing was saved "
            "since the last checkpoint: lower the learning rate or clip_norm and start again "
            "from there."
        )
