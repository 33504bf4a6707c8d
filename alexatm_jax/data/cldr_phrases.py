"""Renders dates, units, amounts of money and territories in 12 languages from Unicode CLDR.

CLDR arrives with Babel, so nothing is downloaded. A *key* says what a phrase means without
saying in which language: a `datetime.date`, a `(number, unit)`, an `(amount, currency)` or
a territory code. A *kind* says how a key is rendered: `date.long`, `unit`, ... One key in
ten is held out for evaluation, in every kind and language at once.
"""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections.abc import Callable
from datetime import date, timedelta
from functools import cache, lru_cache, partial
from typing import Any, Literal

from babel import Locale
from babel.dates import format_date
from babel.numbers import format_currency
from babel.units import format_unit

Key = date | tuple[int, str] | str

LANGUAGE_NAMES = {
    "ar": "Arabic",
    "en": "English",
    "fr": "French",
    "de": "German",
    "hi": "Hindi",
    "it": "Italian",
    "ja": "Japanese",
    "mr": "Marathi",
    "pt": "Portuguese",
    "es": "Spanish",
    "ta": "Tamil",
    "te": "Telugu",
}
"""The languages of AlexaTM 20B, recipe §2, by ISO 639-1 code."""
LANGUAGES = tuple(LANGUAGE_NAMES)

YEARS = range(1980, 2030)
NUMBERS = range(10, 100)
"""Amounts are whole: with 00..99 as pieces every number is one token. Starting at 10 also
avoids the Arabic singular and dual, which carry no numeral."""

UNITS = (
    "length-kilometer",
    "length-mile",
    "mass-kilogram",
    "mass-gram",
    "volume-liter",
    "duration-hour",
    "duration-minute",
    "duration-second",
    "duration-day",
    "duration-week",
    "duration-month",
    "duration-year",
)
CURRENCIES = ("USD", "GBP", "JPY", "INR", "CHF", "CNY", "MXN", "RUB")
"""No euro: its name is spelt alike in half of the languages."""
TERRITORIES = tuple(
    "US GB FR DE IN IT JP PT ES EG SA MX BR AR CN KR RU CH AT BE NL SE NO DK FI PL CZ HU "
    "GR TR IR IQ IL MA DZ TN LY SD ET KE NG ZA AU NZ CA CL PE CO CU TH VN ID MY SG PK LK "
    "NP UA RO IE".split()
)

_DAYS = (date(YEARS.stop, 1, 1) - date(YEARS.start, 1, 1)).days
_KEYS: dict[str, tuple[Key, ...]] = {
    "date": tuple(date(YEARS.start, 1, 1) + timedelta(day) for day in range(_DAYS)),
    "unit": tuple(itertools.product(NUMBERS, UNITS)),
    "money": tuple(itertools.product(NUMBERS, CURRENCIES)),
    "territory": TERRITORIES,
}

_PLAIN_TEXT: dict[int, str] = (
    dict.fromkeys((0x00A0, 0x2009, 0x202F), " ")  # no-break, thin, narrow no-break space
    | dict.fromkeys((0x061C, 0x200E, 0x200F), "")  # direction marks; U+200C, ZWNJ, is text
    | dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "")  # embeddings
)


def _render_date(form: Literal["short", "medium", "long", "full"], key: date, language: str) -> str:
    return format_date(key, form, language)


def _render_unit(key: tuple[int, str], language: str) -> str:
    number, unit = key
    lengths: tuple[Literal["long", "short"], ...] = ("long", "short")
    for length in lengths:
        text = format_unit(number, unit, length, locale=language)
        # Babel prints the raw id where CLDR's long form inherits the short one.
        if unit not in text:
            return text
    raise AssertionError(f"CLDR has no name of {unit} in {language}; drop it from UNITS.")


def _render_money(key: tuple[int, str], language: str) -> str:
    amount, currency = key
    return format_currency(
        amount, currency, locale=language, format_type="name", currency_digits=False
    )


def _render_territory(key: str, language: str) -> str:
    return Locale(language).territories[key]


_RENDERERS: dict[str, Callable[[Any, str], str]] = {
    "date.short": partial(_render_date, "short"),
    "date.medium": partial(_render_date, "medium"),
    "date.long": partial(_render_date, "long"),
    "date.full": partial(_render_date, "full"),
    "unit": _render_unit,
    "money": _render_money,
    "territory": _render_territory,
}
PHRASE_KINDS = tuple(_RENDERERS)


@lru_cache(maxsize=1 << 16)
def phrase(kind: str, key: Key, language: str) -> str:
    """Says `key` in `language`: NFC text with plain spaces and without direction marks.

    Args:
      kind: one of PHRASE_KINDS.
      key: a `datetime.date`, `(number, unit)`, `(amount, currency)` or territory code.
      language: one of LANGUAGES.

    Raises:
      ValueError: if the kind or the language is unknown.

    Source: Unicode CLDR, Unicode Technical Standard 35.
    """
    if kind not in _RENDERERS or language not in LANGUAGE_NAMES:
        raise ValueError(
            f"a phrase of kind {kind!r} in {language!r} was asked for; kinds are "
            f"{', '.join(PHRASE_KINDS)}; languages are {', '.join(LANGUAGES)}."
        )
    text = _RENDERERS[kind](key, language)
    return unicodedata.normalize("NFC", text.translate(_PLAIN_TEXT))


def is_held_out(kind: str, key: Any) -> bool:
    """Tells whether a key is kept for evaluation, out of all training documents.

    One key in ten is, by a hash that no seed changes; territories never are. `3/12/97` is
    March 12 in one language and 3 December in another, so both dates share their fate.

    Args:
      kind: a kind of phrase, or its first word: all `date.*` kinds answer alike.
      key: `datetime.date`, `(number, unit)` or `(amount, currency)`.

    Raises:
      ValueError: if the kind is unknown.
    """
    family = _family(kind)
    if family == "territory":
        return False
    if family == "date":
        key = (key.year, *sorted((key.month, key.day)))
    digest = hashlib.sha256("/".join(map(str, (family, *key))).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 10 == 0


@cache
def keys(kind: str, held_out: bool) -> tuple[Key, ...]:
    """Lists the keys of a kind, in a fixed order: those held out or those trained on.

    Raises:
      ValueError: if the kind is unknown.
    """
    family = _family(kind)
    return tuple(key for key in _KEYS[family] if is_held_out(family, key) == held_out)


def _family(kind: str) -> str:
    family = kind.partition(".")[0]
    if family not in _KEYS:
        raise ValueError(
            f"kind of phrase {kind!r} is unknown; it must start with one of "
            f"{', '.join(_KEYS)}; correct the name."
        )
    return family
