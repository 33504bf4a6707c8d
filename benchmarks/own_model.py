"""Our side of the comparisons: the training step of the loop, and greedy decoding.

python -m benchmarks.own_model SETTINGS, a JSON object
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Mapping
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from alexatm_jax.batch import ENCODER_FEATURES, batch_shapes, check_batch
from alexatm_jax.decoding.cpu_layout import on_cpu
from alexatm_jax.decoding.generate import Prompts, greedy
from alexatm_jax.host_memory import keep_freed_memory
from alexatm_jax.model import ModelConfig, Transformer
from alexatm_jax.model.flops import Work, training_flops
from alexatm_jax.partitioning import Partitioning, batch_sharding, to_devices
from alexatm_jax.training import loop
from alexatm_jax.training.config import TrainingConfig
from alexatm_jax.training.optimizer import AdamW, LinearSchedule
from alexatm_jax.training.phases import Phase, ResolvedPhase
from alexatm_jax.training.state import TrainState, create_state, state_shardings
from alexatm_jax.training.time_by_part import time_by_part
from benchmarks.shapes import Shape
from benchmarks.timing import BenchmarkError, Timing, repeated, serve

FIRST_WORD = 10
"""Ids below are left to special pieces, here and in the peers."""

BOS = 1

FROZEN = "frozen"
"""Names in a change what is not trained: "encoder", or several parts with "+" between them."""

Measure = Callable[[], Timing]


def model_config(shape: Shape, changes: Mapping[str, Any]) -> ModelConfig:
    """Gives the model of these sizes, with fields of `ModelConfig` changed."""
    config = ModelConfig(
        vocab_size=shape.vocab_size,
        d_model=shape.d_model,
        num_heads=shape.num_heads,
        d_ff=shape.d_ff,
        num_encoder_layers=shape.encoder_layers,
        num_decoder_layers=shape.decoder_layers,
        max_positions=shape.max_positions,
        dropout_rate=shape.dropout_rate,
        encoder_attention_dropout_rate=shape.dropout_rate,
    )
    return dataclasses.replace(config, **_fields_of(ModelConfig, changes))


def training_config(changes: Mapping[str, Any]) -> TrainingConfig:
    """The paper's optimizer (recipe §4), with fields of `TrainingConfig` changed, parts frozen."""
    optimizer = AdamW(LinearSchedule(1e-4, 5e-6, 500_000))
    config = TrainingConfig(train_steps=500_000, optimizer=optimizer)
    if FROZEN in changes:
        config = dataclasses.replace(config, phases=[Phase(0, frozen=changes[FROZEN].split("+"))])
    return dataclasses.replace(config, **_fields_of(TrainingConfig, changes))


def _fields_of(config: type, changes: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(config)}
    return {name: value for name, value in changes.items() if name in names}


def check_changes(changes: Mapping[str, Any]) -> None:
    """Raises BenchmarkError if a name is a field of neither config."""
    known = {**_fields_of(ModelConfig, changes), **_fields_of(TrainingConfig, changes)}
    if unknown := sorted(set(changes) - set(known) - {FROZEN}):
        raise BenchmarkError(
            f"{', '.join(unknown)}: no field of ModelConfig or TrainingConfig; give one of those, "
            f"such as remat=full, or {FROZEN}=encoder."
        )


def variant(text: str | None) -> dict[str, Any]:
    """Reads "NAME=VALUE,NAME=VALUE", values as Python literals, or as text if they are none.

    Nothing is changed without a text.

    Raises:
      BenchmarkError: if it does not have this form, or a name is no field of ours.
    """
    changes: dict[str, Any] = {}
    for part in text.split(",") if text else ():
        name, equals, value = part.partition("=")
        if not (name and equals):
            raise BenchmarkError(f"{text!r} is not NAME=VALUE, such as remat=full.")
        try:
            changes[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            changes[name] = value
    check_changes(changes)
    return changes


def training_batch(shape: Shape) -> dict[str, np.ndarray]:
    """Makes a batch of one full example a row."""
    rng = np.random.default_rng(0)
    shapes = batch_shapes(shape.batch_size, shape.source_length, shape.target_length)
    batch = {}
    for name, (rows, length) in shapes.items():
        if name.endswith("_tokens"):
            batch[name] = rng.integers(FIRST_WORD, shape.vocab_size, (rows, length), np.int32)
        elif name.endswith("_positions"):
            batch[name] = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
        else:
            one = not name.endswith("_objective_ids")
            batch[name] = np.full((rows, length), one, np.int32)
    check_batch(batch)
    return batch


def _phase(shape: Shape, changes: Mapping[str, Any]) -> ResolvedPhase:
    sizes = (shape.batch_size, shape.source_length, shape.target_length)
    return training_config(changes).resolved_phases(model_config(shape, changes), *sizes)[0]


def step_flops(shape: Shape, changes: Mapping[str, Any]) -> float:
    """Counts the model FLOPs of a training step on full rows; never recomputation."""
    work = Work.of_rows(shape.batch_size, shape.source_length, shape.target_length)
    return training_flops(model_config(shape, changes), work, _phase(shape, changes).frozen)


class _Plan:
    """What a run of one phase is made of, over all devices here or the first ones."""

    def __init__(self, shape: Shape, changes: Mapping[str, Any], num_devices: int | None) -> None:
        self._network = Transformer(model_config(shape, changes))
        self._config, self._partitioning = training_config(changes), Partitioning()
        self.mesh = self._partitioning.make_mesh(jax.devices()[:num_devices])
        self._partitioning.check_batch(shape.batch_size, self.mesh.size)
        self._phase = _phase(shape, changes)

    def compiled(self) -> jax.stages.Compiled:
        return loop.compile_step(
            self._network, self._config, self._phase, self._partitioning, self.mesh
        )

    def state(self) -> TrainState:
        optimizer = self._config.optimizer
        placed = (self._partitioning, self.mesh)
        shardings = state_shardings(self._network, optimizer, self._phase, *placed)
        return create_state(self._network, optimizer, self._phase, shardings, self._config.seed)


def compiled_step(
    shape: Shape, changes: Mapping[str, Any], num_devices: int | None = None
) -> jax.stages.Compiled:
    """Compiles the step as the loop does, and allocates nothing."""
    return _Plan(shape, changes, num_devices).compiled()


class Training:
    """The compiled step as the loop compiles it, and the state that it goes on from.

    Attributes:
      program: the step.
    """

    def __init__(
        self, shape: Shape, changes: Mapping[str, Any], num_devices: int | None = None
    ) -> None:
        """Compiles the step and makes the first state, on all devices or the first ones."""
        plan = _Plan(shape, changes, num_devices)
        self.program = plan.compiled()
        self._state = plan.state()
        self._batch = to_devices(training_batch(shape), batch_sharding(plan.mesh))
        self._tokens = shape.tokens

    def step(self) -> float:
        """Takes one step to its end; gives its tokens."""
        self._state, sums = self.program(self._state, self._batch)
        jax.block_until_ready(self._state)
        if not np.isfinite(float(sums["loss"].sum())):
            raise FloatingPointError("the loss is not finite; what is timed is broken.")
        return self._tokens


def profile(shape: Shape, changes: Mapping[str, Any], steps: int) -> str:
    """Traces some steps: a table of where their time goes, by part of the model."""
    training = Training(shape, changes)
    training.step()
    quiet = jax.profiler.ProfileOptions()
    quiet.python_tracer_level = 0  # it would slow the host
    with TemporaryDirectory(prefix="benchmark_profile_") as folder:
        with jax.profiler.trace(folder, profiler_options=quiet):
            for _ in range(steps):
                training.step()
        program = training.program.as_text()
        assert program is not None
        return str(time_by_part(folder, program, steps))


def decoding(shape: Shape, changes: Mapping[str, Any]) -> Callable[[], np.ndarray]:
    """Gives a call that answers a batch of prompts greedily: int32 [B, target_length]."""
    network = Transformer(model_config(shape, changes))
    tokens = jnp.zeros((1, 1), jnp.int32)
    params = nn.unbox(jax.jit(network.init)(jax.random.key(0), tokens, tokens)["params"])
    batch = training_batch(shape)
    prompts = Prompts(*(batch[name] for name in ENCODER_FEATURES))
    answer = functools.partial(
        greedy,
        network,
        max_new_tokens=shape.target_length,
        bos_id=BOS,
        ends_V=jnp.zeros(shape.vocab_size, bool),  # nothing ends early
        cpu_layout=on_cpu(params),  # as `TextModel` has it
    )
    compiled = jax.jit(answer)
    return lambda: np.asarray(compiled(params, prompts))


def prepare(task: str, shape: Shape, changes: Mapping[str, Any], steps: int) -> Measure:
    """Compiles a training step ("train") or greedy decoding ("decode"), and runs it once."""
    check_changes(changes)
    if task == "train":
        step = Training(shape, changes).step
    else:
        answer = decoding(shape, changes)

        def step() -> float:
            return float((answer() >= 0).sum())

    step()
    return repeated(step, steps)


if __name__ == "__main__":
    keep_freed_memory()
    settings = json.loads(sys.argv[1])
    shape = Shape(**settings["shape"])
    prepared = functools.partial(
        prepare, settings["task"], shape, settings["changes"], settings["steps"]
    )
    serve(prepared, "jax", "jaxlib", "flax", "optax", "numpy")
