"""Takes the steps of a phase: feeds batches, writes the progress, says when a save is due."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from alexatm_jax import cluster
from alexatm_jax.batch import Batch, NoMoreBatches, check_batch
from alexatm_jax.hardware import peak_flops
from alexatm_jax.model.config import ModelConfig
from alexatm_jax.partitioning import batch_sharding, to_devices
from alexatm_jax.training.config import TrainingConfig
from alexatm_jax.training.device_watch import DeviceWatch
from alexatm_jax.training.goodput import Clock
from alexatm_jax.training.phases import ResolvedPhase
from alexatm_jax.training.profiling import Profile
from alexatm_jax.training.progress import ProgressLog, summarise
from alexatm_jax.training.state import TrainState
from alexatm_jax.training.validation import Validate

Reader = Iterator[tuple[Batch, dict[str, Any]]]
"""Batches, each with the reader's state behind it; `data.pipeline.Prefetcher` is one."""

Due = tuple[TrainState, dict[str, Any]]
"""What a checkpoint holds of training and of its reader."""

MAX_STEPS_IN_FLIGHT = 2
"""Steps given to the devices but not finished: one computes while the next one waits."""


@dataclasses.dataclass(frozen=True)
class Stepping:
    """What takes steps, in any phase.

    Attributes:
      model, config, mesh: of the run.
      log: gets the progress lines.
      clock: counts where the time goes.
      profile: traces the steps that are to be traced.
      agreed: whether the run is to end after the step just given to the devices.
      validate: measures the loss on held-out text.
    """

    model: ModelConfig
    config: TrainingConfig
    mesh: Mesh
    log: ProgressLog
    clock: Clock
    profile: Profile
    agreed: Callable[[int], bool]
    validate: Validate | None = None

    def run(
        self,
        state: TrainState,
        reader: Reader,
        train_step: jax.stages.Compiled,
        phase: ResolvedPhase,
    ) -> Iterator[Due]:
        """Trains to the end of a phase.

        Yields:
          Train and reader state where a checkpoint is due, at the end of the phase too.

        Raises:
          SystemExit: after the last checkpoint, if the run is terminated.
          NoMoreBatches: after the last checkpoint, if the reader has no more.
          FloatingPointError: if a loss or gradient is no number.
        """
        watch = DeviceWatch(self.clock.now)
        with self.clock.spending("step"):
            try:
                yield from self._steps(state, reader, train_step, phase, watch)
            finally:
                watch.close()
                with self.clock.spending("profile"):
                    self.profile.close()

    def _steps(
        self,
        state: TrainState,
        reader: Reader,
        train_step: jax.stages.Compiled,
        phase: ResolvedPhase,
        watch: DeviceWatch,
    ) -> Iterator[Due]:
        rows = batch_sharding(self.mesh)
        in_flight: collections.deque[Any] = collections.deque()
        saved = int(state.step)
        sums: dict[str, Any] = {}
        for done in range(saved + 1, phase.end_step + 1):
            if self.profile.begins(done - 1):
                jax.block_until_ready(list(in_flight))
            with self.clock.spending("profile"):
                self.profile.before_step(done - 1)
            try:
                batch, reader_state = self._next(reader, watch)
            except NoMoreBatches as end:
                if saved < done - 1:
                    _check_finite(jax.device_get(sums), done - 1)
                    yield state, reader_state
                raise NoMoreBatches(f"stopped after step {done - 1}: {end}") from end
            if len(in_flight) == MAX_STEPS_IN_FLIGHT:
                jax.block_until_ready(in_flight.popleft())
            state, sums = train_step(state, to_devices(batch, rows))
            in_flight.append(sums["steps"])
            watch.given(sums["steps"])
            self.clock.step_done()
            if self.profile.ends(done):
                jax.block_until_ready(sums)
            with self.clock.spending("profile"):
                self.profile.after_step(done, sums, train_step)
            # Asked once a step: a signal that comes later stops, and saves, the next one.
            last, stopping = done == phase.end_step, self.agreed(done)
            line_due = last or done % self.config.log_period_steps == 0
            save_due = last or stopping or done % self.config.checkpoint_period_steps == 0
            if line_due or save_due:
                totals = jax.device_get(sums)
                _check_finite(totals, done)
            if line_due:
                self._write_line(totals, done, phase, state)
            if save_due:
                yield state, reader_state
                saved = done
            if line_due or save_due:
                self.clock.record(done)
            if stopping:
                raise SystemExit(f"stopped by SIGTERM after step {done}; the same command goes on.")

    def closing_line(self) -> str:
        """Says what bounds the run."""
        return self.clock.goodput().bound(
            num_devices=self.mesh.size, mfu=self.log.mfu, profiled=self.profile.shares
        )

    def _next(self, reader: Reader, watch: DeviceWatch) -> tuple[Batch, dict[str, Any]]:
        """Reads a batch; nobody waits for it while the devices have something to do."""
        with self.clock.spending("input", watch.idle_since):
            batch, reader_state = next(reader)
        check_batch(batch)
        return batch, reader_state

    def _write_line(
        self, totals: Mapping[str, Any], done: int, phase: ResolvedPhase, state: TrainState
    ) -> None:
        config = self.config
        lap = self.clock.lap(lambda wait: max(cluster.gathered(wait)))
        device: jax.Device = self.mesh.devices.flat[0]
        peak = config.peak_flops_per_device or peak_flops(device, self.model.dtype)
        row = summarise(
            totals,
            config=self.model,
            step=done,
            total_steps=config.train_steps,
            timed_steps=lap.steps,
            seconds=lap.seconds,
            input_wait_seconds=lap.input_wait_seconds,
            learning_rate=float(phase.schedule(done - 1)),
            frozen=phase.frozen,
            peak_flops=peak and peak * self.mesh.size,
        )
        if config.validation and self.validate:
            if done % config.validation.period_steps == 0 or done == config.train_steps:
                with self.clock.spending("validation"):
                    row |= self.validate(state.params)
        self.log.write(row)


def _check_finite(sums: Mapping[str, Any], step: int) -> None:
    loss, norm = float(sums["loss"].sum()), float(sums["gradient_norm"])
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise FloatingPointError(
            f"by step {step} the loss is {loss} and the gradient's norm {norm}; nothing was saved "
            "since the last checkpoint: lower the learning rate or clip_norm and start again "
            "from there."
        )
