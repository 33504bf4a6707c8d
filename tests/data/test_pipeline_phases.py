"""Phases of training: what is read where rates, lengths and batch sizes change."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from alexatm_jax.data.cache import TaskSpec
from alexatm_jax.data.objectives import objective_from_spec
from alexatm_jax.data.packing import MODES, Packing
from alexatm_jax.data.shuffling import ShuffledDocuments
from alexatm_jax.data.streams import Part, Stream
from alexatm_jax.data.vocabulary import SpecialIds

SPECIAL = SpecialIds(*range(7))


def documents(first: int, count: int, shortest: int, longest: int) -> list[np.ndarray]:
    """Documents whose tokens, from `first` on, occur nowhere else."""
    lengths = np.random.default_rng(count).integers(shortest, longest, count, endpoint=True)
    ends = first + np.cumsum(lengths)
    return [np.arange(e - n, e, dtype=np.int32) for e, n in zip(ends, lengths, strict=True)]


CORPORA = {
    "words": documents(1_000, 41, 1, 12),
    "books": documents(2_000, 9, 20, 90),
    "tales": documents(3_000, 23, 1, 60),
}
TASKS = (
    TaskSpec("noise_words", "words", 0.5, {"kind": "denoising"}),
    TaskSpec("noise_books", "books", 0.25, {"kind": "denoising", "drop_rate": 0.3}),
    TaskSpec("continue", "tales", 0.25, {"kind": "clm"}, {"language": "xx"}),
)
SEED, STREAMS = 3, 4


def stream(packing: Packing, rates: tuple[float, ...], number: int) -> Stream:
    parts = [
        Part(task.name, CORPORA[task.corpus], objective_from_spec(task.objective), rate)
        for task, rate in zip(TASKS, rates, strict=True)
    ]
    return Stream(parts, packing, SPECIAL, number=number, num_streams=STREAMS, seed=SEED)


def given_tokens(row: dict[str, np.ndarray]) -> Counter[int]:
    """Counts each text token of a row once: in what the decoder writes, or else in a CLM prompt."""
    sources = row["encoder_input_tokens"]
    read = sources[sources >= 3_000]
    return Counter([*row["decoder_target_tokens"].tolist(), *read.tolist()])


def tokens_before(task: TaskSpec, place: list[Any], number: int) -> Counter[int]:
    """Lays a stream's documents end to end up to a place, less what it has returned."""
    own = ShuffledDocuments(
        task.name, CORPORA[task.corpus], seed=SEED, stream=number, num_streams=STREAMS
    )
    document, within, returned = place
    fewest = objective_from_spec(task.objective).fewest_tokens
    passed = [own[n] for n in range(document) if len(own[n]) >= fewest] + [own[document][:within]]
    tokens = Counter(np.concatenate(passed).tolist())
    tokens.subtract(token for n, b, e in returned for token in own[n][b:e].tolist())
    return tokens


RATES = st.sampled_from([(2, 1, 1), (1, 0, 3), (0, 1, 1), (1, 1, 0), (0, 0, 1)])
PHASE = st.tuples(st.integers(8, 50), st.integers(8, 50), RATES, st.integers(0, 40))


@settings(max_examples=60)
@given(
    mode=st.sampled_from(MODES),
    num_rows=st.integers(1, 8),
    number=st.integers(0, STREAMS - 1),
    phases=st.lists(PHASE, min_size=1, max_size=4),
    killed=st.integers(0, 40),
)
def test_phases_together_read_every_token_once(mode, num_rows, number, phases, killed):
    """What rows gave is what lies before the places where the streams then stand; no more."""
    given_, before = Counter[int](), None
    for length, target_length, rates, count in [*phases, (20, 20, (1, 1, 1), 0)]:
        packing = Packing(mode, length, target_length, num_rows)
        reading = stream(packing, rates, number)
        if before is not None:
            reading.continue_from(before)
        for index in range(count):
            if index == killed:
                state = json.loads(json.dumps(reading.get_state()))
                reading = stream(packing, rates, number)
                reading.set_state(state)
            given_.update(given_tokens(next(reading)))
        before = reading
    places = reading.get_state()["places"]
    wanted = Counter[int]()
    for task, place in zip(TASKS, places, strict=True):
        wanted.update(tokens_before(task, place, number))
    assert {t: n for t, n in given_.items() if t > 6} == {t: n for t, n in wanted.items() if n}
