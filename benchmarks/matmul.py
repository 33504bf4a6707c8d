"""What the machine reaches in matrix products alone, beside which a step can be judged.

python -m benchmarks.matmul SETTINGS, a JSON object
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from alexatm_jax.host_memory import keep_freed_memory
from benchmarks.shapes import Shape
from benchmarks.timing import Timing, repeated, serve

Product = tuple[int, int, int]
"""Rows, summed, and columns: [M, K] x [K, N]."""

SQUARE: Product = (4096, 4096, 4096)


def layer_products(shape: Shape) -> list[Product]:
    """Lists the products of one encoder layer's projections, forward and backward."""
    tokens, width = shape.batch_size * shape.source_length, shape.d_model
    forward = [(tokens, width, width)] * 4
    forward += [(tokens, width, shape.d_ff), (tokens, shape.d_ff, width)]
    return _with_gradients(forward)


def head_products(shape: Shape) -> list[Product]:
    """Lists those of the LM head."""
    tokens = shape.batch_size * shape.target_length
    return _with_gradients([(tokens, shape.d_model, shape.vocab_size)])


def decoding_products(shape: Shape) -> list[Product]:
    """Lists those of one new token of every row: the decoder's layers, then the head."""
    rows, width = shape.batch_size, shape.d_model
    layer = [(rows, width, width)] * 6 + [(rows, width, shape.d_ff), (rows, shape.d_ff, width)]
    return layer * shape.decoder_layers + [(rows, width, shape.vocab_size)]


def _with_gradients(forward: Sequence[Product]) -> list[Product]:
    return [
        product
        for rows, summed, columns in forward
        for product in ((rows, summed, columns), (rows, columns, summed), (summed, rows, columns))
    ]


def prepare(products: Sequence[Product], dtype: str, steps: int) -> Callable[[], Timing]:
    """Compiles the products; a measurement's amount is floating-point operations."""
    calls = [_call(*product, dtype) for product in products]
    operations = 2.0 * sum(rows * summed * columns for rows, summed, columns in products)

    def step() -> float:
        for call in calls:
            jax.block_until_ready(call())
        return operations

    step()
    return repeated(step, steps)


def prepare_chain(
    products: Sequence[Product], dtype: str, steps: int, repeats: int
) -> Callable[[], Timing]:
    """Compiles a loop over the products; a measurement's amount is products' rows.

    As in decoding, each product has a matrix of its own, waits for the product before, and the
    loop comes back to a matrix when it has read all others.

    Args:
      repeats: how often the loop goes through them all.
    """
    keys = jax.random.split(jax.random.key(0), len(products))
    rows = products[0][0]
    matrices = [
        jax.random.normal(key, (summed, columns), jnp.dtype(dtype))
        for key, (_, summed, columns) in zip(keys, products, strict=True)
    ]
    inputs = {
        summed: jax.random.normal(jax.random.key(1), (rows, summed), jnp.dtype(dtype))
        for _, summed, _ in products
    }

    @jax.jit
    def chain(matrices: Sequence[jax.Array], inputs: Mapping[int, jax.Array]) -> jax.Array:
        def once(_: jax.Array, carry: jax.Array) -> jax.Array:
            for matrix in matrices:
                carry = jnp.tanh(((inputs[len(matrix)] + carry) @ matrix).max())
            return carry

        return jax.lax.fori_loop(0, repeats, once, jnp.zeros((), jnp.dtype(dtype)))

    def step() -> float:
        jax.block_until_ready(chain(matrices, inputs))
        return float(rows * repeats)

    step()
    return repeated(step, steps)


@functools.cache
def _call(rows: int, summed: int, columns: int, dtype: str) -> Callable[[], jax.Array]:
    left, right = jax.random.split(jax.random.key(0))
    a_MK = jax.random.normal(left, (rows, summed), jnp.dtype(dtype))
    b_KN = jax.random.normal(right, (summed, columns), jnp.dtype(dtype))
    compiled = jax.jit(jnp.dot).lower(a_MK, b_KN).compile()
    return functools.partial(compiled, a_MK, b_KN)


if __name__ == "__main__":
    keep_freed_memory()
    settings = json.loads(sys.argv[1])
    settings["products"] = [tuple(one) for one in settings["products"]]
    chosen = prepare_chain if "repeats" in settings else prepare
    serve(functools.partial(chosen, **settings), "jax", "jaxlib")
