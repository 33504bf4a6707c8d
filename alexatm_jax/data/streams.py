"""Reads one logical stream of rows: which comes next depends on its cursor alone."""

from __future__ import annotations

import bisect
import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import grain
import numpy as np

from alexatm_jax.batch import OBJECTIVES
from alexatm_jax.data.denoising import Denoising
from alexatm_jax.data.objectives import Objective
from alexatm_jax.data.packing import Example, Packing
from alexatm_jax.data.vocabulary import SpecialIds

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2

# A stream's share of a small corpus may by chance hold only unusable documents, for some
# epochs; so many in a row are no chance.
_PATIENCE = 1000


class Source(Protocol):
    """Tokenized documents by number: int32 [N] each, without `<s>` and `</s>`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any: ...


class Place(NamedTuple):
    """Where a task's next example begins in its stream of documents.

    Args:
      document: number of the document, counted on through the epochs.
      within: which token of it (documents joined by `[DOC]`) or which piece (others).
    """

    document: int = 0
    within: int = 0


class Cursor(NamedTuple):
    """Where a stream is: how many examples it drew, and each task's place."""

    draws: int
    places: tuple[Place, ...]


class TaskReader:
    """Makes the examples of one task in one stream.

    Every epoch shuffles the corpus anew, the same way in all streams, and stream s takes
    documents s, s + S, s + 2S, ... of that order: so in each epoch each document is read in
    exactly one stream.

    Attributes:
      documents_per_epoch: how many documents this stream reads in an epoch.

    Raises:
      ValueError: if the corpus has fewer documents than there are streams.
    """

    def __init__(
        self,
        name: str,
        corpus: Source,
        objective: Objective,
        special: SpecialIds,
        packing: Packing,
        *,
        seed: int,
        stream: int,
        num_streams: int,
        task: int = 0,
    ) -> None:
        if len(corpus) < num_streams:
            raise ValueError(
                f"the corpus of task {name!r} has {len(corpus)} documents for "
                f"{num_streams} streams; each needs one; use fewer streams."
            )
        shuffle_seed = zlib.crc32(f"{seed}/{name}".encode())
        shuffled = grain.MapDataset.source(corpus).shuffle(seed=shuffle_seed)
        share = shuffled[stream::num_streams]
        self.documents_per_epoch = len(share)
        self._documents = share.repeat()
        self._last_read: tuple[int, np.ndarray] | None = None
        self._name, self._objective, self._special = name, objective, special
        self._packing, self._task = packing, task
        self._key, self._stream = (seed, zlib.crc32(name.encode())), stream
        joins = packing.mode == "document_separator" and isinstance(objective, Denoising)
        self._read_tokens = self._joined_documents if joins else self._piece

    def read(self, place: Place) -> tuple[Example, Place]:
        """Makes the example that begins here; also gives the place where the next begins.

        Raises:
          ValueError: if no document is long enough for the objective.
        """
        tokens, next_place = self._read_tokens(place)
        encoder_tokens, targets = self._objective(tokens, self._special, self._rng(place))
        example = Example(
            encoder_tokens,
            targets,
            OBJECTIVES.index(self._objective.kind),
            self._objective.position_end,
            self._task,
        )
        return example, next_place

    def _rng(self, place: Place) -> np.random.Generator:
        """Gives each place of each stream and task random numbers of its own.

        Philox makes them from a key and a counter, of which it advances only the low word.
        """
        counter = (0, place.within, place.document, self._stream)
        return np.random.Generator(np.random.Philox(key=self._key, counter=counter))

    def _piece(self, place: Place) -> tuple[np.ndarray, Place]:
        """Takes one piece of one document, all of it if it fits a row."""
        number, tokens = next(self._usable_documents(place.document))
        within = place.within if number == place.document else 0
        pieces = self._objective.split_document(
            tokens, self._packing.encoder_length, self._packing.decoder_length
        )
        if within + 1 == len(pieces):
            return pieces[within], Place(number + 1)
        return pieces[within], Place(number, within + 1)

    def _joined_documents(self, place: Place) -> tuple[np.ndarray, Place]:
        """Fills a row with documents, `[DOC]` between them, cutting the first and last."""
        assert isinstance(self._objective, Denoising)
        lengths = self._packing.encoder_length, self._packing.decoder_length
        separator = np.array([self._special.doc], dtype=np.int32)
        parts: list[np.ndarray] = []
        begins: list[tuple[int, Place]] = []  # index in the row, and place, of each part
        total = 0
        for number, tokens in self._usable_documents(place.document):
            within = place.within if number == place.document else 0
            total += len(separator) if parts else 0
            begins.append((total, Place(number, within)))
            part = tokens[within : within + lengths[1]]  # more than a row ever takes
            parts += [separator, part] if parts else [part]
            total += len(part)
            if total >= lengths[1] - 1:
                break
        joined = np.concatenate(parts)
        end = self._objective.longest_prefix(joined, self._special, *lengths)
        return self._cut(joined, end, begins)

    def _cut(
        self, joined: np.ndarray, end: int, begins: list[tuple[int, Place]]
    ) -> tuple[np.ndarray, Place]:
        """Ends the row in the last document of which it holds a token.

        A `[DOC]` with no token behind it would part nothing, and is left out.
        """
        index = max(i for i, (begin, _) in enumerate(begins) if begin < end)
        begin, (number, within) = begins[index]
        following = begins[index + 1][0] if index + 1 < len(begins) else len(joined) + 1
        if end >= following - 1:
            return joined[: following - 1], Place(number + 1)
        return joined[:end], Place(number, within + end - begin)

    def _usable_documents(self, first: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields numbers and tokens from `first` on, passing over too short documents."""
        passed_over, patience = 0, max(self.documents_per_epoch, _PATIENCE)
        for number in itertools.count(first):
            tokens = self._tokens(number)
            if len(tokens) >= self._objective.fewest_tokens:
                passed_over = 0
                yield number, tokens
            elif (passed_over := passed_over + 1) > patience:
                raise ValueError(
                    f"task {self._name!r}: {passed_over} documents in a row have fewer "
                    f"than the {self._objective.fewest_tokens} tokens that "
                    f"{self._objective.kind!r} needs; look at the corpus and its tokenizer."
                )

    def _tokens(self, number: int) -> np.ndarray:
        """Reads a document; a long one serves many rows and is read only once."""
        if self._last_read is None or self._last_read[0] != number:
            self._last_read = number, np.asarray(self._documents[number], dtype=np.int32)
        return self._last_read[1]


class Stream:
    """Mixes the examples of several tasks by rate and packs them, in an endless iterator.

    Draw n of stream s takes the task in whose interval of cumulated rates the number
    frac((s + 1/2) / S + n x golden ratio) lies. Multiples of the golden ratio spread evenly
    over [0, 1), and so do the streams: each stream realises the rates in the long run, and
    all streams together in every round of draws, to about one draw. Rates count examples:
    rows in mode "document_separator", documents in mode "isolated".

    Attributes:
      tokens: encoder and decoder tokens of each task in the rows given so far.
    """

    def __init__(
        self,
        number: int,
        num_streams: int,
        readers: Sequence[TaskReader],
        rates: Sequence[float],
        packing: Packing,
        bos: int,
    ) -> None:
        self._offset = (number + 0.5) / num_streams
        self._readers, self._packing, self._bos = readers, packing, bos
        self._bounds = list(np.cumsum(rates) / np.sum(rates))[:-1]
        self.tokens = [[0, 0] for _ in readers]
        self._cursor = Cursor(0, (Place(),) * len(readers))
        self._rows: list[list[Example]] = []
        self._rows_given = 0

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if self._rows_given == len(self._rows):
            self._fill_rows()
        examples = self._rows[self._rows_given]
        self._rows_given += 1
        for example in examples:
            self.tokens[example.task][0] += len(example.encoder_tokens)
            self.tokens[example.task][1] += len(example.decoder_targets)
        return self._packing.row(examples, self._bos)

    def get_state(self) -> dict[str, Any]:
        """Gives what `set_state` needs to continue behind the last row; JSON-able."""
        all_given = self._rows_given == len(self._rows)
        cursor = self._cursor if all_given else self._filled_from
        return {
            "draws": cursor.draws,
            "places": [list(place) for place in cursor.places],
            "rows_given": 0 if all_given else self._rows_given,
            "tokens": [list(counts) for counts in self.tokens],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues as the stream that gave this state."""
        self._cursor = Cursor(state["draws"], tuple(Place(*p) for p in state["places"]))
        self.tokens = [list(counts) for counts in state["tokens"]]
        self._rows, self._rows_given = [], 0
        if state["rows_given"]:
            self._fill_rows()
            self._rows_given = state["rows_given"]

    def _fill_rows(self) -> None:
        self._filled_from = self._cursor
        if self._packing.mode == "document_separator":
            self._rows = [[self._draw()]]
        else:
            self._rows = self._packing.first_fit(self._draws())
            # The example that fitted nowhere begins the next rows.
            self._cursor = self._before_last_draw
        self._rows_given = 0

    def _draws(self) -> Iterator[Example]:
        while True:
            self._before_last_draw = self._cursor
            yield self._draw()

    def _draw(self) -> Example:
        draws, places = self._cursor
        point = (self._offset + draws * _GOLDEN_RATIO) % 1.0
        task = bisect.bisect_right(self._bounds, point)
        example, place = self._readers[task].read(places[task])
        self._cursor = Cursor(draws + 1, (*places[:task], place, *places[task + 1 :]))
        return example
