"""Imports a model of the published classes as a checkpoint of ours.

    OUT/checkpoints/0/     items params and provenance; CHECKPOINT_PATH=OUT reads it
    OUT/vocabulary.model   the tokenizer, if one was given; CACHE_DIR=OUT reads it
    OUT/model.gin          the model's configuration, for --gin_file
    OUT/conversion.json    what became of every tensor

Everything is checked before a byte is written. What is written stands in a folder of its own
within OUT until it is whole, and the checkpoint is moved out of it last.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexatm_jax import preflight
from alexatm_jax.conversion import leaf_files, published, published_config, report
from alexatm_jax.conversion.leaf_files import Block, LeafSource, save_leaves
from alexatm_jax.conversion.progress import Progress
from alexatm_jax.conversion.published import PublishedTensor
from alexatm_jax.conversion.row_blocks import leaf_chunks, row_blocks
from alexatm_jax.conversion.stored_tensor import DTYPES, listing, tensor_bytes
from alexatm_jax.conversion.tensor_files import TensorFiles, open_tensors
from alexatm_jax.data.vocabulary import Vocabulary
from alexatm_jax.model import ModelConfig
from alexatm_jax.whole_files import write_json

UNFINISHED = ".unfinished-import"
"""The folder within OUT that holds what is not whole."""
RESULTS = ("vocabulary.model", "model.gin", "conversion.json", "checkpoints")
"""What an import leaves, in the order in which it appears."""
FLOATS = ("float32", "float16", "bfloat16")
TOKEN_IDS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "pad"}
"""Fields of config.json and of `SpecialIds` that must agree."""


class ConversionError(ValueError):
    """Something to be converted that does not fit together; nothing was written."""


@dataclasses.dataclass(frozen=True)
class Import:
    """An import that was checked and can be written: see `prepare_import`.

    Attributes:
      out: the folder that it will be in.
      files: the published tensors.
      fields: config.json's content.
      config: our model; of an encoder alone, its decoder means nothing.
      tensors: every published tensor that is wanted.
      names: the key under which `files` has it, by the key of `tensors`.
      vocabulary: the tokenizer, or None.
    """

    out: Path
    files: TensorFiles
    fields: Mapping[str, Any]
    config: ModelConfig
    tensors: tuple[PublishedTensor, ...]
    names: Mapping[str, str]
    vocabulary: Vocabulary | None

    @property
    def encoder_only(self) -> bool:
        return published_config.is_encoder_only(self.fields)

    @property
    def stored_dtype(self) -> str:
        """The dtype of all published tensors; "float32" if they differ, which holds them all."""
        dtypes = {self.files.dtype(name).name for name in self.names.values()}
        return dtypes.pop() if len(dtypes) == 1 else "float32"

    def provenance(self) -> dict[str, Any]:
        """Says what the checkpoint was made with, as that of a run does."""
        return {
            "model": dataclasses.asdict(self.config),
            "vocabulary_sha256": self.vocabulary.sha256 if self.vocabulary else None,
            "mixture": None,
            "gin": "",
            "imported": {
                "files": dict(self.files.files),
                "dtype": self.stored_dtype,
                "encoder_only": self.encoder_only,
                "token_ids": {
                    field: self.fields[field] for field in TOKEN_IDS if field in self.fields
                },
            },
        }

    def records(self) -> list[report.TensorRecord]:
        """Says what becomes of every key of the files."""
        wanted = {self.names[tensor.key]: tensor for tensor in self.tensors}
        aliases = {name for tensor in self.tensors for name in (tensor.key, *tensor.aliases)}
        records = []
        for key, stored in self.files.items():
            known = (key, stored.shape, stored.dtype.name, stored.nbytes)
            if tensor := wanted.get(key):
                also = sorted({tensor.key, *tensor.aliases} & self.files.keys() - {key})
                ours = (tensor.leaf, tensor.layer, self.config.param_dtype)
                records.append(report.TensorRecord("read", *known, tuple(also), *ours))
            elif key not in aliases:
                ignored = published.is_ignored(key, encoder_only=self.encoder_only)
                records.append(report.TensorRecord("ignored" if ignored else "checked", *known))
        return records

    def notes(self) -> tuple[str, ...]:
        """Says what else should be known of the result."""
        notes = [*published_config.untranslated(self.fields)]
        notes += [f"{name} was not read: there is another format." for name in self.files.ignored]
        if not np.can_cast(DTYPES[self.stored_dtype], DTYPES[self.config.param_dtype]):
            notes.append(
                f"the parameters were rounded from {self.stored_dtype} to "
                f"{self.config.param_dtype}."
            )
        return tuple(notes)

    def write(self) -> None:
        """Writes the checkpoint and what belongs to it; if it fails, OUT is as it was."""
        unfinished = self.out / UNFINISHED
        _clear(self.out)
        unfinished.mkdir(parents=True)
        try:
            self._write_into(unfinished)
            for name in RESULTS:
                if (unfinished / name).exists():
                    (unfinished / name).rename(self.out / name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _write_into(self, folder: Path) -> None:
        records = self.records()
        progress = Progress(sum(r.nbytes for r in records if r.status == "read"))
        leaves: dict[str, list[PublishedTensor]] = {}
        for tensor in self.tensors:
            leaves.setdefault(tensor.leaf, []).append(tensor)
        sources = {leaf: self._leaf_source(parts, progress) for leaf, parts in leaves.items()}
        save_leaves(folder / "checkpoints", sources, self.provenance())
        if self.vocabulary:
            shutil.copyfile(self.vocabulary.path, folder / "vocabulary.model")
        (folder / "model.gin").write_text(_gin_text(self.config), encoding="utf-8")
        content = {"imported": self.provenance()["imported"], "tensors": report.as_json(records)}
        write_json(folder / "conversion.json", content)

    def _leaf_source(self, parts: Sequence[PublishedTensor], progress: Progress) -> LeafSource:
        dtype = DTYPES[self.config.param_dtype]
        shape = parts[0].leaf_shape
        chunks = leaf_chunks(parts[0], dtype.itemsize)
        whole = tensor_bytes(shape, dtype) <= leaf_files.BLOCK_BYTES
        blocks = self._whole(parts, progress) if whole else self._blocks(parts, progress)
        return LeafSource(shape, dtype, chunks, blocks)

    def _whole(self, parts: Sequence[PublishedTensor], progress: Progress) -> Iterator[Block]:
        """Gives a leaf as one block: small ones are not worth a write for each layer."""
        leaf = np.empty(parts[0].leaf_shape, DTYPES[self.config.param_dtype])
        for part in parts:
            values = self.files.read(self.names[part.key])
            leaf[... if part.layer is None else part.layer] = published.to_leaf(values, part)
            progress.add(values.nbytes, part.leaf)
        yield (0,) * leaf.ndim, leaf

    def _blocks(self, parts: Sequence[PublishedTensor], progress: Progress) -> Iterator[Block]:
        dtype = DTYPES[self.config.param_dtype]
        for part in parts:
            for rows in row_blocks(part, dtype.itemsize):
                values = self.files.read(self.names[part.key], rows.start, rows.stop)
                progress.add(values.nbytes, part.leaf)
                start = tuple(axis.start for axis in rows.region)
                values = rows.to_leaf(values).astype(dtype, copy=False)
                yield start, values
                del values


def prepare_import(
    source: str | Path,
    out: str | Path,
    *,
    tokenizer: str | Path | None = None,
    unrolled: bool = False,
    param_dtype: str | None = None,
    dtype: str | None = None,
) -> Import:
    """Opens what is to be imported and checks all of it, writing nothing.

    Args:
      source: a folder with config.json and weights, or a file of weights beside config.json.
      out: the folder to write, which is new or empty, or holds what a killed import left.
      tokenizer: a SentencePiece model with the special pieces of recipe §1.
      unrolled: name the layers layer_0, layer_1, ... rather than stack them.
      param_dtype: "float32" or "bfloat16"; by default as stored, float16 widened to float32,
        which holds it exactly.
      dtype: what the model shall compute in; by default as `param_dtype`.

    Raises:
      ValueError: listing everything that is missing, left over, or does not fit.
    """
    source, out = Path(source), Path(out)
    if not source.exists():
        raise ConversionError(f"there is no {source}; give a folder of published weights.")
    fields = _read_fields((source if source.is_dir() else source.parent) / "config.json")
    config = published_config.read_config(fields, scan_layers=not unrolled)
    encoder_only = published_config.is_encoder_only(fields)
    files = open_tensors(source)
    tensors = published.published_tensors(config, encoder_only=encoder_only)
    names = {
        tensor.key: next((k for k in (tensor.key, *tensor.aliases) if k in files), "")
        for tensor in tensors
    }
    problems = [f"{key}: missing" for key, name in names.items() if not name]
    problems += _find_foreign(files, tensors, config, encoder_only)
    problems += [line for tensor in tensors for line in _check_tensor(files, tensor)]
    problems += _check_buffers(files, published.buffers(config, encoder_only=encoder_only))
    if problems:
        raise ConversionError(
            f"the weights in {source} are not those that its config.json describes:"
            f"{listing(problems)}\nuse the config.json that was saved with them, or fetch both "
            "again."
        )
    stored = {files.dtype(name).name for name in names.values()}
    param_dtype = param_dtype or ("bfloat16" if stored == {"bfloat16"} else "float32")
    config = dataclasses.replace(config, param_dtype=param_dtype, dtype=dtype or param_dtype)
    vocabulary = _read_tokenizer(tokenizer, config, fields)
    prepared = Import(out, files, fields, config, tensors, names, vocabulary)
    _check_out(out, sum(tensor_bytes(t.shape, DTYPES[param_dtype]) for t in tensors))
    return prepared


def _read_fields(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConversionError(
            f"{path} cannot be read ({error}); give a folder with the config.json of the "
            "published model beside its weights."
        ) from error
    if not isinstance(fields, dict):
        raise ConversionError(f"{path} holds no JSON object; fetch it again.")
    return fields


def _find_foreign(
    files: TensorFiles,
    tensors: Sequence[PublishedTensor],
    config: ModelConfig,
    encoder_only: bool,
) -> list[str]:
    known = {name for tensor in tensors for name in (tensor.key, *tensor.aliases)}
    known |= published.buffers(config, encoder_only=encoder_only).keys()
    return [
        f"{key}: there is no place for it"
        for key in files
        if key not in known and not published.is_ignored(key, encoder_only=encoder_only)
    ]


def _check_tensor(files: TensorFiles, tensor: PublishedTensor) -> list[str]:
    """Checks shape and dtype under every name that the tensor has, and that all hold the same."""
    names = [name for name in (tensor.key, *tensor.aliases) if name in files]
    problems = [
        f"{name}: shape {files.shape(name)}, and {tensor.shape} is needed"
        for name in names
        if files.shape(name) != tensor.shape
    ]
    problems += [
        f"{name}: dtype {files.dtype(name).name}, and one of {', '.join(FLOATS)} is needed"
        for name in names
        if files.dtype(name).name not in FLOATS
    ]
    if not problems:
        problems += [
            f"{name}: other values than {names[0]}, to which the configuration ties it"
            for name in names[1:]
            if not _equal(files, names[0], name)
        ]
    return problems


def _equal(files: TensorFiles, one: str, other: str) -> bool:
    if other in files.same_storage(one):
        return True
    if files.dtype(one) != files.dtype(other):
        return False
    rows = files.shape(one)[0]
    step = max(1, leaf_files.BLOCK_BYTES // 4 // (files[one].nbytes // rows))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        if files.read(one, start, stop).tobytes() != files.read(other, start, stop).tobytes():
            return False
    return True


def _check_buffers(files: TensorFiles, buffers: Mapping[str, np.ndarray]) -> list[str]:
    problems = []
    for key, wanted in buffers.items():
        if key not in files:
            continue
        if files.shape(key) != wanted.shape:
            problems.append(f"{key}: shape {files.shape(key)}, and {wanted.shape} is needed")
        elif not np.array_equal(files.read(key), wanted):
            problems.append(f"{key}: not the constant that the published class sets")
    return problems


def _read_tokenizer(
    tokenizer: str | Path | None, config: ModelConfig, fields: Mapping[str, Any]
) -> Vocabulary | None:
    if tokenizer is None:
        return None
    vocabulary = Vocabulary(tokenizer)
    preflight.check_vocabulary_size(vocabulary.size, config)
    special = dataclasses.asdict(vocabulary.special)
    problems = [
        f"{field} is {fields[field]} in config.json; the piece has the id {special[name]}"
        for field, name in TOKEN_IDS.items()
        if fields.get(field) not in (None, special[name])
    ]
    if problems:
        raise ConversionError(
            f"{tokenizer} is not the tokenizer of this model:{listing(problems)}\ngive the one "
            "that was published with it."
        )
    return vocabulary


def _check_out(out: Path, nbytes: int) -> None:
    preflight.check_writable(out)
    allowed = {UNFINISHED, *RESULTS[:-1]} if (out / UNFINISHED).exists() else set()
    held = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if foreign := [name for name in held if name not in allowed]:
        raise ConversionError(
            f"{out} is not empty: it holds {', '.join(foreign[:5])}; give a new folder."
        )
    check_space(out, nbytes)


def check_space(folder: str | Path, nbytes: int) -> None:
    """Raises ConversionError unless the disk of a folder, which need not exist, has room."""
    path = Path(folder).absolute()
    free = shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free
    if free < nbytes * 1.02:
        raise ConversionError(
            f"{nbytes / 1e9:.1f} GB of parameters do not fit on the disk of {folder}, which has "
            f"{free / 1e9:.1f} GB free; make room, or give another folder."
        )


def _clear(out: Path) -> None:
    """Removes what a killed import left: `_check_out` allows nothing else."""
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    for name in RESULTS[:-1]:
        (out / name).unlink(missing_ok=True)


def _gin_text(config: ModelConfig) -> str:
    lines = [f"  {name} = {value!r}" for name, value in dataclasses.asdict(config).items()]
    return "\n".join(
        [
            "# The imported model. dtype, remat and dropout may be changed; other values are",
            "# refused where the checkpoint is read.",
            "from __gin__ import dynamic_registration",
            "",
            "from alexatm_jax.model import config",
            "",
            "config.ModelConfig:",
            *lines,
            "",
        ]
    )
