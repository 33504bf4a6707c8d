"""What the machine reaches in matrix products alone, beside which a step can be judged.

python -m benchmarks.matmul SETTINGS, a JSON object
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence

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
    prepared = functools.partial(
        prepare, [tuple(one) for one in settings["products"]], settings["dtype"], settings["steps"]
    )
    serve(prepared, "jax", "jaxlib")
