"""The chunked loss against plain log_softmax, on any mesh, and what it may hold and send."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params
from jax.sharding import NamedSharding

from alexatm_jax.partitioning import BATCH_AXES, DEFAULT_RULES, Partitioning
from alexatm_jax.planning.collectives import read_collectives
from alexatm_jax.training import loss
from alexatm_jax.training.loss import token_cross_entropy


def inputs(b: int, t: int, d: int, v: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(0, 2, (b, t, d)).astype(np.float32),
        rng.normal(0, 2, (v, d)).astype(np.float32),
        rng.integers(0, v, (b, t)).astype(np.int32),
        (rng.random((b, t)) < 0.6).astype(np.float32),
    )


def plain(hidden_BTD, table_VD, targets_BT, weights_BT):
    log_probs_BTV = jax.nn.log_softmax(jnp.einsum("BTD,VD->BTV", hidden_BTD, table_VD))
    picked_BT1 = jnp.take_along_axis(log_probs_BTV, targets_BT[..., None], axis=-1)
    losses_BT = -picked_BT1[..., 0] * weights_BT
    return losses_BT.sum(), losses_BT


@settings(max_examples=8)
@given(
    shape=st.tuples(*[st.integers(1, n) for n in (3, 7, 4, 9)]),
    chunk_length=st.none() | st.integers(1, 9),
    scale=st.floats(-2, 2),
    seed=st.integers(0, 99),
)
def test_value_and_gradients_are_those_of_log_softmax(shape, chunk_length, scale, seed):
    hidden, table, targets, weights = inputs(*shape, seed)

    def both(function, *more):
        def scaled(hidden, table):
            total, losses = function(hidden, table, targets, weights, *more)
            return scale * total, losses

        return jax.jit(jax.value_and_grad(scaled, argnums=(0, 1), has_aux=True))(hidden, table)

    got = both(token_cross_entropy, chunk_length)
    # A forward pass alone takes another path.
    forward = token_cross_entropy(hidden, table, targets, weights, chunk_length)
    wanted = both(plain)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), got, wanted)
    np.testing.assert_allclose(forward[1], wanted[0][1], rtol=1e-4, atol=1e-4)
    assert float(forward[0]) == pytest.approx(float(forward[1].sum()), rel=1e-5)


def test_large_logits_stay_finite():
    hidden, table, targets, weights = inputs(2, 3, 4, 5)
    total, _ = token_cross_entropy(1e3 * hidden, 1e3 * table, targets, weights, 2)
    gradient = jax.grad(lambda h: token_cross_entropy(h, table, targets, weights, 2)[0])
    assert math.isfinite(total) and np.isfinite(gradient(1e3 * hidden)).all()


def test_bfloat16_states_are_summed_in_float32():
    hidden, table, targets, weights = inputs(2, 8, 6, 11)
    half = hidden.astype(jnp.bfloat16)
    total, losses = token_cross_entropy(half, table, targets, weights, 3)
    wanted, _ = plain(half.astype(np.float32), table, targets, weights)
    assert total.dtype == losses.dtype == jnp.float32
    assert float(total) == pytest.approx(float(wanted), rel=0.02)
    gradients = jax.eval_shape(
        jax.grad(lambda h, e: token_cross_entropy(h, e, targets, weights, 3)[0], argnums=(0, 1)),
        *(half, table),
    )
    assert [g.dtype for g in gradients] == [jnp.bfloat16, jnp.float32]


def sizes_held(jaxpr) -> set[int]:
    """Sizes of all arrays that a jaxpr, or anything that it calls, ever makes."""
    sizes = {math.prod(v.aval.shape) for equation in jaxpr.eqns for v in equation.outvars}
    for equation in jaxpr.eqns:
        for inner in jaxprs_in_params(equation.params):
            sizes |= sizes_held(inner)
    return sizes


@pytest.mark.parametrize("differentiated", [False, True])
def test_no_more_logits_are_held_than_a_chunk_needs(differentiated, monkeypatch):
    b, t, d, v = 2, 12, 3, 50

    def largest(chunk_length) -> int:
        def total(hidden, table, targets, weights):
            return token_cross_entropy(hidden, table, targets, weights, chunk_length)[0]

        function = jax.grad(total, argnums=(0, 1)) if differentiated else total
        return max(sizes_held(jax.make_jaxpr(function)(*inputs(b, t, d, v)).jaxpr))

    assert largest(None) == b * t * v
    assert largest(4) == b * 4 * v
    assert largest(5) == b * 4 * v, "three chunks are needed, so they may as well be even"
    monkeypatch.setattr(loss, "LOGITS_BYTES", 4 * 7 * v)
    assert largest(None) == 6 * v
    monkeypatch.setattr(loss, "LOGITS_BYTES", 0)
    # Two positions, half as many as the states are wide; differentiated, the head's gradient.
    assert largest(None) == (d if differentiated else 2) * v


def test_a_vocabulary_of_150_k_costs_less_than_a_gigabyte():
    """Peak memory beyond the states and the head: 8 x 1024 positions, D = 512."""
    shapes = (((8, 1024, 512), "f4"), ((153_600, 512), "f4"), ((8, 1024), "i4"), ((8, 1024), "f4"))
    step = jax.jit(jax.value_and_grad(lambda *x: token_cross_entropy(*x)[0], argnums=(0, 1)))
    memory = step.lower(*(jax.ShapeDtypeStruct(*x) for x in shapes)).compile().memory_analysis()
    added = memory.temp_size_in_bytes + memory.output_size_in_bytes
    gradients = 4 * 512 * (153_600 + 8 * 1024)
    logits = 4 * 256 * 153_600
    assert gradients + logits < added < 0.9e9


def on_mesh(sizes, rules, dtype=np.float32):
    """Compiles value and gradients, chunk by chunk; gives what calls it, and what it sends."""
    partitioning = Partitioning(*sizes, rules=rules)
    mesh = partitioning.make_mesh()
    with nn.logical_axis_rules(rules):
        rows, table = (
            NamedSharding(mesh, nn.logical_to_mesh_axes(axes))
            for axes in (("batch", None), ("vocab", "embed"))
        )
    arguments = inputs(8, 6, 16, 24)
    hidden = arguments[0].astype(dtype)

    def both(hidden, table, targets, weights):
        def total(hidden, table):
            return token_cross_entropy(hidden, table, targets, weights, 2)

        return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(hidden, table)

    function = jax.jit(both, in_shardings=(rows, table, rows, rows))
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        compiled = function.lower(hidden, *arguments[1:]).compile()
    return compiled(hidden, *arguments[1:]), read_collectives(compiled.as_text())


def rules_of(**places):
    return (("batch", BATCH_AXES), ("rows", BATCH_AXES), *places.items())


OTHER_RULES = [
    rules_of(vocab="tensor"),
    rules_of(vocab=("fsdp", "tensor")),
    rules_of(embed=("fsdp", "data"), vocab="tensor"),
    rules_of(embed="tensor", vocab=("data", "fsdp")),
]


@pytest.mark.parametrize(
    ("sizes", "rules"),
    [(sizes, DEFAULT_RULES) for sizes in ((2, 2, 2), (1, 8, 1), (1, 1, 8), (8, 1, 1), (1, 2, 4))]
    + [((2, 2, 2), rules) for rules in OTHER_RULES],
)
def test_every_mesh_gives_one_device_s_loss_and_gradients(sizes, rules, quick_compilation):
    arguments = inputs(8, 6, 16, 24)
    wanted = jax.jit(
        jax.value_and_grad(lambda h, e: plain(h, e, *arguments[2:]), argnums=(0, 1), has_aux=True)
    )(*arguments[:2])
    got, _ = on_mesh(sizes, rules)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), got, wanted)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 8, 1), (1, 1, 8)], ids=str)
def test_the_head_crosses_devices_once_however_many_chunks(sizes):
    b, t, d, v = 8, 6, 16, 24
    data, fsdp, tensor = sizes
    part, states = 4 * v // tensor * d, 4 * b // (data * fsdp) * t * d
    sent = {(c.kind, c.group_size): c for c in on_mesh(sizes, DEFAULT_RULES)[1]}
    for kind in ("all-gather", "reduce-scatter"):
        moved = sent.pop((kind, fsdp), None)
        assert (moved.count, moved.bytes) == (1, part) if fsdp > 1 else moved is None
    # The gradients of the head's parts over `data`, of the states over `tensor`; a chunk's maxima,
    # sums and targets' logits; the loss.
    rest = sum(c.bytes for c in sent.values())
    small = 3 * 4 * (b * t // (data * fsdp)) + 8
    assert rest <= (data > 1) * part // fsdp + (tensor > 1) * (states + small) + 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(targets_BT=np.zeros((2, 4), int)), r"targets have shape \(2, 4\)"),
        (dict(weights_BT=np.zeros((3, 3))), r"weights \(3, 3\)"),
        (dict(chunk_length=0), "chunk_length is 0; give at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    names = ("hidden_BTD", "table_VD", "targets_BT", "weights_BT")
    arguments = dict(zip(names, inputs(2, 3, 4, 5), strict=True))
    with pytest.raises(ValueError, match=message):
        token_cross_entropy(**(arguments | changes))
