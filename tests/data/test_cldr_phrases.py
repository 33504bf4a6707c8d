"""CLDR phrases: plain text, full names, and a hold-out that spares no format."""

import unicodedata
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexatm_jax.data import cldr_phrases
from alexatm_jax.data.cldr_phrases import LANGUAGES, PHRASE_KINDS, is_held_out, keys, phrase

DATES = st.dates(date(1980, 1, 1), date(2029, 12, 31))


@pytest.mark.parametrize(
    ("kind", "key", "language", "text"),
    [
        ("date.long", date(1997, 3, 12), "en", "March 12, 1997"),
        ("date.long", date(1997, 3, 12), "pt", "12 de março de 1997"),
        ("date.full", date(1997, 3, 12), "ja", "1997年3月12日水曜日"),
        ("date.short", date(1997, 3, 12), "ar", "12/3/1997"),
        ("unit", (17, "length-kilometer"), "fr", "17 kilomètres"),
        ("unit", (42, "length-mile"), "mr", "42 मैल"),
        ("unit", (42, "duration-hour"), "ja", "42 時間"),
        ("money", (17, "USD"), "es", "17 dólares estadounidenses"),
        ("money", (17, "JPY"), "ja", "17円"),
        ("territory", "DE", "it", "Germania"),
    ],
)
def test_phrases_read_as_cldr_writes_them(kind, key, language, text):
    assert phrase(kind, key, language) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_text_is_plain_in_every_kind(language):
    for kind in PHRASE_KINDS:
        for key in keys(kind, held_out=False)[::7]:
            text = phrase(kind, key, language)
            assert unicodedata.is_normalized("NFC", text)
            assert not set(text) & {"\u00a0", "\u202f", "\u2009", "\n", ";", "="}
            assert all(unicodedata.category(c) != "Cf" for c in text.replace("\u200c", ""))


def test_the_telugu_joiner_is_text():
    assert "\u200c" in phrase("money", (17, "USD"), "te")


def test_no_unit_is_named_by_its_raw_id():
    for unit in cldr_phrases.UNITS:
        for number in cldr_phrases.NUMBERS:
            for language in LANGUAGES:
                text = phrase("unit", (number, unit), language)
                assert "-" not in text and str(number) in text


def test_distinct_units_have_distinct_names_in_each_language():
    for language in LANGUAGES:
        names = {phrase("unit", (17, unit), language) for unit in cldr_phrases.UNITS}
        assert len(names) == len(cldr_phrases.UNITS)


@pytest.mark.parametrize("kind", ["date", "unit", "money"])
def test_about_a_tenth_is_held_out(kind):
    held_out, trained = keys(kind, held_out=True), keys(kind, held_out=False)
    assert not set(held_out) & set(trained)
    assert 0.08 < len(held_out) / (len(held_out) + len(trained)) < 0.13


def test_the_hold_out_never_moves():
    """Caches and checkpoints of yesterday rely on it."""
    assert is_held_out("unit", (94, "volume-liter"))
    assert is_held_out("date", date(2026, 8, 2))
    assert is_held_out("money", (94, "GBP"))
    assert not is_held_out("unit", (10, "mass-gram"))


@given(day=DATES)
@settings(max_examples=200)
def test_every_format_of_a_date_shares_its_fate(day):
    fates = {is_held_out(kind, day) for kind in PHRASE_KINDS if kind.startswith("date")}
    assert fates == {is_held_out("date", day)}


@given(year=st.integers(1980, 2029), month=st.integers(1, 12), day=st.integers(1, 12))
@settings(max_examples=200)
def test_dates_that_read_alike_share_their_fate(year, month, day):
    """3/12/97 is March 12 in English and 3 December in Hindi."""
    assert is_held_out("date", date(year, month, day)) == is_held_out(
        "date", date(year, day, month)
    )


def test_territories_are_never_held_out():
    assert keys("territory", held_out=True) == ()


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="'colour'.*date.long"):
        phrase("colour", "red", "en")
    with pytest.raises(ValueError, match="'ko'.*te"):
        phrase("unit", (17, "mass-gram"), "ko")
    with pytest.raises(ValueError, match="'colour' is unknown"):
        is_held_out("colour", "red")
