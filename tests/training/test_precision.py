"""What is bfloat16 and what is float32 in a training step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from alexatm_jax.training.state import abstract_params
from alexatm_jax.training.step import accumulated_gradients


@pytest.fixture
def gradients_of(tiny):
    """Sums the gradients of a model of 1 + 1 layers, without dropout, over microbatches."""

    def gradients(batch, num_microbatches: int, **changes):
        depths = dict(num_encoder_layers=1, num_decoder_layers=1, scan_layers=False)
        model = tiny(encoder_attention_dropout_rate=0.0, **depths, **changes)
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype),
            nn.unbox(abstract_params(model)),
        )

        def summed(params):
            key = jax.random.key(0)
            return accumulated_gradients(model, params, {}, batch, key, num_microbatches, None)[0]

        return {x.dtype for x in jax.tree.leaves(params)}, jax.jit(summed)(params)

    return gradients


def test_bfloat16_computation_has_float32_parameters_and_gradients(gradients_of, make_batch):
    _, wide = gradients_of(make_batch(0), 1)
    dtypes, narrow = gradients_of(make_batch(0), 1, dtype="bfloat16")
    assert dtypes == {jnp.dtype("float32")}
    for x, y in zip(*map(jax.tree.leaves, (wide, narrow)), strict=True):
        assert y.dtype == jnp.float32
        error, size = (float(jnp.linalg.norm(z)) for z in (x - y, x))
        assert 0 < error < 0.05 * size + 1e-3


def test_what_all_positions_share_adds_up_in_float32(gradients_of, make_batch):
    """Sums of 4096 tokens of four ids: in bfloat16, types' are off by 0.8, biases' by 0.07."""
    rng, shape = np.random.default_rng(0), (8, 512)
    batch = {name: np.ones(shape, np.int32) for name in make_batch(0)}
    batch |= {name: rng.integers(7, 11, shape) for name in batch if name.endswith("_tokens")}
    batch |= {name: np.indices(shape)[1] % 4 for name in batch if name.endswith("_positions")}
    wide, narrow = (
        flatten_dict(gradients_of(batch, 1, dtype=dtype, max_positions=512)[1], sep="/")
        for dtype in ("float32", "bfloat16")
    )
    # No probability depends on a key's bias: its gradient is 0.
    names = [name for name in wide if name.endswith(("table", "bias")) and "/key/" not in name]
    assert len(names) == 26
    for name in names:
        error = jnp.linalg.norm(narrow[name] - wide[name])
        assert float(error) < 0.02 * float(jnp.linalg.norm(wide[name])), name


def test_microbatches_add_up_in_float32_whatever_the_parameters_are(gradients_of, make_batch):
    """Sums of 64 equal gradients are off by a hundredth in bfloat16."""
    row = make_batch(0, rows=1)
    batch = {name: np.repeat(x, 64, axis=0) for name, x in row.items()}
    dtypes = dict(dtype="bfloat16", param_dtype="bfloat16")
    held, once = gradients_of(row, 1, **dtypes)
    _, often = gradients_of(batch, 64, **dtypes)
    assert held == {jnp.dtype("bfloat16")}
    for one, many in zip(*map(jax.tree.leaves, (once, often)), strict=True):
        assert many.dtype == jnp.float32
        size = 64 * float(jnp.abs(one).max())
        np.testing.assert_allclose(many, 64 * one, atol=1e-3 * size)
