"""Options that change how the model computes, and what they leave alone."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax._src.cudnn import fused_attention_stablehlo
from jax.extend.core import jaxprs_in_params

from alexatm_jax.model import Transformer, attention, attention_blocked, attention_cudnn
from alexatm_jax.model.config import REMAT_POLICIES

ONE_LAYER = dict(num_encoder_layers=1, num_decoder_layers=1)


@pytest.fixture(scope="module")
def batch(pack, example):
    return pack([[example(5, 4), example(3, 6)], [example(7, 9, first=9)]], 9, 10)


def logits_of(config, params, batch, **rngs) -> np.ndarray:
    apply = jax.jit(functools.partial(Transformer(config).apply, {"params": params}))
    return np.asarray(apply(**batch, rngs=rngs))


def stacked(params, config):
    """Stacks `layer_0`, `layer_1`, ... of both stacks, as scanning wants them."""

    def stack(tree, num_layers):
        layers = [tree[f"layer_{n}"] for n in range(num_layers)]
        together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
        return {"layers": together, "final_norm": tree["final_norm"]}

    return params | {
        "encoder": stack(params["encoder"], config.num_encoder_layers),
        "decoder": stack(params["decoder"], config.num_decoder_layers),
    }


def test_scanned_and_unrolled_layers_agree(tiny, random_params, batch):
    unrolled, scanned = tiny(scan_layers=False), tiny(scan_layers=True)
    params = random_params(Transformer(unrolled))
    restacked = stacked(params, unrolled)
    assert jax.tree.structure(restacked) == jax.tree.structure(random_params(Transformer(scanned)))
    wanted = logits_of(unrolled, params, batch)
    np.testing.assert_allclose(logits_of(scanned, restacked, batch), wanted, atol=1e-5)


def test_several_layers_an_iteration_compute_the_same(tiny, random_params, batch):
    params = random_params(Transformer(tiny(scan_layers=True)))

    def compiled(**options):
        config = tiny(scan_layers=True, **options)
        return jax.jit(jax.grad(squared_logits(config, batch))).lower(params).compile()

    one, straight = compiled(), compiled(scan_unroll=8)
    again = compiled(scan_unroll=8, remat="full")
    for program in (straight, again):
        jax.tree.map(
            lambda got, wanted: np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-4),
            program(params),
            one(params),
        )
    # Straight-line code could share what remat is to compute again.
    dots = [program.as_text().count(" dot(") for program in (straight, again)]
    assert dots[1] > 1.2 * dots[0]


def count_of(primitive: str, jaxpr) -> int:
    """Counts what a jaxpr, and all that it calls, computes by a primitive; loops count once."""
    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive.name == primitive
        for inner in jaxprs_in_params(equation.params):
            count += count_of(primitive, inner)
    return count


def squared_logits(config, batch, **rngs):
    model = Transformer(config)
    return lambda params: jnp.square(model.apply({"params": params}, **batch, rngs=rngs)).mean()


@pytest.mark.parametrize("scan_layers", [False, True])
def test_remat_recomputes_more(tiny, random_params, batch, scan_layers):
    def products(*policies: str | None) -> int:
        config = tiny(scan_layers=scan_layers, remat=policies[0], decoder_remat=policies[1])
        gradient = jax.grad(squared_logits(config, batch))
        params = random_params(Transformer(config))
        return count_of("dot_general", jax.make_jaxpr(gradient)(params).jaxpr)

    counts = [products(remat, None) for remat in REMAT_POLICIES]
    none, dots, attention, full = counts
    assert none <= dots < attention < full
    # What one stack adds does not depend on the other one's policy.
    assert products("full", "none") + products("none", "full") == none + full


def test_remat_keeps_what_cudnn_gives(tiny, random_params, monkeypatch):
    monkeypatch.setattr(attention, "_platform", lambda: "gpu")
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91200)
    options = dict(**ONE_LAYER, d_model=24, dtype="bfloat16")
    params = random_params(Transformer(tiny(**options)))
    tokens = jnp.ones((2, 8), jnp.int32)
    batch = dict(encoder_input_tokens=tokens, decoder_input_tokens=tokens)

    def calls(remat: str) -> int:
        config = tiny(**options, attention="cudnn", remat=remat)
        gradient = jax.grad(squared_logits(config, batch))
        return count_of(attention_cudnn.CUDNN_FORWARD, jax.make_jaxpr(gradient)(params).jaxpr)

    # Self-attention twice, and cross-attention.
    assert [calls(remat) for remat in REMAT_POLICIES] == [3, 3, 3, 6]


def test_remat_changes_no_gradient(tiny, random_params, batch, monkeypatch):
    monkeypatch.setattr(attention_blocked, "QUERIES", 5)
    options = dict(**ONE_LAYER, attention="blocked", encoder_attention_dropout_rate=0.2)
    params = random_params(Transformer(tiny(**options)))

    def gradient(remat: str):
        loss = squared_logits(tiny(**options, remat=remat), batch, dropout=jax.random.key(3))
        return jax.jit(jax.grad(loss))(params)

    gradients = [gradient(remat) for remat in REMAT_POLICIES]
    for other in gradients[1:]:
        jax.tree.map(
            lambda got, wanted: np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-4),
            other,
            gradients[0],
        )


@pytest.mark.parametrize("share_embeddings", [False, True])
@pytest.mark.parametrize("tie_lm_head", [False, True])
def test_tables_exist_once_each(tiny, share_embeddings, tie_lm_head):
    config = tiny(share_embeddings=share_embeddings, tie_lm_head=tie_lm_head)
    model = Transformer(config)
    tokens = jnp.zeros((1, 1), jnp.int32)
    params = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"])
    tables = {name for name in ("encoder_tokens", "decoder_tokens", "lm_head") if name in params}
    dropped = {"decoder_tokens"} if share_embeddings else set()
    dropped |= {"lm_head"} if tie_lm_head else set()
    assert tables == {"encoder_tokens", "decoder_tokens", "lm_head"} - dropped

    made = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params)
    name = "lm_head"
    if tie_lm_head:
        name = "encoder_tokens" if share_embeddings else "decoder_tokens"
    made[name]["table"] += 7
    assert (model.apply({"params": made}, method="output_table") == 7).all()


def test_dropout_needs_a_key_and_repeats_with_it(tiny, random_params, batch):
    config = tiny(**ONE_LAYER, dropout_rate=0.1)
    model = Transformer(config)
    params = random_params(model)
    apply = jax.jit(lambda key: model.apply({"params": params}, **batch, rngs={"dropout": key}))
    first, again, other = map(apply, map(jax.random.key, (0, 0, 1)))
    np.testing.assert_array_equal(first, again)
    real = batch["decoder_segment_ids"] > 0
    assert np.abs(first - other).max(axis=-1)[real].min() > 1e-4

    # Without a key, the rates are as good as zero.
    without = logits_of(config, params, batch)
    np.testing.assert_array_equal(without, logits_of(tiny(**ONE_LAYER), params, batch))


@pytest.mark.parametrize(
    ("rates", "encoder_moves", "decoder_moves"),
    [
        (dict(encoder_attention_dropout_rate=0.5), True, True),
        (dict(decoder_attention_dropout_rate=0.5), False, True),
    ],
)
def test_attention_dropout_is_set_apart_for_each_stack(
    tiny, random_params, batch, rates, encoder_moves, decoder_moves
):
    config = tiny(**ONE_LAYER, **rates)
    model = Transformer(config)
    params = random_params(model)
    encoder = [batch[f"encoder_{name}"] for name in ("input_tokens", "positions", "segment_ids")]

    @jax.jit
    def both(key):
        apply = functools.partial(model.apply, {"params": params}, rngs={"dropout": key})
        return apply(*encoder, method="encode"), apply(**batch)

    (encoded, logits), (other_encoded, other_logits) = map(both, map(jax.random.key, (0, 1)))
    assert bool((encoded != other_encoded).any()) == encoder_moves
    assert bool((logits != other_logits).any()) == decoder_moves


def test_bfloat16_stays_close_to_float32(tiny, random_params, batch):
    params = random_params(Transformer(tiny()))
    wanted = logits_of(tiny(), params, batch)
    half = tiny(dtype="bfloat16")
    got = logits_of(half, params, batch)
    real = batch["decoder_segment_ids"] > 0
    assert got.dtype == np.float32
    error = np.abs(got - wanted)[real]
    assert 0 < error.max() and np.sqrt((error**2).mean()) < 0.03 * wanted[real].std()

    hidden = jax.eval_shape(
        lambda: Transformer(half).apply({"params": params}, **batch, method="hidden_states")
    )
    assert hidden.dtype == jnp.bfloat16


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_parameters_have_the_dtype_asked_for(tiny, param_dtype):
    model = Transformer(tiny(param_dtype=param_dtype))
    tokens = jnp.zeros((1, 1), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(param_dtype)}
