"""A tiny model, parameters that hide nothing, and rows that several examples share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from alexatm_jax.model import ModelConfig


@pytest.fixture(autouse=True, scope="module")
def compile_quickly(quick_compilation):
    """Most of the time of these tests is compilation."""


@pytest.fixture(scope="session")
def tiny():
    """Makes a configuration in which all dimensions differ, without dropout."""

    def make(**changes) -> ModelConfig:
        sizes = dict(
            vocab_size=29,
            d_model=12,
            num_heads=3,
            d_ff=20,
            num_encoder_layers=2,
            num_decoder_layers=3,
            max_positions=16,
            dropout_rate=0.0,
            encoder_attention_dropout_rate=0.0,
        )
        return ModelConfig(**(sizes | changes))

    return make


@pytest.fixture(scope="session")
def random_params():
    """Makes parameters of which none is 0 or 1: the real initialisation has such biases and scales.

    It also takes seconds to compile, and NumPy none.
    """

    def make(model: nn.Module):
        tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]
        rng = np.random.default_rng(1)

        def noise(path, leaf):
            mean = 1 if path[-1].key == "scale" else 0
            return rng.normal(mean, 0.3, leaf.shape).astype(leaf.dtype)

        return jax.tree_util.tree_map_with_path(noise, nn.unbox(shapes))

    return make


@pytest.fixture(scope="session")
def pack():
    """Lays examples (source, target, first source position) side by side in rows of S and T."""

    def make(rows: list[list[tuple]], source_length: int, target_length: int) -> dict:
        names = ("input_tokens", "positions", "segment_ids")
        batch = {
            f"{side}_{name}": np.zeros((len(rows), length), np.int32)
            for side, length in (("encoder", source_length), ("decoder", target_length))
            for name in names
        }
        for row, examples in enumerate(rows):
            filled = {"encoder": 0, "decoder": 0}
            for segment, (source, target, first) in enumerate(examples, start=1):
                for side, tokens, start in (("encoder", source, first), ("decoder", target, 0)):
                    place = slice(filled[side], filled[side] + len(tokens))
                    batch[f"{side}_input_tokens"][row, place] = tokens
                    batch[f"{side}_positions"][row, place] = start + np.arange(len(tokens))
                    batch[f"{side}_segment_ids"][row, place] = segment
                    filled[side] = place.stop
        return batch

    return make


@pytest.fixture(scope="session")
def example():
    """Makes a random example: n source tokens from position `first` on, m target tokens."""

    def make(n: int, m: int, first: int = 0, seed: int = 0) -> tuple:
        rng = np.random.default_rng([n, m, first, seed])
        return rng.integers(1, 29, n), rng.integers(1, 29, m), first

    return make
