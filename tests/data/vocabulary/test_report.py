"""Figures of vocabularies whose pieces are known."""

from __future__ import annotations

import json

import pytest

from alexatm_jax.data.vocabulary import SPECIAL_PIECES, train
from alexatm_jax.data.vocabulary.report import (
    as_markdown,
    measure,
    report,
    report_paths,
    script,
    write_report,
)
from alexatm_jax.data.vocabulary.sample import SampleConfig, draw
from alexatm_jax.text.local_files import LocalFiles


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """Knows "\u2581ab", a, b and the space; almost everything else is bytes."""
    path = tmp_path_factory.mktemp("vocabulary") / "ab.model"
    return train([" ab" * 40], path, size=7 + 2 + 256 + 3 + 2, num_reserved=2)


def test_every_figure_by_hand(vocabulary):
    figures, used = measure(vocabulary, ["ab ab, ba", "é"], "de", "written")
    pieces = [[vocabulary.pieces[token][0] for token in vocabulary.encode(text)]
              for text in ("ab ab, ba", "é")]  # fmt: skip
    assert pieces == [
        ["\u2581ab", "\u2581ab", "<0x2C>", "\u2581", "b", "a"],
        ["\u2581", "<0xC3>", "<0xA9>"],
    ]
    assert figures.num_sentences == 2
    assert figures.num_words == 4
    assert figures.num_characters == 8
    assert figures.num_pieces == 9
    assert figures.num_byte_characters == 2
    assert figures.num_whole_words == 2
    assert figures.num_distinct_characters == 4
    assert figures.num_covered_characters == 2
    assert figures.num_pieces_used == len(used) == 7
    assert figures.num_unknown == 0
    assert figures.ratios["pieces_per_word"] == 9 / 4
    assert figures.ratios["pieces_per_character"] == 9 / 8
    assert figures.ratios["whole_word_share"] == 0.5
    assert figures.ratios["byte_character_share"] == 2 / 8
    assert figures.ratios["covered_character_share"] == 0.5


def test_nothing_is_counted_per_word_in_japanese(vocabulary):
    figures, _ = measure(vocabulary, ["ab ab"], "ja", "spoken")
    assert figures.num_words == 0
    assert figures.ratios["pieces_per_word"] is figures.ratios["whole_word_share"] is None
    assert figures.ratios["pieces_per_character"] == 0.5


def test_no_text_divides_by_nothing(vocabulary):
    assert set(measure(vocabulary, [], "de", "spoken")[0].ratios.values()) == {None}


@pytest.mark.parametrize(
    "piece, name",
    [
        ("\u2581Über", "Latin"),
        ("ｗ", "Latin"),
        ("سلام", "Arabic"),
        ("ि", "Devanagari"),
        ("స్", "Telugu"),
        ("தமி", "Tamil"),
        ("漢字", "Han"),
        ("ー", "Katakana"),
        ("ﾊ", "Katakana"),
        ("です", "Hiragana"),
        ("\u2581Ж", "other"),
        ("٣", "digits"),
        ("\u2581...", "signs"),
    ],
)
def test_scripts(piece, name):
    assert script(piece) == name


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A long language, one that gives all it has, and Japanese; no line is in bytes alone."""
    folder = tmp_path_factory.mktemp("text")
    for language, count in (("de", 900), ("mr", 90), ("ja", 400)):
        lines = [f"Ab {'ab ' * (n % 5)}ba {'a' * (n % 40)} {'b' * (n // 40)}" for n in range(count)]
        (folder / f"{language}.txt").write_text("\n".join(lines))
    sources = {name: LocalFiles(str(folder / f"{name}.txt")) for name in ("de", "mr", "ja")}
    return draw(sources, SampleConfig(max_bytes=26_000))


def test_a_report_counts_what_the_vocabulary_is_made_of(vocabulary, sample):
    content = report(vocabulary, sample)
    assert content["vocabulary"]["kinds"] == {
        "special": len(SPECIAL_PIECES),
        "reserved": 2,
        "byte": 256,
        "learned": 5,
    }
    assert content["vocabulary"]["scripts"] == {"Latin": 4, "signs": 1}
    # Of "\u2581ab", "ab", "\u2581", a and b, the second is but a step to the first.
    assert content["used"] == {"pieces": 4, "of": 5}
    forms = [(row["language"], row["form"]) for row in content["held_out"]]
    assert forms == [(name, form) for name in ("de", "ja", "mr") for form in ("written", "spoken")]


def test_a_report_says_which_language_was_too_short(vocabulary, sample):
    content = report(vocabulary, sample)
    rows = {row["language"]: row for row in content["sample"]["languages"]}
    assert rows["mr"]["gave_all"] and not rows["de"]["gave_all"]
    assert rows["mr"]["share_drawn"] < rows["mr"]["share_asked"]
    assert "\nmr gave every sentence there is, once" in as_markdown(content)


def test_the_three_files_are_written(vocabulary, sample, tmp_path):
    content = report(vocabulary, sample)
    paths = write_report(content, tmp_path / "ab.model")
    assert paths == report_paths(tmp_path / "ab.model") == sorted(tmp_path.iterdir())
    assert json.loads(paths[0].read_text(encoding="utf-8")) == content
    # Width and height of a PNG stand in its first chunk.
    header = paths[2].read_bytes()[16:24]
    assert (int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")) == (1600, 1150)
