"""Checkpoints of a run: train state, reader state, and what they were made with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from alexatm_jax.training.state import TrainState

_CHUNK_BYTES = 16 << 20

PROVENANCE_FIELDS = ("model", "vocabulary_sha256")
"""What must not change between a checkpoint and whoever reads it."""

NOT_IN_PARAMS = frozenset(
    {
        "attention",
        "dtype",
        "remat",
        "decoder_remat",
        "scan_unroll",
        "position_init",
        "dropout_rate",
        "encoder_attention_dropout_rate",
        "decoder_attention_dropout_rate",
    }
)
"""Fields of ModelConfig that may change: the same parameters mean the same."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, unreadable, or made with something else."""


class Checkpoints:
    """Saves and restores the checkpoints in one folder, through Orbax and in the background.

    A checkpoint holds `params`, `training` (step, optimizer state, sums), `reader` (where each
    data stream stands) and `provenance` (model, vocabulary hash, gin text). It appears under its
    step's name only when whole. What saves that were cut short left is removed, by the first
    process in the background: two runs at once in one folder would destroy each other's saves.
    """

    def __init__(self, directory: str | Path, max_to_keep: int | None = 3):
        self.directory = Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep, create=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._manager.close()

    def wait(self) -> None:
        """Waits until what is being saved is written."""
        self._manager.wait_until_finished()

    def latest_step(self) -> int | None:
        """Gives the step of the newest whole checkpoint, or None."""
        step: int | None = self._manager.latest_step()
        return step

    def save(self, state: TrainState, reader: dict[str, Any], provenance: dict[str, Any]) -> None:
        """Starts saving; the arrays may be donated as soon as this returns."""
        step = int(state.step)
        if step == self._manager.latest_step():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params, _in_chunks(state.params)),
                training=ocp.args.StandardSave(_without_params(state)),
                reader=ocp.args.JsonSave(reader),
                provenance=ocp.args.JsonSave(provenance),
            ),
        )

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Reads a whole checkpoint onto the devices that `abstract` names.

        Returns:
          The train state, and the reader's state.

        Raises:
          CheckpointError: if it holds the state of another optimizer, or of other phases.
        """
        check_state(self.directory / str(step), abstract)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(abstract.params),
                training=ocp.args.StandardRestore(_without_params(abstract)),
                reader=ocp.args.JsonRestore(),
            ),
        )
        return TrainState(params=restored.params, **restored.training), restored.reader


def _leaf_names(tree: Any) -> set[str]:
    """Names the arrays of a tree, tuples and what they were saved as alike."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    }


def _in_chunks(params: Any) -> Any:
    """Stores layers apart and in pieces: whoever reads a part of a leaf decodes little else."""

    def save_args(path: tuple[Any, ...], leaf: Array) -> ocp.SaveArgs:
        stacked = any(key == jax.tree_util.DictKey("layers") for key in path)
        axes = (0,) if stacked and leaf.nbytes > _CHUNK_BYTES else ()
        return ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES, shard_axes=axes)

    return jax.tree_util.tree_map_with_path(save_args, params)


def _without_params(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state, "sums": state.sums}


def locate(path: str | Path) -> tuple[Path, int]:
    """Finds a checkpoint: a run's folder, its `checkpoints` folder, or one step within that.

    Returns:
      The folder of checkpoints, and the step: the newest one unless `path` ends in a step.

    Raises:
      CheckpointError: if there is none.
    """
    path = Path(path).absolute()
    if path.name.isdigit():
        if (path / "params").is_dir():
            return path.parent, int(path.name)
    for folder in (path / "checkpoints", path):
        if steps := [int(p.name) for p in folder.glob("[0-9]*") if p.name.isdigit()]:
            return folder, max(steps)
    found = "it holds no whole step" if path.is_dir() else "there is no such folder"
    raise CheckpointError(
        f"no checkpoint at {path}: {found}; give a run's folder, or checkpoints/STEP within it."
    )


def read_provenance(path: str | Path) -> dict[str, Any]:
    """Reads what a checkpoint was made with, without its arrays."""
    provenance: dict[str, Any] = _read(path, "provenance", ocp.args.JsonRestore())[0]
    return provenance


def read_reader_state(path: str | Path) -> dict[str, Any]:
    """Reads where the data reader stood, without the arrays."""
    state: dict[str, Any] = _read(path, "reader", ocp.args.JsonRestore())[0]
    return state


def read_params(path: str | Path, abstract_params: Any) -> tuple[Any, int]:
    """Reads the parameters alone onto the devices that `abstract_params` names.

    Returns:
      The parameters, and the step that they were saved at.
    """
    return _read(path, "params", ocp.args.StandardRestore(abstract_params))


def read_param_shapes(path: str | Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Reads the shape and dtype of every parameter, by its "/"-joined path, and no values."""
    folder, step = locate(path)
    try:
        # A manager would ask for the item's handler first, whose metadata this is.
        tree = ocp.PyTreeCheckpointHandler().metadata(folder / str(step) / "params").tree
    except (OSError, KeyError, ValueError) as error:
        raise _unreadable(folder, step, "params", error) from error
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for name, leaf in flatten_dict(tree, sep="/").items()
    }


def read_param_leaves(
    path: str | Path, wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, Array]:
    """Reads some parameters, each straight into its dtype and onto its devices.

    Args:
      wanted: by "/"-joined path. A shape of more rows (first axis) than were saved is filled up
        with zeros; one of fewer leaves the last ones unread.
    """
    item = unflatten_dict(dict(wanted), sep="/")
    how = jax.tree.map(
        lambda leaf: ocp.ArrayRestoreArgs(
            sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype, strict=False
        ),
        item,
    )
    restore = ocp.args.PyTreeRestore(item, restore_args=how, partial_restore=True)
    return flatten_dict(_read(path, "params", restore)[0], sep="/")


def check_state(path: str | Path, abstract: TrainState) -> None:
    """Checks, reading no array, that a checkpoint holds the state of these phases.

    Args:
      abstract: the state in the phase that left the checkpoint.

    Raises:
      CheckpointError: if it holds the state of another optimizer, or of other phases.
    """
    folder, step = locate(path)
    try:
        tree = ocp.PyTreeCheckpointHandler().metadata(folder / str(step) / "training").tree
    except (OSError, KeyError, ValueError) as error:
        raise _unreadable(folder, step, "training", error) from error
    there, here = _leaf_names(tree), _leaf_names(_without_params(abstract))
    if there != here:
        sides = (("there", there - here), ("here", here - there))
        raise CheckpointError(
            f"checkpoint {step} in {folder} is not of these phases and this optimizer: "
            + ", ".join(
                f"{len(names)} arrays are only {side}"
                + (f", such as {min(names)}" if names else "")
                for side, names in sides
            )
            + "; go on with the settings that it was saved with, or begin a new run from its "
            "parameters, with warm_start."
        )


def _read(path: str | Path, item: str, how: ocp.args.CheckpointArgs) -> tuple[Any, int]:
    folder, step = locate(path)
    with ocp.CheckpointManager(folder) as manager:
        try:
            restored = manager.restore(step, args=ocp.args.Composite(**{item: how}))
        except (OSError, KeyError, ValueError) as error:
            raise _unreadable(folder, step, item, error) from error
    return restored[item], step


def _unreadable(folder: Path, step: int, item: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {step} in {folder} has no readable {item} ({error}); was it "
        "written by alexatm? Remove it if it is damaged, and an earlier one serves."
    )


def check_provenance(found: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    """Compares what a checkpoint was made with against what is configured now.

    What it says to be null was unknown, as is the vocabulary of weights imported without their
    tokenizer, and differs from nothing.

    Raises:
      CheckpointError: listing every difference that changes what the parameters mean.
    """
    differences = []
    for field in PROVENANCE_FIELDS:
        if field in found and found[field] is None:
            continue
        old, new = found.get(field), wanted.get(field)
        if isinstance(old, dict) and isinstance(new, dict):
            differences += [
                f"{field}.{key}: {old.get(key)!r} there, {new.get(key)!r} here"
                for key in sorted(old.keys() | new.keys())
                if key not in NOT_IN_PARAMS and old.get(key) != new.get(key)
            ]
        elif old != new:
            differences.append(f"{field}: {old!r} there, {new!r} here")
    if differences:
        raise CheckpointError(
            f"the checkpoint in {where} was made with something else:\n  "
            + "\n  ".join(differences)
            + "\nuse the configuration it was made with, or another MODEL_DIR."
        )
