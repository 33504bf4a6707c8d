"""Cached greedy generation against recomputing everything for each token."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

from alexatm_jax.decoding.cache import DecoderCache
from alexatm_jax.decoding.config import DecodingConfig
from alexatm_jax.decoding.generate import generate as generate_as
from alexatm_jax.decoding.generate import greedy

BOS, T = 1, 10


def ends(*tokens: int) -> np.ndarray:
    return np.isin(np.arange(40), tokens)


def compiled(model, params, max_new_tokens: int = T, **options):
    """greedy of one model: (prompts, ends_V) -> tokens [B, T]."""
    options |= dict(max_new_tokens=max_new_tokens, bos_id=BOS)
    generate = jax.jit(functools.partial(greedy, model, **options))
    return lambda prompts, ends_V: np.asarray(generate(params, prompts, ends_V=ends_V))


def recomputed(model, params):
    """The slow way: a full forward pass over all of the answer so far, for every token."""
    logits = jax.jit(
        lambda prompts, inputs_BT: model.apply(
            {"params": params},
            prompts.tokens,
            inputs_BT,
            encoder_positions=prompts.positions,
            encoder_segment_ids=prompts.segment_ids,
        )
    )

    def generate(prompts, ends_V) -> list[list[int]]:
        rows: list[list[int]] = [[] for _ in prompts.tokens]
        for step in range(T):
            inputs = np.array([([BOS, *row] + [0] * T)[:T] for row in rows], np.int32)
            likeliest = np.asarray(logits(prompts, inputs))[:, step].argmax(axis=-1)
            for row, token in zip(rows, likeliest.tolist(), strict=True):
                if not row or not ends_V[row[-1]]:
                    row.append(token)
        return rows

    return generate


@pytest.fixture(scope="module")
def model(tiny):
    return tiny()


@pytest.fixture(scope="module")
def generate(model):
    return compiled(*model)


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(norm="standard", share_embeddings=True, scale_embeddings=True),
        dict(scan_layers=False, num_decoder_layers=3, num_heads=2, remat="full"),
    ],
    ids=["published", "shared", "unrolled"],
)
def test_cached_generation_is_full_recomputation(tiny, batch_prompts, random_rows, changes):
    model, params = tiny(seed=3, **changes)
    cached, slow = compiled(model, params), recomputed(model, params)
    lengths = set()
    for seed in range(4):
        rows = random_rows(9, 1, 4, 12, seed=seed)
        prompts = batch_prompts(rows, 12, starts=[0, 23, 5, 12])
        endless = cached(prompts, ends())
        assert len(np.unique(endless)) > 5, "a model that repeats itself proves little"
        # One of its tokens then ends some rows early, and others perhaps never.
        for ends_V in (ends(), ends(2, endless[seed, 2 * seed])):
            wanted = slow(prompts, ends_V)
            padded = [row + [-1] * (T - len(row)) for row in wanted]
            np.testing.assert_array_equal(cached(prompts, ends_V), padded)
            lengths |= {len(row) for row in wanted}
    assert len(lengths) > 2


@settings(max_examples=10)
@given(seed=st.integers(0, 99), chosen=st.sets(st.integers(7, 39), min_size=3, max_size=20))
def test_rows_end_at_their_first_end(generate, batch_prompts, random_rows, seed, chosen):
    prompts = batch_prompts(random_rows(6, 3, 8, seed=seed), 12)
    unending = generate(prompts, ends())
    ended = generate(prompts, ends(*chosen))
    for row, whole in zip(ended, unending, strict=True):
        hits = np.flatnonzero(np.isin(whole, list(chosen)))
        length = hits[0] + 1 if len(hits) else T
        np.testing.assert_array_equal(row[:length], whole[:length])
        assert (row[length:] == -1).all()


def test_a_row_knows_nothing_of_its_batch(model, generate, batch_prompts, random_rows):
    rows = random_rows(5, 12, 1)
    wanted = generate(batch_prompts(rows, 12), ends(2))
    alone = compiled(*model)
    for row, tokens in zip(rows, wanted, strict=True):
        for length in (12, 20):
            np.testing.assert_array_equal(alone(batch_prompts([row], length), ends(2))[0], tokens)
    crowd = batch_prompts([*random_rows(7, 2, seed=1), *rows, []], 12)
    np.testing.assert_array_equal(alone(crowd, ends(2))[2:5], wanted)


def test_rows_without_a_prompt_are_not_answered(generate, batch_prompts, random_rows):
    tokens = generate(batch_prompts([*random_rows(4), [], []], 12), ends())
    assert (tokens[0] >= 0).all() and (tokens[1:] == -1).all()


def products(jaxpr) -> list:
    """Gives what every matrix product of a jaxpr makes: its shape and dtype."""
    found = [e.outvars[0].aval for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    for equation in jaxpr.eqns:
        for inner in jaxprs_in_params(equation.params):
            found += products(inner)
    return found


def test_logits_are_float32_whatever_the_states_are(tiny, batch_prompts):
    """Of 5,000 logits rounded to bfloat16 the likeliest two tie for 1 token in 60."""
    model, params = tiny(dtype="bfloat16")
    prompts = batch_prompts([[7, 8]], 3)
    for function in (
        lambda: greedy(
            model, params, prompts, max_new_tokens=T, bos_id=BOS, ends_V=jnp.asarray(ends())
        ),
        lambda: model.apply({"params": params}, prompts.tokens, prompts.tokens),
    ):
        made = products(jax.make_jaxpr(function)().jaxpr)
        dtypes = {width: {x.dtype.name for x in made if x.shape[-1] == width} for width in (20, 40)}
        assert dtypes == {20: {"bfloat16"}, 40: {"float32"}}


def test_the_loop_stops_when_every_row_has_ended(tiny, batch_prompts, random_rows):
    """A loop that ran on would cost time only, so its steps are counted by their effect."""
    model, params = tiny()
    steps = []

    class Watched(type(model)):
        def decode_cached(self, *arguments):
            jax.debug.callback(lambda: steps.append(1))
            return super().decode_cached(*arguments)

    prompts = batch_prompts(random_rows(4, 6), 12)
    generate = compiled(Watched(model.config), params)
    generate(prompts, ends(*range(40)))
    jax.effects_barrier()
    assert len(steps) == 1


@pytest.mark.parametrize("rows", [1, 3])
def test_the_layout_for_cpus_gives_the_same_answers(tiny, batch_prompts, random_rows, rows):
    model, params = tiny(seed=3, remat="full", decoder_remat="dots")
    prompts = batch_prompts(random_rows(*[5, 9, 12][:rows]), 12)
    answers = [compiled(model, params, cpu_layout=on)(prompts, ends(3)) for on in (False, True)]
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize(
    ("options", "transposed"),
    [({}, False), (dict(num_beams=2), True), (dict(temperature=1.0, num_answers=2), True)],
    ids=str,
)
def test_the_layout_for_cpus_turns_the_head_for_more_than_one_draft(
    tiny, batch_prompts, options, transposed
):
    model, params = tiny()
    config = DecodingConfig(batch_size=1, max_new_tokens=4, **options)
    prompts, keys_B2 = batch_prompts([[7, 8]], 3), jnp.zeros((1, 2), jnp.uint32)
    function = functools.partial(
        generate_as, model, config=config, start_id=BOS, eos_id=2, cpu_layout=True
    )
    traced = jax.make_jaxpr(function)(params, prompts, jnp.zeros((1, 40), jnp.int32), keys_B2)
    turned = [e.outvars[0].aval.shape for e in traced.eqns if e.primitive.name == "transpose"]
    assert ((12, 40) in turned) == transposed


def test_positions_of_the_prompt_count(generate, batch_prompts, random_rows):
    rows = random_rows(6, 6, 6, seed=2)
    counted = generate(batch_prompts(rows, 12), ends())
    moved = generate(batch_prompts(rows, 12, starts=[18] * 3), ends())
    assert (counted != moved).any()


def test_answers_fit_the_positions(tiny, batch_prompts):
    model, params = tiny()
    prompts = batch_prompts([[7]], 12)
    with pytest.raises(ValueError, match="max_new_tokens is 25; the model has 24 positions"):
        compiled(model, params, max_new_tokens=25)(prompts, ends())


@pytest.mark.parametrize("stacked", [True, False])
def test_a_cache_shows_each_token_what_came_before(tiny, stacked):
    config = tiny()[0].config
    cache = DecoderCache.empty(config, batch_size=2, num_positions=5, stacked=stacked)
    rng = np.random.default_rng(0)
    first = tuple(rng.normal(size=(2, 2, 3, 4)).astype(np.float32) for _ in range(2))
    second = tuple(rng.normal(size=(2, 1, 3, 4)).astype(np.float32) for _ in range(2))
    np.testing.assert_array_equal(cache.mask(2)[0, 0], [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]])
    cache, _ = cache.extend(1, first)
    cache = cache.advance(2)
    cache, (keys, values) = cache.extend(1, second)
    for stored, parts in ((keys, (first[0], second[0])), (values, (first[1], second[1]))):
        np.testing.assert_array_equal(stored[:, :3], np.concatenate(parts, axis=1))
        assert not stored[:, 3:].any()
    assert not cache.keys[0].any(), "the other layer's part is untouched"
    np.testing.assert_array_equal(cache.mask(1)[0, 0], [[1, 1, 1, 0, 0]])
