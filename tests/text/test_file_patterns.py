"""Patterns mean files in a fixed order, or say what is there instead."""

from __future__ import annotations

import os

import pytest

from alexatm_jax.text.file_patterns import copies_among, matching_files


def make(folder, *names, content="text"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


def test_files_come_once_pattern_by_pattern_and_sorted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "b.txt", "a.txt", "x/y/c.txt", "x/d.txt", "e[1].txt")
    assert matching_files(["b.txt", "*.txt"]) == ["b.txt", "a.txt", "e[1].txt"]
    assert matching_files(["x/**/*.txt"]) == ["x/d.txt", "x/y/c.txt"]
    assert matching_files(["x/*"]) == ["x/d.txt"]
    assert matching_files(["e[1].txt"]) == ["e[1].txt"]


def test_nothing_found_names_what_is_near(tmp_path):
    make(tmp_path, "corpus/wikipedia_de.txt", "corpus/wikipedia_en.txt", "corpus/other")
    with pytest.raises(ValueError, match=r"wikipedia-fr\.txt.*corpus', has 'wikipedia_.*, \.\.\.;"):
        matching_files([f"{tmp_path}/corpus/wikipedia-fr.txt"])
    with pytest.raises(
        ValueError, match=r"nearest folder there is, '.*/corpus', has 'other', 'wiki"
    ):
        matching_files([f"{tmp_path}/corpus/de/**/*.jsonl"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="/empty', has nothing in it"):
        matching_files([f"{tmp_path}/empty/*"])


def test_a_folder_is_not_taken_for_its_files(tmp_path):
    make(tmp_path, "corpus/a.txt")
    with pytest.raises(ValueError, match=r"is a folder; say which.*\*\.jsonl\.gz.*It has 'a\.txt'"):
        matching_files([f"{tmp_path}/corpus"])


def test_a_name_that_is_not_utf8_is_refused_before_it_spoils_a_report(tmp_path):
    try:
        os.close(os.open(os.fsencode(tmp_path) + b"/\xff.txt", os.O_CREAT | os.O_WRONLY))
    except OSError:
        pytest.skip("this file system refuses such names itself")
    with pytest.raises(ValueError, match=r"\\udcff\.txt' is not UTF-8; rename"):
        matching_files([f"{tmp_path}/*"])


def test_copies_point_to_the_first(tmp_path):
    make(tmp_path, "a", "c", "d", content="one")
    make(tmp_path, "b", content="two")
    make(tmp_path, "e", "f", content="")
    paths = [str(tmp_path / name) for name in "dcbaef"]
    for name, last in {"x": "1", "y": "2", "z": "1"}.items():
        make(tmp_path, name, content="beginning" * 200_000 + last)
    paths += [str(tmp_path / name) for name in "xyz"]
    assert copies_among(paths) == {paths[1]: paths[0], paths[3]: paths[0], paths[8]: paths[6]}
    assert copies_among([str(tmp_path / "gone"), str(tmp_path / "gone too")]) == {}
