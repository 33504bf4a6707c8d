"""Folders of published weight files: the tensors in them by key, read and written row by row.

Nothing is loaded when a folder is opened, nor mapped: only the rows asked for are read. Nothing
that a file says is executed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from alexatm_jax.conversion.safetensors_files import SafetensorsFile, read_safetensors
from alexatm_jax.conversion.stored_tensor import (
    DTYPES,
    StoredTensor,
    TensorFileError,
    listing,
    tensor_bytes,
)
from alexatm_jax.conversion.torch_files import TorchFile, read_torch
from alexatm_jax.whole_files import sync

FORMATS = {"safetensors": ("model", ".safetensors"), "bin": ("pytorch_model", ".bin")}
"""Stem and suffix of the weight files, the preferred format first."""
READERS: dict[str, Callable[[Path], dict[str, StoredTensor]]] = {
    ".safetensors": read_safetensors,
    ".bin": read_torch,
}
RESERVED = {"__metadata__"}
MAX_SHARD_BYTES = 10 * 10**9
"""The default of the library that reads these folders."""


class TensorFiles(Mapping[str, StoredTensor]):
    """The tensors of a checkpoint by key, whichever file each of them is in.

    Attributes:
      files: bytes of each file that is read, index included, by name.
      ignored: names of files beside them that look like weights and are not read.
    """

    def __init__(
        self, tensors: Mapping[str, StoredTensor], files: dict[str, int], ignored: tuple[str, ...]
    ):
        self._tensors = dict(tensors)
        self._keys: dict[StoredTensor, list[str]] = {}
        for key, tensor in tensors.items():
            self._keys.setdefault(tensor, []).append(key)
        self.files = files
        self.ignored = ignored

    def __getitem__(self, key: str) -> StoredTensor:
        return self._tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._tensors[key].shape

    def dtype(self, key: str) -> np.dtype:
        """Gives the dtype as stored; bfloat16 is that of ml_dtypes."""
        return self._tensors[key].dtype

    def read(self, key: str, start_row: int = 0, stop_row: int | None = None) -> np.ndarray:
        """Reads rows [start_row, stop_row) of a tensor: see StoredTensor.read."""
        return self._tensors[key].read(start_row, stop_row)

    def same_storage(self, key: str) -> tuple[str, ...]:
        """Lists the other keys of the very same tensor: same bytes, shape and dtype."""
        return tuple(other for other in self._keys[self._tensors[key]] if other != key)


def open_tensors(folder: str | Path) -> TensorFiles:
    """Finds the weights in a folder, in one file or in shards with an index; or opens one file.

    Of both formats in one folder, .safetensors is read and .bin ignored.

    Raises:
      TensorFileError: if there are none, or listing all that is wrong with the files of the
        index, and between index and files.
      PickledCodeError: if a .bin file does anything but name tensors.
    """
    path = Path(folder)
    if path.is_file():
        if path.suffix not in READERS:
            raise TensorFileError(
                f"{path} ends neither in .safetensors nor in .bin; give a file of weights that "
                "does, or the folder with it."
            )
        tensors = READERS[path.suffix](path)
        return TensorFiles(tensors, {path.name: path.stat().st_size}, ())
    weights = _find_weights(path)
    sharded = weights.suffix == ".json"
    tensors = _read_shards(weights) if sharded else READERS[weights.suffix](weights)
    names = {weights.name} | {tensor.path.name for tensor in tensors.values()}
    like_weights = {p.name for suffix in READERS for p in path.glob(f"*{suffix}")}
    return TensorFiles(
        tensors,
        {name: (path / name).stat().st_size for name in sorted(names)},
        tuple(sorted(like_weights - names)),
    )


def _find_weights(folder: Path) -> Path:
    for stem, suffix in FORMATS.values():
        single, index = folder / f"{stem}{suffix}", folder / f"{stem}{suffix}.index.json"
        shards = sorted(p.name for p in folder.glob(f"{stem}-*{suffix}"))
        if single.is_file() and (index.is_file() or shards):
            raise TensorFileError(
                f"{folder} holds both {single.name} and shards or an index "
                f"({', '.join([*shards, index.name][:3])}): move away those that are not meant."
            )
        if index.is_file() or single.is_file():
            return index if index.is_file() else single
        if shards:
            raise TensorFileError(
                f"{folder} holds {', '.join(shards)} but no {index.name}, which says which shards "
                "there are; fetch it, too."
            )
    what = "is no folder" if not folder.is_dir() else "holds no weights"
    wanted = ", ".join(f"{stem}{suffix}" for stem, suffix in FORMATS.values())
    raise TensorFileError(
        f"{folder} {what}; give a folder with one of {wanted}, or shards with their index."
    )


def _read_shards(index: Path) -> dict[str, StoredTensor]:
    weight_map = _read_index(index)
    stem, suffix = next(
        names for names in FORMATS.values() if index.name.startswith("".join(names))
    )
    named = sorted(set(weight_map.values()))
    present = {p.name for p in index.parent.glob(f"{stem}-*{suffix}")}
    problems = [f"{name} is missing" for name in named if not (index.parent / name).is_file()]
    problems += [f"{name} is not in the index" for name in sorted(present.difference(named))]
    tensors: dict[str, StoredTensor] = {}
    kind = TensorFileError
    for name in named:
        if not (index.parent / name).is_file():
            continue
        try:
            shard = READERS[suffix](index.parent / name)
        except TensorFileError as error:
            problems.append(str(error))
            kind = type(error) if kind is TensorFileError else kind
            continue
        problems += _compare(weight_map, name, shard)
        tensors |= shard
    if problems:
        raise kind(
            f"the shards in {index.parent} are not those of {index.name}:{listing(problems)}\n"
            "fetch the folder again, whole."
        )
    return tensors


def _read_index(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = set(weight_map.values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise TensorFileError(
            f"{index} is no JSON object with a weight_map ({error}); fetch it again."
        ) from error
    foreign = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if foreign or not names:
        raise TensorFileError(
            f"{index} names {foreign or 'no files'}; it must name shards that lie beside it."
        )
    return weight_map


def _compare(weight_map: Mapping[str, str], name: str, shard: Mapping[str, Any]) -> list[str]:
    wanted = {key for key, file in weight_map.items() if file == name}
    problems = [f"{key}: the index puts it in {name}" for key in sorted(wanted - shard.keys())]
    for key in sorted(shard.keys() - wanted):
        where = f"puts it in {weight_map[key]}" if key in weight_map else "lacks it"
        problems.append(f"{key}: it is in {name}, the index {where}")
    return problems


def write_tensors(
    folder: str | Path,
    entries: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    format: str = "safetensors",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    aliases: Mapping[str, Sequence[str]] | None = None,
) -> TensorWriter:
    """Prepares a folder of weight files; the bytes follow by `append`, in a `with` statement.

    Args:
      folder: appears when everything is written; until then it is absent, or empty.
      entries: shape and dtype by key, in the order in which they will be appended.
      format: "safetensors" or "bin".
      max_shard_bytes: a tensor that is larger has a shard of its own.
      aliases: other keys under which a tensor is found, too.

    Raises:
      TensorFileError: if the folder is not empty, or listing all that is wrong with the entries.
    """
    path = Path(folder).absolute()
    entries = {key: (tuple(shape), np.dtype(dtype)) for key, (shape, dtype) in entries.items()}
    others = {key: tuple(names) for key, names in (aliases or {}).items()}
    problems = _check_entries(entries, others)
    if format not in FORMATS:
        problems.append(f"format {format!r} is none of {', '.join(FORMATS)}")
    if max_shard_bytes < 1:
        problems.append(f"max_shard_bytes is {max_shard_bytes}; it must be positive")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        problems.append(f"{path} is there and not empty; choose another folder")
    if problems:
        raise TensorFileError(f"tensors cannot be written to {folder}:{listing(problems)}")
    return TensorWriter(path, entries, format, max_shard_bytes, others)


def _check_entries(
    entries: Mapping[str, tuple[tuple[int, ...], np.dtype]], aliases: Mapping[str, Sequence[str]]
) -> list[str]:
    known = ", ".join(DTYPES)
    problems = [
        f"{key}: dtype {dtype} is none of {known}"
        for key, (_, dtype) in entries.items()
        if dtype not in DTYPES.values()
    ]
    problems += [f"{key}: it has aliases and no entry" for key in aliases.keys() - entries.keys()]
    others = [name for names in aliases.values() for name in names]
    twice = {name for name in others if name in entries or others.count(name) > 1}
    problems += [f"{name}: it is written twice" for name in sorted(twice)]
    problems += [f"{name}: safetensors keeps it" for name in sorted(RESERVED & {*entries, *others})]
    return problems if entries else ["there are no entries; name the tensors to be written"]


class TensorWriter:
    """Writes a folder of weight files, rows of one tensor after another.

    Everything goes into a folder beside, which takes the folder's name when all of it is on the
    disk. An error removes it; a killed process leaves it, as FOLDER.unfinished-PID, to be
    removed by hand.

    Attributes:
      folder: where the files will be.
      unfinished: the folder beside. Files put here will be in the folder, too.
    """

    def __init__(
        self,
        folder: Path,
        entries: Mapping[str, tuple[tuple[int, ...], np.dtype]],
        format: str,
        max_shard_bytes: int,
        aliases: Mapping[str, Sequence[str]],
    ):
        """Use `write_tensors`, which checks what it is given."""
        self.folder = folder
        self.unfinished = folder.with_name(f"{folder.name}.unfinished-{os.getpid()}")
        self._entries = dict(entries)
        self._aliases = aliases
        self._names = FORMATS[format]
        self._new_file = SafetensorsFile if format == "safetensors" else TorchFile
        self._shards = _plan_shards(self._entries, aliases, max_shard_bytes, format)
        self._next_shard = 0
        self._file: SafetensorsFile | TorchFile | None = None
        self._waiting = deque(entries)
        self._bytes_written = 0

    def __enter__(self) -> TensorWriter:
        shutil.rmtree(self.unfinished, ignore_errors=True)
        self.unfinished.mkdir(parents=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            with suppress(OSError):  # What goes wrong here is not what went wrong first.
                self._close_file()
            shutil.rmtree(self.unfinished, ignore_errors=True)

    def append(self, key: str, block: np.ndarray) -> None:
        """Writes the next rows of a tensor.

        Args:
          key: the first of the entries that is not whole yet.
          block: [rows, ...] of the entry's dtype and other axes; a scalar is its only block. A
            tensor without elements needs none.

        Raises:
          TensorFileError: if it is another tensor's turn, or the block does not fit.
        """
        self._skip_empty()
        shape, dtype = self._entries.get(key, ((), np.dtype("V")))
        if block.size == 0 and key in self._entries:
            return
        whole = tensor_bytes(shape, dtype)
        fits = block.shape[1:] == shape[1:] and block.ndim == len(shape) and block.dtype == dtype
        if not self._waiting or key != self._waiting[0]:
            raise TensorFileError(
                f"rows of {key} arrived; {self._waiting[0] if self._waiting else 'nothing'} is "
                "next: append tensors in the order of the entries, each of them whole."
            )
        if not fits or self._bytes_written + block.nbytes > whole:
            raise TensorFileError(
                f"a block of shape {block.shape} and dtype {block.dtype} arrived for {key}, after "
                f"{self._bytes_written} of its {whole} bytes; its shape is {shape}, its dtype "
                f"{dtype}: append rows of it."
            )
        self._write(key, np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
        if self._bytes_written == whole:
            self._complete()

    def _write(self, key: str, data: memoryview) -> None:
        if self._file is None:
            name, keys = self._shard_name(self._next_shard), self._shards[self._next_shard]
            tensors = {key: self._entries[key] for key in keys}
            self._file = self._new_file(self.unfinished / name, tensors, self._aliases)
        self._file.write(key, self._bytes_written, data)
        self._bytes_written += len(data)

    def _complete(self) -> None:
        key = self._waiting.popleft()
        self._bytes_written = 0
        if key == self._shards[self._next_shard][-1]:
            self._close_file()
            self._next_shard += 1

    def _skip_empty(self) -> None:
        while self._waiting and not tensor_bytes(*self._entries[self._waiting[0]]):
            self._write(self._waiting[0], memoryview(b""))
            self._complete()

    def _close_file(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _shard_name(self, number: int) -> str:
        stem, suffix = self._names
        if len(self._shards) == 1:
            return f"{stem}{suffix}"
        return f"{stem}-{number + 1:05d}-of-{len(self._shards):05d}{suffix}"

    def _finish(self) -> None:
        self._skip_empty()
        if self._waiting:
            raise TensorFileError(
                f"{len(self._waiting)} tensors are not whole, and nothing is left in "
                f"{self.folder}; append all of:{listing(self._waiting)}"
            )
        if len(self._shards) > 1:
            self._write_index()
        for path in (*self.unfinished.rglob("*"), self.unfinished):
            sync(path)
        self.unfinished.rename(self.folder)
        sync(self.folder.parent)

    def _write_index(self) -> None:
        names = {key: (key, *self._aliases.get(key, ())) for key in self._entries}
        weight_map = {
            name: self._shard_name(number)
            for number, keys in enumerate(self._shards)
            for key in keys
            for name in names[key]
        }
        total = sum(tensor_bytes(*spec) * len(names[key]) for key, spec in self._entries.items())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        path = self.unfinished / f"{''.join(self._names)}.index.json"
        path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _plan_shards(
    entries: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    aliases: Mapping[str, Sequence[str]],
    max_shard_bytes: int,
    format: str,
) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for key, spec in entries.items():
        copies = 1 + len(aliases.get(key, ())) if format == "safetensors" else 1
        size = tensor_bytes(*spec) * copies
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += size
    return shards
