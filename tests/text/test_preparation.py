"""A document is prepared: NFC, contaminated sentences out, then its form."""

from __future__ import annotations

import pickle
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax.text.decontamination import write_benchmark_ngrams
from alexatm_jax.text.preparation import Preparation, Prepared
from alexatm_jax.text.sentences import sentences
from alexatm_jax.text.spoken import LANGUAGES, spoken

QUESTION = "the quick brown fox jumps over the lazy dog while seven wizards brew"
ANSWER = "and so on it went for many long years until nobody could remember why"


@pytest.fixture
def benchmarks(tmp_path):
    path = tmp_path / "benchmarks.ngrams"
    write_benchmark_ngrams(path, {"a": [QUESTION], "b": [QUESTION, ANSWER]})
    return str(path)


@given(st.text(), st.sampled_from(LANGUAGES))
def test_without_benchmarks_only_the_form_changes(text, language):
    nfc = unicodedata.normalize("NFC", text)
    written = Preparation(language)(text)
    assert written.text == (nfc if any(map(str.isalnum, nfc)) else "")
    result = Preparation(language, "spoken")(text)
    assert result.text == spoken(written.text, language)
    assert result.num_sentences == written.num_sentences <= len(sentences(nfc, language))
    assert (result.dropped, result.num_dropped) == ({}, 0)


def test_the_written_form_keeps_markup_tags_and_white_space():
    text = "<en> E\u0301t\u0065\u0301,\u00a0[CLM]  a\n\n <br>1."
    assert Preparation("fr")(text) == Prepared("<en> Été,\u00a0[CLM]  a\n\n <br>1.", 2)


@pytest.mark.parametrize("text", ["", " \n", "?! … —", "\u200b\ufeff\n* * *"])
@pytest.mark.parametrize("form", ["written", "spoken"])
def test_nothing_to_say_is_empty(text, form):
    assert Preparation("en", form)(text) == Prepared("", 0)


def test_sentences_of_benchmarks_go(benchmarks):
    text = f"Kept, One. And {QUESTION.upper()}! He said: «{ANSWER}». Kept; two.\n"
    written = Preparation("en", benchmarks=benchmarks)(text)
    assert written == Prepared("Kept, One. Kept; two.\n", 2, {"a": 1, "b": 2}, 2)
    assert Preparation("en", "spoken", benchmarks)(text) == Prepared(
        "kept one kept two", 2, {"a": 1, "b": 2}, 2
    )


def test_nothing_but_benchmarks_is_empty(benchmarks):
    assert Preparation("en", benchmarks=benchmarks)(f"{ANSWER}.  ") == Prepared("", 0, {"b": 1}, 1)


def test_the_benchmarks_are_opened_with_the_first_document(tmp_path):
    preparation = Preparation("en", benchmarks=str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="absent"):
        preparation("One.")


def test_it_travels_to_other_processes(benchmarks):
    preparation = Preparation("en", "spoken", benchmarks)
    preparation("One.")
    assert pickle.loads(pickle.dumps(preparation)) == preparation


def test_the_description_names_all_that_matters(benchmarks, tmp_path):
    other = write_benchmark_ngrams(tmp_path / "other", {"a": [ANSWER]})
    prepared = [
        Preparation("en"),
        Preparation("de"),
        Preparation("en", "spoken"),
        Preparation("en", benchmarks=benchmarks),
        Preparation("en", benchmarks=str(other.path)),
    ]
    assert len({p.description for p in prepared}) == len(prepared)
    copy = tmp_path / "copy"
    copy.write_bytes(other.path.read_bytes())
    assert Preparation("en", benchmarks=str(copy)).description == prepared[-1].description


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(("ru",), "language is 'ru'"), (("en", "loud"), "form is 'loud'; give 'written' or 'spoken'")],
)
def test_other_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Preparation(*wrong)
