"""Draws: truncated as asked, distributed as they should be, and the same in any batch."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax.decoding.config import DecodingConfig
from alexatm_jax.decoding.drafts import Drafts
from alexatm_jax.decoding.generate import generate
from alexatm_jax.decoding.limits import Limits
from alexatm_jax.decoding.sampling import Sampling, likeliest, prompt_key, truncated
from alexatm_jax.decoding.stops import end_table

V = 40
NO_STOPS = end_table(np.arange(V) == 2)


def slow_truncated(logits: list[float], config: DecodingConfig) -> list[float]:
    """The same in Python: temperature, then top_k, then top_p."""
    left = [logit / config.temperature for logit in logits]
    falling = sorted(left, reverse=True)
    if config.top_k:
        left = [x if x >= falling[min(config.top_k, len(left)) - 1] else -np.inf for x in left]
    weights = np.exp(np.array(sorted(left, reverse=True)) - max(left))
    probs, total, least = weights / weights.sum(), 0.0, np.inf
    for logit, prob in zip(sorted(left, reverse=True), probs, strict=True):
        if total < config.top_p:
            least = logit
        total += prob
    return [x if x >= least else -np.inf for x in left]


@given(
    # Powers of two apart, so that no sum of probabilities meets top_p by rounding alone.
    logits=st.lists(st.integers(-3, 3), min_size=2, max_size=9),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    top_k=st.none() | st.integers(1, 10),
    top_p=st.sampled_from([0.123, 0.5671, 0.9137, 1.0]),
)
def test_truncation_keeps_the_likeliest(logits, temperature, top_k, top_p):
    config = DecodingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    found = truncated(jnp.asarray(logits, jnp.float32)[None, None], config)[0, 0]
    np.testing.assert_allclose(found, slow_truncated(logits, config), rtol=1e-6)


def test_draws_follow_the_probabilities():
    """4,000 draws of 6 tokens; the 99.9 % quantile of chi squared with 5 degrees is 20.5."""
    config = DecodingConfig(temperature=0.5, num_answers=4000, max_new_tokens=1)
    logits_V = np.array([0, 0.3, -0.4, 0.9, 0.1, 0.7], np.float32)
    limits = Limits(config, jnp.asarray(end_table(np.zeros(6, bool))), 2)
    sampling = Sampling(limits, jnp.asarray(prompt_key(1, np.array([7, 8])))[None])
    drafts = Drafts.start(jnp.ones(1, bool), 4000, 1, 0)
    logits_BWV = jnp.broadcast_to(logits_V[None, None], (1, 4000, 6))
    tokens_BAT, scores_BA = sampling.answers(sampling.step(drafts, logits_BWV, jnp.asarray(0)))
    counts = np.bincount(np.ravel(tokens_BAT), minlength=6)
    expected = 4000 * np.asarray(jax.nn.softmax(logits_V / 0.5))
    assert ((counts - expected) ** 2 / expected).sum() < 20.5
    # Scores are the model's own log-probabilities, over start and token, whatever was drawn from.
    own = np.asarray(jax.nn.log_softmax(logits_V))[np.ravel(tokens_BAT)] / 2
    np.testing.assert_allclose(np.ravel(scores_BA), own, rtol=1e-5)


@pytest.fixture(scope="module")
def draw(tiny, batch_prompts):
    """Draws three answers to each row: tokens [B, 3, 8]."""
    model, params = tiny(seed=2)

    @functools.cache
    def compiled(num_answers: int):
        options = dict(temperature=1.0, top_k=20, top_p=0.95, num_answers=num_answers)
        config = DecodingConfig(max_new_tokens=8, **options)
        return jax.jit(functools.partial(generate, model, config=config, start_id=0, eos_id=2))

    def answers(rows: list, length: int = 12, seed: int = 0, num_answers: int = 3) -> np.ndarray:
        keys = np.array([prompt_key(seed, row) for row in rows])
        prompts = batch_prompts(rows, length)
        made = compiled(num_answers)(params, prompts, NO_STOPS, keys)
        return np.asarray(made.tokens_BAT)

    return answers


def test_a_prompt_gets_the_same_draws_in_any_batch(draw, random_rows):
    rows = random_rows(5, 12, 1)
    wanted = draw(rows)
    assert len({tuple(tokens) for tokens in wanted.reshape(9, 8).tolist()}) > 6
    np.testing.assert_array_equal(draw(rows[::-1])[::-1], wanted)
    np.testing.assert_array_equal(draw([*random_rows(7, seed=1), *rows], 20)[1:], wanted)
    np.testing.assert_array_equal(draw(rows, num_answers=2), wanted[:, :2])
    assert (draw(rows, seed=1) != wanted).any()


def test_keys_are_needed_to_draw(tiny, batch_prompts):
    model, params = tiny()
    config = DecodingConfig(max_new_tokens=8, temperature=1.0)
    with pytest.raises(ValueError, match="temperature is 1.0 and no keys arrived"):
        generate(model, params, batch_prompts([[7]], 3), NO_STOPS, config=config, start_id=0,
                 eos_id=2)  # fmt: skip


def test_of_equally_likely_tokens_the_lowest_id_is_taken():
    scores = np.random.default_rng(0).integers(0, 4, (5, 2, 40)).astype(np.float32)
    scores[0], scores[1, 0, :39] = -np.inf, -np.inf
    np.testing.assert_array_equal(likeliest(jnp.asarray(scores)), scores.argmax(axis=-1))
    assert likeliest(jnp.full((1, 1, 7), jnp.nan))[0, 0] in range(7)
