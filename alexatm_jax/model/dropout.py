"""Which elements dropout keeps: a hash of a key and of where the element stands.

No state and no order: any tile of a mask can be made alone, twice, and on any device. So a mesh
drops what one device drops, a blocked kernel remakes its tiles in the backward pass, and nothing
keeps a mask. On CPUs it takes a small part of the time of `jax.random.bernoulli`.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def kept(key: Array, rate: float, shape: tuple[int, ...]) -> Array:
    """Draws a mask: bool of `shape`, each element true with probability 1 - rate.

    Args:
      key: a `jax.random.key`.
      rate: in [0, 1).
      shape: the last dimension counts columns, all others together rows; each below 2^32.
    """
    if not shape:
        return kept(key, rate, (1,))[0]
    *leading, columns = shape
    rows = _counted(tuple(leading)).reshape(*leading, 1)
    return kept_at(key, rate, rows, _counted((columns,)).reshape((1,) * len(leading) + (columns,)))


def kept_at(key: Array, rate: float, rows: Array, columns: Array) -> Array:
    """Draws chosen elements of the mask that `kept` draws whole.

    Args:
      rows, columns: uint32, broadcast against each other; of a mask [..., M] a row is the index
        into its leading dimensions, flattened in C order.

    Source: random numbers as a function of a counter are those of Salmon et al., "Parallel random
    numbers: as easy as 1, 2, 3", SC 2011; the function here is weaker and cheaper, Wellons'
    lowbias32 (public domain), once for a row and once for an element.
    """
    words = _words(key)
    row_hashes = _mixed(rows * np.uint32(0x9E3779B1) ^ words[0])
    hashes = _mixed(row_hashes ^ (columns * np.uint32(0x85EBCA77) + words[1]))
    return hashes >= np.uint32(round(rate * 2**32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def dropped(x: Array, key: Array, rate: float) -> Array:
    """Zeroes elements of x with probability `rate` and divides the others by 1 - rate.

    The backward pass makes the mask again: between the passes nothing is kept of it.
    """
    return jnp.where(kept(key, rate, x.shape), x / (1 - rate), 0)


def _dropped_forward(x: Array, key: Array, rate: float) -> tuple[Array, Array]:
    return dropped(x, key, rate), key


def _dropped_backward(rate: float, key: Array, gradient: Array) -> tuple[Array, None]:
    return dropped(gradient, key, rate), None


dropped.defvjp(_dropped_forward, _dropped_backward)


def _counted(shape: tuple[int, ...]) -> Array:
    """Numbers the elements of a shape, in C order: uint32."""
    if not shape:
        return jnp.zeros((), jnp.uint32)
    numbers = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = np.uint32(math.prod(shape[axis + 1 :]))
        numbers = numbers + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    return numbers


def _words(key: Array) -> tuple[Array, Array]:
    """Folds a key of any generator to two words."""
    data = jax.random.key_data(key).reshape(2, -1)
    words = functools.reduce(jnp.bitwise_xor, data.T)
    return words[0], words[1]


def _mixed(x: Array) -> Array:
    """Lets every bit of a word depend on all of them."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)
