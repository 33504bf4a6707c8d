"""Makes text in 12 invented languages, each in the script of a real one.

Words are random syllables and their frequencies follow Zipf's law, so that a tokenizer finds
frequent and rare words, in scripts of one, two and three bytes a letter. It means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

NUM_WORDS = 3000


class Script(NamedTuple):
    """Consonants and vowels to make words of, and how words and sentences are set apart."""

    consonants: str
    vowels: str
    space: str = " "
    comma: str = ", "
    stop: str = ". "


_DEVANAGARI = Script("कखगघचछजझटठडढणतथदधनपफबभमयरलवशसह", "ािीुूेैोौं", stop="। ")
SCRIPTS = {
    "ar": Script("بتثجحخدذرزسشصضطظعغفقكلمنه", "اوي", comma="، "),
    "de": Script("bdfghklmnprstwz", "aeiouäöü"),
    "en": Script("bcdfghjklmnpqrstvwxyz", "aeiou"),
    "es": Script("bcdfghjlmnñpqrstvyz", "aeiouáéíóú"),
    "fr": Script("bcçdfghjlmnpqrstvx", "aeiouéèêàù"),
    "hi": _DEVANAGARI,
    "it": Script("bcdfghlmnpqrstvz", "aeiouàèéìòù"),
    "ja": Script(
        "日月火水木金土山川田人口車門国語学校生先時分", "あいうえおのはをにと", "", "、", "。"
    ),
    "mr": _DEVANAGARI,
    "pt": Script("bcçdfghjlmnpqrstvxz", "aeiouãõáéíó"),
    "ta": Script("கஙசஞடணதநபமயரலவழளறன", "ாிீுூெேைொோ"),
    "te": Script("కఖగఘచఛజఝటఠడఢణతథదధనపఫబభమయరలవశసహ", "ాిీుూెేైొో"),
}


def documents(language: str, mean_sentences: float, seed: int = 0) -> Iterator[str]:
    """Yields documents without end, the same ones for the same arguments.

    Args:
      language: a key of SCRIPTS.
      mean_sentences: of a document; their number is geometric, at least 1. A sentence has 5 to
        18 words.
      seed: of all that is drawn; words depend on the language alone.
    """
    words, cumulated = _lexicon(language)
    rng = np.random.default_rng([seed, *language.encode(), int(1000 * mean_sentences)])
    while True:
        count = rng.geometric(1 / mean_sentences)
        lengths = rng.integers(5, 19, count)
        drawn = np.searchsorted(cumulated, rng.random(lengths.sum()))
        chosen = [words[index] for index in drawn]
        ends = np.cumsum(lengths)
        yield "".join(
            _sentence(chosen[end - length : end], SCRIPTS[language])
            for length, end in zip(lengths, ends, strict=True)
        ).strip()


def _lexicon(language: str) -> tuple[list[str], np.ndarray]:
    """Gives words and their cumulated frequencies, which fall as 1 / rank."""
    script = SCRIPTS[language]
    rng = np.random.default_rng([*language.encode()])
    words = []
    for syllables in rng.integers(1, 5, NUM_WORDS):
        consonants = rng.choice(list(script.consonants), syllables)
        vowels = rng.choice(list(script.vowels), syllables)
        words.append("".join(map("".join, zip(consonants, vowels, strict=True))))
    frequencies = np.cumsum(1 / np.arange(1, NUM_WORDS + 1))
    return words, frequencies / frequencies[-1]


def _sentence(words: list[str], script: Script) -> str:
    middle = len(words) // 2
    first, second = script.space.join(words[:middle]), script.space.join(words[middle:])
    return f"{first.capitalize()}{script.comma}{second}{script.stop}"
