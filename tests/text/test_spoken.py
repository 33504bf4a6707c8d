"""The spoken form loses capitals and punctuation, and no letter or mark."""

from __future__ import annotations

import html
import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alexatm_jax.text.spoken import LANGUAGES, spoken

LATIN = "aZzßİıÀéœŒÑñçÜüẞ\u0301\u0308\u0327"
SCRIPTS = {
    "ar": "ابجـيءؤئآ\u064b\u0651\u0670\u0654ؤ٠٣٩",
    "de": LATIN,
    "en": LATIN,
    "es": LATIN,
    "fr": LATIN,
    "hi": "कखरयअईॐऽ\u093c\u094d\u093e\u093f\u0902\u0903क़०९",
    "it": LATIN,
    "ja": "あがヶ々ーゝアｶﾞ〇漢字\u3099\u309a葛\U000e0100０９",
    "mr": "कळऱरय\u094d\u093c\u0947\u0902०९",
    "pt": LATIN,
    "ta": "அகஸஃ\u0bc6\u0bbe\u0bc7\u0bcd\u0bca௧",
    "te": "అకమరఆ\u0c46\u0c56\u0c4d\u0c02\u0c48౧",
}
SIGNS = " \n\u00a0\u3000.,;:!?…¿¡'’‘\"“”«»「」。、・！？．，（－-–—−_/&%€₹°@#*<=>|~٪٫٬،؛؟۔।॥॰019😀❤"
JOINERS = "\u200c\u200d"
LAYOUT = "\u00ad\ufeff\u200b\u200e\u200f\u202b\u2068"


def is_letter_or_mark(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"


def letters_and_marks(text: str) -> str:
    text = unicodedata.normalize("NFC", text.lower())
    return unicodedata.normalize("NFC", "".join(filter(is_letter_or_mark, text)))


@st.composite
def written(draw: Callable, signs: str = SIGNS) -> tuple[str, str]:
    language = draw(st.sampled_from(LANGUAGES))
    return draw(st.text(SCRIPTS[language] * 3 + signs, max_size=40)), language


@given(written(SIGNS + JOINERS))
def test_keeps_every_letter_and_mark_in_order(drawn):
    text, language = drawn
    assert letters_and_marks(spoken(text, language)) == letters_and_marks(text)


@given(written(SIGNS + JOINERS + LAYOUT + "\ufe0f\ufe0e"))
def test_is_idempotent_and_in_nfc_and_one_line(drawn):
    text, language = drawn
    once = spoken(text, language)
    assert spoken(once, language) == once == unicodedata.normalize("NFC", once)
    assert once == " ".join(once.split())
    assert once == once.lower()
    assert not set(once) & set(LAYOUT)


@given(st.text(max_size=60))
@example("=\u0338 >\u0338")
@example("a\u0345\u0301Σ.Σ\u00adΣ")
@example("İ\u0328 I\u0307\u0328")
@example("a\ufe0f\ufe0f\u200c\u200c.\u200d")
@example("1.\u00ad5 d\u200b'\ufeffe")
def test_any_text_comes_out_idempotent_and_with_its_letters(text):
    once = spoken(text, "en")
    assert spoken(once, "en") == once == unicodedata.normalize("NFC", once)
    if any(map(str.isalpha, text)):
        assert any(map(str.isalpha, once))


def test_every_character_of_unicode_comes_out_idempotent():
    every = " ".join(map(chr, (c for c in range(sys.maxunicode) if not 0xD800 <= c < 0xE000)))
    once = spoken(every, "ja")
    assert spoken(once, "ja") == once
    # Full-width letters become ASCII ones, and selectors dangle behind a space.
    letters = {c for c in every if is_letter_or_mark(c) and not "\ufe00" <= c <= "\ufe0f"}
    letters -= {chr(code) for code in range(ord("Ａ"), ord("ｚ") + 1)}
    assert set(letters_and_marks("".join(letters))) <= set(once)


@given(written(JOINERS + " .1"))
def test_a_joiner_stays_just_where_it_follows_a_letter_or_mark(drawn):
    text, language = drawn
    pairs = zip(text, text[1:], strict=False)
    belongs = [c for before, c in pairs if c in JOINERS and is_letter_or_mark(before)]
    assert [c for c in spoken(text, language) if c in JOINERS] == belongs


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Don’t 'shout' — it's the U.S.A.!", "don't shout it's the u s a"),
        ("en", "COVID-19 cost $5,000.50, 3.5 % of ‘all’.", "covid 19 cost $5,000.50 3.5 % of all"),
        (
            "en",
            "It was −7 °C (or -5), in 10-12 days; R&D, a@b.com",
            "it was −7 °c or -5 in 10 12 days r&d a@b com",
        ),
        ("fr", "« L’homme,\u00a0dit-il\u202f: 5\u00a0000 € ? »", "l'homme dit il 5 000 €"),
        ("de", "„Straße“ – STRASSE, GROẞ; z.B. 3,5", "straße strasse groß z b 3,5"),
        ("es", "¿Qué? ¡Ñandú!", "qué ñandú"),
        ("it", "Un po' dell'E\u0300.", "un po dell'è"),
        ("pt", "Guarda-chuva: Ç…", "guarda chuva ç"),
        ("ar", "\u200fقال: «نعم»، ٣٫٥ أو ١٬٠٠٠؟ مـــد٪", "قال نعم ٣٫٥ أو ١٬٠٠٠ مـــد٪"),
        ("hi", "वह (डॉ. क्\u200dष) है। १,०००॥", "वह डॉ क्\u200dष है १,०००"),
        ("mr", "ज्या\u200cअर्थी, र्\u200dया॰", "ज्या\u200cअर्थी र्\u200dया"),
        (
            "ja",
            "「イエス・キリスト」は、ＡＢＣ１，０００㎞！　はい。",
            "イエス キリスト は abc1,000㎞ はい",
        ),
        ("ta", 'ஸ்ரீ: "வா!"', "ஸ்ரீ வா"),
        ("te", "\u200bఆమేన్\u200c. కోవిడ్\u200c-19", "ఆమేన్\u200c కోవిడ్\u200c 19"),
        (
            "en",
            "\ufeffsoft\u00adly ❤️ 👨\u200d👩\u200d👧 <br> snake_case\x00!",
            "softly br snake case",
        ),
        ("ja", "𠮷野家・葛\U000e0100城😀", "𠮷野家 葛\U000e0100城"),
        ("en", "?! … 。", ""),
        ("en", "", ""),
    ],
)
def test_examples(language, text, expected):
    assert spoken(text, language) == expected


def test_other_languages_are_refused():
    with pytest.raises(ValueError, match=r"language is 'ru'.*ar, de, en.*one of these codes"):
        spoken("да", "ru")


UDHR = {
    "ar": ["arb"],
    "de": ["deu_1996"],
    "en": ["eng"],
    "es": ["spa"],
    "fr": ["fra"],
    "hi": ["hin"],
    "it": ["ita"],
    "ja": ["jpn"],
    "mr": ["mar"],
    "pt": ["por_BR", "por_PT"],
    "ta": ["tam"],
    "te": ["tel"],
}


def real_lines(folder: Path, language: str) -> list[str]:
    files = [folder / corpus / f"{language}.txt" for corpus in ("bible", "pud")]
    texts = [path.read_text(encoding="utf-8") for path in files if path.is_file()]
    for code in UDHR[language]:
        page = (folder / "udhr" / f"{code}.html").read_text(encoding="utf-8")
        texts.append(html.unescape(re.sub("<[^>]*>", "", page)))
    return [line for text in texts for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("language", LANGUAGES)
def test_real_text_keeps_its_letters(language, shared_data):
    lines = real_lines(shared_data, language)
    spoken_lines = [spoken(line, language) for line in lines]
    assert [spoken(line, language) for line in spoken_lines] == spoken_lines
    text = unicodedata.normalize("NFC", "\n".join(lines).lower())
    result = "\n".join(spoken_lines)
    kept = {*filter(is_letter_or_mark, text), *JOINERS, "\n"}
    assert "".join(c for c in result if c in kept) == "".join(c for c in text if c in kept)
    assert unicodedata.is_normalized("NFC", result)
    assert {c for c in set(result) if unicodedata.category(c) == "Lu"} == set()
    # What punctuation is left stands in words and numbers.
    assert {c for c in set(result) if unicodedata.category(c)[0] == "P"} <= set("'&%.,-")
