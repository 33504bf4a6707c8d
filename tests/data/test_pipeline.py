"""The reader: what batches depend on, what they contain, and how reading goes on."""

from __future__ import annotations

import hashlib
import itertools
import json
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexatm_jax.batch import batch_shapes, check_batch
from alexatm_jax.data.cache import MixtureSpec, TaskSpec, write_mixture
from alexatm_jax.data.corpora.writing import write_tokens
from alexatm_jax.data.packing import MODES
from alexatm_jax.data.pipeline import BatchReader, Prefetcher, ReaderConfig, open_reader
from alexatm_jax.data.vocabulary import SpecialIds

SPECIAL = SpecialIds(*range(7))
S, T = 24, 28
TASKS = (
    TaskSpec("noise", "words", 0.5, {"kind": "denoising"}),
    TaskSpec(
        "noise_long", "books", 0.25, {"kind": "denoising", "drop_rate": 0.3}, {"language": "xx"}
    ),
    TaskSpec("continue", "words", 0.25, {"kind": "clm", "position_end": S}),
)


def documents(count: int, shortest: int, longest: int) -> list[np.ndarray]:
    """Documents whose tokens occur nowhere else."""
    lengths = np.random.default_rng(count).integers(shortest, longest, count, endpoint=True)
    ends = 7 + np.cumsum(lengths)
    return [
        np.arange(end - length, end, dtype=np.int32)
        for end, length in zip(ends, lengths, strict=True)
    ]


CORPORA = {"words": documents(41, 1, 12), "books": documents(9, 20, 90)}


def config(packing: str, **changes) -> ReaderConfig:
    sizes = dict(batch_size=8, encoder_length=S, decoder_length=T, seed=3, num_streams=4)
    return ReaderConfig(**(sizes | changes), packing=packing)


def reader(packing: str, host: int = 0, hosts: int = 1, tasks=TASKS, **changes) -> BatchReader:
    return BatchReader(CORPORA, tasks, SPECIAL, config(packing, **changes), host, hosts)


def assert_equal(batch, other) -> None:
    assert set(batch) == set(other)
    for name in batch:
        np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


def batch_hash(packing: str, counts: list[tuple[int, int]]) -> str:
    """Hashes batches read by some hosts, then by another number of them, and so on."""
    digest, state = hashlib.sha256(), None
    for hosts, count in counts:
        parts = [reader(packing, host, hosts) for host in range(hosts)]
        for part in parts if state else []:
            part.set_state(state)
        for _ in range(count):
            rows = [next(part) for part in parts]
            for name in sorted(rows[0]):
                digest.update(np.concatenate([row[name] for row in rows]).tobytes())
        states = [json.loads(json.dumps(part.get_state())) for part in parts]
        streams = {n: stream for state in states for n, stream in state["streams"].items()}
        state = states[0] | {"streams": streams}
    return digest.hexdigest()


@pytest.mark.parametrize("packing", MODES)
@pytest.mark.parametrize("count", [3, pytest.param(250, marks=pytest.mark.slow)])
def test_the_stream_of_batches_is_the_same_whoever_reads_it(packing, count):
    wanted = batch_hash(packing, [(1, 4 * count)])
    for hosts in [[2, 2, 2, 2], [4, 4, 4, 4], [1, 4, 2, 1]]:
        assert batch_hash(packing, [(number, count) for number in hosts]) == wanted


@pytest.mark.parametrize("packing", MODES)
def test_another_seed_reads_other_batches(packing):
    one, other = next(reader(packing)), next(reader(packing, seed=4))
    assert (one["decoder_target_tokens"] != other["decoder_target_tokens"]).mean() > 0.5


@settings(max_examples=10)
@given(packing=st.sampled_from(MODES), step=st.integers(0, 25), ahead=st.integers(0, 5))
def test_reading_continues_exactly(packing, step, ahead):
    unbroken = reader(packing)
    for _ in islice(unbroken, step):
        pass
    state = json.loads(json.dumps(unbroken.get_state()))
    resumed = reader(packing)
    for _ in islice(resumed, ahead):
        pass
    resumed.set_state(state)
    assert resumed.get_state() == state
    for _ in range(6):
        assert_equal(next(unbroken), next(resumed))
        assert unbroken.get_state() == resumed.get_state()


@pytest.mark.parametrize("packing", MODES)
def test_two_hosts_states_put_together_continue_on_one(packing):
    hosts = [reader(packing, host, 2) for host in range(2)]
    for _ in range(5):
        [next(host) for host in hosts]
    states = [host.get_state() for host in hosts]
    whole = reader(packing)
    with pytest.raises(ValueError, match=r"lacks streams \[2, 3\]"):
        whole.set_state(states[0])
    whole.set_state(states[0] | {"streams": states[0]["streams"] | states[1]["streams"]})
    rows = [next(host) for host in hosts]
    assert_equal(next(whole), {k: np.concatenate([r[k] for r in rows]) for k in rows[0]})


def test_the_state_of_another_reader_is_refused():
    state = reader("isolated").get_state()
    with pytest.raises(ValueError, match="seed was 3, is 4; packing was isolated, is doc"):
        reader("document_separator", seed=4).set_state(state)
    reader("isolated", max_epochs=9).set_state(state)  # says when to stop, not what to read


def test_the_state_of_an_earlier_reader_is_refused():
    state = reader("isolated").get_state()
    del state["reader"]["version"]
    with pytest.raises(ValueError, match="version None of the reader, this is version 3"):
        reader("isolated").set_state(state)


@pytest.mark.parametrize("packing", MODES)
def test_batches_are_well_formed(packing):
    """Every row has what `batch.py` says, and the decoder input is the target, shifted."""
    for batch in islice(reader(packing), 20):
        check_batch(batch)
        assert {k: v.shape for k, v in batch.items()} == batch_shapes(8, S, T)
        for r in range(8):
            row = {name: batch[name][r] for name in batch}
            for segment in range(1, row["decoder_segment_ids"].max() + 1):
                check_segment(row, row["encoder_segment_ids"] == segment, segment)
            for side in ("encoder", "decoder"):
                padding = row[f"{side}_segment_ids"] == 0
                assert not row[f"{side}_input_tokens"][padding].any()
            assert packing == "isolated" or joined_last(row)


def joined_last(row) -> bool:
    """A row has at most one example of joined documents, behind the others."""
    ids, segments = row["decoder_objective_ids"], row["decoder_segment_ids"]
    return np.isin(segments[(ids == 0) & (segments > 0)], segments.max()).all()


def check_segment(row, in_encoder, segment) -> None:
    in_decoder = row["decoder_segment_ids"] == segment
    sources = row["encoder_input_tokens"][in_encoder]
    targets = row["decoder_target_tokens"][in_decoder]
    assert len(sources) and targets[-1] == SPECIAL.eos and SPECIAL.eos not in targets[:-1]
    np.testing.assert_array_equal(
        row["decoder_input_tokens"][in_decoder], [SPECIAL.bos, *targets[:-1]]
    )
    np.testing.assert_array_equal(row["decoder_positions"][in_decoder], np.arange(len(targets)))
    (objective_id,) = set(row["decoder_objective_ids"][in_decoder].tolist())
    first = S - len(sources) if objective_id else 0
    positions = row["encoder_positions"][in_encoder]
    np.testing.assert_array_equal(positions, first + np.arange(len(sources)))
    if objective_id:  # CLM: the two sides are one run of one document
        run = np.append(sources[1:], targets[:-1])
        assert sources[0] == SPECIAL.clm
        np.testing.assert_array_equal(run, np.arange(run[0], run[0] + len(run)))


@pytest.mark.parametrize("packing", MODES)
def test_statistics_count_what_batches_hold(packing):
    source = reader(packing)
    batches = list(islice(source, 15))
    state, statistics = source.get_state(), source.statistics()
    tasks = statistics["tasks"]
    for side in ("encoder", "decoder"):
        held = sum(np.count_nonzero(batch[f"{side}_segment_ids"]) for batch in batches)
        assert held == sum(task[f"{side}_tokens"] for task in tasks.values())
    held = sum(task["encoder_tokens"] + task["decoder_tokens"] for task in tasks.values())
    assert statistics["fill"] == pytest.approx(held / (15 * 8 * (S + T)))
    for side, length in (("encoder", S), ("decoder", T)):
        held = sum(task[f"{side}_tokens"] for task in tasks.values())
        assert statistics[f"{side}_fill"] == pytest.approx(held / (15 * 8 * length))
    for share in ("token_share", "share", "expected"):
        assert sum(task[share] for task in tasks.values()) == pytest.approx(1)
    assert [task["expected"] for task in tasks.values()] == [0.5, 0.25, 0.25]
    assert tasks["noise_long"]["labels"] == {"language": "xx"}
    assert tasks["noise"]["epochs"] == tasks["noise"]["documents"] / 41 > 1
    targets = np.concatenate([b["decoder_target_tokens"].ravel() for b in batches])
    sources = np.concatenate([b["encoder_input_tokens"].ravel() for b in batches])
    text = np.count_nonzero(targets > 6) + tasks["continue"]["encoder_tokens"]
    text -= np.count_nonzero(sources == SPECIAL.clm)
    assert sum(task["text_tokens"] for task in tasks.values()) == text
    next(source)
    assert source.statistics(state) == statistics
    resumed = reader(packing)
    resumed.set_state(state)
    assert resumed.statistics() == statistics


def test_nothing_read_gives_statistics_of_nothing():
    statistics = reader("isolated").statistics()
    assert statistics["fill"] == 0 and statistics["tasks"]["noise"]["token_share"] == 0


class Simulated:
    """Documents in any number, of which those that were read are known."""

    def __init__(self, size: int, length: int) -> None:
        self.size, self.length, self.read = size, length, []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> np.ndarray:
        self.read.append(index)
        return np.full(self.length + index % 3, 7 + index % 1000, dtype=np.int32)


@pytest.mark.parametrize("packing", MODES)
def test_a_host_reads_what_its_streams_do_and_no_more(packing):
    tasks = [TaskSpec("noise", "web", 1, {"kind": "denoising"})]
    read = []
    for host in range(4):
        web = Simulated(10**9, 9)
        part = BatchReader({"web": web}, tasks, SPECIAL, config(packing), host, 4)
        for _ in islice(part, 5):
            pass
        read.append(set(web.read))
    whole = Simulated(10**9, 9)
    for _ in islice(BatchReader({"web": whole}, tasks, SPECIAL, config(packing)), 5):
        pass
    assert set.union(*read) == set(whole.read) and sum(map(len, read)) == len(set(whole.read))


@pytest.mark.parametrize("packing", MODES)
def test_a_billion_documents_are_read_from_any_step(packing):
    """Nothing grows with the corpus or the step: a few documents are read to begin anywhere."""
    web = Simulated(10**9, 9)
    tasks = [TaskSpec("noise", "web", 4, {"kind": "denoising"})]
    tasks += [TaskSpec("continue", "web", 1, {"kind": "clm"})]
    settings = config(packing, batch_size=64, num_streams=64)
    source = BatchReader({"web": web}, tasks, SPECIAL, settings)
    next(source)
    state = source.get_state()
    for stream in state["streams"].values():
        stream["group"] += 10**9
        stream["places"] = [[document + 10**8, 0, []] for document, *_ in stream["places"]]
        stream["served"] = [stream["served"][0] + 4 * 10**12, stream["served"][1] + 10**12]
    source.set_state(state | {"step": 10**9})
    check_batch(next(source))
    assert len(web.read) < 20_000 and len(json.dumps(source.get_state())) < 20_000
    statistics = source.statistics()["tasks"]
    assert statistics["noise"]["epochs"] == pytest.approx(6.4, rel=1e-3)


def languages(rates: np.ndarray) -> list[TaskSpec]:
    """Twelve languages, each in four forms with two objectives, in these shares."""
    parts = itertools.product(enumerate(rates), (0.64, 0.27, 0.06, 0.03), (0.8, 0.2))
    return [
        TaskSpec(
            f"{language}/{form}/{share}",
            str(language),
            rate * form * share,
            {"kind": "denoising" if share > 0.5 else "clm"},
            {"language": str(language)},
        )
        for (language, rate), form, share in parts
    ]


@pytest.mark.parametrize("packing", MODES)
@pytest.mark.parametrize("length", [35, 3000])
def test_after_a_million_tokens_every_language_has_its_share(packing, length):
    """Within one hundredth of the mixture, whose tasks have 0.02 % to 7 % of it."""
    rates = np.linspace(5, 12, 12) / np.linspace(5, 12, 12).sum()
    # The language with the greatest share has the shortest documents, by four times.
    corpora = {
        str(language): Simulated(10**6, round(length * 4 / (1 + 0.27 * language)))
        for language in range(12)
    }
    settings = ReaderConfig(64, 1024, 1024, seed=0, num_streams=64, packing=packing)
    source = BatchReader(corpora, languages(rates), SPECIAL, settings)
    for _ in source:
        tasks = source.statistics()["tasks"].values()
        if sum(task["text_tokens"] for task in tasks) > 10**6:
            break
    shares = np.zeros(12)
    for task in tasks:
        shares[int(task["labels"]["language"])] += task["share"]
    assert abs(shares - rates).max() < 0.01


def test_prefetching_changes_neither_batches_nor_states():
    source, plain = Prefetcher(reader("isolated"), depth=3), reader("isolated")
    for batch, state in islice(source, 10):
        assert_equal(batch, next(plain))
        assert state == plain.get_state()
    source.close()
    with pytest.raises(ValueError, match="closed"):
        next(source)
    resumed = reader("isolated")
    resumed.set_state(state)
    assert_equal(next(resumed), next(plain))


class BrokenSource(list):
    """A corpus of which the documents behind the 30th cannot be read."""

    def __getitem__(self, index):
        if index > 30:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


def test_an_error_of_the_reader_surfaces_in_the_consumer():
    tasks = [TaskSpec("noise", "words", 1, {"kind": "denoising"})]
    broken = {"words": BrokenSource(CORPORA["words"])}
    source = Prefetcher(BatchReader(broken, tasks, SPECIAL, config("document_separator")))
    with pytest.raises(OSError, match="the disk is gone"):
        for _ in islice(source, 20):
            pass
    with pytest.raises(ValueError, match="closed"):
        next(source)


def test_a_cached_mixture_reads_like_its_corpora(tmp_path, monkeypatch):
    for name, corpus in CORPORA.items():
        write_tokens(tmp_path, name, corpus, split="train", source="test", vocabulary_sha256="0")
    write_mixture(tmp_path, MixtureSpec("all", "0", TASKS))
    monkeypatch.setattr(
        "alexatm_jax.data.pipeline.read_vocabulary",
        lambda _: SimpleNamespace(special=SPECIAL),
    )
    cached, listed = open_reader(tmp_path, "all", config("isolated")), reader("isolated")
    for _ in range(5):
        assert_equal(next(cached), next(listed))
    with pytest.raises(ValueError, match="no mixture 'al'; the nearest of its 1 are all"):
        open_reader(tmp_path, "al", config("isolated"))


def test_a_corpus_with_nothing_long_enough_is_refused():
    tasks = [TaskSpec("continue", "words", 1, {"kind": "clm"})]
    corpora = {"words": [np.array([9], dtype=np.int32)] * 20}
    source = BatchReader(corpora, tasks, SPECIAL, config("isolated"))
    with pytest.raises(ValueError, match="fewer than the 2 tokens that 'clm' needs"):
        next(source)


def test_repetition_is_told_once_and_ends_where_it_is_not_wanted(caplog):
    tasks = [TaskSpec("noise", "books", 1, {"kind": "denoising"})]
    for _ in islice(reader("isolated", tasks=tasks), 9):
        pass
    assert [message.split(":")[0] for message in caplog.messages] == [
        "task noise begins its second epoch"
    ]
    with pytest.raises(ValueError, match="'noise' has read its [23] documents of stream . 2 times"):
        for _ in islice(reader("isolated", tasks=tasks, max_epochs=2), 99):
            pass


def task(**changes) -> SimpleNamespace:
    """A task that TaskSpec, which checks itself too, might not let through."""
    fields = dict(name="noise", corpus="words", rate=1.0, objective={"kind": "denoising"})
    return SimpleNamespace(**(fields | changes))


@pytest.mark.parametrize(
    "tasks, message",
    [
        ([], "give one or more"),
        ([task(), task()], "each with its own name"),
        ([task(rate=0.0)], "the rate 0.0"),
        ([task(corpus="wrods")], r"\['books', 'words'\]"),
        ([task(objective={"kind": "mlm"})], "known kinds are"),
        ([task(objective={"kind": "clm", "position_end": S - 1})], "set position_end"),
        ([task(corpus="books")], "9 documents for 10 streams"),
    ],
)
def test_mixtures_that_cannot_be_read_are_refused(tasks, message):
    with pytest.raises(ValueError, match=message):
        reader("isolated", tasks=tasks, batch_size=10, num_streams=10)


@pytest.mark.parametrize("changes", [{"num_streams": 3}, {"num_streams": 0}, {"seed": -1}])
def test_configs_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match="divide batch_size|seed is"):
        config("isolated", **changes)


@pytest.mark.parametrize("host, hosts", [(0, 3), (2, 2), (0, 0)])
def test_hosts_that_cannot_share_streams_are_refused(host, hosts):
    with pytest.raises(ValueError, match="must divide num_streams"):
        reader("isolated", host, hosts)


def test_a_prefetcher_needs_room():
    with pytest.raises(ValueError, match="at least 1"):
        Prefetcher(reader("isolated"), depth=0)
