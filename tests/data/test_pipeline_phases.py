"""Phases of training: what is read where rates, lengths and batch sizes change."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexatm_jax.batch import Batch, check_batch
from alexatm_jax.data.cache import TaskSpec
from alexatm_jax.data.objectives import objective_from_spec
from alexatm_jax.data.packing import MODES, Packing
from alexatm_jax.data.pipeline import BatchReader, Prefetcher, ReaderConfig, merged_states
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


def given_tokens(rows: Batch) -> Counter[int]:
    """Counts each text token of rows once: in what the decoder writes, or else in a CLM prompt."""
    targets, sources = rows["decoder_target_tokens"], rows["encoder_input_tokens"]
    return Counter([*targets[targets > 6].tolist(), *sources[sources >= 3_000].tolist()])


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
PHASE = st.tuples(st.integers(3, 50), st.integers(3, 50), RATES, st.integers(0, 40))


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
    assert given_ == +wanted  # without those that are all returned


PHASES: list[tuple[dict[str, Any], int]] = [
    ({"rate_factors": {"continue": 0}}, 5),
    ({"encoder_length": 40, "decoder_length": 44, "batch_size": 4}, 6),
    ({"rate_factors": {"noise_*": 0.5, "noise_b*": 0}, "encoder_length": 16, "batch_size": 12}, 7),
]
"""Changes of a reader's config, and how many batches are read with them."""


def reader(packing: str, host: int = 0, hosts: int = 1, **changes) -> BatchReader:
    sizes = dict(batch_size=8, encoder_length=24, decoder_length=28)
    fixed = dict(seed=SEED, num_streams=STREAMS, packing=packing)
    return BatchReader(
        CORPORA, TASKS, SPECIAL, ReaderConfig(**sizes | fixed | changes), host, hosts
    )


def assert_equal(batch: Batch, other: Batch) -> None:
    for name in batch:
        np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


def read(packing: str, hosts_at: Callable[[int], int]) -> tuple[list[Batch], dict[str, Any]]:
    """Reads all phases, each step with as many hosts, started anew where their number changes."""
    batches: list[Batch] = []
    parts: list[BatchReader] = []
    state: dict[str, Any] = {}
    for changes, count in PHASES:
        entering = True
        for _ in range(count):
            hosts = hosts_at(len(batches))
            if entering or len(parts) != hosts:
                parts = [reader(packing, host, hosts, **changes) for host in range(hosts)]
                for part in parts if state else []:
                    (part.continue_from if entering else part.set_state)(state)
            rows = [next(part) for part in parts]
            batches.append({name: np.concatenate([row[name] for row in rows]) for name in rows[0]})
            check_batch(batches[-1])
            state = json.loads(json.dumps(merged_states([part.get_state() for part in parts])))
            entering = False
    return batches, parts[0].statistics(state)


@pytest.mark.parametrize("packing", MODES)
def test_batches_over_phases_are_the_same_whoever_reads_them(packing):
    """Hosts come and go: at the boundaries, a step before or behind them, and elsewhere."""
    wanted, statistics = read(packing, lambda step: 1)
    for hosts in ([2] * 18, [4] * 5 + [1] * 6 + [2] * 7, [1, 2, 2, 4, 1, 2] * 3):
        batches, same = read(packing, hosts.__getitem__)
        for batch, other in zip(batches, wanted, strict=True):
            assert_equal(batch, other)
        assert same == statistics


@pytest.mark.parametrize("packing", MODES)
def test_statistics_go_on_over_phases(packing):
    batches, statistics = read(packing, lambda step: 2)
    tasks = statistics["tasks"].values()
    for side in ("encoder", "decoder"):
        held = sum(np.count_nonzero(batch[f"{side}_segment_ids"]) for batch in batches)
        assert held == sum(task[f"{side}_tokens"] for task in tasks)
        places = sum(batch[f"{side}_segment_ids"].size for batch in batches)
        assert statistics[f"{side}_fill"] == pytest.approx(held / places)
    rates = ([2 / 3, 1 / 3, 0], [0.5, 0.25, 0.25], [0.5, 0, 0.5])
    texts, begin = [], 0
    for _, count in PHASES:
        texts.append(sum(given_tokens(b).total() for b in batches[begin : begin + count]))
        begin += count
    expected = texts @ np.array(rates) / sum(texts)
    assert [task["expected"] for task in tasks] == pytest.approx(expected)
    assert [task["share"] for task in tasks] == pytest.approx(expected, abs=0.05)


def test_a_task_left_out_keeps_its_place():
    first, without = reader("isolated"), reader("isolated", rate_factors={"continue": 0})
    for _ in islice(first, 5):
        pass
    without.continue_from(first.get_state())
    before = without.statistics()["tasks"]["continue"]
    for batch in islice(without, 5):
        assert not (batch["decoder_objective_ids"] == 1).any()
    after = without.statistics()["tasks"]["continue"]
    assert all(after[key] == before[key] for key in ("documents", "text_tokens", "epochs"))


def test_a_phase_that_changes_nothing_changes_no_batch():
    unbroken, after = reader("isolated"), reader("isolated", max_epochs=99)
    for _ in islice(unbroken, 5):
        pass
    after.continue_from(unbroken.get_state())
    assert after.get_state() == unbroken.get_state()
    assert_equal(next(after), next(unbroken))


def test_no_noise_comes_again_in_the_next_phase():
    """The same long document is all there is, and each phase begins with the first group."""
    tasks = [TaskSpec("noise", "page", 1, {"kind": "denoising"})]
    page = {"page": [np.arange(7, 107, dtype=np.int32)]}
    rows, before = set(), None
    for batch_size in (1, 2, 1):
        config = ReaderConfig(batch_size, 100, 101, SEED, num_streams=1, packing="isolated")
        reading = BatchReader(page, tasks, SPECIAL, config)
        if before is not None:
            reading.continue_from(before.get_state())
        batches = islice(reading, 12 // batch_size)
        rows |= {row.tobytes() for batch in batches for row in batch["encoder_input_tokens"]}
        before = reading
    assert len(rows) == 36


def test_streams_stagger_their_work_in_every_phase():
    first, second = reader("isolated"), reader("isolated", batch_size=4)
    for _ in islice(first, 5):
        pass
    second.continue_from(first.get_state())
    for step in range(4):
        next(second)
        streams = second.get_state()["streams"].values()
        assert [stream["rows_given"] == 0 for stream in streams] == [n == step for n in range(4)]


def test_a_prefetcher_of_the_next_phase_takes_up_where_batches_were_used():
    (changes, _), plain = PHASES[1], reader("isolated")
    source = Prefetcher(reader("isolated"), depth=3)
    used = [next(source) for _ in islice(plain, 4)]
    source.close()  # with some more read ahead
    wanted, ahead = reader("isolated", **changes), reader("isolated", **changes)
    wanted.continue_from(plain.get_state())
    ahead.continue_from(used[-1][1])
    source = Prefetcher(ahead)
    for batch, state in islice(source, 5):
        assert_equal(batch, next(wanted))
        assert state == wanted.get_state()
    source.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "batch size may change: seed was 3, is 4; restore"),
        ({"num_streams": 2}, "num_streams was 4, is 2"),
        ({"packing": "document_separator"}, "packing was isolated, is document_separator"),
    ],
)
def test_what_no_phase_may_change_is_refused(changes, message):
    state = reader("isolated").get_state()
    with pytest.raises(ValueError, match=message):
        reader(**({"packing": "isolated"} | changes)).continue_from(state)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (TASKS[:2], r"task continue was \[2, 'tales', 23, 'clm'\], is None"),
        ((TASKS[1], TASKS[0], TASKS[2]), r"task noise_words was \[0, .* is \[1, .*; task noise_b"),
        (
            (*TASKS[:2], TaskSpec("continue", "tales", 9, {"kind": "denoising"})),
            r"'clm'\], is .*'denoising'\]; restore",
        ),
    ],
)
def test_other_tasks_are_no_phase_of_this_run(tasks, message):
    state, config = reader("isolated").get_state(), reader("isolated", batch_size=4)._config
    with pytest.raises(ValueError, match=message):
        BatchReader(CORPORA, tasks, SPECIAL, config).continue_from(state)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"noise": 0}, "'noise', which matches none of the mixture's 3 tasks; .* noise_words"),
        ({"*": -1}, r"factor of '\*' is -1; give a number from 0"),
        ({"cont*": float("inf")}, "is inf"),
        ({"noise*": 0, "continue": 0}, "leave out all 3 tasks"),
    ],
)
def test_rate_factors_that_make_no_mixture_are_refused(factors, message):
    with pytest.raises(ValueError, match=message):
        reader("isolated", rate_factors=factors)


def test_states_of_hosts_that_do_not_belong_together_are_refused():
    hosts = [reader("isolated", host, 2) for host in range(2)]
    states = [host.get_state() for host in hosts]
    assert merged_states([states[1], states[0], states[0]]) == reader("isolated").get_state()
    with pytest.raises(ValueError, match=r"lack the streams \[2, 3\]; give the state of every"):
        merged_states(states[:1])
    next(hosts[0])
    with pytest.raises(ValueError, match="differ in 'step', 1 and 0"):
        merged_states([hosts[0].get_state(), states[1]])
    with pytest.raises(ValueError, match="two data states hold stream 0"):
        merged_states([states[0], hosts[0].get_state() | {"step": 0}])
    with pytest.raises(ValueError, match="no data state to merge"):
        merged_states([])
