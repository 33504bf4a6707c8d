"""Denoising against its rule, and against a slow reference that reads its result."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexatm_jax.data.denoising import Denoising
from alexatm_jax.data.objectives import objective_from_spec
from alexatm_jax.data.vocabulary import SpecialIds

SPECIAL = SpecialIds(*range(7))
RATES = st.sampled_from(["0.15", "0.145", "0.5", "0.9", "0.01"])
TOKENS = st.lists(st.integers(2, 40), min_size=1, max_size=80)


def distinct(length: int) -> np.ndarray:
    return np.arange(7, 7 + length, dtype=np.int32)


def rounded_half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def spans(sequence: np.ndarray, kept: np.ndarray) -> list[int]:
    """Reads off the lengths of the dropped runs, one token after another."""
    found, left = [0], set(kept.tolist())
    for token in sequence.tolist():
        if token in left:
            found.append(0)
        else:
            found[-1] += 1
    return [length for length in found if length]


@settings(max_examples=100)
@given(
    tokens=TOKENS,
    rate=RATES,
    mean=st.sampled_from([0.3, 3.0, 20.0]),
    seed=st.integers(0, 99),
)
def test_drops_exactly_the_rate_and_keeps_order_and_protected(tokens, rate, mean, seed):
    sequence = np.array(tokens, dtype=np.int32)
    objective = Denoising(float(rate), mean)
    kept, targets = objective(sequence, SPECIAL, np.random.default_rng(seed))

    np.testing.assert_array_equal(targets, [*tokens, SPECIAL.eos])
    assert kept.dtype == targets.dtype == np.int32
    droppable = [token for token in tokens if token not in SPECIAL.protected]
    wanted = rounded_half_up(Fraction(rate) * len(droppable))
    wanted = min(wanted, max(len(droppable) - 1, 0))
    assert len(kept) == len(tokens) - wanted > 0
    remaining = iter(tokens)
    assert all(token in remaining for token in kept.tolist()), "not a subsequence"
    protected = [token for token in tokens if token in SPECIAL.protected]
    assert [token for token in kept.tolist() if token in SPECIAL.protected] == protected


def test_the_same_seed_gives_the_same_result_and_another_seed_another():
    first, again, other = (
        Denoising()(distinct(200), SPECIAL, np.random.default_rng(seed))[0] for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()


def test_span_lengths_are_poisson_above_zero():
    """Spans never touch, so the runs dropped are the spans: chi-square, 0.1 % level."""
    sequence = distinct(100_000)
    kept, _ = Denoising()(sequence, SPECIAL, np.random.default_rng(0))
    lengths = np.array(spans(sequence, kept))
    assert lengths.sum() == 15_000
    probabilities = np.array([math.exp(-3) * 3**k / math.factorial(k) for k in range(10)])
    probabilities = probabilities[1:8] / (1 - math.exp(-3))
    expected = len(lengths) * np.append(probabilities, 1 - probabilities.sum())
    observed = np.bincount(np.minimum(lengths, 8), minlength=9)[1:]
    assert ((observed - expected) ** 2 / expected).sum() < 24.3  # 7 degrees of freedom


def test_spans_lie_anywhere_with_equal_chance():
    """One span of one token in six: each token is dropped as often, chi-square, 0.1 %."""
    objective, rng = Denoising(1 / 6), np.random.default_rng(0)
    dropped = [
        np.setdiff1d(distinct(6), objective(distinct(6), SPECIAL, rng)[0]).item() - 7
        for _ in range(3000)
    ]
    counts = np.bincount(dropped, minlength=6)
    assert ((counts - 500) ** 2 / 500).sum() < 20.5  # 5 degrees of freedom


def test_pairs_of_spans_are_equally_likely_and_never_touch():
    """Spans of one token, two of five: the six ways that leave a token between them."""
    objective, rng = Denoising(0.4, mean_span_length=1e-6), np.random.default_rng(0)
    ways: dict[tuple[int, ...], int] = {}
    for _ in range(1200):
        kept, _ = objective(distinct(5), SPECIAL, rng)
        way = tuple(np.setdiff1d(distinct(5), kept) - 7)
        ways[way] = ways.get(way, 0) + 1
    assert sorted(ways) == [(0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (2, 4)]
    assert sum((count - 200) ** 2 / 200 for count in ways.values()) < 20.5


@settings(max_examples=50)
@given(
    texts=st.lists(TOKENS, min_size=1, max_size=6), rate=RATES, mean=st.sampled_from([0.3, 3, 1e9])
)
def test_many_sequences_are_noised_each_by_its_own_rate(texts, rate, mean):
    objective, rng = Denoising(float(rate), mean), np.random.default_rng(0)
    sequences = [np.array(text, dtype=np.int32) for text in texts]
    lengths = np.array([len(sequence) for sequence in sequences])
    num_read = np.array([objective.num_read(s, SPECIAL, rng.random) for s in sequences])
    mask = objective.read_mask(np.concatenate(sequences), lengths, num_read, SPECIAL, rng)
    for sequence, part, count in zip(
        sequences, np.split(mask, np.cumsum(lengths)[:-1]), num_read, strict=True
    ):
        assert np.count_nonzero(part) == count
        assert set(sequence[~part].tolist()).isdisjoint(SPECIAL.protected)


def test_noise_does_not_depend_on_where_a_sequence_lies():
    """Each of 40 tokens is dropped as often in the first of three as in the last."""
    objective, rng = Denoising(), np.random.default_rng(0)
    tokens = np.concatenate([distinct(40)] * 3)
    read = [np.array([40] * 3), np.array([34] * 3)]
    dropped = sum(~objective.read_mask(tokens, *read, SPECIAL, rng) for _ in range(3000))
    counts = dropped.reshape(3, 40)
    assert (counts.sum(axis=1) == 6 * 3000).all()
    # The edges of a sequence lie in fewer spans than its middle, but alike in all three.
    assert abs(counts - counts.mean(axis=0)).max() < 5 * 500**0.5


def test_a_span_may_go_on_behind_a_document_separator():
    sequence = np.array([7, 8, 9, SPECIAL.doc, 10, 11, 12], dtype=np.int32)
    objective = Denoising(0.9, mean_span_length=50)
    kept, _ = objective(sequence, SPECIAL, np.random.default_rng(1))
    assert SPECIAL.doc in kept and len(kept) == 2


@settings(max_examples=50)
@given(tokens=TOKENS, rate=RATES, encoder=st.integers(2, 40), decoder=st.integers(2, 60))
def test_longest_prefix_fits_and_one_more_token_would_not(tokens, rate, encoder, decoder):
    objective, sequence = Denoising(float(rate)), np.array(tokens, dtype=np.int32)

    def fits(length: int) -> bool:
        kept, targets = objective(sequence[:length], SPECIAL, np.random.default_rng(0))
        return len(kept) <= encoder and len(targets) <= decoder

    longest = objective.longest_prefix(sequence, SPECIAL, encoder, decoder)
    assert longest >= 1 and fits(longest)
    assert longest == len(tokens) or not fits(longest + 1)


def test_pieces_of_a_long_document_join_to_it():
    pieces = Denoising().split_document(distinct(100), 40, 31)
    assert [len(piece) for piece in pieces] == [25, 25, 25, 25]
    np.testing.assert_array_equal(np.concatenate(pieces), distinct(100))
    assert Denoising().split_document(distinct(0), 40, 31) == []


@pytest.mark.parametrize("bad", [{"drop_rate": 0}, {"drop_rate": 1}, {"mean_span_length": 0}])
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="the paper's is"):
        Denoising(**bad)


def test_no_token_is_refused():
    with pytest.raises(ValueError, match="skip it"):
        Denoising()(distinct(0), SPECIAL, np.random.default_rng(0))


def test_a_spec_makes_an_equal_objective():
    objective = Denoising(0.3, 2.0)
    assert objective_from_spec(objective.spec()) == objective
    assert objective_from_spec({"kind": "denoising"}) == Denoising()
