"""Stages do what they are timed for; how fast they are is no test's business."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alexatm_jax.data import cache
from benchmarks import data, data_stages, generated_text
from benchmarks.data_stages import OURS, Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Makes everything small; gives the options to read two small files."""
    monkeypatch.setattr(data, "READ_CHARACTERS", 6000)
    monkeypatch.setattr(data, "CACHED_CHARACTERS_PER_SECOND", 2000)
    monkeypatch.setattr(data, "LONG_DOCUMENT_CHARACTERS", 400)
    monkeypatch.setattr(data, "VOCABULARY_SIZE", 600)
    options = ["--seconds=0.01", "--rounds=1"]
    for language in ("en", "ar"):
        lines = itertools.islice(generated_text.documents(language, 1.5), 40)
        (tmp_path / f"{language}.txt").write_text("\n".join(lines), encoding="utf-8")
        options.append(f"--text={language}={tmp_path}/{language}.txt")
    return options


@pytest.fixture
def prepared(small, tmp_path):
    folder = tmp_path / "prepared"
    folder.mkdir()
    settings, text = data.prepare(data._parser().parse_args(small), folder)
    assert settings == Settings.read(folder) and settings.languages == ("en", "ar")
    assert text["origin"] == "files in en, ar" and text["vocabulary_size"] == 600
    return folder, settings


def test_stages_count_the_tokens_they_make(prepared):
    folder, settings = prepared
    amounts = {name: stage(folder, settings)().amount for name, stage in OURS.items()}
    assert min(amounts.values()) > 0
    short = sum(
        cache.read_corpus(folder / "cache", f"short_{language}").provenance.num_tokens
        for language in settings.languages
    )
    # One pass reads every text token; what objectives make of it is more.
    assert 1.5 * short < amounts["from text"]
    # Either caches the same pages once or more.
    one, two = (amounts[f"caching, {count}"] for count in ("1 process", "2 processes"))
    assert one % np.gcd(int(one), int(two)) == 0 and np.gcd(int(one), int(two)) > 500
    assert not [path for path in folder.iterdir() if path.name.startswith("tmp")]


def test_pages_are_cached_as_the_paper_has_them(prepared, tmp_path):
    """Spoken, and without the sentences of the benchmarks, which here are of the same files."""
    folder, settings = prepared
    data_stages.write_cache(tmp_path / "pages", folder, settings, "pages")
    corpus = cache.read_corpus(tmp_path / "pages", "pages_en")
    assert corpus.provenance.dropped["en"] > 0
    vocabulary = cache.read_vocabulary(tmp_path / "pages")
    text = vocabulary.decode(corpus.source[0])
    assert text == text.lower() and "." not in text


def test_padding_is_not_counted():
    segments = np.array([[1, 1, 2, 0], [1, 0, 0, 0]])
    batch = {"encoder_segment_ids": segments, "decoder_segment_ids": segments[:, :2]}
    assert data_stages.filled(batch) == 4 + 3


def test_the_last_line_is_json_and_an_absent_peer_is_said(small, monkeypatch, capsys):
    stages = ("caching, 1 process", "caching, 2 processes")
    monkeypatch.setattr(data, "OURS", {name: OURS[name] for name in stages})
    monkeypatch.setattr(data, "_absent_peer", lambda: "seqio not installed")
    assert data.main([*small, "--json"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert set(result["tokens_per_second"]) == set(result["rounds"]) == set(stages)
    assert set(result["ratios"]) == set(result["cpu_ratios"]) == {"caching, 2 processes / 1"}
    assert result["left_out"]["SeqIO from text"] == "seqio not installed"
    assert result["settings"]["length"] == 1024 and result["versions"]["numpy"]
    table = data.table(result)
    assert "SeqIO from text: left out, seqio not installed" in table
    assert all(name in table for name in stages)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--text=en={folder}/none*.txt"], "none"),
        (["--text=en={folder}/blank.txt"], "hold no document"),
        (["--text=xx={folder}/en.txt"], "the languages are ar"),
        (["--vocabulary={folder}/none.model"], "no vocabulary file"),
    ],
)
def test_mistakes_are_told(small, tmp_path, capsys, options, reason):
    (tmp_path / "blank.txt").write_text("\n \n", encoding="utf-8")
    given = small if options[0].startswith("--vocabulary") else small[:2]
    assert data.main([*given, *(option.format(folder=tmp_path) for option in options)]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--text=en", "--text==x", "--seconds=0", "--rounds=0"])
def test_options_that_mean_nothing_are_refused(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        data.main([option])
    assert option.split("=", 1)[0] in capsys.readouterr().err


@pytest.mark.slow
def test_the_peer_does_the_same_task():
    command = ["-m", "benchmarks.data", "--json", "--seconds=0.5", "--rounds=1"]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result["tokens_per_second"]) == {*OURS, *data.PEER}
    assert set(result["ratios"]) == set(data.RATIOS) and not result["left_out"]
