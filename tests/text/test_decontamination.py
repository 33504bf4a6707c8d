"""Planted 13-grams are found, nothing else is, and a damaged file is never used."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from alexatm_jax.text import sorted_runs
from alexatm_jax.text.benchmark_texts import texts_of_files
from alexatm_jax.text.decontamination import (
    BenchmarkCounts,
    BenchmarkNgrams,
    main,
    write_benchmark_ngrams,
)
from alexatm_jax.text.ngrams import ngram_hashes, words_of
from alexatm_jax.text.preparation import Preparation
from alexatm_jax.text.problems import TextError

ALPHABETS = {
    "en": "abcdefghij",
    "ar": "ابتثجحخد",
    "hi": "कखगघ",
    "ta": "அஆஇஈஉ",
    "ja": "日本語の文字を数える",
}
REAL_SETS = {
    "xcopa": ("ta", "xcopa/*/*.jsonl"),
    "xnli": ("ar", "xnli/*.tsv"),
    "pawsx": ("ja", "pawsx/*.tsv"),
    "xquad": ("hi", "xquad/*.json"),
    "webnlg": ("en", "webnlg/**/*.xml"),
    "e2e": ("en", "e2e_nlg/*.csv"),
}


def texts_in(language: str, seed: int, count: int = 20) -> list[str]:
    """Texts of 40 words; Japanese ones of 40 characters."""
    draw = random.Random(seed)
    length, space = (1, "") if language == "ja" else (5, " ")
    words = ["".join(draw.choices(ALPHABETS[language], k=length)) for _ in range(40 * count)]
    return [space.join(words[i : i + 40]) for i in range(0, len(words), 40)]


@pytest.fixture(scope="module")
def five(tmp_path_factory) -> BenchmarkNgrams:
    texts = {language: texts_in(language, seed=1) for language in ALPHABETS}
    return write_benchmark_ngrams(tmp_path_factory.mktemp("ngrams") / "five", texts)


@pytest.fixture(scope="module")
def real(tmp_path_factory, shared_data) -> BenchmarkNgrams:
    texts = {name: texts_of_files(str(shared_data / REAL_SETS[name][1])) for name in REAL_SETS}
    return write_benchmark_ngrams(tmp_path_factory.mktemp("ngrams") / "real", texts)


def planted(text: str, language: str, size: int, place: int) -> str:
    """Sets `size` words, or twice as many characters, of a text behind `place` other words."""
    if language == "ja":
        return f"{'彼' * place}「{text[5 : 5 + 2 * size]}」、とお話しになりました。"
    words = text.split()[3 : 3 + size]
    return f"{'Q, ' * place}{' '.join(words)}{': q q' * (place % 2)}"


@pytest.mark.parametrize("language", ALPHABETS)
def test_thirteen_planted_words_are_found_and_twelve_are_not(language, five):
    for place, text in enumerate(texts_in(language, seed=1)):
        assert five.shared_with(planted(text, language, 13, place)) == (language,)
        assert five.shared_with(planted(text, language, 12, place)) == ()
    for text in texts_in(language, seed=2):
        assert five.shared_with(text) == ()


def one_ngram(text: str, draw: random.Random) -> str | None:
    """A 13-gram of a text, words folded, drawn at random; None if it has none."""
    words = [word.decode() for word in words_of(text)]
    starts = len(ngram_hashes(text))
    if not starts:
        return None
    start = draw.randrange(starts)
    runs = (" ".join(words[start:end]) for end in range(start + 13, len(words) + 1))
    return next(run for run in runs if len(ngram_hashes(run)))


@pytest.mark.parametrize("form", ["written", "spoken"])
@pytest.mark.parametrize("name", REAL_SETS)
def test_a_sentence_with_an_ngram_of_a_published_set_is_dropped(name, form, real, shared_data):
    language, pattern = REAL_SETS[name]
    preparation = Preparation(language, form, str(real.path))
    found = [
        one_ngram(text, random.Random(text)) for text in texts_of_files(str(shared_data / pattern))
    ]
    ngrams = [ngram for ngram in found if ngram]
    assert ngrams
    for ngram in ngrams[:: -(-len(ngrams) // 20)]:
        document = f"Before it.\nHere: “{ngram.title()}”!\nAfter it."
        prepared = preparation(document)
        assert prepared.dropped[name] == prepared.num_dropped == 1
        assert preparation(prepared.text).num_dropped == 0
        expected = "before it after it" if form == "spoken" else "Before it.\nAfter it."
        assert prepared.text == expected


def test_verses_share_nothing_with_published_sets(real, shared_data):
    for language in ("ar", "en", "hi", "ja", "ta"):
        text = (shared_data / "bible" / f"{language}.txt").read_text(encoding="utf-8")
        assert not any(real.shared_with(verse) for verse in text.splitlines()[:700])


def random_texts(count: int, seed: int) -> Iterator[str]:
    """Texts of 10,000 13-grams each, all different, out of 5,000 words."""
    draw = np.random.default_rng(seed)
    return (" ".join(map(str, draw.integers(5000, size=10_012))) for _ in range(count))


@pytest.mark.parametrize(("hash_bits", "expected"), [(64, 0), (20, 9490)])
def test_false_positives_come_at_the_documented_rate(hash_bits, expected, tmp_path):
    """10,000 n-grams here, and a million others of the same words looked up."""
    texts = list(random_texts(1, seed=0))
    ngrams = write_benchmark_ngrams(tmp_path / "ngrams", {"a": texts}, hash_bits=hash_bits)
    found = [ngrams.holds(ngram_hashes(text)) for text in random_texts(100, seed=1)]
    assert sum(map(len, found)) == 1_000_000
    assert 1_000_000 * ngrams.false_positive_rate == pytest.approx(expected, abs=50)
    assert abs(np.sum(found) - expected) <= 5 * expected**0.5
    assert ngrams.shared_with(texts[0]) == ("a",)


def test_what_several_sets_hold_counts_for_each(tmp_path):
    shared, own = texts_in("en", seed=3, count=2)
    texts = {"z": [shared], "none": ["too short"], "a": [own, shared, shared, "x"], "m": [own]}
    ngrams = write_benchmark_ngrams(tmp_path / "ngrams", texts)
    assert ngrams.benchmarks == ("z", "none", "a", "m")
    assert ngrams.shared_with(shared) == ("z", "a")
    assert ngrams.shared_with(f"{own} {shared}") == ("z", "a", "m")
    assert ngrams.counts["a"] == BenchmarkCounts(texts=4, too_short=1, ngrams=56)
    assert ngrams.counts["none"] == BenchmarkCounts(texts=1, too_short=1, ngrams=0)
    assert ngrams.false_positive_rate == 56 / 2**64


def test_sets_without_any_ngram_drop_nothing(tmp_path):
    ngrams = write_benchmark_ngrams(tmp_path / "ngrams", {"a": ["too short"]})
    assert ngrams.false_positive_rate == 0
    assert ngrams.shared_with(texts_in("en", seed=3)[0]) == ()


@pytest.mark.parametrize("hash_bits", [8, 64])
def test_the_file_does_not_depend_on_how_much_is_sorted_at_a_time(hash_bits, tmp_path, monkeypatch):
    texts = {name: texts_in("en", seed, count=50) for seed, name in enumerate("abc")}
    texts["b"] += texts["a"][:20]
    whole = write_benchmark_ngrams(tmp_path / "whole", texts, hash_bits=hash_bits)
    monkeypatch.setattr(sorted_runs, "RUN_HASHES", 100)
    parts = write_benchmark_ngrams(tmp_path / "parts", texts, hash_bits=hash_bits)
    assert whole.path.read_bytes() == parts.path.read_bytes()
    assert whole.sha256 == parts.sha256


def test_memory_does_not_grow_with_the_number_of_ngrams(tmp_path, monkeypatch):
    monkeypatch.setattr(sorted_runs, "RUN_HASHES", 1 << 13)
    peaks = []
    for count in (1, 8, 24):
        texts = itertools.chain(["too short"] * 1000 * count, random_texts(count, seed=2))
        tracemalloc.start()
        written = write_benchmark_ngrams(tmp_path / "ngrams", {"a": texts})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert written.counts["a"].ngrams == 240_000
    assert peaks[2] < 1.1 * peaks[1] < written.path.stat().st_size


def test_it_pickles_as_its_path(five):
    again = pickle.loads(pickle.dumps(five))
    assert len(pickle.dumps(five)) < 500
    assert again.sha256 == five.sha256
    assert again.shared_with(texts_in("ta", seed=1)[0]) == ("ta",)


@pytest.mark.parametrize("keep", [0, 3, 16, 40, 1000, -1])
def test_a_file_cut_short_is_refused(keep, five, tmp_path):
    (tmp_path / "cut").write_bytes(five.path.read_bytes()[:keep])
    with pytest.raises(TextError, match=r"cut.*; write it with python -m"):
        BenchmarkNgrams(tmp_path / "cut")


def test_a_damaged_missing_or_foreign_file_is_refused(five, tmp_path):
    content = bytearray(five.path.read_bytes())
    for place in range(0, len(content), len(content) // 20):
        damaged = bytearray(content)
        damaged[place] ^= 1
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(TextError, match="damaged.*; write it with"):
            BenchmarkNgrams(tmp_path / "damaged")
    with pytest.raises(TextError, match="nowhere cannot be read"):
        BenchmarkNgrams(tmp_path / "nowhere")
    with pytest.raises(TextError, match="holds no 13-grams"):
        BenchmarkNgrams(__file__)


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        ({}, "no evaluation sets"),
        ({"a": ["x"], "b": []}, "'b' has no texts"),
        ({"a": "one string"}, "'a' are one string"),
    ],
)
def test_what_cannot_be_written_leaves_the_file_as_it_was(
    texts: Mapping[str, list[str]], complaint: str, tmp_path: Path
):
    write_benchmark_ngrams(tmp_path / "ngrams", {"old": ["x"]})
    with pytest.raises(TextError, match=complaint):
        write_benchmark_ngrams(tmp_path / "ngrams", texts)
    assert BenchmarkNgrams(tmp_path / "ngrams").benchmarks == ("old",)
    assert os.listdir(tmp_path) == ["ngrams"]


def test_nothing_but_its_own_kind_is_replaced(tmp_path):
    (tmp_path / "precious.txt").write_text("not 13-grams")
    for path in (tmp_path / "precious.txt", tmp_path):
        with pytest.raises(TextError, match="name another file"):
            write_benchmark_ngrams(path, {"a": ["x"]})
    assert (tmp_path / "precious.txt").read_text() == "not 13-grams"


def test_the_command_writes_the_file_and_prints_what_each_set_brought(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("\n".join(texts_in("en", seed=1)))
    (tmp_path / "b.tsv").write_text("too short\t\n")
    (tmp_path / "c.tsv").write_text("for any\n")
    arguments = [f"long={tmp_path}/a.*", f"short={tmp_path}/b.tsv", f"short={tmp_path}/c.*"]
    assert main([str(tmp_path / "new" / "ngrams"), *arguments]) == 0
    ngrams = BenchmarkNgrams(tmp_path / "new" / "ngrams")
    assert ngrams.benchmarks == ("long", "short")
    printed = capsys.readouterr().out.splitlines()
    assert [line.split() for line in printed[1:3]] == [
        ["long", "20", "0", "560"],
        ["short", "2", "2", "0"],
    ]
    assert "nothing will be dropped for short" in printed[3]
    assert ngrams.sha256 in printed[4] and "3.0e-17" in printed[4]


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [("*.csv", "No file matches"), ("*.bin", "convert it"), ("*.jsonl", "line 2: not JSON")],
)
def test_the_command_refuses_bad_input(pattern, complaint, tmp_path, capsys):
    (tmp_path / "a.bin").write_text("x")
    (tmp_path / "a.jsonl").write_text('{"a": "x"}\n{')
    assert main([str(tmp_path / "ngrams"), f"a={tmp_path}/{pattern}"]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "ngrams").exists()


def test_the_command_says_what_it_can_make_nothing_of(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("x")
    assert main([str(tmp_path / "a.txt" / "ngrams"), f"a={tmp_path}/a.txt"]) == 2
    assert "a.txt/ngrams cannot be written" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "ngrams"), "a.jsonl"])
    assert "'a.jsonl' is not NAME=PATTERN" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([f"a={tmp_path}/a.jsonl", f"b={tmp_path}/a.jsonl"])
    assert "name the file to write first" in capsys.readouterr().err
