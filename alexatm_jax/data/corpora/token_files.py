"""Tokenized documents in flat files: written in order, read in any order.

A shard is two files of a corpus's folder, both little endian:

    documents-00000-of-00012.tokens   the tokens of all its documents, uint16 or int32
    documents-00000-of-00012.ends     uint64, where in it each document ends, in tokens

They are mapped into memory, so that opening reads next to nothing and a document costs a copy of
its tokens, whatever the number of documents.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import itertools
import mmap
import os
import secrets
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

REMAKE = "remove this cache, or name a new folder, and write it with --run_mode=cache"

_END = np.dtype("<u8")

# Linux lets a process map some 65,000 files; beyond this many shards of two files each, all
# corpora together, the shard mapped first is mapped anew when it is read again.
_MOST_MAPPED_SHARDS = 16_384

_BUFFERED_TOKENS = 1 << 18

_SMALL_BYTES = 16 << 20


class CacheError(ValueError):
    """A cache that is absent, broken, or made for something else."""


class Shard(NamedTuple):
    """What a corpus's provenance says of one shard.

    Attributes:
      documents: how many there are.
      tokens: how many they have.
      sha256: hash of the file of tokens.
      ends_sha256: hash of the file of ends.
    """

    documents: int
    tokens: int
    sha256: str
    ends_sha256: str


class _Mapped(NamedTuple):
    tokens: np.ndarray
    ends: np.ndarray


_mapped: OrderedDict[tuple[int, int], _Mapped] = OrderedDict()
"""The shards mapped by this process, by corpus (a number of its own) and shard."""

_numbers = itertools.count()


def _unmap(corpus: int) -> None:
    for key in list(_mapped):
        if key[0] == corpus:
            _mapped.pop(key, None)


def shard_stem(shard: int, num_shards: int) -> str:
    """Names a shard's files, but for their endings."""
    return f"documents-{shard:05d}-of-{num_shards:05d}"


def token_dtype(num_ids: int) -> str:
    """Chooses how tokens are stored: "uint16" for ids below 65536, else "int32"."""
    return "uint16" if num_ids <= 1 << 16 else "int32"


def is_whole(folder: Path, stem: str, shard: Shard, dtype: str) -> bool:
    """Tells whether both files of a shard are there and have their sizes."""
    needed = {"tokens": shard.tokens * np.dtype(dtype).itemsize, "ends": shard.documents * 8}
    paths = {folder / f"{stem}.{kind}": size for kind, size in needed.items()}
    return all(path.exists() and path.stat().st_size == size for path, size in paths.items())


class TokenFiles:
    """Random access to the documents of a corpus, int32 [N] each, N >= 1: a `streams.Source`.

    It can be pickled; every process maps the files itself.

    Args:
      folder: of the corpus.
      dtype: how tokens are stored, "uint16" or "int32".
      shards: what is known of each shard, in order, empty ones included: objects with the
        fields of `Shard`.

    Raises:
      CacheError: if files are missing or too many, or their sizes or ends disagree with `shards`.
        Up to 16 MB are also read and compared with their hashes; of more, only `verify` does that.
    """

    def __init__(
        self, folder: str | os.PathLike[str], dtype: str, shards: Sequence[Mapping[str, Any]]
    ) -> None:
        self._folder, self._dtype = Path(folder), np.dtype(dtype).newbyteorder("<")
        self._shards = _parsed(self._folder, shards)
        self._firsts = [0, *itertools.accumulate(shard.documents for shard in self._shards)]
        self._open()
        self._check_files()

    def __repr__(self) -> str:
        return f"TokenFiles({str(self._folder)!r}, {len(self)} documents)"

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        self._corpus = next(_numbers)
        weakref.finalize(self, _unmap, self._corpus)

    def __len__(self) -> int:
        return self._firsts[-1]

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents together."""
        return sum(shard.tokens for shard in self._shards)

    def __getitem__(self, index: int) -> np.ndarray:
        """Reads document `index` as int32 [N].

        Raises:
          IndexError: if there is no such document; negative indices are not counted from the end.
          CacheError: if its ends are damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"there is no document {index}; {self} counts from 0.")
        shard = bisect.bisect_right(self._firsts, index) - 1
        tokens, ends = _mapped.get((self._corpus, shard)) or self._map(shard)
        place = index - self._firsts[shard]
        begin = int(ends[place - 1]) if place else 0
        end = int(ends[place])
        if not begin < end <= len(tokens):
            self._refuse(shard, f"document {index} is tokens {begin} to {end} of {len(tokens)}")
        return tokens[begin:end].astype(np.int32)

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """Counts the tokens of documents `start` to `stop` - 1: int64 [stop - start].

        Raises:
          IndexError: if there are no such documents.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"there are no documents {start} to {stop}; {self} counts from 0.")
        parts: list[np.ndarray] = [np.zeros(0, np.int64)]
        for shard, (first, end) in enumerate(itertools.pairwise(self._firsts)):
            low, high = max(start - first, 0), min(stop, end) - first
            if low < high:
                ends = (_mapped.get((self._corpus, shard)) or self._map(shard)).ends
                before = int(ends[low - 1]) if low else 0
                parts.append(np.diff(ends[low:high].astype(np.int64), prepend=before))
        return np.concatenate(parts)

    def verify(self) -> None:
        """Reads every byte; raises CacheError if one is not what was written."""
        for number, shard in enumerate(self._shards):
            for path, wanted in zip(self._paths(number), shard[2:], strict=True):
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                if found != wanted:
                    self._refuse(number, f"the sha256 of {path.name} is {found}, not {wanted}")

    def _paths(self, shard: int) -> tuple[Path, Path]:
        stem = shard_stem(shard, len(self._shards))
        return self._folder / f"{stem}.tokens", self._folder / f"{stem}.ends"

    def _check_files(self) -> None:
        with os.scandir(self._folder) as entries:
            ours = [entry for entry in entries if entry.name.startswith("documents-")]
            sizes = {entry.name: entry.stat().st_size for entry in ours}
        small = sum(sizes.values()) <= _SMALL_BYTES
        for number, shard in enumerate(self._shards):
            needed = shard.tokens * self._dtype.itemsize, shard.documents * _END.itemsize
            for path, size in zip(self._paths(number), needed, strict=True):
                found = sizes.pop(path.name, None)
                if found != size:
                    state = "is missing" if found is None else f"has {found} bytes, not {size}"
                    self._refuse(number, f"{path.name} {state}")
        if sizes:
            raise CacheError(f"{self._folder} has the foreign files {sorted(sizes)[:5]}; {REMAKE}.")
        if small:
            self.verify()
        filled = (number for number, shard in enumerate(self._shards) if shard.documents)
        for number in itertools.islice(filled, _MOST_MAPPED_SHARDS):
            self._map(number)

    def _map(self, shard: int) -> _Mapped:
        """Maps a shard, and checks the edges of its ends."""
        known, (tokens_path, ends_path) = self._shards[shard], self._paths(shard)
        try:
            tokens = _map_file(tokens_path, self._dtype, known.tokens)
            ends = _map_file(ends_path, _END, known.documents)
        except (OSError, ValueError) as error:
            self._refuse(shard, f"it cannot be mapped: {error}")
        if not 0 < ends[0] <= ends[-1] == known.tokens:
            self._refuse(shard, f"its documents end at {ends[0]} to {ends[-1]}")
        mapped = _mapped[self._corpus, shard] = _Mapped(tokens, ends)
        if len(_mapped) > _MOST_MAPPED_SHARDS:
            _mapped.popitem(last=False)
        return mapped

    def _refuse(self, shard: int, reason: str) -> NoReturn:
        known = self._shards[shard]
        raise CacheError(
            f"shard {shard} of {self._folder} was written with {known.documents} documents and "
            f"{known.tokens} tokens, but {reason}; {REMAKE}."
        )


def write_shard(
    folder: Path, stem: str, documents: Iterable[np.ndarray], num_ids: int = np.iinfo(np.int32).max
) -> Shard:
    """Writes the two files of a shard, each whole and on disk or not at all.

    Args:
      folder: where to write; it exists.
      stem: of `shard_stem`; files of that name are replaced.
      documents: integer arrays [N], N >= 1, read as they are written.
      num_ids: V, which ids must be below; it decides how they are stored.

    Raises:
      CacheError: if a document is no array of token ids, or the files cannot be written.
    """
    dtype = np.dtype(token_dtype(num_ids)).newbyteorder("<")
    num_documents = num_tokens = 0
    tokens_file, ends_file = _Draft(folder / f"{stem}.tokens"), _Draft(folder / f"{stem}.ends")
    with tokens_file, ends_file:
        for batch in _batches(documents):
            tokens_file.write(_joined(batch, num_ids).astype(dtype))
            ends = num_tokens + np.cumsum([len(document) for document in batch])
            ends_file.write(ends.astype(_END))
            num_documents, num_tokens = num_documents + len(batch), int(ends[-1])
    return Shard(num_documents, num_tokens, tokens_file.sha256, ends_file.sha256)


class _Draft:
    """A file that appears under its name, hashed and on disk, when its context ends well."""

    sha256: str

    def __init__(self, path: Path) -> None:
        self._path = path
        # Two machines may write the same shard, each with a process of the same number.
        self._draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
        self._hash = hashlib.sha256()

    def __enter__(self) -> None:
        with telling_of_failure(self._path):
            self._file: BinaryIO = self._draft.open("wb", buffering=1 << 20)

    def write(self, array: np.ndarray) -> None:
        self._hash.update(array.data)
        with telling_of_failure(self._path):
            self._file.write(array.data)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with telling_of_failure(self._path), self._file:
                if kind is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                    self._draft.replace(self._path)
            self.sha256 = self._hash.hexdigest()
        finally:
            self._draft.unlink(missing_ok=True)


@contextlib.contextmanager
def telling_of_failure(path: Path) -> Iterator[None]:
    """Turns an OSError, such as that of a full disk, into a CacheError that says what to do."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"{path} could not be written ({error}); the shards that were finished are kept: mend "
            "that or make room, then start the same command again to go on."
        ) from error


def _batches(documents: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Gathers documents, of which a few dozen bytes each would be slow to handle singly."""
    batch: list[np.ndarray] = []
    waiting = 0
    for document in documents:
        if document.ndim != 1 or document.dtype.kind not in "iu" or not len(document):
            raise CacheError(
                f"a document is {document.dtype}{document.shape}; it must be an integer array [N] "
                "of token ids, N >= 1; give what Vocabulary.encode gives."
            )
        batch.append(document)
        waiting += len(document)
        if waiting >= _BUFFERED_TOKENS:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch


def _joined(batch: Sequence[np.ndarray], num_ids: int) -> np.ndarray:
    tokens = np.concatenate(batch)
    low, high = int(tokens.min()), int(tokens.max())
    if not 0 <= low <= high < num_ids:
        raise CacheError(
            f"documents have ids from {low} to {high}; they must be in [0, {num_ids}); tokenize "
            "with the vocabulary of the cache."
        )
    return tokens


def _map_file(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(content, dtype, count)


def _parsed(folder: Path, shards: Sequence[Mapping[str, Any]]) -> list[Shard]:
    try:
        return [Shard(**shard) for shard in shards]
    except TypeError as error:
        raise CacheError(
            f"the shards of {folder} are described by {str(shards)[:200]}, where lists of "
            f"{list(Shard._fields)} are needed; {REMAKE}."
        ) from error
