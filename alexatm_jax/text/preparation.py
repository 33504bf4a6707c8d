"""Prepares a document for tokenization: NFC, without what benchmarks hold, written or spoken.

Source: 13-gram filter and the two forms, arXiv:2208.01448, Sec. 3; recipe §2. That a sentence
is cleaned of benchmarks before it takes its form is our choice; a sentence counts once,
whichever the form.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field

from alexatm_jax.text.decontamination import BenchmarkNgrams
from alexatm_jax.text.sentences import sentences
from alexatm_jax.text.spoken import check_language, spoken

FORMS = ("written", "spoken")

_RULES = 1
"""Raised when a document comes out otherwise, so that older corpora are not taken for new ones."""


@dataclass(frozen=True)
class Prepared:
    """A prepared document.

    Attributes:
      text: what is to be tokenized; "" where no letter or digit is left.
      num_sentences: sentences kept that have one, for the n_i of the recipe's formula.
      num_dropped: sentences left out because a benchmark holds part of them.
      dropped: the same by benchmark; a sentence counts for each that shares a 13-gram.
    """

    text: str
    num_sentences: int
    dropped: dict[str, int] = field(default_factory=dict)
    num_dropped: int = 0


@dataclass(frozen=True)
class Preparation:
    """Turns documents of one language into one form. It can be pickled.

    The written form is the text in NFC and otherwise as it is: case, markup, tags and white
    space stay. For the spoken one see `spoken`.

    Args:
      language: one of `alexatm_jax.text.spoken.LANGUAGES`.
      form: "written" or "spoken".
      benchmarks: file of `alexatm_jax.text.decontamination`, opened once per process when
        the first document comes; None drops nothing.

    Raises:
      ValueError: if the language or the form is another; from the first document on, if
        `benchmarks` is no such file.
    """

    language: str
    form: str = "written"
    benchmarks: str | None = None

    def __post_init__(self) -> None:
        check_language(self.language)
        if self.form not in FORMS:
            raise ValueError(f"form is {self.form!r}; give {' or '.join(map(repr, FORMS))}.")

    @property
    def description(self) -> str:
        """All that the result depends on besides the text; opens `benchmarks`."""
        form = f"{self.form} {self.language} by rules {_RULES}"
        if self.benchmarks is None:
            return f"{form}, no benchmark filter"
        return f"{form}, without 13-grams of {_opened(self.benchmarks).sha256}"

    def __call__(self, text: str) -> Prepared:
        """Prepares one document.

        Raises:
          ValueError: if `benchmarks` cannot be read.
        """
        text = unicodedata.normalize("NFC", text)
        slices = sentences(text, self.language)
        kept, dropped = slices, Counter[str]()
        if self.benchmarks is not None:
            kept, dropped = _without_benchmarks(slices, _opened(self.benchmarks))
        num_sentences = sum(1 for part in kept if _WORD.search(part))
        text = "".join(kept) if num_sentences else ""
        if self.form == "spoken":
            text = spoken(text, self.language)
        return Prepared(text, num_sentences, dict(dropped), len(slices) - len(kept))


_WORD = re.compile(r"[^\W_]")


def _without_benchmarks(
    slices: list[str], ngrams: BenchmarkNgrams
) -> tuple[list[str], Counter[str]]:
    """Gives the sentences that share no 13-gram, and how often each benchmark shared one."""
    shared = [ngrams.shared_with(part) for part in slices]
    kept = [part for part, names in zip(slices, shared, strict=True) if not names]
    return kept, Counter(name for names in shared for name in names)


@functools.lru_cache(maxsize=4)
def _opened(path: str) -> BenchmarkNgrams:
    """Opens an n-gram file once per process, which then sees no other file under its name."""
    return BenchmarkNgrams(path)
