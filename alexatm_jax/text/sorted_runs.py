"""Sorts more hashes than memory holds: sorted runs in a temporary file, merged range by range."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import IO

import numpy as np

HASH, OWNER = np.dtype("<u8"), np.dtype("<u2")
RUN_HASHES = 1 << 21
"""Hashes sorted at a time, within about 100 MB of memory."""


class SortedRuns:
    """Hashes and their owners; an owner is a number below 65,536."""

    def __init__(self, file: IO[bytes], hash_bits: int) -> None:
        """Starts with none.

        Args:
          file: empty and open in binary mode, to write and read; takes 8 bytes a hash.
          hash_bits: all hashes will be below 2^hash_bits, and spread evenly.
        """
        self._file = file
        self._hash_bits = hash_bits
        self._owners: list[int] = []
        self._lengths: list[int] = []
        self._waiting: list[np.ndarray] = []
        self._num_waiting = 0
        self._owner = 0

    def add(self, owner: int, hashes: np.ndarray) -> None:
        """Adds hashes, uint64 [any], of one owner; owners must come in ascending order."""
        if owner != self._owner or self._num_waiting >= RUN_HASHES:
            self._spill()
        self._owner = owner
        self._waiting.append(hashes)
        self._num_waiting += len(hashes)

    def _spill(self) -> None:
        if self._num_waiting:
            hashes = np.concatenate(self._waiting)
            # np.unique would take 100 times as long.
            hashes.sort()
            run = hashes[changes(hashes)].astype(HASH)
            self._file.write(run.tobytes())
            self._owners.append(self._owner)
            self._lengths.append(len(run))
        self._waiting, self._num_waiting = [], 0

    def merged(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Gives all distinct pairs of hash and owner, sorted, in blocks of a range of hashes.

        Returns:
          uint64 [N] and uint16 [N] at a time; all pairs of one hash come in the same block.
        """
        self._spill()
        if not self._lengths:
            return
        self._file.flush()
        runs = np.split(np.memmap(self._file, HASH, "r"), np.cumsum(self._lengths)[:-1])
        for first, last in itertools.pairwise(self._cuts(runs)):
            hashes = [run[i:j] for run, i, j in zip(runs, first, last, strict=True)]
            owners = np.repeat(np.array(self._owners, OWNER), last - first)
            yield _distinct(np.concatenate(hashes), owners)

    def _cuts(self, runs: list[np.ndarray]) -> Iterator[np.ndarray]:
        """Cuts each run into ranges of hashes, which together hold about RUN_HASHES."""
        parts = -(-sum(self._lengths) // RUN_HASHES)
        for part in range(parts):
            bound = np.uint64((part << self._hash_bits) // parts)
            yield np.array([run.searchsorted(bound) for run in runs])
        yield np.array(self._lengths)


def _distinct(hashes: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorts pairs whose owners ascend, and keeps one of each."""
    # A stable sort leaves the owners of one hash ascending, so equal pairs come together.
    order = np.argsort(hashes, kind="stable")
    hashes, owners = hashes[order], owners[order]
    new = changes(hashes) | changes(owners)
    return hashes[new], owners[new]


def changes(values: np.ndarray) -> np.ndarray:
    """Says of each value whether it differs from the one before; the first one does."""
    changed = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=changed[1:])
    return changed
