"""The packer against a slow, obvious one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexatm_jax.batch import batch_shapes, check_batch
from alexatm_jax.data.causal_lm import CausalLM
from alexatm_jax.data.denoising import Denoising
from alexatm_jax.data.packing import Example, OpenRows, Packing
from alexatm_jax.data.vocabulary import SpecialIds

S, T = 12, 14
SPECIAL = SpecialIds(*range(7))
WHOLE = Denoising(drop_rate=1e-6)  # of so few tokens it drops none
SIDES = st.lists(st.tuples(st.integers(1, S), st.integers(1, T)), min_size=1, max_size=30)
TEXTS = st.lists(st.tuples(st.integers(2, 7), st.integers(1, 6), st.booleans()), max_size=4)


def examples_of(texts: list[tuple[int, int, bool]]) -> list[Example]:
    """CLM examples of so many tokens, so many of them shown, and denoising ones."""
    rng = np.random.default_rng(0)
    return [
        Example(rng.integers(7, 99, length).astype(np.int32), min(shown, length - 1), CausalLM())
        if continues
        else Example(rng.integers(7, 99, length).astype(np.int32), length, WHOLE)
        for length, shown, continues in texts
    ]


def rows_that_fit(examples: list[Example]) -> list[list[Example]]:
    """One example a row, and the first with the last."""
    together = [example.sides(SPECIAL) for example in (examples[0], examples[-1])]
    fits = sum(s[0] for s in together) <= S and sum(s[1] for s in together) <= T
    return [[examples[0], examples[-1]] if fits else [examples[0]], *([e] for e in examples)]


def slow_row(examples: list[Example]) -> dict[str, list[int]]:
    """Writes a row one token at a time."""
    row: dict[str, list[int]] = {name: [] for name in batch_shapes(1, S, T)}
    for segment, example in enumerate(examples, start=1):
        continues, tokens = example.objective.kind == "clm", example.tokens.tolist()
        sources = [SPECIAL.clm, *tokens[: example.num_read]] if continues else tokens
        targets = [*tokens[example.num_read if continues else 0 :], SPECIAL.eos]
        for index, token in enumerate(sources):
            row["encoder_input_tokens"].append(token)
            row["encoder_positions"].append(index)
            row["encoder_segment_ids"].append(segment)
        for index, token in enumerate(targets):
            row["decoder_input_tokens"].append(targets[index - 1] if index else SPECIAL.bos)
            row["decoder_target_tokens"].append(token)
            row["decoder_positions"].append(index)
            row["decoder_segment_ids"].append(segment)
            row["decoder_objective_ids"].append(int(continues))
    for name, (_, length) in batch_shapes(1, S, T).items():
        row[name] += [0] * (length - len(row[name]))
    return row


@settings(max_examples=100)
@given(texts=TEXTS.filter(bool))
def test_rows_equal_the_slow_ones(texts):
    rows = rows_that_fit(examples_of(texts))
    arrays = Packing("isolated", S, T).lay(rows, SPECIAL, np.random.default_rng(0))
    check_batch(arrays)
    wanted = [slow_row(row) for row in rows]
    for name, values in arrays.items():
        assert values.tolist() == [row[name] for row in wanted], name


def test_positions_end_where_the_objective_says():
    tokens = np.arange(10, 18, dtype=np.int32)
    row = [
        Example(tokens[:5], 3, CausalLM(position_end=S)),
        Example(tokens[5:], 1, CausalLM(position_end=S + 5)),
    ]
    arrays = Packing("isolated", S, T).lay([row], SPECIAL, np.random.default_rng(0))
    assert arrays["encoder_positions"][0, :6].tolist() == [8, 9, 10, 11, 15, 16]


def test_a_rows_noise_is_its_own_and_repeats():
    tokens = np.arange(10, 110, dtype=np.int32)
    rows = [[Example(tokens, 85, Denoising())], [Example(tokens, 85, Denoising())]]

    def sources(seed: int) -> np.ndarray:
        packing, rng = Packing("isolated", 100, 101), np.random.default_rng(seed)
        return packing.lay(rows, SPECIAL, rng)["encoder_input_tokens"]

    np.testing.assert_array_equal(sources(1), sources(1))
    assert (sources(1) != sources(2)).any() and (sources(1)[0] != sources(1)[1]).any()


def slow_first_fit(sides: list[tuple[int, int]], count: int) -> list[list[int]]:
    """Gives the numbers of the examples in each row, until one fits nowhere."""
    rows: list[list[int]] = [[] for _ in range(count)]

    def fits(row: list[int], number: int) -> bool:
        together = [sides[other] for other in [*row, number]]
        return sum(s[0] for s in together) <= S and sum(s[1] for s in together) <= T

    for number in range(len(sides)):
        roomy = [row for row in rows if fits(row, number)]
        if not roomy:
            break
        roomy[0].append(number)
    return rows


@settings(max_examples=100)
@given(sides=SIDES, count=st.integers(1, 4))
def test_examples_go_where_the_slow_packer_puts_them(sides, count):
    rows = OpenRows(count, S, T)
    numbers = [Example(np.array([number]), 1, WHOLE) for number in range(len(sides))]
    all(rows.add(number, *side) for number, side in zip(numbers, sides, strict=True))
    held = [[int(example.tokens[0]) for example in row] for row in rows.rows]
    assert held == slow_first_fit(sides, count)


def test_a_closed_row_takes_nothing_more():
    rows, example = OpenRows(2, S, T), Example(np.array([9]), 1, WHOLE)
    assert rows.add(example, 3, 4) and rows.first_room == (S - 3, T - 4)
    rows.close_first(example)
    assert rows.first_room == (S, T) and rows.add(example, 1, 2)
    rows.close_first(None)
    assert not rows and not rows.add(example, 1, 2)
    assert [len(row) for row in rows.rows] == [2, 1]


def test_text_is_counted_without_what_joins_it():
    assert Example(np.arange(9), 9, WHOLE, num_documents=3).text_tokens == 7


def test_examples_longer_than_a_row_are_refused():
    tokens = np.arange(S, dtype=np.int32)
    with pytest.raises(ValueError, match="split its document"):
        OpenRows(1, S, T).add(Example(tokens, S, WHOLE), S, T + 1)
    with pytest.raises(ValueError, match="12 tokens were given for a row of 11; split or pack"):
        Packing("document_separator", S - 1, T).lay(
            [[Example(tokens, S, WHOLE)]], SPECIAL, np.random.default_rng(0)
        )


@pytest.mark.parametrize("bad", [("joined", 8, 8), ("isolated", 1, 8), ("isolated", 8, 8, 0)])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="must be one of|longer rows|at least 1"):
        Packing(*bad)
