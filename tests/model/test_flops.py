"""The formula for FLOPs against the matrix products that JAX is really asked for."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

from alexatm_jax.model import ModelConfig, Transformer
from alexatm_jax.model.flops import Work, forward_flops, training_flops


def product_flops(jaxpr) -> int:
    """Adds 2 operations per multiply-add of every matrix product, loops unrolled."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            summed = equation.params["dimension_numbers"][0][0]
            left = equation.invars[0].aval.shape
            multiply_adds = [*equation.outvars[0].aval.shape, *(left[axis] for axis in summed)]
            total += 2 * math.prod(multiply_adds)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in jaxprs_in_params(equation.params):
            total += times * product_flops(inner)
    return total


@settings(max_examples=5)
@given(
    rows=st.integers(1, 3),
    lengths=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    layers=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    scan_layers=st.booleans(),
)
def test_the_formula_counts_every_matrix_product(tiny, rows, lengths, layers, scan_layers):
    config = tiny(
        num_encoder_layers=layers[0], num_decoder_layers=layers[1], scan_layers=scan_layers
    )
    model = Transformer(config)
    tokens = [np.zeros((rows, length), np.int32) for length in lengths]
    variables = jax.eval_shape(model.init, jax.random.key(0), *tokens)
    counted = product_flops(jax.make_jaxpr(model.apply)(variables, *tokens).jaxpr)
    source, target = lengths
    # The program computes masked pairs too, so all pairs count here.
    work = Work(
        encoder_tokens=rows * source,
        decoder_tokens=rows * target,
        encoder_pairs=rows * source**2,
        decoder_pairs=rows * target**2,
        cross_pairs=rows * source * target,
    )
    assert forward_flops(config, work) == counted
    assert training_flops(config, work) == 3 * counted


def test_a_20b_token_pair_costs_six_flops_per_parameter_it_meets():
    """The usual estimate, 6 N, is right for all but the look-ups and the attended pairs."""
    config = ModelConfig(153_600, 4096, 32, 16_384, 46, 32)
    matrices = 9.263e9 + 8.592e9 + 153_600 * 4096
    one_pair = Work(1.0, 1.0, 0.0, 0.0, 0.0)
    assert training_flops(config, one_pair) == pytest.approx(6 * matrices, rel=0.001)
