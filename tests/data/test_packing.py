"""The packer against a slow, obvious one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexatm_jax.batch import batch_shapes, check_batch
from alexatm_jax.data.packing import Example, Packing

BOS, S, T = 1, 12, 14
SIDES = st.lists(
    st.tuples(st.integers(1, S), st.integers(1, T), st.integers(0, 1)),
    min_size=1,
    max_size=30,
)


def examples_of(sides: list[tuple[int, int, int]]) -> list[Example]:
    """Examples of these lengths; the CLM ones end their positions at S + 5."""
    rng = np.random.default_rng(0)
    return [
        Example(
            rng.integers(7, 99, read).astype(np.int32),
            rng.integers(7, 99, written).astype(np.int32),
            objective_id,
            S + 5 if objective_id else None,
        )
        for read, written, objective_id in sides
    ]


def slow_row(examples: list[Example]) -> dict[str, list[int]]:
    """Writes a row one token at a time."""
    row: dict[str, list[int]] = {name: [] for name in batch_shapes(1, S, T)}
    for segment, example in enumerate(examples, start=1):
        n = len(example.encoder_tokens)
        for index, token in enumerate(example.encoder_tokens.tolist()):
            row["encoder_input_tokens"].append(token)
            row["encoder_positions"].append(S + 5 - n + index if example.objective_id else index)
            row["encoder_segment_ids"].append(segment)
        previous = BOS
        for index, token in enumerate(example.decoder_targets.tolist()):
            row["decoder_input_tokens"].append(previous)
            row["decoder_target_tokens"].append(token)
            row["decoder_positions"].append(index)
            row["decoder_segment_ids"].append(segment)
            row["decoder_objective_ids"].append(example.objective_id)
            previous = token
    for name, (_, length) in batch_shapes(1, S, T).items():
        row[name] += [0] * (length - len(row[name]))
    return row


def slow_first_fit(sides: list[tuple[int, int, int]], num_bins: int) -> list[list[int]]:
    """Gives the numbers of the examples in each bin."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]

    def fits(bin_: list[int], number: int) -> bool:
        together = [sides[other] for other in [*bin_, number]]
        return sum(s[0] for s in together) <= S and sum(s[1] for s in together) <= T

    for number in range(len(sides)):
        roomy = [bin_ for bin_ in bins if fits(bin_, number)]
        if not roomy:
            break
        roomy[0].append(number)
    return [bin_ for bin_ in bins if bin_]


@settings(max_examples=100)
@given(sides=SIDES, num_bins=st.integers(1, 4))
def test_bins_and_rows_equal_the_slow_packers(sides, num_bins):
    examples = examples_of(sides)
    packing = Packing("isolated", S, T, num_bins)
    bins = packing.first_fit(examples)
    wanted = slow_first_fit(sides, num_bins)
    assert [[id(example) for example in bin_] for bin_ in bins] == [
        [id(examples[number]) for number in bin_] for bin_ in wanted
    ]
    rows = [packing.row(bin_, BOS) for bin_ in bins]
    assert [{name: row[name].tolist() for name in row} for row in rows] == [
        slow_row(bin_) for bin_ in bins
    ]
    check_batch({name: np.stack([row[name] for row in rows]) for name in rows[0]})


def test_the_example_that_fits_nowhere_is_the_last_one_drawn():
    examples = iter(examples_of([(12, 14, 0), (12, 14, 0), (1, 1, 0), (2, 2, 0)]))
    assert len(Packing("isolated", S, T, num_bins=2).first_fit(examples)) == 2
    assert len(next(examples).encoder_tokens) == 2


def test_examples_longer_than_a_row_are_refused():
    examples = examples_of([(12, 14, 0)])
    with pytest.raises(ValueError, match="split its document"):
        Packing("isolated", S, T - 1).first_fit(examples)
    with pytest.raises(ValueError, match="split or pack"):
        Packing("document_separator", S - 1, T).row(examples, BOS)


@pytest.mark.parametrize("bad", [("joined", 8, 8), ("isolated", 1, 8), ("isolated", 8, 8, 0)])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="must be one of|longer rows|at least 1"):
        Packing(*bad)
