"""Fills the rows of one logical stream: which come next depends on its state alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alexatm_jax.batch import NoMoreBatches
from alexatm_jax.data.objectives import Objective
from alexatm_jax.data.packing import Example, OpenRows, Packing
from alexatm_jax.data.places import Place, Span, place_from_json
from alexatm_jax.data.shares import Shares
from alexatm_jax.data.shuffling import EpochsRead, ShuffledDocuments, Source
from alexatm_jax.data.task_reader import TaskReader
from alexatm_jax.data.vocabulary import SpecialIds

# Joined documents that fill less of a row's rest would teach little and cut a document for it.
_LEAST_FILL = 8


@dataclass(frozen=True)
class Part:
    """One task of a mixture, with all that a stream needs of it.

    Args:
      name: of the task.
      corpus: its documents.
      objective: what is made of them.
      rate: share of the mixture's text tokens; rates need not sum to 1. Of a task without any
        nothing is read.
    """

    name: str
    corpus: Source
    objective: Objective
    rate: float


class Stream:
    """An endless iterator over rows, in which every task keeps its share of the text tokens.

    Rows are filled some at a time, `packing.num_rows` of them. Those that the stream begins
    with are fewer, in each stream another number: so that later not all streams of a host
    fill rows for the same batch, and none for the next ones.

    Attributes:
      tokens: of each task in the rows given so far, int64 [tasks, 3]: what the encoder read,
        what the decoder wrote, and text, which counts a token of a document once.

    Args:
      parts: the mixture.
      packing: of the rows.
      special: ids of the vocabulary's special tokens.
      number: number of the stream.
      num_streams: how many streams there are.
      seed: of the order of documents and of what is done to them.
      max_epochs: how often a document may be read; None for no limit.
      repeating: as in `ShuffledDocuments`.

    Raises:
      ValueError: if a corpus has too few documents for the streams, or an objective cannot serve
        such rows. Iterating raises it if a task finds no document that is long enough, and
        NoMoreBatches if one would be read too often.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        packing: Packing,
        special: SpecialIds,
        *,
        number: int,
        num_streams: int,
        seed: int,
        max_epochs: int | None = None,
        repeating: set[str] | None = None,
    ) -> None:
        def reader(task: int, part: Part) -> TaskReader:
            documents = ShuffledDocuments(
                part.name,
                part.corpus,
                seed=seed,
                stream=number,
                num_streams=num_streams,
                max_epochs=max_epochs,
                repeating=repeating,
            )
            return TaskReader(part.objective, documents, special, packing, task=task)

        self._packing, self._special, self._number, self._seed = packing, special, number, seed
        self._least_fill = min(_LEAST_FILL, packing.encoder_length, packing.decoder_length)
        self._readers = readers = [reader(task, part) for task, part in enumerate(parts)]
        rates = [part.rate for part in parts]
        self._shares = Shares(rates, number, num_streams)
        joins, wanted = np.array([reader.joins for reader in readers]), np.array(rates) > 0
        self._joining = np.flatnonzero(wanted & joins)
        self._in_pieces = np.flatnonzero(wanted & ~joins).tolist()
        self.tokens = np.zeros((len(readers), 3), np.int64)
        self._earlier_text: list[int] = []  # tokens read in each earlier phase of training
        self._group = -1  # number, in this phase, of the rows that were filled together
        self._rows: list[list[Example]] = []
        self._arrays: dict[str, np.ndarray] = {}
        self._rows_given = 0

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """Gives a row: the arrays of `alexatm_jax.batch` without their batch axis."""
        if self._rows_given == len(self._rows):
            self._fill_rows(self._group + 1)
        given = self._rows_given
        self._rows_given += 1
        for example in self._rows[given]:
            sides = example.sides(self._special)
            self.tokens[example.task] += (*sides, example.text_tokens)
        return {name: values[given] for name, values in self._arrays.items()}

    def get_state(self) -> dict[str, Any]:
        """Gives what `set_state` needs to continue behind the last row; JSON-able."""
        all_given = self._rows_given == len(self._rows)
        return {
            **(self._standing(self._group + 1) if all_given else self._filled_from),
            "rows_given": 0 if all_given else self._rows_given,
            "tokens": self.tokens.tolist(),
            "earlier_text": list(self._earlier_text),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues as the stream that gave this state."""
        for reader, place in zip(self._readers, state["places"], strict=True):
            reader.place = place_from_json(place)
        self._shares.served[:] = state["served"]
        self.tokens[:] = state["tokens"]
        self._earlier_text = list(state["earlier_text"])
        self._group, self._rows, self._rows_given = state["group"] - 1, [], 0
        if state["rows_given"]:
            self._fill_rows(state["group"])
            self._rows_given = state["rows_given"]

    def continue_from(self, before: Stream) -> None:
        """Begins a new phase of training behind the last row that another stream gave.

        Every token that it passed and did not give is read here, none that it gave; shares are
        kept from here on.

        Args:
          before: of the same documents, number and seed, and objectives of the same kinds.
        """
        for reader, place in zip(self._readers, before._places_behind(), strict=True):
            reader.place = place
        self._shares.served[:] = 0
        self.tokens[:] = before.tokens
        text = int(before.tokens[:, 2].sum())
        self._earlier_text = [*before._earlier_text, text - sum(before._earlier_text)]
        self._group, self._rows, self._rows_given = -1, [], 0

    def _places_behind(self) -> list[Place]:
        """Says where each task goes on if rows that are laid out are never given."""
        never_given = [example for row in self._rows[self._rows_given :] for example in row]
        return [
            _place_behind(reader, [e for e in never_given if e.task == task])
            for task, reader in enumerate(self._readers)
        ]

    def _standing(self, next_group: int) -> dict[str, Any]:
        return {
            "group": next_group,
            "places": [reader.place.as_json() for reader in self._readers],
            "served": self._shares.served.tolist(),
        }

    def _fill_rows(self, group: int) -> None:
        self._filled_from = self._standing(group)
        count = self._packing.num_rows if group else 1 + self._number % self._packing.num_rows
        # Philox makes numbers from a key and a counter, of which it advances the lowest word.
        counter = (0, len(self._earlier_text), group, self._number)
        rng = np.random.Generator(np.random.Philox(key=(self._seed, 0), counter=counter))
        rows = self._choose_examples(self._packing.open_rows(count))
        self._arrays = self._packing.lay(rows, self._special, rng)
        self._group, self._rows, self._rows_given = group, rows, 0

    def _choose_examples(self, rows: OpenRows) -> list[list[Example]]:
        """Takes examples of the tasks whose turn it is until one has room in no row.

        Joined documents then take what is left of the rows, whose turn ever it is, unless
        they are ahead of their share by more than a row.
        """
        for task in self._in_pieces:
            self._look_ahead(task)
        while rows:
            self._shares.sizes[self._joining] = min(rows.first_room)
            task = self._shares.next_task()
            if self._readers[task].joins:
                self._fill_first(rows, task)
            elif not self._add_piece(rows, task):
                break
        while rows:
            self._fill_first(rows, self._joining_task())
        return rows.rows

    def _look_ahead(self, task: int) -> None:
        """Asks how long the task's next piece is; one that may not be read needs no room yet."""
        try:
            self._shares.sizes[task] = self._readers[task].piece().text_tokens
        except EpochsRead:
            self._shares.sizes[task] = 0

    def _add_piece(self, rows: OpenRows, task: int) -> bool:
        """Adds the task's next piece to a row, unless none has room."""
        reader = self._readers[task]
        try:
            example = reader.piece()
        except EpochsRead:
            raise self._read_too_often(task) from None
        if not rows.add(example, *example.sides(self._special)):
            return False
        self._shares.served[task] += example.text_tokens
        reader.move_on()
        self._look_ahead(task)
        return True

    def _joining_task(self) -> int | None:
        """Chooses who takes what is left of a row, whose turn ever it is.

        Nobody, if such tasks have more than a row beyond their share.
        """
        if self._shares.lead(self._joining) > self._packing.decoder_length:
            return None
        return self._shares.next_of(self._joining) if len(self._joining) else None

    def _fill_first(self, rows: OpenRows, task: int | None) -> None:
        """Closes the first open row, its room filled by a task that joins documents, if any."""
        room = rows.first_room
        if task is None or min(room) < self._least_fill:
            rows.close_first(None)
            return
        try:
            example = self._readers[task].joined(*room)
        except EpochsRead:
            raise self._read_too_often(task) from None
        rows.close_first(example)
        self._shares.served[task] += example.text_tokens

    def _read_too_often(self, task: int) -> NoMoreBatches:
        documents, served = self._readers[task].documents, int(self._shares.served[task])
        return NoMoreBatches(
            f"task {documents.name!r} has read its {documents.per_epoch} documents of stream "
            f"{self._number} {documents.max_epochs} times, {served} text tokens in this phase, and "
            "max_epochs allows no more; train for fewer steps, lower the task's rate, give it more "
            "documents, or raise max_epochs."
        )


def _place_behind(reader: TaskReader, never_given: Sequence[Example]) -> Place:
    """Gives a task's place with what is in these rows of it still to be read.

    Joined documents fill rows in the order in which they are read, so those of the last rows are
    the last. Pieces go first-fit into all rows that are open, so there are gaps between them.
    """
    if reader.joins:
        return never_given[0].place if never_given else reader.place
    spans = [
        Span(document, begin, begin + len(example.tokens))
        for example in never_given
        for document, begin, _ in [example.place]
    ]
    return reader.place._replace(returned=tuple(sorted([*spans, *reader.place.returned])))
