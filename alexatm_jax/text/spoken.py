"""Turns written text into its spoken form: what a speech recogniser would have written down.

Source: "capitals and punctuation removed, ..." is all the paper says of its spoken form
(arXiv:2208.01448, Sec. 3; recipe §2). How each character is treated is our choice; `spoken`
lists it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from itertools import groupby

LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "mr", "pt", "ta", "te")
"""The paper's 12 languages (recipe §2)."""


def check_language(language: str) -> None:
    """Raises ValueError unless `language` is one of `LANGUAGES`."""
    if language not in LANGUAGES:
        raise ValueError(
            f"language is {language!r}; the rules for text cover {', '.join(LANGUAGES)}; give "
            "one of these codes."
        )


def spoken(text: str, language: str) -> str:
    """Gives the spoken form of a text: one line in lower case, NFC, words and numbers alone.

    From the paper: capitals and punctuation go. Ours is how, the same in every language:

    * Punctuation and symbols become a space, also Japanese 。、・, which part phrases, and
      hyphens in words. A run of white space, line breaks included, becomes one space.
    * An apostrophe between letters or digits stays, always as ' (don't, l'homme).
    * Digits stay in their own script, as numbers do: so do the . , ، ٫ ٬ between two digits
      and the minus before one, without which the number would be another.
    * Signs that are read aloud stay: & @ + % ‰ ٪ ° ℃ ℉, currencies, and Japanese squared
      words such as ㎞ and ㈱.
    * Full-width letters and digits become ASCII ones. Half-width katakana stay.
    * Every letter and combining mark stays, the Arabic tatweel among them, which Unicode
      counts as a letter. A zero-width joiner or non-joiner stays where it follows a letter
      or mark, at the end of a word too (ఆమేన్‌), as a variation selector does.
    * Characters that only guide the layout go without a space: soft hyphens, byte order
      marks, bidirectional controls, and the zero-width space, which divides words in none
      of the 12 languages.

    It is idempotent. Letters are those that Python's own Unicode tables know.

    Args:
      text: any text, in any normalization form.
      language: one of `LANGUAGES`. No rule depends on it; it is asked for so that text which
        nobody has tried these rules on is refused instead of quietly damaged.

    Returns:
      The spoken form, "" where nothing is spoken.

    Raises:
      ValueError: if the language is another.
    """
    check_language(language)
    text = text.lower()
    if not text.isascii():
        text = text.replace("‘", "'").replace("’", "'")
        if _UNUSUAL.search(text):
            text = _usual(text)
        # Lower case may be out of NFC (İ followed by an ogonek), so this comes after it.
        text = unicodedata.normalize("NFC", text)
    return " ".join(_SILENT.sub(" ", text).split())


def _character_class(wanted: Callable[[str], bool]) -> str:
    """Writes the characters of the basic plane that are `wanted` as ranges within [...]."""
    ranges = []
    for is_wanted, codes in groupby(range(0x10000), key=lambda code: wanted(chr(code))):
        first, *rest = codes
        if is_wanted:
            ranges.append(f"\\u{first:04x}-\\u{rest[-1] if rest else first:04x}")
    return "".join(ranges)


def _in_words(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"


def _is_silent(character: str) -> bool:
    """Whether it is neither part of a word, nor a joiner, nor white space, nor read aloud."""
    return not (
        _in_words(character)
        or character in _JOINERS
        or character.isspace()
        or unicodedata.category(character) == "Sc"
        or character in "&@+%‰٪°℃℉"
        or "㈀" <= character <= "㏿"
    )


_JOINERS = "\u200c\u200d"
_SELECTORS = "\ufe00-\ufe0f"
_LAYOUT = "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
_ABOVE = "\U00010000-\U0010ffff"
_LETTER = _ABOVE + _character_class(
    lambda c: unicodedata.category(c)[0] in "LM" and not "\ufe00" <= c <= "\ufe0f"
)
_IN_WORDS = _ABOVE + _character_class(_in_words)

# Each pattern begins with one class of characters, which `re` skips to without backtracking;
# the conditions stand behind it. Classes are of the basic plane because every range beyond it
# costs time at every character.
_UNUSUAL = re.compile(f"[{_LAYOUT}{_JOINERS}{_SELECTORS}{_ABOVE}！-～]")
_LAYOUT_ONLY = re.compile(f"[{_LAYOUT}]")
_BEYOND = re.compile(f"[{_ABOVE}]+")
_FULL_WIDTH = re.compile("[！-～]+")
_DANGLING = re.compile(f"[{_JOINERS}{_SELECTORS}](?<![{_LETTER}][{_JOINERS}{_SELECTORS}])")
_SILENT = re.compile(
    f"[{_character_class(_is_silent)}]"
    f"(?<!(?<=[{_IN_WORDS}])'(?=[{_IN_WORDS}]))"
    r"(?<!(?<=\d)[.,،٫٬](?=\d))"
    rf"(?<!(?<![{_IN_WORDS}{_JOINERS}])[-−](?=\d))"
)
_TO_ASCII = {code: code - 0xFEE0 for code in range(ord("！"), ord("～") + 1)}


def _usual(text: str) -> str:
    """Takes out or replaces what `_SILENT` need not know; costs more, and most texts lack it."""
    text = _LAYOUT_ONLY.sub("", text)
    text = _BEYOND.sub(_words_beyond, text)
    text = _FULL_WIDTH.sub(lambda run: run[0].translate(_TO_ASCII), text)
    return _DANGLING.sub("", text)


def _words_beyond(run: re.Match[str]) -> str:
    """Turns emoji and the like, above the basic plane, into spaces."""
    return "".join(c if _in_words(c) else " " for c in run[0])
