"""Checks that come before any compile or long work, so that mistakes cost seconds."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any

from jax.sharding import Mesh

from alexatm_jax.model.config import ModelConfig
from alexatm_jax.partitioning import Partitioning

RUN_MARKER = "run.json"
"""The file by which a folder is known as a run's own."""


class Refusal(Exception):
    """A run that was not begun; the message says what arrived, what is needed, what to do."""


@contextmanager
def refusing() -> Iterator[None]:
    """Turns what preparation raises about its input into a Refusal (exit code 2).

    What goes wrong later, in the work itself, keeps its traceback.
    """
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        raise Refusal(str(error)) from error


def check_types(owner: str, hints: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Checks numbers, text and flags against their annotations.

    Args:
      owner: whose values these are, for the message.
      hints: annotation of each value; those other than int, float, str and bool, each
        possibly `| None`, are taken as fit.

    Raises:
      ValueError: naming the first value of another type than annotated.
    """
    for name, value in values.items():
        hint = hints[name]
        wanted = set(hint.__args__) if isinstance(hint, UnionType) else {hint}
        if float in wanted:
            wanted.add(int)
        if wanted <= _CHECKED and type(value) not in wanted:
            kinds = " or ".join(sorted(kind.__name__ for kind in wanted))
            raise ValueError(
                f"{owner}.{name} is {value!r}, of type {type(value).__name__}; it must be {kinds}."
            )


_CHECKED = {int, float, str, bool, type(None)}


def check_mesh(
    partitioning: Partitioning, batch_size: int, num_microbatches: int, num_devices: int
) -> None:
    """Checks the mesh against the devices, and the (micro)batch against the mesh."""
    if batch_size % num_microbatches:
        raise ValueError(
            f"BATCH_SIZE {batch_size} does not divide into {num_microbatches} microbatches; change "
            "one of them."
        )
    partitioning.check_batch(batch_size // num_microbatches, num_devices)


def check_feature_lengths(lengths: dict[str, int], model: ModelConfig) -> None:
    """Checks TASK_FEATURE_LENGTHS against the model's positions."""
    if set(lengths) != {"inputs", "targets"}:
        raise ValueError(
            f"TASK_FEATURE_LENGTHS names {sorted(lengths)}; give {{'inputs': S, 'targets': T}}."
        )
    for feature, length in lengths.items():
        if not 2 <= length <= model.max_positions:
            raise ValueError(
                f"TASK_FEATURE_LENGTHS[{feature!r}] is {length} tokens; the model has "
                f"{model.max_positions} positions: shorten it, or raise ModelConfig.max_positions."
            )


def check_vocabulary_size(size: int, model: ModelConfig) -> None:
    """Checks that the model's tables have a row for every piece."""
    if size > model.vocab_size:
        raise ValueError(
            f"the vocabulary has {size} pieces and the model {model.vocab_size} rows for them; "
            "raise ModelConfig.vocab_size (a multiple of 128 computes fastest)."
        )


def check_model_dir(model_dir: str | Path, own: Sequence[str | Path] = ()) -> None:
    """Checks, writing nothing, that a folder is a run's own, or new and can become so.

    Args:
      own: what the run itself may have put there before, such as its cache.

    Raises:
      ValueError: if it cannot be written, or holds something that no run of ours put there.
    """
    folder = Path(model_dir)
    check_writable(folder)
    if (folder / RUN_MARKER).exists() or not folder.exists():
        return
    ours = {top for path in own for top in (Path(path).absolute(), *Path(path).absolute().parents)}
    foreign = sorted(p.name for p in folder.iterdir() if p.absolute() not in ours)
    if foreign:
        raise ValueError(
            f"MODEL_DIR {folder} is not empty and no run of alexatm: it holds "
            f"{', '.join(foreign[:5])}{', ...' if len(foreign) > 5 else ''}; choose another "
            "MODEL_DIR, or empty it yourself."
        )


def claim_model_dir(model_dir: str | Path, mixture: str) -> None:
    """Makes a folder this run's own, once `check_model_dir` and all else have found it fit."""
    marker = Path(model_dir) / RUN_MARKER
    if not marker.exists():
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(json.dumps({"mixture": mixture}) + "\n", encoding="utf-8")


def check_writable(folder: str | Path) -> None:
    """Raises ValueError unless a file can be written into the folder, which need not exist."""
    path = Path(folder).absolute()
    existing = next(p for p in (path, *path.parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written ({error.strerror}: {existing}); choose another folder or "
            "change its permissions."
        ) from error


def describe_mesh(mesh: Mesh) -> str:
    """Renders the mesh for the log, such as 'data 2 x fsdp 2 x tensor 2 on 8 cpu'."""
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    return f"{axes} on {mesh.size} {mesh.devices.flat[0].platform}"
