"""A tiny model whose likeliest tokens vary, and prompts in padded batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from alexatm_jax.decoding.generate import Prompts
from alexatm_jax.model import ModelConfig, Transformer

V, POSITIONS = 40, 24


@pytest.fixture(autouse=True, scope="module")
def compile_quickly(quick_compilation):
    """Most of the time of these tests is compilation."""


@pytest.fixture(scope="session")
def tiny():
    """Makes a random model: (Transformer, params)."""

    def make(seed: int = 0, **changes) -> tuple[Transformer, dict]:
        sizes = dict(vocab_size=V, d_model=12, num_heads=3, d_ff=20, max_positions=POSITIONS)
        layers = dict(num_encoder_layers=1, num_decoder_layers=2)
        model = Transformer(ModelConfig(**(sizes | layers | changes)))
        tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]
        rng = np.random.default_rng(seed)

        def noise(path, leaf):
            mean, std = {"scale": (1, 0.1), "bias": (0, 0.1), "kernel": (0, 0.3), "table": (0, 1)}[
                path[-1].key
            ]
            return rng.normal(mean, std, leaf.shape).astype(leaf.dtype)

        return model, jax.tree_util.tree_map_with_path(noise, nn.unbox(shapes))

    return make


@pytest.fixture(scope="session")
def batch_prompts():
    """Pads token lists to a batch; positions count from `starts`, 0 by default."""

    def make(rows: list, length: int, starts: list[int] | None = None) -> Prompts:
        prompts = Prompts(*(np.zeros((len(rows), length), np.int32) for _ in Prompts._fields))
        for index, row in enumerate(rows):
            start = starts[index] if starts else 0
            prompts.tokens[index, : len(row)] = row
            prompts.positions[index, : len(row)] = start + np.arange(len(row))
            prompts.segment_ids[index, : len(row)] = 1
        return prompts

    return make


@pytest.fixture(scope="session")
def random_rows():
    """Draws token lists of these lengths."""

    def make(*lengths: int, seed: int = 0) -> list[np.ndarray]:
        rng = np.random.default_rng([seed, *lengths])
        return [rng.integers(7, V, length).astype(np.int32) for length in lengths]

    return make
