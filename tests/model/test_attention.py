"""Every implementation of attention beside a slow one, alone and on a mesh."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from alexatm_jax.model import attention_blocked
from alexatm_jax.model.attention import attend
from alexatm_jax.model.attention_splash import splash_attention
from alexatm_jax.model.dropout import kept
from alexatm_jax.model.masks import Explicit, Segments

L, M, H, K = 7, 5, 4, 3
KEY = jax.random.key(5)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Cuts 7 queries into two blocks, and 8 heads of rows into four groups."""
    monkeypatch.setattr(attention_blocked, "QUERIES", 4)
    monkeypatch.setattr(attention_blocked, "tile_scores", lambda platform: 2 * 4 * L)


def packed(length: int, *ends: int) -> np.ndarray:
    """A row of several segments and padding, and a row of one segment without padding."""
    row = sum(np.arange(length) >= end for end in (0, *ends))
    return np.stack([np.where(row > len(ends), 0, row), np.ones(length)]).astype(np.int32)


BRANCHES = np.array([[0, 0, 1, 1, 2, 2, 0], [0, 1, 1, 2, 3, 3, 3]])
CASES = {
    "self": Segments.of_self(packed(L, 2, 5)),
    "causal": Segments.of_self(packed(L, 2, 5), causal=True),
    # The second row's padding sees no key at all.
    "cross": Segments(np.array([[1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 0, 0, 0]]), packed(M, 2, 4)),
    "branches": Segments.of_self(packed(L, 5), causal=True, branches_BL=BRANCHES),
}


@pytest.fixture(params=CASES)
def visible(request):
    return CASES[request.param]


def arrays_for(visible: Segments, heads: int = H, width: int = K, rows: int = 2):
    """Gives queries, keys, values, and what weights the outputs: 0 where nothing may be read."""
    rng = np.random.default_rng(0)
    lengths = [x.shape[1] for x in (visible.queries_BL, visible.keys_BM)]
    shapes = [(rows, lengths[i], heads, width) for i in (0, 1, 1, 0)]
    q, k, v, weights = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return q, k, v, np.where(seeing(visible)[..., None, None], weights, 0)


def seeing(visible: Segments) -> np.ndarray:
    return np.asarray(visible.mask()).any(axis=(1, 3))


def value_and_gradients(function, visible, q, k, v, weights):
    """Gives the output and the gradients of its weighted sum."""

    def total(q, k, v):
        output = function(q, k, v, visible)
        return jnp.sum(output * weights), output

    gradients, output = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(q, k, v)
    return output, *gradients


def assert_alike(found, wanted, visible, atol):
    sees = seeing(visible)
    np.testing.assert_allclose(found[0][sees], wanted[0][sees], atol=atol)
    assert np.isfinite(found[0]).all()
    for x, y in zip(found[1:], wanted[1:], strict=True):
        np.testing.assert_allclose(x, y, atol=atol)


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_the_reference_computes_the_definition(visible, rate):
    q, k, v, _ = arrays_for(visible)
    keep = np.asarray(kept(KEY, rate, (2, H, q.shape[1], k.shape[1])))
    mask = np.asarray(visible.mask())[:, 0]
    output = attend(
        *(q, k, v, visible),
        dropout_rate=rate,
        dropout_key=KEY,
        implementation="reference",
    )
    for b, i in np.argwhere(seeing(visible)):
        seen = mask[b, i]
        for h in range(H):
            weights = np.exp(k[b, seen, h] @ q[b, i, h] / np.sqrt(K))
            weights = weights / weights.sum() * keep[b, h, i, seen] / (1 - rate)
            np.testing.assert_allclose(output[b, i, h], weights @ v[b, seen, h], atol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_blocks_compute_what_the_reference_does(visible, rate):
    arrays = arrays_for(visible)
    dropping = functools.partial(attend, dropout_rate=rate, dropout_key=KEY)
    wanted, found = (
        value_and_gradients(functools.partial(dropping, implementation=name), visible, *arrays)
        for name in ("reference", "blocked")
    )
    assert_alike(found, wanted, visible, atol=2e-6)


def test_a_query_that_sees_no_key_has_no_gradient():
    visible = CASES["cross"]
    q, k, v, _ = arrays_for(visible)
    weights = np.where(seeing(visible)[..., None, None], 0, 1.0) * np.ones_like(q)
    blocked = functools.partial(attend, implementation="blocked", dropout_rate=0.4, dropout_key=KEY)
    for gradient in value_and_gradients(blocked, visible, q, k, v, weights)[1:]:
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", ["reference", "blocked"])
def test_bfloat16_rounds_no_scores(name):
    visible = Segments.of_self(packed(32, 28))
    q, k, v, weights = arrays_for(visible, width=64)
    rounded = [jnp.asarray(x, jnp.bfloat16) for x in (3 * q, 3 * k, v)]
    wanted, found = (
        value_and_gradients(
            functools.partial(attend, implementation=implementation),
            visible,
            *(x.astype(dtype) for x in rounded),
            weights,
        )
        for implementation, dtype in (("reference", "float32"), (name, "bfloat16"))
    )
    errors = [rms(x.astype("float32") - y) / rms(y) for x, y in zip(found, wanted, strict=True)]
    # Scores of about 9 would be off by up to 1/32: outputs by 0.008, their gradients by 0.02.
    assert errors[0] < 0.004 and max(errors) < 0.01


def rms(x) -> float:
    return float(jnp.sqrt(jnp.square(x).mean()))


@pytest.mark.parametrize("kind", ["self", "causal", "cross"])
def test_the_tpu_kernel_computes_what_the_reference_does(kind):
    """Five blocks of 128 queries; across, two of 384 keys, none of which the third segment sees."""
    segments = packed(640, 50, 300, 600)
    keys = packed(768, 70, 200) if kind == "cross" else segments
    visible = Segments(segments, keys, kind == "causal")
    arrays = arrays_for(visible, heads=2, width=8)

    def splash(q, k, v, visible):
        return splash_attention(q / np.sqrt(q.shape[-1]), k, v, visible, interpret=True)

    reference = functools.partial(attend, implementation="reference")
    found, wanted = (value_and_gradients(f, visible, *arrays) for f in (splash, reference))
    assert_alike(found, wanted, visible, atol=2e-5)


RULES = (("batch", ("data", "fsdp")), ("heads", "tensor"), ("length", None), ("kv", None))


def mesh_of_eight() -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("data", "fsdp", "tensor"))


def test_on_a_mesh_each_device_computes_its_own_rows_and_heads():
    segments = np.concatenate([packed(L, 2, 5), packed(L, 4, 6)])
    visible = Segments.of_self(segments, causal=True)
    arrays = arrays_for(visible, rows=4)
    blocked = functools.partial(attend, implementation="blocked", dropout_rate=0.4, dropout_key=KEY)
    wanted = value_and_gradients(blocked, visible, *arrays)
    mesh = mesh_of_eight()
    split = jax.NamedSharding(mesh, jax.P(("data", "fsdp"), None, "tensor", None))
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        compiled = (
            jax.jit(functools.partial(value_and_gradients, blocked, visible))
            .lower(*jax.device_put(arrays, split))
            .compile()
        )
        found = compiled(*jax.device_put(arrays, split))
    assert_alike(found, wanted, visible, atol=2e-6)
    assert all(x.sharding.is_equivalent_to(split, 4) for x in found[1:])
    sent = "all-gather|all-to-all|all-reduce|reduce-scatter|collective-permute"
    assert not re.findall(sent, compiled.as_text())


@pytest.mark.parametrize("axis", ["kv", "length"])
def test_no_mesh_splits_what_a_query_sums_over(axis):
    segments = np.ones((4, 8), np.int32)
    visible = Segments.of_self(segments, causal=True)
    q, k, v, _ = arrays_for(visible, width=4, rows=4)
    blocked = functools.partial(attend, visible=visible, implementation="blocked")
    wanted = blocked(q, k, v)
    rules = dict(RULES) | {"heads": None, axis: "tensor"}
    with jax.set_mesh(mesh_of_eight()), nn.logical_axis_rules(tuple(rules.items())):
        found = jax.jit(blocked)(q, k, v)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(k=(2, M, H, K + 1)), r"need both others as \[B, M, H, K\], here \(2, 5, 4, 3\)"),
        (dict(v=(2, M + 1, H, K)), "need both others"),
        (dict(queries=(2, L + 1)), r"queries \(2, 8\).* need \(2, 7\) and \(2, 5\)"),
        (dict(causal=True), "7 queries and 5 keys are to attend causally"),
    ],
)
def test_shapes_that_disagree_are_refused(change, message):
    shapes = dict(q=(2, L, H, K), k=(2, M, H, K), v=(2, M, H, K), queries=(2, L), keys=(2, M))
    causal = change.pop("causal", False)
    q, k, v, queries, keys = (np.zeros(shape) for shape in (shapes | change).values())
    with pytest.raises(ValueError, match=message):
        attend(q, k, v, Segments(queries, keys, causal))


def test_an_explicit_mask_is_computed_by_definition():
    visible = CASES["causal"]
    q, k, v, _ = arrays_for(visible)
    wanted = attend(q, k, v, visible, implementation="reference")
    np.testing.assert_array_equal(attend(q, k, v, Explicit(visible.mask())), wanted)
