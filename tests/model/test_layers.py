"""Norms, projections, activations and tables against NumPy."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from alexatm_jax.model.layers import (
    ACTIVATION_FUNCTIONS,
    FeedForward,
    LayerNorm,
    Projection,
    RowTable,
    TokenTable,
)


def normed(config, x_LD: np.ndarray, scale_D: np.ndarray, bias_D: np.ndarray) -> np.ndarray:
    params = {"scale": jnp.asarray(scale_D), "bias": jnp.asarray(bias_D)}
    return np.asarray(LayerNorm(config).apply({"params": params}, jnp.asarray(x_LD)))


def slow_norm(kind: str, epsilon: float, x: np.ndarray, scale: float, bias: float) -> list[float]:
    mean = sum(x) / len(x)
    moment = {
        "published": sum(v * v for v in x) / len(x),
        "standard": sum((v - mean) ** 2 for v in x) / len(x),
    }[kind]
    return [(v - mean) / math.sqrt(moment + epsilon) * scale + bias for v in x]


@settings(max_examples=10)
@given(
    kind=st.sampled_from(["published", "standard"]),
    mean=st.floats(-3, 3),
    scale=st.floats(-2, 2),
    bias=st.floats(-2, 2),
    seed=st.integers(0, 99),
)
def test_layer_norm_divides_by_the_moment_it_names(tiny, kind, mean, scale, bias, seed):
    x_LD = np.random.default_rng(seed).normal(mean, 1, (4, 12)).astype(np.float32)
    config = tiny(norm=kind, norm_epsilon=1e-3)
    got_LD = normed(config, x_LD, np.full(12, scale, "f"), np.full(12, bias, "f"))
    wanted = [slow_norm(kind, 1e-3, row, scale, bias) for row in x_LD.astype(float)]
    np.testing.assert_allclose(got_LD, wanted, rtol=1e-4, atol=1e-5)


def test_the_two_norms_differ_unless_the_mean_is_zero(tiny):
    x_LD = np.random.default_rng(0).normal(1, 1, (4, 12)).astype(np.float32)
    one_D, zero_D = np.ones(12, "f"), np.zeros(12, "f")

    def difference(x_LD: np.ndarray) -> float:
        pair = [normed(tiny(norm=kind), x_LD, one_D, zero_D) for kind in ("published", "standard")]
        return float(np.abs(pair[0] - pair[1]).max())

    assert difference(x_LD) > 0.1
    assert difference(x_LD - x_LD.mean(axis=-1, keepdims=True)) < 1e-5


def test_layer_norm_computes_in_float32(tiny):
    x_LD = np.random.default_rng(0).normal(30, 1, (4, 12)).astype(jnp.bfloat16)
    got_LD = normed(tiny(norm="standard"), x_LD, np.ones(12, "f"), np.zeros(12, "f"))
    assert got_LD.dtype == jnp.bfloat16
    wanted = [slow_norm("standard", 1e-12, row, 1, 0) for row in x_LD.astype(float)]
    np.testing.assert_allclose(got_LD.astype(float), wanted, atol=0.02)


def test_activations_are_their_formulas():
    x = np.linspace(-4, 4, 41)
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    wanted = {
        "gelu": [v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in x],
        "gelu_new": x / 2 * (1 + np.tanh(inner)),
        "relu": np.maximum(x, 0),
        "silu": x / (1 + np.exp(-x)),
    }
    assert wanted.keys() == ACTIVATION_FUNCTIONS.keys()
    for name, function in ACTIVATION_FUNCTIONS.items():
        np.testing.assert_allclose(function(jnp.asarray(x, "f")), wanted[name], atol=1e-5)


def test_the_gradient_of_gelu_is_its_derivative():
    x = np.linspace(-6, 6, 121)
    derivative = [
        (1 + math.erf(v / math.sqrt(2))) / 2 + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi)
        for v in x
    ]
    gradient = jax.vmap(jax.grad(ACTIVATION_FUNCTIONS["gelu"]))(jnp.asarray(x, "f"))
    np.testing.assert_allclose(gradient, derivative, atol=1e-6)


def test_gelu_of_bfloat16_keeps_its_left_tail():
    """In bfloat16 itself, 1 + erf is half too large at x = -3 and 0 at -4."""
    x = np.linspace(-4, -1, 200).astype(jnp.bfloat16)
    exact = x.astype(np.float64)
    cdf = np.array([math.erfc(-v / math.sqrt(2)) / 2 for v in exact])
    slope = cdf + exact * np.exp(-exact * exact / 2) / math.sqrt(2 * math.pi)
    y, d_x = jax.vmap(jax.value_and_grad(ACTIVATION_FUNCTIONS["gelu"]))(jnp.asarray(x))
    assert y.dtype == d_x.dtype == jnp.bfloat16
    # Half of a last bit, and what float32 loses in 1 + erf(-4).
    np.testing.assert_allclose(y.astype(float), exact * cdf, rtol=0.005)
    np.testing.assert_allclose(d_x.astype(float), slope, rtol=0.005)


@pytest.mark.parametrize(
    ("equation", "x_shape", "shape"),
    [
        ("BLD,DF->BLF", (2, 3, 40), (40, 50)),
        ("BLD,DHK->BLHK", (2, 3, 40), (40, 5, 10)),
        ("BLHK,HKD->BLD", (2, 3, 5, 10), (5, 10, 40)),
    ],
)
def test_a_projection_is_its_einsum(tiny, equation, x_shape, shape):
    module = Projection(tiny(), equation, shape, ("embed",) * len(shape), scale=0.5)
    x = jax.random.normal(jax.random.key(0), x_shape)
    params = nn.unbox(module.init(jax.random.key(1), x)["params"])
    bias = jax.random.normal(jax.random.key(2), params["bias"].shape)
    y = module.apply({"params": params | {"bias": bias}}, x)
    wanted = np.einsum(equation, x, params["kernel"]) + np.broadcast_to(bias, y.shape)
    np.testing.assert_allclose(y, wanted, atol=1e-4)

    assert not params["bias"].any()
    fan_in = math.prod(x_shape[2:])
    assert np.std(params["kernel"]) * math.sqrt(fan_in) == pytest.approx(0.5, rel=0.1)


def test_the_feed_forward_is_two_projections(tiny):
    config = tiny(activation="relu")
    x_BLD = jax.random.normal(jax.random.key(0), (2, 3, 12))
    module = FeedForward(config, config.d_ff, output_scale=1.0)
    p = nn.unbox(module.init(jax.random.key(1), x_BLD)["params"])
    hidden_BLF = np.maximum(np.asarray(x_BLD) @ p["in"]["kernel"], 0)
    assert hidden_BLF.shape[-1] == config.d_ff
    got_BLD = module.apply({"params": p}, x_BLD)
    np.testing.assert_allclose(got_BLD, hidden_BLF @ p["out"]["kernel"], atol=1e-5)


@pytest.mark.parametrize(("scaled", "std"), [(False, 0.02), (True, 50**-0.5)])
def test_a_token_table_starts_and_scales_as_the_config_says(tiny, scaled, std):
    config = tiny(vocab_size=400, d_model=50, num_heads=5, scale_embeddings=scaled)
    tokens = jnp.array([[3, 399]])
    rows, variables = TokenTable(config).init_with_output(jax.random.key(0), tokens)
    table_VD = nn.unbox(variables["params"])["table"]
    assert np.std(table_VD) == pytest.approx(std, rel=0.03)
    factor = math.sqrt(50) if scaled else 1
    np.testing.assert_allclose(rows, table_VD[tokens] * factor, rtol=1e-6)


def test_positions_may_start_as_sinusoids(tiny):
    module = RowTable(tiny(), rows=9, sinusoid=True)
    ids = jnp.arange(9)[None]
    rows_LD = module.init_with_output(jax.random.key(0), ids)[0][0]
    for row in range(9):
        for pair in range(6):
            angle = row / 10_000 ** (pair / 6)
            assert rows_LD[row, pair] == pytest.approx(0.7 * math.sin(angle), abs=1e-6)
            assert rows_LD[row, 6 + pair] == pytest.approx(0.7 * math.cos(angle), abs=1e-6)
