"""Makes the examples of one task in one stream, in the order of its documents."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from alexatm_jax.data.denoising import Denoising
from alexatm_jax.data.objectives import Objective
from alexatm_jax.data.packing import Example, Packing
from alexatm_jax.data.pieces import first_piece
from alexatm_jax.data.places import Place, Span
from alexatm_jax.data.shuffling import ShuffledDocuments
from alexatm_jax.data.vocabulary import SpecialIds

# A stream's share of a small corpus may by chance hold only unusable documents, for some
# epochs; so many in a row are no chance.
_PATIENCE = 1000


class TaskReader:
    """Makes examples of documents, one after the other.

    Attributes:
      documents: that it reads.
      place: where the next example begins; may be set. Examples of joined documents go on from
        there; only pieces are read of what it has returned.
      joins: whether examples are joined documents, made by `joined`, or pieces of one each,
        made by `piece`.

    Args:
      objective: of the task.
      documents: that it reads.
      special: ids of the vocabulary's special tokens.
      packing: of the rows.
      task: index of the task, to mark the examples with.

    Raises:
      ValueError: if the objective cannot serve such rows.
    """

    def __init__(
        self,
        objective: Objective,
        documents: ShuffledDocuments,
        special: SpecialIds,
        packing: Packing,
        *,
        task: int = 0,
    ) -> None:
        self.documents, self.place, self.joins = documents, Place(), packing.joins(objective)
        self._objective, self._special, self._task = objective, special, task
        lengths = packing.encoder_length, packing.decoder_length
        self._longest_piece = objective.longest_piece(*lengths)
        self._piece: tuple[Place, Example, Place] | None = None

    def piece(self) -> Example:
        """Makes the example that begins here, without moving on.

        Raises:
          EpochsRead: if it lies behind the last epoch allowed.
          ValueError: if no document is long enough for the objective.
        """
        if self._piece is None or self._piece[0] != self.place:
            self._piece = (self.place, *self._read_piece())
        return self._piece[1]

    def move_on(self) -> None:
        """Goes to the place where the example behind `piece` begins."""
        assert self._piece is not None and self._piece[0] == self.place
        self.place = self._piece[2]

    def joined(self, encoder_room: int, decoder_room: int) -> Example:
        """Joins as much as fits the room with `[DOC]`, cutting the first and last, and moves on.

        Args:
          encoder_room: tokens, at least 1.
          decoder_room: tokens, at least 2.

        Raises:
          EpochsRead, ValueError: as `piece`.
        """
        assert isinstance(self._objective, Denoising)
        separator = np.array([self._special.doc], dtype=np.int32)
        parts: list[np.ndarray] = []
        begins: list[tuple[int, Place]] = []  # index in the example, and place, of each part
        total = 0
        for place, tokens in self._usable_documents():
            total += len(separator) if parts else 0
            begins.append((total, place))
            part = tokens[place.within : place.within + decoder_room]  # more than it ever takes
            parts += [separator, part] if parts else [part]
            total += len(part)
            if total >= decoder_room - 1:
                break
        joined = np.concatenate(parts)
        end = self._objective.longest_prefix(joined, self._special, encoder_room, decoder_room)
        text, num_documents, self.place = _cut(joined, end, begins)
        return self._example(text, begins[0][1], num_documents)

    def _read_piece(self) -> tuple[Example, Place]:
        """Takes the next piece, all of a document if it fits a row; says what follows."""
        if self.place.returned:
            return self._read_returned()
        place, tokens = next(self._usable_documents())
        document, begin, _ = place
        end = begin + first_piece(len(tokens) - begin, self._longest_piece)
        if end - begin == len(tokens):
            return self._example(tokens, place), Place(document + 1)
        example = self._example(tokens[begin:end].copy(), place)  # a view would hold the whole book
        return example, Place(document, end) if end < len(tokens) else Place(document + 1)

    def _read_returned(self) -> tuple[Example, Place]:
        """Takes the first piece of the first span that was returned."""
        (document, begin, last), *later = self.place.returned
        end = begin + first_piece(last - begin, self._longest_piece)
        tokens = self.documents[document][begin:end].copy()
        rest = [Span(document, end, last)] if end < last else []
        after = self.place._replace(returned=(*rest, *later))
        return self._example(tokens, Place(document, begin)), after

    def _example(self, tokens: np.ndarray, place: Place, num_documents: int = 1) -> Example:
        # An example may be looked at and left for later rows. Were its number drawn anew, long
        # ones would be drawn until they are short; so it belongs to the place.
        def chance() -> float:
            return self.documents.chance(place.document, place.within)

        num_read = self._objective.num_read(tokens, self._special, chance)
        return Example(tokens, num_read, self._objective, self._task, num_documents, place)

    def _usable_documents(self) -> Iterator[tuple[Place, np.ndarray]]:
        """Yields tokens from the place on, and where they begin, passing over short documents."""
        passed_over, patience = 0, max(self.documents.per_epoch, _PATIENCE)
        for number in itertools.count(self.place.document):
            tokens = self.documents[number]
            if len(tokens) >= self._objective.fewest_tokens:
                passed_over = 0
                yield self.place if number == self.place.document else Place(number), tokens
            elif (passed_over := passed_over + 1) > patience:
                raise ValueError(
                    f"task {self.documents.name!r}: {passed_over} documents in a row have fewer "
                    f"than the {self._objective.fewest_tokens} tokens that "
                    f"{self._objective.kind!r} needs; look at the corpus and its tokenizer."
                )


def _cut(
    joined: np.ndarray, end: int, begins: list[tuple[int, Place]]
) -> tuple[np.ndarray, int, Place]:
    """Ends an example in the last document of which it holds a token.

    Also counts its documents and says what follows. A `[DOC]` with no token behind it would
    part nothing, and is left out.
    """
    index = max(i for i, (begin, _) in enumerate(begins) if begin < end)
    begin, (number, within, _) = begins[index]
    following = begins[index + 1][0] if index + 1 < len(begins) else len(joined) + 1
    if end >= following - 1:
        return joined[: following - 1], index + 1, Place(number + 1)
    return joined[:end], index + 1, Place(number, within + end - begin)
