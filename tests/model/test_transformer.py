"""What may influence a logit, and what may not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexatm_jax.model import Transformer


@pytest.fixture(scope="module")
def logits_of(tiny, random_params):
    """The compiled model: packed batch -> logits [B, T, V]."""
    model = Transformer(tiny())
    params = random_params(model)
    apply = jax.jit(lambda batch: model.apply({"params": params}, **batch))
    return lambda batch: np.asarray(apply(batch))


def agree(got, wanted) -> None:
    np.testing.assert_allclose(got, wanted, atol=1e-5)


@settings(max_examples=10)
@given(position=st.integers(0, 7), token=st.integers(1, 28))
def test_a_decoder_token_moves_no_earlier_logit(logits_of, pack, example, position, token):
    batch = pack([[example(6, 8)]], 8, 9)
    before_TV = logits_of(batch)[0]
    changed = batch["decoder_input_tokens"].copy()
    if changed[0, position] == token:
        token = token % 28 + 1
    changed[0, position] = token
    after_TV = logits_of(batch | {"decoder_input_tokens": changed})[0]
    agree(after_TV[:position], before_TV[:position])
    moved_T = np.abs(after_TV - before_TV).max(axis=-1)
    assert (moved_T[position:8] > 1e-4).all(), "later logits hear of it"


def test_an_encoder_token_moves_every_logit_of_its_example(logits_of, pack, example):
    batch = pack([[example(5, 4), example(3, 5)]], 8, 9)
    for changed_position, heard in ((4, slice(0, 4)), (5, slice(4, 9))):
        tokens = batch["encoder_input_tokens"].copy()
        tokens[0, changed_position] = tokens[0, changed_position] % 28 + 1
        moved_TV = logits_of(batch | {"encoder_input_tokens": tokens}) - logits_of(batch)
        moved_T = np.abs(moved_TV[0]).max(axis=-1)
        deaf = np.delete(moved_T, np.r_[heard])
        assert (moved_T[heard] > 1e-4).all() and (deaf < 1e-6).all()


@settings(max_examples=5)
@given(seed=st.integers(0, 99))
def test_what_stands_on_padding_changes_nothing(logits_of, pack, example, seed):
    batch = pack([[example(5, 4)]], 8, 9)
    rng = np.random.default_rng(seed)
    noisy = dict(batch)
    for side in ("encoder", "decoder"):
        padding = batch[f"{side}_segment_ids"] == 0
        for name in ("input_tokens", "positions"):
            junk = rng.integers(0, 16, padding.shape)
            noisy[f"{side}_{name}"] = np.where(padding, junk, batch[f"{side}_{name}"])
    agree(logits_of(noisy)[:, :4], logits_of(batch)[:, :4])


def test_a_packed_row_equals_its_examples_in_rows_of_their_own(logits_of, pack, example):
    examples = [example(4, 3), example(2, 5, first=10), example(3, 2)]
    packed_TV = logits_of(pack([examples], 9, 12))[0]
    separate = logits_of(pack([[one] for one in examples], 16, 7))
    agree(packed_TV[:3], separate[0, :3])
    agree(packed_TV[3:8], separate[1, :5])
    agree(packed_TV[8:10], separate[2, :2])


def test_one_segment_lets_documents_see_each_other(logits_of, pack, example):
    (one, first, _), (other, second, _) = example(4, 3), example(2, 5)
    joined = (np.concatenate([one, other]), np.concatenate([first, second]), 0)
    packed_TV = logits_of(pack([[example(4, 3), example(2, 5)]], 6, 8))[0]
    joined_TV = logits_of(pack([[joined]], 6, 8))[0]
    assert np.abs(joined_TV - packed_TV).max(axis=-1).min() > 1e-4


def test_positions_count_from_zero_and_tokens_are_real_by_default(logits_of, pack, example):
    batch = pack([[example(6, 5)], [example(6, 5, seed=1)]], 6, 5)
    bare = {name: batch[name] for name in ("encoder_input_tokens", "decoder_input_tokens")}
    agree(logits_of(bare), logits_of(batch))


def test_positions_matter(logits_of, pack, example):
    source, target, _ = example(6, 5)
    shifted = logits_of(pack([[(source, target, 10)]], 6, 5))
    assert np.abs(shifted - logits_of(pack([[(source, target, 0)]], 6, 5))).max() > 1e-3


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_more_tokens_than_positions_are_refused(tiny, side):
    model = Transformer(tiny(max_positions=16))
    lengths = {"encoder": 16, "decoder": 16} | {side: 17}
    tokens = [jnp.zeros((1, lengths[name]), jnp.int32) for name in ("encoder", "decoder")]
    with pytest.raises(ValueError, match="17 tokens arrived; the position tables have 16 rows"):
        jax.eval_shape(model.init, jax.random.key(0), *tokens)
