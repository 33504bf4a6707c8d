"""Moments that optax keeps otherwise: rounded at random, or factored by logical axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import PartitionSpec


class Matrix(NamedTuple):
    """The dimensions of a kernel or table, but for stacked layers: what it sums over, and gives."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]


def matrix(names: PartitionSpec) -> Matrix | None:
    """Tells by its logical axes whether a parameter is a matrix, and of what: None for vectors.

    Every matrix has the model width, "embed", on one side; heads and their width make the other
    side together. A table's rows are its vocabulary or its positions.
    """
    axes = tuple(axis for axis, name in enumerate(names) if name != "layers")
    if len(axes) < 2 or "embed" not in names:
        return None
    cut = 1 if names[axes[0]] == "embed" else len(axes) - 1
    return Matrix(axes[:cut], axes[cut:])


class StoredState(NamedTuple):
    """Updates made, which the rounding depends on, and a transformation's own state."""

    step: Array
    inner: Any


def stored_in(inner: optax.GradientTransformation, dtype: str) -> optax.GradientTransformation:
    """Keeps the floats of a transformation's state in `dtype`, and computes in float32.

    A bfloat16 has 8 bits. Rounding to the nearest, a second moment with b2 = 0.999 would never
    fall: 0.1 % is less than half of its last bit. So it is rounded up or down at random, by a
    hash of the value and the step, such that the mean is right: without bias, it errs by up to
    0.4 % (one standard deviation) a step, which adds up to about 4 % of the second moment at
    b2 = 0.999.

    Args:
      dtype: "float32" or "bfloat16".
    """

    def widened(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(jnp.float32) if _is_float(x) else x, tree)

    def narrowed(tree: Any, step: Array) -> Any:
        if dtype != "bfloat16":
            return tree
        return jax.tree.map(lambda x: _rounded_at_random(x, step) if _is_float(x) else x, tree)

    def init(params: optax.Params) -> StoredState:
        step = jnp.zeros((), jnp.int32)
        return StoredState(step, narrowed(widened(inner.init(params)), step))

    def update(
        gradients: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, StoredState]:
        updates, new = inner.update(widened(gradients), widened(state.inner), params)
        step = optax.safe_increment(state.step)
        return updates, StoredState(step, narrowed(new, step))

    return optax.GradientTransformation(init, update)


def _is_float(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _rounded_at_random(x: Array, step: Array) -> Array:
    """Rounds to bfloat16, the upper half of a float32: up as often as the lower half says."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = (bits ^ step.astype(jnp.uint32) * np.uint32(0x9E3779B1)) * np.uint32(0x85EBCA77)
    noise = ((noise ^ noise >> 15) * np.uint32(0x846CA68B)) >> 16
    # Infinities and NaNs stay: none of their bits may carry.
    upper = jnp.where(jnp.isfinite(x), bits + noise, bits) >> 16
    return jax.lax.bitcast_convert_type(upper.astype(jnp.uint16), jnp.bfloat16)


class Factors(NamedTuple):
    """Means of a matrix's squared gradients, of size 1 in the dimensions that they are over."""

    rows: Array
    columns: Array


class FactoredState(NamedTuple):
    """Updates made; per parameter `Factors`, or a whole second moment."""

    step: Array
    second: Any


def factored_rms(
    specs: Any, decay_exponent: float, smallest_side: int, epsilon: float
) -> optax.GradientTransformation:
    """Divides gradients by the root of a running mean of their squares, factored for matrices.

    v = rows x columns / mean(rows), each a mean over the other side, layer by layer: in optax's
    own, heads and their width are dimensions like others, and of [N, D, H, K] only the two
    largest are factored. The decay at update t, from 1, is 1 - t^-decay_exponent.

    Args:
      specs: logical axis names of each parameter.
      smallest_side: a matrix with a smaller side keeps the whole moment, as vectors do.
      epsilon: added to the squares.

    Source: Adafactor, arXiv:1804.04235, Sec. 3 (factoring) and 7.2 (decay).
    """

    def factors(names: PartitionSpec, shape: Sequence[int]) -> Matrix | None:
        sides = matrix(names)
        if sides is None:
            return None
        lengths = (math.prod(shape[axis] for axis in side) for side in (sides.rows, sides.columns))
        return sides if min(lengths) >= smallest_side else None

    def empty(names: PartitionSpec, param: Array) -> Any:
        sides = factors(names, param.shape)
        if sides is None:
            return jnp.zeros(param.shape, jnp.float32)
        return Factors(
            jnp.zeros(_without(param.shape, sides.columns), jnp.float32),
            jnp.zeros(_without(param.shape, sides.rows), jnp.float32),
        )

    def init(params: optax.Params) -> FactoredState:
        return FactoredState(jnp.zeros((), jnp.int32), jax.tree.map(empty, specs, params))

    def update(
        gradients: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, FactoredState]:
        del params
        step = optax.safe_increment(state.step)
        new = step.astype(jnp.float32) ** -decay_exponent

        def second(names: PartitionSpec, gradient: Array, old: Any) -> Any:
            squares = jnp.square(gradient.astype(jnp.float32)) + epsilon
            sides = factors(names, gradient.shape)
            if sides is None:
                return old + new * (squares - old)
            rows = squares.mean(sides.columns, keepdims=True)
            columns = squares.mean(sides.rows, keepdims=True)
            return Factors(
                old.rows + new * (rows - old.rows), old.columns + new * (columns - old.columns)
            )

        def scaled(names: PartitionSpec, gradient: Array, moment: Any) -> Array:
            sides = factors(names, gradient.shape)
            if sides is None:
                return gradient * jax.lax.rsqrt(moment)
            mean = moment.rows.mean(sides.rows, keepdims=True)
            # Their product may be too small for a float32.
            return gradient * jax.lax.rsqrt(moment.rows / mean) * jax.lax.rsqrt(moment.columns)

        moments = jax.tree.map(second, specs, gradients, state.second)
        return jax.tree.map(scaled, specs, gradients, moments), FactoredState(step, moments)

    return optax.GradientTransformation(init, update)


def _without(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(1 if axis in axes else size for axis, size in enumerate(shape))
