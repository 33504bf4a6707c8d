"""The training loop: owns clocks, logs, checkpoints, and the call to `jit`."""

from __future__ import annotations

import collections
import dataclasses
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from alexatm_jax.batch import Batch, NoMoreBatches, check_batch
from alexatm_jax.model.transformer import Transformer
from alexatm_jax.partitioning import Partitioning, batch_sharding, to_devices
from alexatm_jax.training.checkpoint import Checkpoints
from alexatm_jax.training.optimizer import AdamW
from alexatm_jax.training.progress import ProgressLog, Row, summarise
from alexatm_jax.training.state import (
    Sums,
    TrainState,
    abstract_state,
    create_state,
    state_shardings,
)
from alexatm_jax.training.step import TrainStep, make_train_step
from alexatm_jax.training.warm_start import PreparedStart

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long and how to train.

    Attributes:
      train_steps: updates in all.
      optimizer: what makes them.
      num_microbatches: parts of a batch computed one after the other.
      loss_chunk_length: target positions whose logits are held at a time; None holds all.
      log_period_steps, checkpoint_period_steps: a progress line and a checkpoint are due after
        this many steps.
      max_checkpoints: older ones are deleted; None keeps all.
      seed: of initialisation and dropout.
    """

    train_steps: int
    optimizer: AdamW
    num_microbatches: int = 1
    loss_chunk_length: int | None = None
    log_period_steps: int = 100
    checkpoint_period_steps: int = 1000
    max_checkpoints: int | None = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train_steps", "num_microbatches", "log_period_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.checkpoint_period_steps < 1:
            raise ValueError(
                f"checkpoint_period_steps is {self.checkpoint_period_steps}; it must be at least 1."
            )


Reader = Iterator[tuple[Batch, dict[str, Any]]]
"""Batches, each with the reader's state behind it; `data.pipeline.Prefetcher` is one."""

MAX_STEPS_IN_FLIGHT = 2
"""Steps given to the devices but not finished: one computes while the next one waits."""

OpenReader = Callable[[dict[str, Any] | None], Reader]
"""Opens the reader at a saved state, or at the first batch."""


def train(
    model: Transformer,
    config: TrainingConfig,
    partitioning: Partitioning,
    mesh: Mesh,
    open_reader: OpenReader,
    batch_shapes: dict[str, tuple[int, ...]],
    model_dir: str | Path,
    provenance: dict[str, Any],
    on_checkpoint: Callable[[dict[str, Any]], None] = lambda reader_state: None,
    warm_start: PreparedStart | None = None,
) -> TrainState:
    """Trains to `train_steps`, continuing from the newest checkpoint in `model_dir` if any.

    A run stopped anywhere and started again takes the same batches and makes the same losses. On
    SIGTERM, or when the reader has no more batches, it saves a checkpoint and raises SystemExit.

    Args:
      open_reader: opens the batches at a reader state, or at the first batch.
      batch_shapes: of the global batch, from `alexatm_jax.batch.batch_shapes`.
      model_dir: gets `checkpoints/`, `metrics.jsonl` and `tensorboard/`.
      provenance: kept with every checkpoint.
      on_checkpoint: called with the reader's state whenever one is saved.
      warm_start: parameters that start from elsewhere, read if there is no checkpoint yet.

    Returns:
      The final state.
    """
    optimizer = config.optimizer.transformation()
    shardings = state_shardings(model, optimizer, partitioning, mesh)
    with Checkpoints(Path(model_dir) / "checkpoints", config.max_checkpoints) as checkpoints:
        restored = checkpoints.latest_step()
        reader_state = None
        if restored is None:
            given = warm_start.read(shardings.params) if warm_start else {}
            state = create_state(model, optimizer, shardings, config.seed, given)
        else:
            abstract = abstract_state(model, optimizer, shardings)
            state, reader_state = checkpoints.restore(restored, abstract)
            logger.info("continuing from the checkpoint of step %d", restored)
            if restored >= config.train_steps:
                logger.info("nothing to do: %d steps were asked for", config.train_steps)
                return state
        train_step = _compile(model, optimizer, config, partitioning, shardings, mesh, batch_shapes)
        reader = open_reader(reader_state)
        log = ProgressLog(model_dir, restored or 0, config.train_steps)
        try:
            due = _steps(state, reader, train_step, model, config, mesh, log)
            for state, reader_state in due:
                checkpoints.save(state, reader_state, provenance)
                on_checkpoint(reader_state)
        finally:
            log.close()
    return state


def _compile(
    model: Transformer,
    optimizer: optax.GradientTransformation,
    config: TrainingConfig,
    partitioning: Partitioning,
    shardings: TrainState,
    mesh: Mesh,
    batch_shapes: dict[str, tuple[int, ...]],
) -> TrainStep:
    """Compiles the step ahead, so that no progress line holds compile time."""
    train_step = make_train_step(
        model,
        optimizer,
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
        for name, shape in batch_shapes.items()
    }
    state = abstract_state(model, optimizer, shardings)
    start = time.perf_counter()
    with jax.set_mesh(mesh), nn.logical_axis_rules(partitioning.rules):
        compiled = jitted.lower(state, batch).compile()
    logger.info("compiled the training step in %.1f s", time.perf_counter() - start)
    return compiled


def _steps(
    state: TrainState,
    reader: Reader,
    train_step: TrainStep,
    model: Transformer,
    config: TrainingConfig,
    mesh: Mesh,
    log: ProgressLog,
) -> Iterator[tuple[TrainState, dict[str, Any]]]:
    """Trains on; yields train and reader state where a checkpoint is due, at the end too."""
    rows = batch_sharding(mesh)
    period = _Period()
    in_flight: collections.deque[Any] = collections.deque()
    saved = int(state.step)
    sums: dict[str, Any] = {}
    with _termination() as terminated:
        for done in range(saved + 1, config.train_steps + 1):
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
            last, stopping = done == config.train_steps, terminated()
            line_due = last or done % config.log_period_steps == 0
            save_due = last or stopping or done % config.checkpoint_period_steps == 0
            if line_due or save_due:
                totals = jax.device_get(sums)
                _check_finite(totals, done)
            if line_due:
                log.write(_row(totals, model, config, done, period))
                period = _Period()
            if save_due:
                yield state, reader_state
                saved = done
            if stopping:
                raise SystemExit(f"stopped by SIGTERM after step {done}; the same command goes on.")


@dataclasses.dataclass
class _Period:
    """What the clock saw since the last progress line."""

    start: float = dataclasses.field(default_factory=time.perf_counter)
    waited_seconds: float = 0.0
    steps: int = 0


def _row(
    totals: Mapping[str, Any],
    model: Transformer,
    config: TrainingConfig,
    done: int,
    period: _Period,
) -> Row:
    return summarise(
        totals,
        config=model.config,
        step=done,
        total_steps=config.train_steps,
        timed_steps=period.steps,
        seconds=time.perf_counter() - period.start,
        input_wait_seconds=period.waited_seconds,
        learning_rate=float(config.optimizer.schedule(done - 1)),
    )


def _check_finite(sums: Sums, step: int) -> None:
    loss, norm = float(sums["loss"].sum()), float(sums["gradient_norm"])
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise FloatingPointError(
            f"by step {step} the loss is {loss} and the gradient's norm {norm}; nothing was saved "
            "since the last checkpoint: lower the learning rate or clip_norm and start again "
            "from there."
        )


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
