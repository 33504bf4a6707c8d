"""Hashes of the 13-grams of a text, alike for its written and its spoken form.

The paper compares 13-grams and says no more (recipe §2); what a word is, is our choice:

* Letters, marks and digits make words and everything else parts them, so that punctuation and
  white space do not matter: "don't" and "2.5" are two words each.
* The tatweel and what is invisible within a word (joiners, soft hyphens, marks of direction,
  variation selectors) vanish.
* Text is composed (NFC), then folded character by character: case, and compatible forms such as
  full-width ones.
* Han and kana are written without spaces, so each of these characters is a word of half the
  weight: a 13-gram is 13 words, or 26 such characters, or a mixture as heavy. 13 characters would
  hit common phrases.

An n-gram starts at every word and is the shortest run of words from there that weighs enough, so
what a run of words holds does not depend on what stands around it.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from zlib import crc32

import numpy as np

ORDER = 13
"""Words of an n-gram: recipe §2."""

HALF_WORDS = 2 * ORDER
"""Weight of an n-gram: 2 for a word, 1 for a Han or kana character."""

ANCHOR_WORDS = (ORDER + 1) // 2
"""Words of an anchor: so many that each n-gram holds as many of them in a row as they are apart."""

_UNSPACED = re.compile(
    "[\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]"
)
_VANISHING = re.compile(
    "[\u00ad\u061c\u0640\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f"
    "\ufeff\ufff9-\ufffb\U000e0100-\U000e01ef]"
)

_FIRST_UNSPACED = "\u3005".encode()
"""UTF-8 sorts as its characters do: where no word reaches this, all weigh 2."""

_BLOCK_WORDS = 1 << 12
"""Words at which n-grams start that are hashed at a time; bounds the tables of powers."""

_READ_WORDS = _BLOCK_WORDS + HALF_WORDS - 1
"""Words that these n-grams reach to, if all weigh 1."""

_BASE = 0x94D049BB133111EB
"""Base of the polynomial: odd, so that it divides out, and 3 modulo 8, so that its powers differ
in many bits; otherwise of no meaning (a multiplier of SplitMix64)."""

_WORD = np.dtype([("hash", "<u8"), ("half_words", "<u8")])
_NO_WORD = bytes(_WORD.itemsize)
_MAX_CACHED_WORDS = 1 << 17


def words_of(text: str) -> list[bytes]:
    """Splits a text into folded words in UTF-8; see the module for what a word is."""
    return unicodedata.normalize("NFC", text).translate(_FOLDED).encode().split()


def ngram_hashes(text: str) -> np.ndarray:
    """Hashes every 13-gram of a text.

    The hash is a polynomial over the words' own hashes (BLAKE2b, 64 bits) modulo 2^64, so it is
    the same in every process and on every machine.

    Args:
      text: of any length; takes about 100 bytes of memory a word.

    Returns:
      uint64 [number of n-grams], in the order of the text, repetitions kept; empty if the text is
      lighter than 13 words.
    """
    return hashes_of_words(words_of(text))


def hashes_of_words(words: list[bytes]) -> np.ndarray:
    """Hashes every 13-gram of folded words; see `ngram_hashes`."""
    if len(words) < ORDER:
        return np.empty(0, np.uint64)
    if len(words) <= _BLOCK_WORDS:
        return _hashes_of_block(words)
    starts = range(0, len(words), _BLOCK_WORDS)
    return np.concatenate([_hashes_of_block(words[i : i + _READ_WORDS]) for i in starts])


def anchors_of(words: list[bytes], *, sparse: bool = False) -> list[int]:
    """Gives a checksum of 32 bits for every run of 7 words; sparse, only of those that suffice.

    However far apart a 13-gram reaches, it holds the whole of a run that starts at the 7th, 14th,
    21st ... word. So two texts share no 13-gram if no sparse anchor of one is an anchor of the
    other: a quick way to see that of most sentences.
    """
    first, step = (ANCHOR_WORDS - 1, ANCHOR_WORDS) if sparse else (0, 1)
    starts = range(first, len(words) - ANCHOR_WORDS + 1, step)
    return [crc32(b" ".join(words[start : start + ANCHOR_WORDS])) for start in starts]


def _hashes_of_block(words: list[bytes]) -> np.ndarray:
    """Hashes the n-grams that start within the first _BLOCK_WORDS of these words."""
    found = np.frombuffer(_NO_WORD + b"".join(map(_HASHED.__getitem__, words)), _WORD)
    # sums[i] is that of the words before word i, each times a power that grows with its place.
    sums = np.add.accumulate(found["hash"] * _POWERS[: len(found)])
    ends = sums[ORDER:] if max(words) < _FIRST_UNSPACED else sums[_ends(found["half_words"])]
    ends = ends[:_BLOCK_WORDS]
    return (ends - sums[: len(ends)]) * _INVERSE_POWERS[: len(ends)]


def _ends(half_words: np.ndarray) -> np.ndarray:
    """Finds the end of the n-gram from each start that has one; half_words[0] stands for none."""
    before = half_words.cumsum().astype(np.int64)
    starts = before.searchsorted(before[-1] - HALF_WORDS, side="right")
    return before.searchsorted(before[:starts] + HALF_WORDS)


class _Folding(dict[int, str | None]):
    """What becomes of each character, worked out when it is first met."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        folded: str | None = " "
        if _VANISHING.match(character):
            folded = None
        elif unicodedata.category(character)[0] in "LMN" and character != "\u02bc":
            # (U+02BC is a letter to Unicode and an apostrophe to the eye.)
            compatible = unicodedata.normalize("NFKC", character.casefold()).casefold()
            folded = _UNSPACED.sub(r" \g<0> ", compatible)
        self[code] = folded
        return folded


class _Hashing(dict[bytes, bytes]):
    """The `_WORD` of each word; forgets them all when they become too many."""

    def __missing__(self, word: bytes) -> bytes:
        if len(self) >= _MAX_CACHED_WORDS:
            self.clear()
        half_words = 1 if _UNSPACED.match(word.decode()) else 2
        hashed = hashlib.blake2b(word, digest_size=8).digest() + half_words.to_bytes(8, "little")
        self[word] = hashed
        return hashed


def _powers(base: int, count: int) -> np.ndarray:
    """1, base, base^2, ... modulo 2^64."""
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


_FOLDED = _Folding()
_HASHED = _Hashing()
_POWERS = _powers(_BASE, _READ_WORDS + 1)
_INVERSE_POWERS = _powers(pow(_BASE, -1, 1 << 64), _BLOCK_WORDS)
