"""Tokenized documents in ArrayRecord files: written in order, read in any order."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

REMAKE = "remove this cache, or name a new folder, and write it with --run_mode=cache"

# ArrayRecord compresses groups of records; groups of one make random access cheap.
_WRITER_OPTIONS = "group_size:1"


class CacheError(ValueError):
    """A cache that is absent, broken, or made for something else."""


class TokenSource:
    """Random access to documents in the files of a folder, for `grain.MapDataset.source`.

    It can be pickled; every process opens its own readers.

    Raises:
      CacheError: if a file is missing or unreadable.
    """

    def __init__(self, folder: Path, dtype: str) -> None:
        self._dtype = np.dtype(dtype)
        paths = sorted(folder.glob("documents.array_record-*"))
        if not paths or paths != _paths(folder, len(paths)):
            names = [path.name for path in paths]
            raise CacheError(f"{folder} holds {names}, not all of its files; {REMAKE}.")
        self._paths = [str(path) for path in paths]
        try:
            self._records = ArrayRecordDataSource(self._paths)
        except (RuntimeError, ValueError) as error:
            raise CacheError(f"{folder} cannot be read ({error}); {REMAKE}.") from error

    def __repr__(self) -> str:
        return f"TokenSource({self._paths})"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> np.ndarray:
        """Reads document `index` as int32 [N], N >= 1."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no document {index}; {self} has {len(self)}.")
        try:
            record = self._records[index]
            return np.frombuffer(record, self._dtype).astype(np.int32)
        except (RuntimeError, ValueError) as error:
            raise CacheError(
                f"document {index} of {self} cannot be read ({error}); {REMAKE}."
            ) from error


def write_records(
    folder: Path,
    documents: Iterable[np.ndarray],
    dtype: str,
    num_ids: int,
    shard_bytes: int,
) -> tuple[int, int, int]:
    """Writes documents to files of a folder that exists and is empty.

    Args:
      folder: where to write.
      documents: integer arrays [N]; those without token are only counted.
      dtype: how a record stores its tokens.
      num_ids: ids must be below this.
      shard_bytes: a new file is begun once one holds so many bytes of tokens.

    Returns:
      The numbers of documents and tokens written and of empty documents.

    Raises:
      CacheError: if a document is no array of token ids.
    """
    shards = _Shards(folder, shard_bytes)
    num_documents = num_tokens = num_empty = 0
    for position, document in enumerate(documents):
        _check_document(document, position, num_ids)
        if len(document):
            shards.write(document.astype(dtype).tobytes())
            num_documents += 1
            num_tokens += len(document)
        else:
            num_empty += 1
    shards.close()
    return num_documents, num_tokens, num_empty


class _Shards:
    """Files whose final names, which tell their number, come when that is known."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self._folder, self._shard_bytes = folder, shard_bytes
        self._parts: list[Path] = []
        self._writer: ArrayRecordWriter | None = None
        self._room = 0

    def write(self, record: bytes) -> None:
        if self._writer is None or self._room <= 0:
            self._close_writer()
            self._parts.append(self._folder / f"part-{len(self._parts)}")
            self._writer = ArrayRecordWriter(str(self._parts[-1]), _WRITER_OPTIONS)
            self._room = self._shard_bytes
        self._writer.write(record)
        self._room -= len(record)

    def close(self) -> None:
        self._close_writer()
        paths = _paths(self._folder, len(self._parts))
        for part, path in zip(self._parts, paths, strict=True):
            part.rename(path)

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _paths(folder: Path, count: int) -> list[Path]:
    name = "documents.array_record-{:05d}-of-{:05d}"
    return [folder / name.format(shard, count) for shard in range(count)]


def _check_document(document: np.ndarray, position: int, num_ids: int) -> None:
    if document.ndim != 1 or document.dtype.kind not in "iu":
        raise CacheError(
            f"document {position} is {document.dtype}{document.shape}; it must be an "
            "integer array [N] of token ids; give what Vocabulary.encode gives."
        )
    if len(document) and not 0 <= document.min() <= document.max() < num_ids:
        raise CacheError(
            f"document {position} has ids from {document.min()} to {document.max()}; they "
            f"must be in [0, {num_ids}); tokenize with the vocabulary of the cache."
        )
