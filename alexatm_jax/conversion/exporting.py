"""Exports a checkpoint, imported or trained here, as files of the published classes.

    FOLDER/config.json
    FOLDER/model.safetensors        or pytorch_model.bin; large ones as shards with their index
    FOLDER/tokenizer.model          the vocabulary, if it is known
    FOLDER/conversion.json          what became of every tensor

The folder appears when everything is in it.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexatm_jax import preflight
from alexatm_jax.conversion import published, published_config, report
from alexatm_jax.conversion.importing import FLOATS, TOKEN_IDS, ConversionError, check_space
from alexatm_jax.conversion.leaf_files import LeafFiles
from alexatm_jax.conversion.progress import Progress
from alexatm_jax.conversion.published import PublishedTensor
from alexatm_jax.conversion.row_blocks import row_blocks
from alexatm_jax.conversion.stored_tensor import DTYPES, listing, tensor_bytes
from alexatm_jax.conversion.tensor_files import MAX_SHARD_BYTES, TensorWriter, write_tensors
from alexatm_jax.data.vocabulary import Vocabulary
from alexatm_jax.model import ModelConfig
from alexatm_jax.training import checkpoint
from alexatm_jax.whole_files import write_json


@dataclasses.dataclass(frozen=True)
class Export:
    """An export that was checked and can be written: see `prepare_export`.

    Attributes:
      leaves: the checkpoint's parameters.
      config_json: content of config.json.
      tensors: the published tensors to write, in their order.
      buffers: constants of the published class, by key.
      held_dtype: that loses nothing of the parameters; dtype: of the written tensors.
      writer: of their folder.
      vocabulary: the tokenizer, or None.
    """

    leaves: LeafFiles
    config_json: Mapping[str, Any]
    tensors: tuple[PublishedTensor, ...]
    buffers: Mapping[str, np.ndarray]
    held_dtype: str
    dtype: str
    writer: TensorWriter
    vocabulary: Vocabulary | None

    def records(self) -> list[report.TensorRecord]:
        """Says what every key of the files is written from."""
        dtype = DTYPES[self.dtype]
        return [
            report.TensorRecord(
                *("written", t.key, t.shape, self.dtype, tensor_bytes(t.shape, dtype), t.aliases),
                *(t.leaf, t.layer, self.leaves.leaves[t.leaf].dtype.name),
            )
            for t in self.tensors
        ] + [
            report.TensorRecord("written", key, values.shape, values.dtype.name, values.nbytes)
            for key, values in self.buffers.items()
        ]

    def notes(self) -> tuple[str, ...]:
        """Says what else should be known of the result."""
        if np.can_cast(DTYPES[self.held_dtype], DTYPES[self.dtype]):
            return ()
        return (f"the parameters were rounded from {self.held_dtype} to {self.dtype}.",)

    def write(self) -> None:
        """Writes the folder; if it fails, there is none.

        Raises:
          ConversionError: if a value is too large for `dtype`.
        """
        records = self.records()
        progress = Progress(sum(record.nbytes for record in records))
        with self.writer as writer:
            for tensor in self.tensors:
                for rows in self._rows(tensor):
                    writer.append(tensor.key, rows)
                    progress.add(rows.nbytes, tensor.key)
            for key, values in self.buffers.items():
                writer.append(key, values)
                progress.add(values.nbytes, key)
            for name, content in (
                ("config.json", self.config_json),
                ("conversion.json", {"tensors": report.as_json(records)}),
            ):
                write_json(writer.unfinished / name, content)
            if self.vocabulary:
                shutil.copyfile(self.vocabulary.path, writer.unfinished / "tokenizer.model")

    def _rows(self, tensor: PublishedTensor) -> Iterator[np.ndarray]:
        leaf = self.leaves.leaves[tensor.leaf]
        for block in row_blocks(tensor, max(leaf.dtype.itemsize, DTYPES[self.dtype].itemsize)):
            values = block.from_leaf(self.leaves.read(tensor.leaf, block.region))
            yield _cast(values, DTYPES[self.dtype], tensor.leaf)


def prepare_export(
    path: str | Path,
    folder: str | Path,
    *,
    format: str = "safetensors",
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    tokenizer: str | Path | None = None,
) -> Export:
    """Opens what is to be exported and checks all of it, writing nothing.

    Args:
      path: a checkpoint, as CHECKPOINT_PATH: a run's folder, or one step in its `checkpoints`.
      folder: the folder to write, which is new or empty.
      format: "safetensors" or "bin".
      dtype: "float32", "float16" or "bfloat16"; by default what an imported checkpoint was
        imported from, otherwise that of the parameters.
      max_shard_bytes: the largest file, unless a single tensor is larger.
      tokenizer: the vocabulary; by default the one in the run's folder or in its cache.

    Raises:
      ValueError: if the published class cannot hold the model, or the checkpoint, the tokenizer
        and the folder do not serve.
    """
    provenance = checkpoint.read_provenance(path)
    config, imported = ModelConfig(**provenance["model"]), provenance.get("imported", {})
    if imported.get("encoder_only"):
        raise ConversionError(
            f"{path} holds an encoder alone; only whole models are exported: train one from it."
        )
    held_dtype = imported.get("dtype", config.param_dtype)
    if not np.can_cast(DTYPES[held_dtype], DTYPES[config.param_dtype]):
        held_dtype = config.param_dtype
    dtype = dtype or held_dtype
    if dtype not in FLOATS:
        raise ConversionError(f"dtype is {dtype!r}; give one of {', '.join(FLOATS)}.")
    vocabulary = _find_vocabulary(tokenizer, path, provenance)
    ids = _token_ids(vocabulary, imported, path)
    config_json = published_config.write_config(config, dtype, **ids)
    tensors = published.published_tensors(config)
    leaves = LeafFiles(path)
    _check_leaves(leaves, tensors, path)
    preflight.check_writable(folder)
    buffers = published.buffers(config)
    entries = {tensor.key: (tensor.shape, DTYPES[dtype]) for tensor in tensors}
    entries |= {key: (values.shape, values.dtype) for key, values in buffers.items()}
    aliases = {tensor.key: tensor.aliases for tensor in tensors if tensor.aliases}
    writer = write_tensors(folder, entries, format, max_shard_bytes, aliases)
    check_space(  # In safetensors each name has bytes of its own.
        folder,
        sum(tensor_bytes(*entries[k]) * (1 + len(aliases.get(k, ()))) for k in entries),
    )
    return Export(leaves, config_json, tensors, buffers, held_dtype, dtype, writer, vocabulary)


def _find_vocabulary(
    tokenizer: str | Path | None, path: str | Path, provenance: Mapping[str, Any]
) -> Vocabulary | None:
    """Finds the vocabulary that the checkpoint was made with, given or beside the checkpoint."""
    wanted = provenance.get("vocabulary_sha256")
    if tokenizer is not None:
        vocabulary = Vocabulary(tokenizer)
        if wanted not in (None, vocabulary.sha256):
            raise ConversionError(
                f"{tokenizer} has the hash {vocabulary.sha256}; the checkpoint was made with "
                f"{wanted}: give that one."
            )
        return vocabulary
    run = checkpoint.locate(path)[0].parent
    for place in (run / "vocabulary.model", run / "cache" / "vocabulary.model"):
        if place.exists() and (vocabulary := Vocabulary(place)).sha256 == wanted:
            return vocabulary
    return None


def _token_ids(
    vocabulary: Vocabulary | None, imported: Mapping[str, Any], path: str | Path
) -> dict[str, int]:
    if vocabulary:
        special = dataclasses.asdict(vocabulary.special)
        return {field: special[name] for field, name in TOKEN_IDS.items()}
    if not imported:
        raise ConversionError(
            f"the vocabulary of {path} is not beside it, and config.json needs the ids of its "
            "special pieces; give it with --tokenizer."
        )
    return {field: row for field, row in imported["token_ids"].items() if row is not None}


def _check_leaves(leaves: LeafFiles, tensors: Sequence[PublishedTensor], path: str | Path) -> None:
    wanted = {tensor.leaf: tensor.leaf_shape for tensor in tensors}
    problems = [f"{leaf}: missing" for leaf in wanted.keys() - leaves.leaves.keys()]
    problems += [f"{leaf}: there is no place for it" for leaf in leaves.leaves.keys() - wanted]
    problems += [
        f"{leaf}: shape {stored.shape}, and {wanted[leaf]} is needed"
        for leaf, stored in leaves.leaves.items()
        if leaf in wanted and stored.shape != wanted[leaf]
    ]
    if problems:
        raise ConversionError(
            f"the parameters in {path} are not those of its configuration:"
            f"{listing(sorted(problems))}\nthe checkpoint is damaged: use another."
        )


def _cast(values: np.ndarray, dtype: np.dtype, leaf: str) -> np.ndarray:
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    if np.isinf(cast).sum() > np.isinf(values).sum():
        raise ConversionError(
            f"{leaf} has values up to {np.abs(values).max():.3g}, beyond {dtype}; export as "
            "bfloat16 or float32."
        )
    return cast
