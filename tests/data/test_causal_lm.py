"""CLM: where documents are cut, and that nothing of them is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexatm_jax.data.causal_lm import CausalLM
from alexatm_jax.data.objectives import objective_from_spec
from alexatm_jax.data.vocabulary import SpecialIds

SPECIAL = SpecialIds(*range(7))
FRACTIONS = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


def document(length: int) -> np.ndarray:
    return np.arange(7, 7 + length, dtype=np.int32)


@settings(max_examples=100)
@given(length=st.integers(2, 60), fractions=FRACTIONS, seed=st.integers(0, 99))
def test_encoder_and_decoder_share_the_document(length, fractions, seed):
    objective = CausalLM(*fractions)
    shown, targets = objective(document(length), SPECIAL, np.random.default_rng(seed))
    assert shown.dtype == targets.dtype == np.int32
    assert shown[0] == SPECIAL.clm and targets[-1] == SPECIAL.eos
    np.testing.assert_array_equal(np.append(shown[1:], targets[:-1]), document(length))
    fraction = np.random.default_rng(seed).uniform(*fractions)
    assert len(shown) - 1 == np.clip(int(fraction * length), 1, length - 1)


def test_fractions_are_uniform():
    rng = np.random.default_rng(0)
    shown = [len(CausalLM()(document(100), SPECIAL, rng)[0]) - 1 for _ in range(3000)]
    counts = np.histogram(shown, bins=np.arange(20, 81, 6))[0]
    assert counts.sum() == 3000
    assert ((counts - 300) ** 2 / 300).sum() < 27.9  # 9 degrees of freedom, 0.1 %


@settings(max_examples=100)
@given(
    length=st.integers(0, 200),
    fractions=FRACTIONS,
    encoder=st.integers(4, 40),
    decoder=st.integers(4, 40),
    seed=st.integers(0, 9),
)
def test_every_piece_fits_wherever_it_is_cut(length, fractions, encoder, decoder, seed):
    objective, rng = CausalLM(*fractions), np.random.default_rng(seed)
    pieces = objective.split_document(document(length), encoder, decoder)
    if length < 2:
        assert pieces == []
        return
    np.testing.assert_array_equal(np.concatenate(pieces), document(length))
    for piece in pieces:
        shown, targets = objective(piece, SPECIAL, rng)
        assert len(shown) <= encoder and len(targets) <= decoder


def test_documents_are_not_cut_sooner_than_they_must():
    """1024 + 1024 tokens hold 1278: 255 at least are shown, 1023 and </s> are left."""
    objective = CausalLM()
    assert len(objective.split_document(document(1278), 1024, 1024)) == 1
    assert len(objective.split_document(document(1279), 1024, 1024)) == 2


def test_a_single_token_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        CausalLM()(document(1), SPECIAL, np.random.default_rng(0))


def test_rows_too_short_for_any_cut_are_refused():
    with pytest.raises(ValueError, match="longer rows"):
        CausalLM().split_document(document(9), 2, 2)


@pytest.mark.parametrize("bad", [{"min_fraction": 0.9}, {"max_fraction": 1.1}, {"position_end": 0}])
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="must rise|position_end"):
        CausalLM(**bad)


def test_a_spec_makes_an_equal_objective():
    objective = CausalLM(0.1, 0.9, position_end=56)
    assert objective_from_spec(objective.spec()) == objective


@pytest.mark.parametrize("spec", [{}, {"kind": "cml"}, {"kind": "clm", "drop_rate": 0.1}])
def test_unknown_kinds_and_fields_are_named(spec):
    with pytest.raises(ValueError, match="known kinds are|it has"):
        objective_from_spec(spec)
