"""Trains small vocabularies from files through the command line."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from alexatm_jax.data.vocabulary import SPECIAL_PIECES, Vocabulary
from alexatm_jax.data.vocabulary import training as vocabulary_training
from alexatm_jax.data.vocabulary.sample import SampleConfig, draw
from alexatm_jax.data.vocabulary.training import VocabularyConfig, main, memory_bytes, read_pieces
from alexatm_jax.text.local_files import LocalFiles

SYLLABLES = {"de": "an be chi dor eß fü", "ja": "あ い う 漢 字 語", "te": "కి మీ దా రు ను లో"}
ADDED = ["Ω", "ज", "Zürich", "\u2581Lise"]
SIZE = 500
RESERVED = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of made-up words in three languages, and pieces to add."""
    folder = tmp_path_factory.mktemp("text")
    rng = random.Random(0)
    for language, syllables in SYLLABLES.items():
        words = ["".join(rng.choices(syllables.split(), k=rng.randint(1, 4))) for _ in range(150)]
        lines = [" ".join(rng.choices(words, k=8)).capitalize() + "." for _ in range(400)]
        (folder / f"{language}.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "pieces.txt").write_text("\n".join(ADDED) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def command(folder):
    """The words of a command that trains, for `main`."""
    text = [("--text", f"{language}={folder / language}.txt") for language in SYLLABLES]

    def make(out, *more):
        options = f"--size={SIZE} --reserved={RESERVED} --num_workers=1 --threads=3".split()
        return [
            "train",
            str(out),
            *options,
            f"--pieces={folder / 'pieces.txt'}",
            *itertools.chain(*text),
            *more,
        ]

    return make


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "new" / "small.model"
    text = [f"--text={language}={folder / language}.txt" for language in SYLLABLES]
    options = f"--size={SIZE} --reserved={RESERVED} --num_workers=1 --threads=3".split()
    assert main(["train", str(out), *options, f"--pieces={folder / 'pieces.txt'}", *text]) == 0
    return out


def test_the_pieces_are_those_asked_for(trained):
    vocabulary = Vocabulary(trained)
    assert vocabulary.size == SIZE
    specials = [(piece, "special") for piece in SPECIAL_PIECES.values()]
    reserved = [(f"<reserved_{number}>", "reserved") for number in range(RESERVED)]
    assert list(vocabulary.pieces[: 7 + RESERVED]) == specials + reserved
    pieces = dict(vocabulary.pieces)
    assert {piece: pieces[piece] for piece in ADDED} == dict(
        zip(ADDED, ["learned", "learned", "added", "added"], strict=True)
    )
    assert sum(kind == "byte" for kind in pieces.values()) == 256


def test_text_gives_added_pieces_but_no_reserved_ones(trained):
    vocabulary = Vocabulary(trained)
    names = [
        vocabulary.pieces[token] for token in vocabulary.encode("<reserved_3> Lise Ω Zürichsee")
    ]
    assert {("\u2581Lise", "added"), ("Ω", "learned"), ("Zürich", "added")} <= set(names)
    assert not any(kind == "reserved" for _, kind in names)
    assert vocabulary.decode([7 + 3]) == ""


def test_the_report_is_of_this_vocabulary(trained):
    written = json.loads(trained.with_suffix(".report.json").read_text(encoding="utf-8"))
    assert written["vocabulary"]["sha256"] == Vocabulary(trained).sha256
    assert [row["language"] for row in written["sample"]["languages"]] == list(SYLLABLES)
    assert trained.with_suffix(".report.md").read_text(encoding="utf-8").startswith("# Vocab")
    assert trained.with_suffix(".report.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_text_gives_the_same_files(trained, command, tmp_path):
    assert main(command(tmp_path / "small.model")) == 0
    for ending in ("model", "report.json", "report.md", "report.png"):
        first, second = (path.with_name(f"small.{ending}") for path in (trained, tmp_path / "x"))
        assert first.read_bytes() == second.read_bytes()


def test_bpe_covers_added_characters_that_never_occur(command, tmp_path):
    assert main(command(tmp_path / "bpe.model", "--model_type=bpe")) == 0
    assert set(ADDED) <= {piece for piece, _ in Vocabulary(tmp_path / "bpe.model").pieces}


def test_report_alone_draws_nothing_and_asks_before_replacing(trained, folder, tmp_path, capsys):
    asked = ["report", str(trained), "--text", f"ja={folder / 'ja.txt'}", "--num_workers=1"]
    assert main(asked) == 2
    assert "small.report.json" in capsys.readouterr().err
    assert main([*asked, "--out", str(tmp_path / "ja.model")]) == 0
    printed = capsys.readouterr().out
    assert "| ja | written |" in printed and "Sample" not in printed
    assert json.loads((tmp_path / "ja.report.json").read_text())["sample"] is None


@pytest.mark.parametrize(
    "more, message",
    [
        (["--size=276"], "7 special, 256 byte, 10 reserved and 4 added pieces are 277; ask for"),
        (["--size=100000"], "100000, but this text yields at most"),
        (["--text=de=nowhere/*.txt"], "No file matches 'nowhere/"),
        (["--pieces=nowhere.txt"], "nowhere.txt"),
        (["--alpha=2"], "alpha is 2.0"),
        (["--threads=0"], "num_threads 0"),
        (["--num_workers=0"], "num_workers is 0"),
        (["--character_coverage=0"], "character_coverage is 0.0"),
        (["--sample_bytes=9"], "the sample is empty"),
    ],
)
def test_mistakes_are_refused_and_nothing_written(command, tmp_path, capsys, more, message):
    assert main(command(tmp_path / "out" / "bad.model", *more)) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["xx=a.txt", "a.txt", "=a.txt"])
def test_unknown_languages_are_refused(text, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", str(tmp_path / "a.model"), "--text", text])
    assert "LANGUAGE=PATTERN" in capsys.readouterr().err


def test_existing_files_are_replaced_only_on_demand(command, tmp_path, capsys):
    out = tmp_path / "old.model"
    out.with_suffix(".report.md").write_text("mine")
    assert main(command(out)) == 2
    assert "old.report.md is there already" in capsys.readouterr().err
    assert main(command(out, "--overwrite")) == 0
    assert out.with_suffix(".report.md").read_text(encoding="utf-8") != "mine"
    assert main(command(tmp_path / "old.report.md" / "x.model")) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_text_without_held_out_sentences_is_refused_before_training(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert main(["train", str(tmp_path / "a.model"), f"--text=de={tmp_path / 'a.txt'}"]) == 2
    assert "no sentence of this text is held out" in capsys.readouterr().err


def test_samples_beyond_the_memory_are_refused_before_reading(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.txt").write_text("eins zwei drei\n" * 100)
    monkeypatch.setattr(vocabulary_training, "memory_bytes", lambda: 28_000)
    monkeypatch.setattr(vocabulary_training, "draw", None)
    asked = ["train", str(tmp_path / "a.model"), f"--text=de={tmp_path / 'a.txt'}"]
    assert main(asked) == 2
    assert "a sample of 1,500 bytes" in (error := capsys.readouterr().err)
    assert "--sample_bytes=1000 or less" in error


def test_wider_indices_take_more_memory(monkeypatch):
    monkeypatch.setattr(vocabulary_training, "memory_bytes", lambda: 40 << 31)
    vocabulary_training.check_memory((1 << 31) - 1, "unigram")
    vocabulary_training.check_memory(1 << 31, "bpe")
    with pytest.raises(ValueError, match="takes up to 98.8 GB"):
        vocabulary_training.check_memory(1 << 31, "unigram")


def test_the_machine_has_memory():
    assert memory_bytes() > 1 << 28


@pytest.mark.parametrize(
    "lines, message",
    [
        (b"one\n\ntwo\n", "line 2.*empty or has white space"),
        (b"one\ntwo words\n", "line 2.*empty or has white space"),
        (b" one\n", "line 1.*white space"),
        (b"one\ntwo\none\n", "line 3.*'one' is there twice"),
        ("é\ne\u0301\n".encode(), "line 2.*is there twice"),
        (b"[CLM]\n", "line 1.*is special"),
        (b"<reserved_7>\n", "line 1.*is special, reserved"),
        (b"<0x0A>\n", "line 1.*is special, reserved or a byte"),
        ("\u2581\n".encode(), "line 1.*sign for a space"),
        (b"one\n\xff\n", "is not UTF-8"),
    ],
)
def test_wrong_pieces_are_named_by_line(tmp_path, lines, message):
    (tmp_path / "pieces.txt").write_bytes(lines)
    with pytest.raises(ValueError, match=message):
        read_pieces(tmp_path / "pieces.txt")


def test_pieces_are_read_as_text_will_be(tmp_path):
    (tmp_path / "pieces.txt").write_bytes("\ufeffe\u0301te\u0301\r\nß\r\n".encode())
    assert read_pieces(tmp_path / "pieces.txt") == ("été", "ß")


def test_the_default_is_the_recipe():
    config = VocabularyConfig()
    assert (config.size, config.model_type, config.num_reserved) == (150_000, "unigram", 1000)
    assert (SampleConfig().alpha, SampleConfig().spoken_share) == (0.5, 0.7)


def test_a_sample_can_be_trained_on_without_the_command(folder, tmp_path):
    sample = draw({"te": LocalFiles(str(folder / "te.txt"))}, SampleConfig(max_bytes=20_000))
    config = VocabularyConfig(size=330, num_reserved=0, num_threads=1)
    vocabulary = vocabulary_training.train_on(sample, tmp_path / "te.model", config)
    assert vocabulary.size == 330
