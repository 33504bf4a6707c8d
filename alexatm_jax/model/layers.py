"""The parts of a layer that know nothing of attention: projections, norms, tables."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from alexatm_jax.model.config import ModelConfig
from alexatm_jax.model.dropout import dropped

EMBEDDING_STD = 0.02

HIDDEN = ("rows", "length", "hidden")
"""Logical axes of the states between layers, [B, L, D]; "batch" is B of all that they make."""


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """Computes x times the normal distribution's function at x, by erf as the published classes do.

    The backward pass keeps x alone and computes the rest again: on CPUs, reading three further
    arrays of the feed-forward's width takes longer. Both compute in float32, whatever x is: in
    bfloat16 the function's 1 + erf is half too large at x = -3 and 0 from -3.2 down.

    Source: arXiv:1606.08415.
    """
    x32 = x.astype(jnp.float32)
    return (x32 * _normal_cdf(x32)).astype(x.dtype)


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    return gelu(x), x


def _gelu_backward(x: Array, gradient: Array) -> tuple[Array]:
    x32 = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(x32)) / math.sqrt(2 * math.pi)
    slope = _normal_cdf(x32) + x32 * density
    return ((gradient.astype(jnp.float32) * slope).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)

ACTIVATION_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def named_param(
    module: nn.Module,
    name: str,
    init: Callable[..., Array],
    shape: tuple[int, ...],
    axes: tuple[str, ...],
) -> Array:
    """Declares a parameter with logical axis names, in `module.config.param_dtype`."""
    dtype = jnp.dtype(module.config.param_dtype)
    param: Any = module.param(name, nn.with_logical_partitioning(init, axes), shape, dtype)
    return param


class Projection(nn.Module):
    """Computes `einsum(equation, x, kernel) + bias`, summing x's last dimensions.

    The kernel starts as N(0, scale^2 / fan_in), fan_in being the product of the dimensions that
    the einsum sums over; the bias spans the kernel's other dimensions and starts at zero.

    Attributes:
      equation: such as "BLD,DHK->BLHK": the kernel's first dimensions are x's last.
      shape, axes: the kernel's dimensions and their logical names, in the equation's order.
    """

    config: ModelConfig
    equation: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        operands, output = self.equation.split("->")
        kernel_letters = operands.split(",")[1]
        summed = sum(letter not in output for letter in kernel_letters)
        fan_in, features = math.prod(self.shape[:summed]), self.shape[summed:]
        std = self.scale / math.sqrt(fan_in)
        kernel = named_param(self, "kernel", nn.initializers.normal(std), self.shape, self.axes)
        bias = named_param(self, "bias", nn.initializers.zeros, features, self.axes[summed:])
        dtype = jnp.dtype(self.config.dtype)
        # One flat matrix product: on CPUs its gradient takes half the time of the einsum's.
        rows = x.shape[: x.ndim - summed]
        flat = x.astype(dtype).reshape(-1, fan_in) @ kernel.astype(dtype).reshape(fan_in, -1)
        y: Array = flat.reshape(*rows, *features)
        # In float32, so that the bias's gradient, a sum over all positions, adds up in float32.
        bias = bias.astype(jnp.float32).reshape((1,) * len(rows) + features)
        return (y.astype(jnp.float32) + bias).astype(dtype)


class LayerNorm(nn.Module):
    """Normalises the last axis, the published way or the standard one.

    published: (x - mean(x)) * rsqrt(mean(x^2) + eps) * scale + bias
    standard:  (x - mean(x)) * rsqrt(var(x)    + eps) * scale + bias

    The published classes subtract the mean but divide by the *uncentred* second moment. Weights
    trained with one give other logits with the other (recipe §1).
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def vector(name: str, init: Callable[..., Array]) -> Array:
            value = named_param(self, name, init, x.shape[-1:], ("norm",))
            return value.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))

        scale = vector("scale", nn.initializers.ones)
        bias = vector("bias", nn.initializers.zeros)
        x32 = x.astype(jnp.float32)
        centred = x32 - x32.mean(axis=-1, keepdims=True)
        divided = x32 if self.config.norm == "published" else centred
        second_moment = jnp.square(divided).mean(axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(second_moment + self.config.norm_epsilon)
        return (normed * scale + bias).astype(x.dtype)


class Dropout(nn.Module):
    """Zeroes elements with probability `rate`, scaling the rest up, if a "dropout" rng is given."""

    rate: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.rate == 0 or not self.has_rng("dropout"):
            return x
        return dropped(x, self.make_rng("dropout"), self.rate)


class FeedForward(nn.Module):
    """Two projections with the activation between them."""

    config: ModelConfig
    d_ff: int
    output_scale: float

    @nn.compact
    def __call__(self, x_BLD: Array) -> Array:
        cfg = self.config
        x_BLF = Projection(
            cfg, "BLD,DF->BLF", (cfg.d_model, self.d_ff), ("embed", "mlp"), name="in"
        )(x_BLD)
        x_BLF = nn.with_logical_constraint(x_BLF, ("batch", "length", "mlp"))
        x_BLF = ACTIVATION_FUNCTIONS[cfg.activation](x_BLF)
        return Projection(
            cfg,
            "BLF,FD->BLD",
            (self.d_ff, cfg.d_model),
            ("mlp", "embed"),
            scale=self.output_scale,
            name="out",
        )(x_BLF)


def looked_up(table_ND: Array, ids_BL: Array, rows: str) -> Array:
    """Takes rows of a table, whose widths are placed as the states' are: gathered in training.

    Before that the table, cast by the caller, stays where its parameter is: the cast is then what
    travels. While states are split over their width, as in decoding, no device holds whole rows.
    """
    table_ND = nn.with_logical_constraint(table_ND, (rows, "embed"))
    table_ND = nn.with_logical_constraint(table_ND, (rows, HIDDEN[-1]))
    x_BLD = _rows_of(len(table_ND), table_ND, ids_BL)
    return nn.with_logical_constraint(x_BLD, HIDDEN)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rows_of(num_rows: int, table_ND: Array, ids_BL: Array) -> Array:
    return jnp.take(table_ND, ids_BL, axis=0)


def _rows_of_forward(num_rows: int, table_ND: Array, ids_BL: Array) -> tuple[Array, Array]:
    return _rows_of(num_rows, table_ND, ids_BL), ids_BL


def _rows_of_backward(num_rows: int, ids_BL: Array, d_x_BLD: Array) -> tuple[Array, None]:
    # Zeros of the gradient, made when it is there. XLA:CPU would make constant ones before the
    # forward pass and keep them and their copies through the step, two tables' worth of memory.
    zero = (0 * d_x_BLD[0, 0, 0]).astype(jnp.float32)
    # Thousands of tokens may add to one row: in bfloat16 the last of them would change nothing.
    d_table_ND = jnp.full((num_rows, d_x_BLD.shape[-1]), zero)
    d_table_ND = d_table_ND.at[ids_BL].add(d_x_BLD.astype(jnp.float32))
    return d_table_ND.astype(d_x_BLD.dtype), None


_rows_of.defvjp(_rows_of_forward, _rows_of_backward)


class TokenTable(nn.Module):
    """A [V, D] table of token vectors, or of output vectors when used as the LM head."""

    config: ModelConfig

    def setup(self) -> None:
        cfg = self.config
        std = cfg.d_model**-0.5 if cfg.scale_embeddings else EMBEDDING_STD
        shape = (cfg.vocab_size, cfg.d_model)
        self.table_VD = named_param(
            self, "table", nn.initializers.normal(std), shape, ("vocab", "embed")
        )

    def __call__(self, tokens_BL: Array) -> Array:
        """Looks tokens up: [B, L] -> [B, L, D] in the compute dtype."""
        cfg = self.config
        x_BLD = looked_up(self.table_VD.astype(cfg.dtype), tokens_BL, "vocab")
        return x_BLD * math.sqrt(cfg.d_model) if cfg.scale_embeddings else x_BLD

    def table(self) -> Array:
        """Gives the [V, D] parameter itself."""
        return self.table_VD


def _sinusoids(key: Array, shape: tuple[int, int], dtype: jnp.dtype) -> Array:
    """0.7 x the sinusoids of arXiv:1706.03762 §3.5, cosines in the second half of each row."""
    del key
    rows, width = shape
    angles = np.arange(rows)[:, None] / 10_000 ** (np.arange(width // 2) / (width // 2))[None]
    table = np.zeros(shape)
    table[:, : width // 2], table[:, width // 2 : 2 * (width // 2)] = np.sin(angles), np.cos(angles)
    return jnp.asarray(0.7 * table, dtype)


class RowTable(nn.Module):
    """A small learned table, of positions or token types."""

    config: ModelConfig
    rows: int
    sinusoid: bool = False

    @nn.compact
    def __call__(self, ids_BL: Array) -> Array:
        """Looks rows up: [B, L] -> [B, L, D] in the compute dtype."""
        init = _sinusoids if self.sinusoid else nn.initializers.normal(EMBEDDING_STD)
        shape = (self.rows, self.config.d_model)
        table = named_param(self, "table", init, shape, ("positions", "embed"))
        return looked_up(table.astype(self.config.dtype), ids_BL, "positions")
