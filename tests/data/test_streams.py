"""One stream: what it reads of its documents, and that its tasks keep their shares."""

from __future__ import annotations

import logging
from itertools import islice

import numpy as np
import pytest

from alexatm_jax.data.denoising import Denoising
from alexatm_jax.data.objectives import Objective, objective_from_spec
from alexatm_jax.data.packing import MODES, Packing
from alexatm_jax.data.places import Place
from alexatm_jax.data.shares import Shares
from alexatm_jax.data.shuffling import EpochsRead, ShuffledDocuments
from alexatm_jax.data.streams import Part, Stream
from alexatm_jax.data.task_reader import TaskReader
from alexatm_jax.data.vocabulary import SpecialIds

SPECIAL = SpecialIds(*range(7))
S, T = 24, 28


def documents(count: int, shortest: int, longest: int) -> list[np.ndarray]:
    """Documents whose tokens occur nowhere else."""
    lengths = np.random.default_rng(count).integers(shortest, longest, count, endpoint=True)
    ends = 7 + np.cumsum(lengths)
    return [
        np.arange(end - length, end, dtype=np.int32)
        for end, length in zip(ends, lengths, strict=True)
    ]


CORPORA = {"words": documents(41, 1, 12), "books": documents(9, 20, 90)}


class Simulated:
    """So many documents of one length, of which those that were read are known."""

    def __init__(self, size: int, length: int = 1) -> None:
        self.size, self.length, self.read = size, length, []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> np.ndarray:
        self.read.append(index)
        return np.full(self.length, 7 + index % 1000, dtype=np.int32)


def shuffled(corpus, stream: int = 0, streams: int = 1, **changes) -> ShuffledDocuments:
    return ShuffledDocuments("task", corpus, seed=5, stream=stream, num_streams=streams, **changes)


def test_documents_beyond_32_bits_are_shuffled_among_streams():
    corpus = Simulated(10**11)
    streams = [shuffled(corpus, stream, 64) for stream in range(64)]
    assert sum(stream.per_epoch for stream in streams) == 10**11
    [stream[number] for stream in streams for number in (0, 1, 10**9, 10**10)]
    assert (
        max(corpus.read) > 2**32 and len(set(corpus.read)) > 250
    )  # 256 of so many hardly ever meet


def test_corpora_too_small_are_refused():
    with pytest.raises(ValueError, match="2 documents for 3 streams"):
        shuffled(Simulated(2), 0, 3)


@pytest.mark.parametrize("length, reads", [(100, 1), (20_000, 3)])
def test_a_document_is_held_for_its_next_row_and_a_book_is_not(length, reads):
    corpus = Simulated(1, length)
    own = shuffled(corpus)
    [own[0] for _ in range(3)]
    assert len(corpus.read) == reads


def test_reading_too_often_is_refused_and_repetition_is_told_once(caplog):
    told: set[str] = set()
    streams = [shuffled(CORPORA["books"], s, 2, max_epochs=2, repeating=told) for s in range(2)]
    with caplog.at_level(logging.WARNING):
        for stream in streams:
            for number in range(2 * stream.per_epoch):
                stream[number]
            with pytest.raises(EpochsRead):
                stream[2 * stream.per_epoch]
    assert [message.split(":")[0] for message in caplog.messages] == [
        "task task begins its second epoch"
    ]


def test_tasks_of_one_corpus_have_orders_of_their_own():
    one, other = (
        ShuffledDocuments(name, Simulated(10**6), seed=5, stream=0, num_streams=1)
        for name in ("one", "other")
    )
    assert [one[n].item() for n in range(9)] != [other[n].item() for n in range(9)]
    assert one.chance(0, 0) != other.chance(0, 0)


def test_streams_have_chances_of_their_own():
    chances = {shuffled(Simulated(9), stream, 9).chance(0, 0) for stream in range(9)}
    assert len(chances) == 9


def task_reader(packing: Packing, spec, corpus: str, stream=0, streams=1) -> TaskReader:
    objective = objective_from_spec(spec)
    return TaskReader(objective, shuffled(CORPORA[corpus], stream, streams), SPECIAL, packing)


def epoch(task: TaskReader, number: int = 0) -> list[list[int]]:
    """The tokens of each example of an epoch in which every document is its own example."""
    task.place = Place(number * task.documents.per_epoch)
    end = Place((number + 1) * task.documents.per_epoch)
    examples = []
    while task.place < end:
        example = task.piece()
        task.move_on()
        if task.place > end:  # the epoch's last documents were too short and passed over
            break
        examples.append(example.tokens.tolist())
    return examples


@pytest.mark.parametrize("corpus, streams", [("words", 4), ("books", 2)])
@pytest.mark.parametrize("kind, fewest", [("denoising", 1), ("clm", 2)])
def test_an_epoch_over_all_streams_reads_everything_once(corpus, streams, kind, fewest):
    tasks = [
        task_reader(Packing("isolated", S, T), {"kind": kind}, corpus, stream, streams)
        for stream in range(streams)
    ]
    usable = [document for document in CORPORA[corpus] if len(document) >= fewest]
    for number in range(2):
        tokens = np.concatenate([e for task in tasks for e in epoch(task, number)])
        np.testing.assert_array_equal(np.sort(tokens), np.concatenate(usable))
    assert epoch(tasks[0], 0) != epoch(tasks[0], 1), "every epoch has its own order"


def test_cuts_are_uniform_and_belong_to_their_places():
    corpus = [np.arange(100, dtype=np.int32)] * 500
    objective = objective_from_spec({"kind": "clm"})
    task = TaskReader(objective, shuffled(corpus), SPECIAL, Packing("isolated", 100, 100))
    shown = {}
    for _ in range(3000):
        shown[task.place] = task.piece().num_read
        task.move_on()
    counts = np.histogram(list(shown.values()), bins=np.arange(20, 81, 6))[0]
    assert ((counts - 300) ** 2 / 300).sum() < 27.9  # 9 degrees of freedom, 0.1 %
    for task.place in (Place(700), Place(3)):
        assert task.piece().num_read == shown[task.place]


def slow_joined(documents: list[list[int]], objective: Denoising) -> list[list[int]]:
    """Lays documents end to end, one token at a time, and begins a row when one is full."""

    def fits(tokens: list[int]) -> bool:
        sequence = np.array(tokens, dtype=np.int32)
        kept, targets = objective(sequence, SPECIAL, np.random.default_rng(0))
        return len(kept) <= S and len(targets) <= T

    rows: list[list[int]] = [[]]
    for document in documents:
        for index, token in enumerate(document):
            separator = [SPECIAL.doc] if index == 0 and rows[-1] else []
            if fits(rows[-1] + separator + [token]):
                rows[-1] += [*separator, token]
            else:
                rows.append([token])
    return rows


@pytest.mark.parametrize("corpus, rate", [("words", 0.15), ("words", 0.01), ("books", 0.3)])
def test_joined_documents_equal_the_slow_concatenation(corpus, rate):
    spec = {"kind": "denoising", "drop_rate": rate}
    whole = task_reader(Packing("isolated", 99, 99), spec, corpus)
    wanted = slow_joined([*epoch(whole, 0), *epoch(whole, 1)], Denoising(rate))
    joining = task_reader(Packing("document_separator", S, T), spec, corpus)
    # The third epoch fills up the last.
    examples = [joining.joined(S, T) for _ in wanted[:-1]]
    assert [example.tokens.tolist() for example in examples] == wanted[:-1]
    for example in examples:
        separators = np.count_nonzero(example.tokens == SPECIAL.doc)
        assert example.text_tokens == len(example.tokens) - separators


def part(name: str, corpus, rate: float, kind: str = "denoising", **spec) -> Part:
    objective: Objective = objective_from_spec({"kind": kind, **spec})
    return Part(name, corpus, objective, rate)


def stream_of(parts, packing: Packing, number=0, streams=1, **changes) -> Stream:
    settings = {"number": number, "num_streams": streams, "seed": 1} | changes
    return Stream(parts, packing, SPECIAL, **settings)


def lengths_of(mean: int, seed: int) -> list[np.ndarray]:
    lengths = np.random.default_rng(seed).gamma(2, mean / 2, 200).astype(int) + 1
    return [np.full(length, 7 + seed, np.int32) for length in lengths]


def test_tasks_are_due_in_the_order_of_their_shares():
    """Three tasks of equal examples: after any number of them none is off by two."""
    for stream in range(8):
        shares = Shares([1, 3, 6], stream, 8)
        shares.sizes[:] = 10
        for count in range(1, 200):
            shares.served[shares.next_task()] += 10
            assert abs(shares.served - 10 * count * np.array([0.1, 0.3, 0.6])).max() < 20


def test_streams_together_begin_with_the_shares():
    """A small task is served early in some streams, and in all after an eighth of them."""
    streams = [Shares([1, 9], number, 64) for number in range(64)]
    for count in range(1, 40):
        for shares in streams:
            shares.sizes[:] = 100
            shares.served[shares.next_task()] += 100
        served = sum(shares.served for shares in streams) / 100
        assert abs(served[0] - 6.4 * count) <= 4, count


@pytest.mark.parametrize("mean", [5, 60])
@pytest.mark.parametrize("packing", MODES)
def test_each_task_keeps_its_share_whatever_its_lengths(packing, mean):
    """Documents differ by sixteen times from task to task, shares by as much the other way."""
    parts = [
        part(f"{kind}{n}", lengths_of(mean * 2**n, n), rate, kind)
        for n, kind, rate in [
            (0, "denoising", 8),
            (1, "clm", 4),
            (2, "denoising", 2),
            (4, "clm", 1),
        ]
    ]
    stream = stream_of(parts, Packing(packing, 64, 72))
    for _ in islice(stream, 1200):
        pass
    text = stream.tokens[:, 2]
    assert abs(text - text.sum() * np.array([8, 4, 2, 1]) / 15).max() < 2 * 8 * 72


def test_rows_of_the_papers_mode_are_full():
    """CLM examples stand beside each other; joined documents take the rest of the row."""
    parts = [
        part("noise", lengths_of(9, 0), 0.8),
        part("continue", lengths_of(9, 1), 0.2, "clm"),
    ]
    rows = list(islice(stream_of(parts, Packing("document_separator", 96, 96)), 200))
    segments = np.array([row["decoder_segment_ids"] for row in rows])
    assert np.count_nonzero(segments) > 0.99 * segments.size
    assert segments.max() > 3
    for row in rows:
        noised = row["decoder_segment_ids"][row["decoder_objective_ids"] == 0]
        joined = row["encoder_input_tokens"][row["encoder_segment_ids"] == noised.max()]
        assert set(joined.tolist()) <= {7, SPECIAL.doc}, "an example of one task alone"


@pytest.mark.parametrize("lengths", [(7, 40), (40, 7), (3, 3)], ids=str)
def test_rows_shorter_than_what_fills_a_rest_are_filled(lengths):
    stream = stream_of(
        [part("noise", lengths_of(9, 0), 1)], Packing("document_separator", *lengths)
    )
    rows = list(islice(stream, 50))
    assert all((row["decoder_segment_ids"] > 0).any() for row in rows)


def test_what_fills_rows_does_not_outgrow_its_share():
    """Long CLM documents leave half a row, but a hundredth of the tokens is all noise may have."""
    parts = [
        part("noise", lengths_of(9, 0), 0.01),
        part("continue", [np.full(70, 8, np.int32)] * 50, 0.99, "clm"),
    ]
    stream = stream_of(parts, Packing("document_separator", 64, 64))
    for _ in islice(stream, 2000):
        pass
    assert stream.tokens[0, 2] < 0.01 * stream.tokens[:, 2].sum() + 3 * 64


def test_streams_fill_their_rows_at_different_times():
    parts = [part("noise", CORPORA["words"], 1)]
    packing = Packing("isolated", S, T, num_rows=4)
    streams = [stream_of(parts, packing, number, 4) for number in range(4)]
    for step in range(9):
        [next(stream) for stream in streams]
        all_given = [stream.get_state()["rows_given"] == 0 for stream in streams]
        assert all_given == [number == step % 4 for number in range(4)]


@pytest.mark.parametrize("packing", MODES)
def test_reading_beyond_the_last_epoch_names_the_remedies(packing):
    parts = [part("noise", CORPORA["words"], 1)]
    stream = stream_of(parts, Packing(packing, S, T), max_epochs=3)
    with pytest.raises(ValueError, match=r"'noise' has read its 41 .* 3 times, \d+ text.* raise"):
        for _ in islice(stream, 1000):
            pass
    read = sum(len(document) for document in CORPORA["words"]) * 3
    assert 0 <= read - stream._shares.served[0] < T


def test_no_two_rows_share_their_noise():
    """The same document, in rows of several groups, streams and seeds."""
    parts = [part("noise", [np.arange(7, 107, dtype=np.int32)] * 2, 1)]
    packing = Packing("isolated", 100, 101, num_rows=2)
    rows = {
        row["encoder_input_tokens"].tobytes()
        for number, seed in [(0, 1), (1, 1), (0, 2)]
        for row in islice(stream_of(parts, packing, number, 2, seed=seed), 6)
    }
    assert len(rows) == 18


def test_the_next_example_is_known_to_whom_it_is_due():
    """Else the phases would be those of examples that are gone."""
    parts = [part("noise", CORPORA["words"], 1), part("continue", CORPORA["books"], 1, "clm")]
    stream = stream_of(parts, Packing("isolated", S, T))
    for _ in islice(stream, 60):
        sizes = [reader.piece().text_tokens for reader in stream._readers]
        assert stream._shares.sizes.tolist() == sizes


def test_a_task_that_is_read_out_stops_nothing_before_its_turn():
    parts = [
        part("small", CORPORA["books"][:1], 0.01, "clm"),
        part("large", CORPORA["words"] * 99, 0.99),
    ]
    stream = stream_of(parts, Packing("isolated", S, T), max_epochs=1)
    with pytest.raises(ValueError, match="'small' has read its 1 documents"):
        for _ in islice(stream, 10_000):
            pass
    small = len(CORPORA["books"][0])
    assert stream._shares.served[0] == small and stream._shares.served[1] > 99 * small / 2
