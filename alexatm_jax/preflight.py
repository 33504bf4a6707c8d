"""Checks that come before any compile or long work, so that mistakes cost seconds."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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


def claim_model_dir(model_dir: str | Path, about: dict[str, Any]) -> None:
    """Makes a folder this run's own, or finds that it already is.

    Raises:
      ValueError: if it cannot be written, or holds something that no run of ours put there.
    """
    folder = Path(model_dir)
    marker = folder / RUN_MARKER
    check_writable(folder)
    if marker.exists():
        return
    foreign = sorted(p.name for p in folder.iterdir())
    if foreign:
        raise ValueError(
            f"MODEL_DIR {folder} is not empty and no run of alexatm: it holds "
            f"{', '.join(foreign[:5])}{', ...' if len(foreign) > 5 else ''}; choose another "
            "MODEL_DIR, or empty it yourself."
        )
    marker.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def check_writable(folder: str | Path) -> None:
    """Raises ValueError unless a file can be written into the folder, which is made."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written ({error.strerror}); choose another folder or change its "
            "permissions."
        ) from error


def describe_mesh(mesh: Mesh) -> str:
    """Renders the mesh for the log, such as 'data 2 x fsdp 2 x tensor 2 on 8 cpu'."""
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    return f"{axes} on {mesh.size} {mesh.devices.flat[0].platform}"
