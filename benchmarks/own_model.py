"""Our side of the comparisons: the training step of the loop, and greedy decoding.

python -m benchmarks.own_model SETTINGS, a JSON object
"""

from __future__ import annotations

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
from alexatm_jax.decoding.generate import Prompts, greedy
from alexatm_jax.host_memory import keep_freed_memory
from alexatm_jax.model import ModelConfig, Transformer
from alexatm_jax.partitioning import Partitioning, batch_sharding, to_devices
from alexatm_jax.training import loop
from alexatm_jax.training.config import TrainingConfig
from alexatm_jax.training.optimizer import AdamW, LinearSchedule
from alexatm_jax.training.state import create_state, state_shardings
from alexatm_jax.training.time_by_part import time_by_part
from benchmarks.shapes import Shape
from benchmarks.timing import BenchmarkError, Timing, repeated, serve

FIRST_WORD = 10
"""Ids below are left to special pieces, here and in the peers."""

BOS = 1

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
    """The paper's optimizer (recipe §4), with fields of `TrainingConfig` changed."""
    optimizer = AdamW(LinearSchedule(1e-4, 5e-6, 500_000))
    config = TrainingConfig(train_steps=500_000, optimizer=optimizer)
    return dataclasses.replace(config, **_fields_of(TrainingConfig, changes))


def _fields_of(config: type, changes: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(config)}
    return {name: value for name, value in changes.items() if name in names}


def check_changes(changes: Mapping[str, Any]) -> None:
    """Raises BenchmarkError if a name is a field of neither config."""
    known = {**_fields_of(ModelConfig, changes), **_fields_of(TrainingConfig, changes)}
    if unknown := sorted(set(changes) - set(known)):
        raise BenchmarkError(
            f"{', '.join(unknown)}: no field of ModelConfig or TrainingConfig; give one of those, "
            "such as remat=full."
        )


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


class Training:
    """The compiled step as the loop compiles it, and the state that it goes on from.

    Attributes:
      program: the step.
    """

    def __init__(self, shape: Shape, changes: Mapping[str, Any]) -> None:
        network = Transformer(model_config(shape, changes))
        config, partitioning = training_config(changes), Partitioning()
        mesh = partitioning.make_mesh()
        sizes = (shape.batch_size, shape.source_length, shape.target_length)
        phase = config.resolved_phases(network.config, *sizes)[0]
        shardings = state_shardings(network, config.optimizer, phase, partitioning, mesh)
        self.program = loop.compile_step(network, config, phase, partitioning, mesh)
        self._state = create_state(network, config.optimizer, phase, shardings, config.seed)
        self._batch = to_devices(training_batch(shape), batch_sharding(mesh))
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
        return str(time_by_part(folder, training.program.as_text(), steps))


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
