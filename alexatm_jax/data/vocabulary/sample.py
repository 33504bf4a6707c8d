"""Draws from text of any size the sentences that a vocabulary is trained and judged on.

Of every sentence only a hash decides: whether it is held out, whether it is drawn before another,
and whether it is shown in spoken or in written form. So the sample depends on the text and the
seed alone, neither on the order of the text nor on the number of processes that read it.
"""

from __future__ import annotations

import heapq
import math
import multiprocessing
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np

from alexatm_jax.data.recipe import language_shares
from alexatm_jax.text.documents import DocumentSource
from alexatm_jax.text.problems import Problems
from alexatm_jax.text.sentences import sentences
from alexatm_jax.text.spoken import LANGUAGES, spoken

ONE_HELD_OUT_IN = 20
"""One distinct sentence in so many is never drawn, whatever the seed."""
MAX_SENTENCE_CHARACTERS = 4096
"""Longer ones, such as encoded files, are cut into several: a word of a million characters gives
SentencePiece's unigram NaNs, and its BPE aborts the process beyond 65,535."""

_RANK_BITS = 64


@dataclass(frozen=True)
class SampleConfig:
    """How sentences are drawn.

    Attributes:
      max_bytes: UTF-8 bytes of written text to draw, over all languages; 0 draws none.
      alpha: exponent a of the languages' shares; 0.5 is the paper's (recipe §2).
      spoken_share: share of the sentences shown in spoken form; 0.7 is the paper's.
      seed: draws other sentences, and shows others in spoken form.
      max_held_out_bytes: bytes to keep for a report, per language.
    """

    max_bytes: int = 512 << 20
    alpha: float = 0.5
    spoken_share: float = 0.7
    seed: int = 0
    max_held_out_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        if min(self.max_bytes, self.max_held_out_bytes) < 0:
            raise ValueError(
                f"max_bytes is {self.max_bytes} and max_held_out_bytes {self.max_held_out_bytes}; "
                "give 0 or more of each."
            )
        for name in ("alpha", "spoken_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number from 0 to 1.")


@dataclass(frozen=True)
class LanguageText:
    """What was seen of one language, and drawn from it.

    Attributes:
      language: its code.
      num_sentences, num_bytes: all that was seen, repeated and held-out sentences included.
      share_asked: q_i, its share of the sample's sentences by the formula.
      drawn: distinct written sentences, in the order in which they were drawn.
      gave_all: whether they are all that could be drawn, so that the share may be smaller.
      held_out: distinct written sentences that are in no sample.
      problems: what was left out of the text, as `Problems.as_json` gives it.
    """

    language: str
    num_sentences: int
    num_bytes: int
    share_asked: float
    drawn: tuple[str, ...]
    gave_all: bool
    held_out: tuple[str, ...]
    problems: Mapping[str, Any]


@dataclass(frozen=True)
class TextSample:
    """Sentences of several languages, as `draw` drew them with `config`."""

    languages: Mapping[str, LanguageText]
    config: SampleConfig

    def texts(self) -> Iterator[str]:
        """Gives every drawn sentence once, in spoken or written form, language by language."""
        for language, text in self.languages.items():
            for sentence in text.drawn:
                shown = self._form(sentence, language)
                if shown:
                    yield shown

    def _form(self, sentence: str, language: str) -> str:
        # Not the bits that drew it: the sentences drawn are those where they are low.
        bits = _digest(sentence, self.config.seed) & ((1 << _RANK_BITS) - 1)
        is_spoken = bits < self.config.spoken_share * 2**_RANK_BITS
        return spoken(sentence, language) if is_spoken else sentence

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the drawn sentences in written form."""
        return sum(_size(sentence) for text in self.languages.values() for sentence in text.drawn)


def is_held_out(sentence: str) -> bool:
    """Whether a sentence (NFC, no white space around it) is in no sample: one in 20."""
    digest = blake2b(sentence.encode(), digest_size=8, person=b"held out").digest()
    return int.from_bytes(digest, "big") % ONE_HELD_OUT_IN == 0


def draw(
    sources: Mapping[str, DocumentSource],
    config: SampleConfig | None = None,
    *,
    num_workers: int = 1,
    on_problem: str = "skip",
) -> TextSample:
    """Draws distinct sentences of each language, reading every document once.

    Language i gets a share q_i = p_i^a / sum_j p_j^a of the sample's sentences, where p_i = n_i /
    sum_j n_j and n_i is the number of sentences seen (recipe §2: the formula is the paper's; to
    use it for the vocabulary, and sentences that count once each, are our choices). A language
    with fewer sentences than its share gives all it has, once, and the others fill the sample
    in the ratio of the formula. If all text together is smaller than the sample, all is drawn.

    Memory holds at most twice `config.max_bytes` of sentences, with some 300 bytes beside each,
    and 64 MB or so (what a unit holds) for each worker.

    Args:
      sources: language -> documents.
      num_workers: processes that read; the sample does not depend on it.
      on_problem: "skip" or "stop", see `Problems`.

    Raises:
      ValueError: for an unknown language, no language at all, or text without a sentence.
      TextError: at the first problem of the text, where on_problem is "stop".
    """
    config = config or SampleConfig()
    _check(sources, num_workers)
    texts: dict[str, _Text] = {}
    # All of them first: a pattern that matches nothing must not show after hours.
    units = {language: sources[language].units() for language in sorted(sources)}
    # Processes start when they are first needed.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        for language in units:
            read = partial(_read_unit, sources[language], language, config, on_problem)
            texts[language] = _read(units[language], read, config, num_workers, pool)
            _check_read(texts[language], language, sources[language])
            _cut(texts, config)
    asked = language_shares(
        {language: text.num_sentences for language, text in texts.items()}, config.alpha
    )
    return TextSample({name: text.drawn(name, asked[name]) for name, text in texts.items()}, config)


def allotment(
    sizes: Mapping[str, np.ndarray], weights: Mapping[str, float], max_bytes: int
) -> dict[str, int]:
    """Gives how many sentences each language contributes.

    The numbers are min(floor(x w_i), n_i) for the largest x whose sentences fit.

    Args:
      sizes: language -> bytes of its n_i sentences, int [n_i], in the order of drawing.
      weights: language -> w_i, its share.
      max_bytes: what all of them may have together.
    """
    ends = {name: np.concatenate([[0], np.cumsum(size)]) for name, size in sizes.items()}

    def numbers(scale: float) -> dict[str, int]:
        return {name: min(int(scale * weights[name]), len(sizes[name])) for name in sizes}

    def fits(scale: float) -> bool:
        return sum(int(ends[name][n]) for name, n in numbers(scale).items()) <= max_bytes

    low, high = 0.0, 1.0 + max(len(size) / weights[name] for name, size in sizes.items())
    if fits(high):
        return numbers(high)
    while math.nextafter(low, high) < high and numbers(low) != numbers(high):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return numbers(low)


class _Lowest:
    """Keeps distinct sentences in the order of their ranks for as long as they fit.

    Whatever the order of `add` and `absorb`, it ends with the same sentences: those that come
    before the first one, by rank, with which they would have more than `max_bytes`.

    Attributes:
      end: no sentence of this rank or a higher one is kept.
    """

    def __init__(self, max_bytes: int, end: int | None = None) -> None:
        self.max_bytes = max_bytes
        self.end = end
        self._texts: dict[int, str] = {}
        self._negative_ranks: list[int] = []
        self._num_bytes = 0

    def add(self, rank: int, text: str) -> None:
        if rank in self._texts or (self.end is not None and rank >= self.end):
            return
        self._texts[rank] = text
        heapq.heappush(self._negative_ranks, -rank)
        self._num_bytes += _size(text)
        while self._num_bytes > self.max_bytes:
            self._drop_last()

    def absorb(self, other: _Lowest) -> None:
        """Adds what another one kept; what that one could not keep is not kept here either."""
        if other.end is not None:
            while self._negative_ranks and -self._negative_ranks[0] >= other.end:
                self._drop_last()
            self.end = other.end if self.end is None else min(self.end, other.end)
        for rank, text in other._texts.items():
            self.add(rank, text)

    def keep_first(self, number: int) -> None:
        while len(self._texts) > number:
            self._drop_last()

    def ordered(self) -> tuple[str, ...]:
        return tuple(self._texts[rank] for rank in sorted(self._texts))

    def _drop_last(self) -> None:
        self.end = -heapq.heappop(self._negative_ranks)
        self._num_bytes -= _size(self._texts.pop(self.end))


@dataclass
class _Text:
    """One language, or one unit of it, while it is read."""

    drawable: _Lowest
    held_out: _Lowest
    num_sentences: int = 0
    num_bytes: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)

    def add(self, sentence: str, seed: int) -> None:
        self.num_sentences += 1
        self.num_bytes += _size(sentence)
        kept = self.held_out if is_held_out(sentence) else self.drawable
        kept.add(_digest(sentence, seed) >> _RANK_BITS, sentence)

    def absorb(self, other: _Text) -> None:
        self.num_sentences += other.num_sentences
        self.num_bytes += other.num_bytes
        self.drawable.absorb(other.drawable)
        self.held_out.absorb(other.held_out)
        self.problems += other.problems

    def drawn(self, language: str, share_asked: float) -> LanguageText:
        return LanguageText(
            language,
            self.num_sentences,
            self.num_bytes,
            share_asked,
            self.drawable.ordered(),
            self.drawable.end is None,
            self.held_out.ordered(),
            Problems.merged(self.problems),
        )


def _check(sources: Mapping[str, DocumentSource], num_workers: int) -> None:
    unknown = sorted(set(sources) - set(LANGUAGES))
    if unknown or not sources:
        raise ValueError(
            f"text of the languages {unknown or 'of nobody'} was given; "
            f"give some of {', '.join(LANGUAGES)}."
        )
    if num_workers < 1:
        raise ValueError(f"num_workers is {num_workers}; give 1 or more.")


def _check_read(text: _Text, language: str, source: DocumentSource) -> None:
    if not text.num_sentences:
        raise ValueError(
            f"there is not one sentence of {language} in {source.description}; "
            f"give other text, or leave {language} out."
        )


def _cut(texts: Mapping[str, _Text], config: SampleConfig) -> None:
    """Drops what the sample cannot need: with more languages, each one's number only falls."""
    weights = language_shares(
        {name: text.num_sentences for name, text in texts.items()}, config.alpha
    )
    sizes = {
        name: np.array([_size(sentence) for sentence in text.drawable.ordered()], np.int64)
        for name, text in texts.items()
    }
    for name, number in allotment(sizes, weights, config.max_bytes).items():
        texts[name].drawable.keep_first(number)


def _read(
    units: Sequence[Mapping[str, Any]],
    read: Callable[..., _Text],
    config: SampleConfig,
    num_workers: int,
    pool: Executor,
) -> _Text:
    whole = _Text(_Lowest(config.max_bytes), _Lowest(config.max_held_out_bytes))
    # The ends so far spare a worker from sending what would be thrown away here.
    tasks = ((unit, whole.drawable.end, whole.held_out.end) for unit in units)
    if min(num_workers, len(units)) == 1:
        for task in tasks:
            whole.absorb(read(*task))
        return whole
    pending: deque[Future[_Text]] = deque()
    for task in tasks:
        pending.append(pool.submit(read, *task))
        if len(pending) > num_workers:
            whole.absorb(pending.popleft().result())
    for future in pending:
        whole.absorb(future.result())
    return whole


def _read_unit(
    source: DocumentSource,
    language: str,
    config: SampleConfig,
    on_problem: str,
    unit: Mapping[str, Any],
    drawable_end: int | None,
    held_out_end: int | None,
) -> _Text:
    problems = Problems(on_problem)
    part = _Text(
        _Lowest(config.max_bytes, drawable_end), _Lowest(config.max_held_out_bytes, held_out_end)
    )
    for document in source.documents(unit, problems):
        for piece in sentences(unicodedata.normalize("NFC", document), language):
            for start in range(0, len(piece), MAX_SENTENCE_CHARACTERS):
                if sentence := piece[start : start + MAX_SENTENCE_CHARACTERS].strip():
                    part.add(sentence, config.seed)
    part.problems.append(problems.as_json())
    return part


def _digest(sentence: str, seed: int) -> int:
    """128 bits: the upper half is the rank, the lower one chooses the form."""
    key = str(seed).encode()
    return int.from_bytes(blake2b(sentence.encode(), digest_size=16, key=key).digest(), "big")


def _size(text: str) -> int:
    return len(text.encode())
