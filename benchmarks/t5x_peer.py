"""T5X's scalable_t5 network, from a checkout of T5X, with AdamW.

python -m benchmarks.t5x_peer SETTINGS, a JSON object

Only `examples/scalable_t5` is loaded, and nothing of T5X's trainer. Sizes and dropout rate are
ours; the rest is the network's own: relative positions, dropout inside the feed-forward too,
attention dropout shared among the queries (cheaper), embeddings as products with one-hot vectors
(dearer, on a CPU).
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.shapes import Shape
from benchmarks.timing import BenchmarkError, Timing, repeated, serve

NETWORK = Path("t5x", "examples", "scalable_t5")


def load_network(checkout: Path) -> Any:
    """Imports the network without `t5x/__init__.py`, which imports the whole trainer.

    Raises:
      BenchmarkError: if there is no such checkout.
    """
    if not (checkout / NETWORK / "network.py").is_file():
        raise BenchmarkError(
            f"{checkout} has no {NETWORK}/network.py; give the root of a checkout of T5X."
        )
    for depth in range(1, len(NETWORK.parts) + 1):
        name = ".".join(NETWORK.parts[:depth])
        package: Any = types.ModuleType(name)
        package.__path__ = [str(checkout.joinpath(*NETWORK.parts[:depth]))]
        sys.modules[name] = package
    return importlib.import_module(".".join([*NETWORK.parts, "network"]))


class Training:
    """A jitted step of cross-entropy and AdamW."""

    def __init__(self, network: Any, shape: Shape) -> None:
        model = network.Transformer(
            network.T5Config(
                vocab_size=shape.vocab_size,
                emb_dim=shape.d_model,
                num_heads=shape.num_heads,
                num_encoder_layers=shape.encoder_layers,
                num_decoder_layers=shape.decoder_layers,
                head_dim=shape.d_model // shape.num_heads,
                mlp_dim=shape.d_ff,
                dropout_rate=shape.dropout_rate,
            )
        )
        source, inputs, targets = _batch(shape)
        optimizer = optax.adamw(1e-4, weight_decay=0.1)
        one = jnp.ones((1, 1), jnp.int32)
        params = jax.jit(functools.partial(model.init, enable_dropout=False))(
            jax.random.key(0), one, one, one
        )["params"]

        def loss(params: Any, key: jax.Array) -> jax.Array:
            logits = model.apply({"params": params}, source, inputs, targets, rngs={"dropout": key})
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

        def step(state: Any) -> tuple[Any, jax.Array]:
            params, moments, number = state
            key = jax.random.fold_in(jax.random.key(0), number)
            value, gradients = jax.value_and_grad(loss)(params, key)
            updates, moments = optimizer.update(gradients, moments, params)
            return (optax.apply_updates(params, updates), moments, number + 1), value

        self._step = jax.jit(step, donate_argnums=0)
        self._state = (params, optimizer.init(params), jnp.zeros((), jnp.int32))
        self._tokens = shape.tokens

    def step(self) -> float:
        """Takes one step to its end; gives its tokens."""
        self._state, loss = self._step(self._state)
        jax.block_until_ready(self._state)
        if not np.isfinite(float(loss)):
            raise FloatingPointError("the loss is not finite; what is timed is broken.")
        return self._tokens


def _batch(shape: Shape) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    lengths = (shape.source_length, shape.target_length, shape.target_length)
    sizes = [(shape.batch_size, length) for length in lengths]
    return [jnp.asarray(rng.integers(10, shape.vocab_size, size, np.int32)) for size in sizes]


def prepare(checkout: Path, shape: Shape, steps: int) -> Callable[[], Timing]:
    """Compiles the step and takes it once."""
    step = Training(load_network(checkout), shape).step
    step()
    return repeated(step, steps)


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    shape = Shape(**settings["shape"])
    prepared = functools.partial(prepare, Path(settings["peer"]), shape, settings["steps"])
    serve(prepared, "jax", "flax", "optax")
