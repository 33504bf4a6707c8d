"""The mesh, and where each logical axis of the model lives on it."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
"""The mesh axes that split the rows of a batch."""

Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

DEFAULT_RULES: Rules = (
    # Activations: rows over everything that splits data, wide dimensions over `tensor`.
    ("batch", BATCH_AXES),
    ("rows", BATCH_AXES),  # of the states between layers: see `decoding_rules`
    ("length", None),
    ("hidden", None),
    # Parameters: the model width over `fsdp` (ZeRO-3, recipe §4), the other side over `tensor`.
    ("embed", "fsdp"),
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("kv", None),
    ("norm", None),
    ("positions", None),
    ("layers", None),
)


@dataclasses.dataclass(frozen=True)
class Partitioning:
    """Sizes of the mesh axes, and the rules from logical axes to mesh axes.

    Attributes:
      data: copies of the parameters; each sees other rows of the batch.
      fsdp: shards of parameters and optimizer state, whose holders also see other rows.
      tensor: shards of the wide dimensions within one row.
      num_slices: TPU slices, or other groups of devices, with a slow network between them.
      slice_axis: the mesh axis that crosses this network. `data` sends each gradient once an
        update; `fsdp`, for models that no slice holds, every layer's weights as well.
      rules: where each logical axis of the model lives.

    One of the sizes may be -1: as many as the devices leave.

    Raises:
      ValueError: for rules that contradict each other or name no mesh axis.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    num_slices: int = 1
    slice_axis: str = "data"
    rules: Rules = DEFAULT_RULES

    def __post_init__(self) -> None:
        if self.num_slices < 1 or self.slice_axis not in MESH_AXES:
            raise ValueError(
                f"num_slices is {self.num_slices} along slice_axis {self.slice_axis!r}; it must "
                f"be at least 1, along one of {', '.join(MESH_AXES)}."
            )
        _check_rules(self.rules)

    def mesh_shape(self, num_devices: int) -> tuple[int, ...]:
        """Resolves -1 and checks the sizes against the devices.

        Raises:
          ValueError: if the axes do not multiply to `num_devices`, or the slices do not divide
            theirs.
        """
        sizes = (self.data, self.fsdp, self.tensor)
        asked = ", ".join(f"{a}={n}" for a, n in zip(MESH_AXES, sizes, strict=True))
        if sizes.count(-1) > 1 or any(n < 1 and n != -1 for n in sizes):
            raise ValueError(f"the mesh is {asked}; sizes are positive and one at most is -1.")
        known = math.prod(n for n in sizes if n != -1)
        if num_devices % known or (-1 not in sizes and known != num_devices):
            raise ValueError(
                f"the mesh {asked} needs {'a multiple of ' if -1 in sizes else ''}{known} devices "
                f"and {num_devices} are here; change Partitioning.data, .fsdp or .tensor."
            )
        shape = tuple(num_devices // known if n == -1 else n for n in sizes)
        across = shape[MESH_AXES.index(self.slice_axis)]
        if across % self.num_slices:
            raise ValueError(
                f"{self.num_slices} slices do not divide {self.slice_axis} = {across} of the mesh "
                f"{asked}; make it a multiple, or change Partitioning.slice_axis."
            )
        return shape

    def make_mesh(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """Arranges the devices (all by default) as data x fsdp x tensor.

        The slices follow each other along `slice_axis`; within each of them the devices stand as
        its own network has them, neighbours of the last axis the nearest.

        Raises:
          ValueError: as `mesh_shape`, or if the devices stand in another number of slices.
        """
        devices = list(jax.devices() if devices is None else devices)
        axis = MESH_AXES.index(self.slice_axis)
        shape = list(self.mesh_shape(len(devices)))
        shape[axis] //= self.num_slices
        slices = [
            mesh_utils.create_device_mesh(shape, members, allow_split_physical_axes=True)
            for members in _slices(devices, self.num_slices)
        ]
        return Mesh(np.concatenate(slices, axis), MESH_AXES)

    def param_shardings(self, boxed_params: Any, mesh: Mesh) -> Any:
        """Places parameters, given abstractly with their logical axes, on the mesh.

        Returns:
          A tree of NamedSharding in the shape of the unboxed parameters.

        Raises:
          ValueError: naming each parameter that the rules do not place or that its mesh axes do
            not divide; or a mesh axis that splits neither parameters nor rows.
        """
        rules = dict(self.rules)
        leaves = jax.tree_util.tree_leaves_with_path(nn.unbox(boxed_params))
        names = jax.tree.leaves(nn.get_partition_spec(boxed_params))
        problems, used = [], set(BATCH_AXES)
        for (path, leaf), axes in zip(leaves, names, strict=True):
            name = f"{jax.tree_util.keystr(path)} {leaf.shape}"
            problems += [f"{name}: {line}" for line in _misplaced(leaf.shape, axes, rules, mesh)]
            used |= {axis for logical in axes for axis in _mesh_axes(rules.get(logical))}
        if problems:
            raise ValueError(
                "these parameters cannot be placed on the mesh; change the sizes of the mesh or of "
                "the model, or Partitioning.rules:\n  " + "\n  ".join(problems)
            )
        if unused := [axis for axis in MESH_AXES if mesh.shape[axis] > 1 and axis not in used]:
            raise ValueError(
                f"the mesh has {', '.join(f'{a} = {mesh.shape[a]}' for a in unused)}, which splits "
                "neither parameters nor rows: its devices would all compute the same; set "
                "it to 1, or name it in Partitioning.rules."
            )
        specs = nn.get_partition_spec(boxed_params)
        return jax.tree.map(
            lambda axes: NamedSharding(mesh, PartitionSpec(*(rules[name] for name in axes))), specs
        )

    def placed_params(self, boxed_params: Any, mesh: Mesh) -> Any:
        """Gives the unboxed parameters abstractly: shapes, dtypes, and where they live."""
        return placed(nn.unbox(boxed_params), self.param_shardings(boxed_params, mesh))

    def check_batch(self, num_rows: int, num_devices: int) -> None:
        """Raises ValueError unless the rows of a (micro)batch divide over data x fsdp."""
        data, fsdp, _ = self.mesh_shape(num_devices)
        if num_rows % (data * fsdp):
            raise ValueError(
                f"{num_rows} rows at a time do not divide over data x fsdp = {data * fsdp} "
                "devices; make the batch size, divided by the microbatches, a multiple of that."
            )


def decoding_rules(
    rules: Sequence[tuple[str, str | tuple[str, ...] | None]], num_states: int, d_model: int
) -> Rules:
    """Gives the rules for decoding token by token: states move between devices, not weights.

    Between layers, states are then split over the model width as the weights are, and devices
    hold all rows of them; keys and values stay with their rows. In training and encoding a layer's
    states are larger than its weights, which are gathered; of a single token they are smaller, for
    up to about d_model / 2 rows. Of more, the rules stay as they are.

    Args:
      rules: those of the model, or none, which change nothing.
      num_states: rows decoded together on all devices, times drafts of each.
      d_model: the model's width.
    """
    places = dict(rules)
    width = _mesh_axes(places.get("embed"))
    if not width or num_states > d_model // 2:
        return tuple(rules)
    rows = tuple(axis for axis in _mesh_axes(places["rows"]) if axis not in width)
    return tuple((places | {"rows": rows, "hidden": width}).items())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits rows over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def row_share(mesh: Mesh, process_index: int | None = None) -> tuple[int, int]:
    """Says which part of a batch's rows a process (this one by default) gives to `to_devices`.

    Processes whose devices hold the same rows, as where `tensor` spans them, have the same part.
    Where a process's devices do not stand side by side, as in slices of TPUs, its part is several
    runs of rows: which rows of the reader meet in a microbatch then depends on the machine.

    Returns:
      (index, count): the part, and into how many equal parts the rows fall.

    Raises:
      ValueError: if processes hold rows of which only some are the same.
    """
    process = jax.process_index() if process_index is None else process_index
    positions: dict[int, set[int]] = collections.defaultdict(set)
    for (data, fsdp, _), device in np.ndenumerate(mesh.devices):
        positions[device.process_index].add(data * mesh.shape["fsdp"] + fsdp)
    parts = sorted({tuple(sorted(held)) for held in positions.values()})
    held = [position for part in parts for position in part]
    if len(set(held)) < len(held) or len({len(part) for part in parts}) > 1:
        raise ValueError(
            f"the mesh {dict(mesh.shape)} gives processes rows of which only some are the same; "
            "choose fsdp and tensor so that each is a multiple of a process's devices, or divides "
            "them."
        )
    return parts.index(tuple(sorted(positions[process]))), len(parts)


def replicated(mesh: Mesh) -> NamedSharding:
    """Keeps a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def placed(abstract: Any, shardings: Any) -> Any:
    """Puts shardings onto a tree of shapes and dtypes."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )


def to_devices(host_rows: Any, sharding: NamedSharding) -> Any:
    """Makes global arrays of the rows that this process holds (NumPy, its contiguous part)."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), host_rows)


def _check_rules(rules: Rules) -> None:
    for logical, count in collections.Counter(name for name, _ in rules).items():
        if count > 1:
            raise ValueError(f"Partitioning.rules has {count} rules for {logical!r}; keep one.")
    for logical, place in rules:
        if unknown := set(_mesh_axes(place)) - set(MESH_AXES):
            raise ValueError(
                f"Partitioning.rules places {logical!r} on {sorted(unknown)}, which the mesh does "
                f"not have; use {', '.join(MESH_AXES)}, a tuple of them, or None."
            )
    for logical in ("batch", "rows"):
        if _mesh_axes(place := dict(rules).get(logical)) != BATCH_AXES:
            raise ValueError(
                f"Partitioning.rules places {logical!r} on {place}; rows are read and counted for "
                f"{BATCH_AXES}: keep that rule."
            )


def _mesh_axes(place: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (place,) if isinstance(place, str) else tuple(place or ())


def _misplaced(
    shape: tuple[int, ...],
    names: PartitionSpec,
    rules: dict[str, str | tuple[str, ...] | None],
    mesh: Mesh,
) -> Iterator[str]:
    """Says what keeps a parameter from lying where the rules put its logical axes."""
    if len(names) != len(shape):
        yield f"its logical axes are {tuple(names)}; name one for each dimension"
        return
    taken: dict[str, str] = {}
    for size, name in zip(shape, names, strict=True):
        if name not in rules:
            yield f"no rule for its logical axis {name!r}"
        axes = _mesh_axes(rules.get(name))
        for axis in axes:
            if axis in taken:
                yield f"{taken[axis]} and {name} are both on {axis}"
            taken[axis] = name
        parts = math.prod(mesh.shape[axis] for axis in axes)
        if size % parts:
            yield f"{size} over {' x '.join(axes)} = {parts}"


def _slices(devices: list[jax.Device], count: int) -> list[list[jax.Device]]:
    """Groups devices by the slice that they say they are in; else into equal runs.

    Only TPUs have to agree: other devices, simulated ones among them, may be grouped at will.
    """
    slices = collections.defaultdict(list)
    for device in devices:
        slices[getattr(device, "slice_index", 0)].append(device)
    if len(slices) == count:
        return [slices[index] for index in sorted(slices)]
    if devices[0].platform == "tpu":
        raise ValueError(
            f"the devices are in {len(slices)} slice(s) and Partitioning.num_slices is {count}; "
            "set it to that, with Partitioning.slice_axis along which they follow each other."
        )
    size = len(devices) // count
    return [devices[start : start + size] for start in range(0, len(devices), size)]
