"""Sentences join to their text, and end where readers would end them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax.text.sentences import sentences
from alexatm_jax.text.spoken import LANGUAGES

TRICKY = "aB1é अ。.!?…！？।॥؟۔,、\"'”»」)«「と \u00a0\n\r\t\u2028-"


@given(st.text(st.sampled_from(TRICKY), max_size=40) | st.text(), st.sampled_from(LANGUAGES))
def test_slices_join_to_the_text(text, language):
    slices = sentences(text, language)
    assert "".join(slices) == text
    assert all(slices)
    if text.strip():
        assert all(part.strip() for part in slices)
    for part in slices[1:]:
        assert not part[0].isspace()


@given(st.text(st.sampled_from(TRICKY), max_size=30), st.sampled_from(LANGUAGES))
def test_a_line_break_always_ends_a_sentence(text, language):
    text = text.strip()
    lines = [*sentences(text + "\n", language), *sentences("Next.", language)]
    assert sentences(text + "\nNext.", language) == (lines if text else ["\nNext."])


@pytest.mark.parametrize(
    ("language", "marked"),
    [
        ("en", "1. First. |2) Second! |Yahoo! is. |J. S. Bach wrote it. |He said no. |No. 5 came."),
        ("en", 'He said "Go." |Then (really?) |At 3.14 p.m. it… stopped. |"What?" he asked.'),
        ("en", "\n\n  Hello\r\n|there... ok\n\n\n"),
        ("en", "Mr. Smith of www.a.org met Prof. Li in Jan. 1990. |In January."),
        ("de", "Am 3. Mai, z. B. mit Dr. Meier. |Im Jahr 1990. |Es sind 6.000. |„Was?“ |Nr. 5."),
        ("es", "¿Qué? |¡No! |La Sra. Díaz, pág. 5, dijo «Sí». |Fin..."),
        ("fr", "« Oui ! » |Il part. |M. Dupont, art. 3 ! |«Non.» |Quoi?À quoi?"),
        ("it", "Il dott. Rossi c'era. |Perché? |Art. 5 vale."),
        ("pt", "O Sr. Silva chegou. |Os EUA... |Sim."),
        ("ar", "ماذا؟|قال د. علي نعم! |هذا ٣٫٥ هنا."),
        ("hi", "यह है।|वह डॉ. सिंह हैं॥ |बी.सी. में।\n|नया"),
        ("mr", "हे आहे. |डॉ. राव आले. |का?"),
        (
            "ja",
            "「はい。」と言った。|「本当?」|彼は笑った！|（終わり。）|３．５です。|また!|すごい。。。",
        ),
        ("ja", "x?id=3です。|「No!」と言った。|『はい。』、そして。"),
        ("ta", "அவர் திரு. ராமன். |வா!"),
        ("te", "ఆమేన్\u200c. |శ్రీ. రామ్ వచ్చాడు."),
        ("en", "* * *\n|Text."),
        ("en", " \nText."),
        ("en", " "),
    ],
)
def test_examples(language, marked):
    assert sentences(marked.replace("|", ""), language) == marked.split("|")


def test_no_text_has_no_sentence():
    assert sentences("", "en") == []


@pytest.mark.parametrize(
    "repeated", ["! ", ". . - ", "1. ", "a. ", "\n ", "」。", "x" * 50 + ". y"]
)
def test_time_grows_with_the_length_alone(repeated):
    # A search back to the beginning at every stop would take hours here.
    text = repeated * (1_000_000 // len(repeated))
    assert "".join(sentences(text, "ja")) == text


def test_other_languages_are_refused():
    with pytest.raises(ValueError, match="language is 'ru'"):
        sentences("Да.", "ru")


@pytest.mark.parametrize("language", ["ar", "de", "en", "es", "fr", "hi", "it", "pt"])
def test_real_sentences_stay_whole_and_apart(language, shared_data):
    text = (shared_data / "pud" / f"{language}.txt").read_text(encoding="utf-8")
    lines = text.splitlines()
    # Some lines hold two sentences: 1 to 5 of 700.
    assert sum(len(sentences(line, language)) == 1 for line in lines) >= 0.99 * len(lines)
    ends, position = [], 0
    for part in sentences(" ".join(lines), language):
        position += len(part)
        ends.append(position)
    wanted, position = [], 0
    for line in lines[:-1]:
        position += len(line) + 1
        wanted.append(position)
    # Headlines among them end without a full stop.
    assert len({*wanted} & {*ends}) >= 0.98 * len(wanted)
