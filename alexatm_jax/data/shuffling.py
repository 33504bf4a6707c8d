"""Gives one stream its documents of a corpus, in an order shuffled anew in every epoch."""

from __future__ import annotations

import hashlib
import logging
from typing import Any, Protocol

import numpy as np

from alexatm_jax.data.permutation import Permutation

logger = logging.getLogger(__name__)

_HELD_TOKENS = 1 << 14


class Source(Protocol):
    """Tokenized documents by number: int32 [N] each, without `<s>` and `</s>`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any: ...


class EpochsRead(Exception):
    """A document is wanted that lies behind the last epoch allowed."""


class ShuffledDocuments:
    """The documents that one stream reads of a corpus, numbered on through the epochs.

    Every epoch shuffles the corpus anew, the same way in all streams, and stream s takes
    documents s, s + S, s + 2S, ... of that order: so in each epoch each document is read in
    exactly one stream. Nothing is kept of the order, however large the corpus.

    Attributes:
      name: of the task.
      per_epoch: how many documents this stream reads in an epoch.
      max_epochs: how often a document may be read; None for no limit.

    Args:
      name: of the task; tasks of one corpus have orders of their own.
      corpus: all its documents.
      seed: of the order and of `chance`.
      stream: number of the stream.
      num_streams: S.
      max_epochs: as above.
      repeating: names of the tasks that repeat their documents; to share among tasks and
        streams, for only the first is told of.

    Raises:
      ValueError: if the corpus has fewer documents than there are streams.
    """

    def __init__(
        self,
        name: str,
        corpus: Source,
        *,
        seed: int,
        stream: int,
        num_streams: int,
        max_epochs: int | None = None,
        repeating: set[str] | None = None,
    ) -> None:
        if len(corpus) < num_streams:
            raise ValueError(
                f"the corpus of task {name!r} has {len(corpus)} documents for "
                f"{num_streams} streams; each needs one; use fewer streams."
            )
        self.per_epoch = len(range(stream, len(corpus), num_streams))
        self.name, self._corpus, self._size = name, corpus, len(corpus)
        self._stream, self._num_streams = stream, num_streams
        self._seed = seed
        self._order: tuple[int, Permutation] | None = None  # of an epoch
        self._key = hashlib.blake2b(f"{seed}/{stream}/{name}".encode(), digest_size=16).digest()
        self.max_epochs = max_epochs
        self._repeating = set() if repeating is None else repeating
        self._held: tuple[int, np.ndarray] | None = None

    def __getitem__(self, number: int) -> np.ndarray:
        """Reads a document: int32 [N].

        Raises:
          EpochsRead: if it lies behind the last epoch allowed.
        """
        if self._held is not None and self._held[0] == number:
            return self._held[1]
        if self.max_epochs is not None and number >= self.max_epochs * self.per_epoch:
            raise EpochsRead
        if number == self.per_epoch:
            self._tell_of_repetition()
        tokens = np.asarray(self._corpus[self._index(number)], dtype=np.int32)
        # One that serves many rows need not be read again for each, but a book is no burden
        # then and would be one here, with a document for each stream of each task.
        self._held = (number, tokens) if len(tokens) <= _HELD_TOKENS else None
        return tokens

    def chance(self, number: int, within: int) -> float:
        """Gives each place of each document, stream and task its own number in [0, 1)."""
        place = b"%d/%d" % (number, within)
        digest = hashlib.blake2b(place, digest_size=8, key=self._key).digest()
        return (int.from_bytes(digest, "little") >> 11) / (1 << 53)

    def _tell_of_repetition(self) -> None:
        if not self._repeating:
            logger.warning(
                "task %s begins its second epoch: its documents come again, in another order; "
                "statistics count the epochs of all tasks",
                self.name,
            )
        self._repeating.add(self.name)

    def _index(self, number: int) -> int:
        """Finds the document's number in the corpus."""
        epoch, within = divmod(number, self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            key = f"{self._seed}/{self.name}/{epoch}"  # of any stream
            self._order = epoch, Permutation(self._size, key)
        return self._order[1](self._stream + within * self._num_streams)
