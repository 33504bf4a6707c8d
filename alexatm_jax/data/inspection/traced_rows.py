"""Tells of every token in the rows of a reader which task it comes from and who sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alexatm_jax.batch import OBJECTIVES, Batch
from alexatm_jax.data.cache import TaskSpec
from alexatm_jax.data.pipeline import BatchReader, ReaderConfig
from alexatm_jax.data.streams import Source
from alexatm_jax.data.vocabulary import SpecialIds


@dataclass(frozen=True)
class Segment:
    """One example of a row.

    Attributes:
      task: name of its task; "" if it has special tokens only, which tell no task.
      objective: a name of `batch.OBJECTIVES`.
      encoder_tokens: int32 [n].
      targets: int32 [m], `</s>` last.
      dropped: bool [m], which targets the encoder does not read, special tokens apart: in
        denoising the dropped spans, in CLM all that the decoder continues with.
    """

    task: str
    objective: str
    encoder_tokens: np.ndarray
    targets: np.ndarray
    dropped: np.ndarray


Row = tuple[Segment, ...]


def traced_rows(
    corpora: Mapping[str, Source],
    tasks: Sequence[TaskSpec],
    special: SpecialIds,
    config: ReaderConfig,
    num_batches: int = 1,
) -> list[Row]:
    """Reads the first batches of a reader, tracing each token to where it was read.

    They are read twice: as training reads them, and with a number of its own in the place of
    each token. Objectives look at special tokens only, so both are the same rows, which is
    checked; the numbers then tell equal tokens apart.

    Args:
      corpora: documents by corpus name.
      tasks: the mixture.
      special: ids of the vocabulary's special tokens.
      config: sizes, seed and packing.
      num_batches: how many batches to read.

    Returns:
      The rows of all batches, in order.

    Raises:
      ValueError: as `pipeline.BatchReader`.
    """
    ledger = _Ledger(special)
    numbered = {
        task.name: _NumberedDocuments(corpora[task.corpus], index, ledger)
        for index, task in enumerate(tasks)
    }
    renamed = [replace(task, corpus=task.name) for task in tasks]
    plain_reader = BatchReader(corpora, tasks, special, config)
    numbered_reader = BatchReader(numbered, renamed, special, config)
    rows = []
    for _ in range(num_batches):
        plain, batch = next(plain_reader), next(numbered_reader)
        _check_same(plain, batch, ledger)
        rows += [_row(batch, r, ledger, tasks) for r in range(config.batch_size)]
    return rows


class _Ledger:
    """Gives out numbers for tokens as documents are read, and takes them back for tokens."""

    def __init__(self, special: SpecialIds) -> None:
        self.protected = np.array(sorted(special.protected))
        self._first = self._next = int(self.protected[-1]) + 1
        self._reads: list[tuple[int, int, np.ndarray]] = []

    def numbered(self, tokens: np.ndarray, task: int) -> np.ndarray:
        """Numbers the tokens of one read; special ones keep their ids."""
        numbers = np.arange(self._next, self._next + len(tokens))
        self._reads.append((self._next, task, tokens))
        self._next += len(tokens)
        return np.where(self.is_special(tokens), tokens, numbers).astype(np.int32)

    def tokens(self, numbers: np.ndarray) -> np.ndarray:
        """Gives the tokens behind numbers of any shape."""
        read = np.concatenate([tokens for _, _, tokens in self._reads])
        return np.where(
            numbers < self._first, numbers, read[np.maximum(numbers - self._first, 0)]
        ).astype(np.int32)

    def task(self, numbers: np.ndarray) -> int | None:
        """Tells the task of a segment by the first of its numbers that is not special."""
        ordinary = numbers[~self.is_special(numbers)]
        if not len(ordinary):
            return None
        begins = [begin for begin, _, _ in self._reads]
        return self._reads[int(np.searchsorted(begins, ordinary[0], side="right")) - 1][1]

    def is_special(self, tokens: np.ndarray) -> np.ndarray:
        return np.isin(tokens, self.protected)


class _NumberedDocuments:
    """A source of the same documents with numbers for tokens, new ones at every read."""

    def __init__(self, source: Source, task: int, ledger: _Ledger) -> None:
        self._source, self._task, self._ledger = source, task, ledger

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._ledger.numbered(np.asarray(self._source[index]), self._task)


def _check_same(plain: Batch, numbered: Batch, ledger: _Ledger) -> None:
    for name, values in plain.items():
        traced = ledger.tokens(numbered[name]) if "tokens" in name else numbered[name]
        assert np.array_equal(traced, values), f"{name} differs when tokens are numbered"


def _row(batch: Batch, row: int, ledger: _Ledger, tasks: Sequence[TaskSpec]) -> Row:
    last = int(batch["decoder_segment_ids"][row].max())
    return tuple(_segment(batch, row, number, ledger, tasks) for number in range(1, last + 1))


def _segment(
    batch: Batch, row: int, number: int, ledger: _Ledger, tasks: Sequence[TaskSpec]
) -> Segment:
    read = batch["encoder_segment_ids"][row] == number
    written = batch["decoder_segment_ids"][row] == number
    encoder_numbers = batch["encoder_input_tokens"][row][read]
    target_numbers = batch["decoder_target_tokens"][row][written]
    task = ledger.task(np.append(encoder_numbers, target_numbers))
    ordinary = ~ledger.is_special(target_numbers)
    return Segment(
        "" if task is None else tasks[task].name,
        OBJECTIVES[batch["decoder_objective_ids"][row][written][0]],
        ledger.tokens(encoder_numbers),
        ledger.tokens(target_numbers),
        ordinary & ~np.isin(target_numbers, encoder_numbers),
    )
