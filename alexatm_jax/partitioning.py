"""The mesh, and where each logical axis of the model lives on it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor")

Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

DEFAULT_RULES: Rules = (
    # Activations: rows over everything that splits data, wide dimensions over `tensor`.
    ("batch", ("data", "fsdp")),
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
      rules: where each logical axis of the model lives.

    One of the sizes may be -1: as many as the devices leave.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    rules: Rules = DEFAULT_RULES

    def mesh_shape(self, num_devices: int) -> tuple[int, ...]:
        """Resolves -1 and checks the sizes against the devices.

        Raises:
          ValueError: if the axes do not multiply to `num_devices`.
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
        return tuple(num_devices // known if n == -1 else n for n in sizes)

    def make_mesh(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """Arranges the devices (all by default) as data x fsdp x tensor."""
        devices = list(jax.devices() if devices is None else devices)
        shape = self.mesh_shape(len(devices))
        return Mesh(np.array(devices).reshape(shape), MESH_AXES)

    def param_shardings(self, boxed_params: Any, mesh: Mesh) -> Any:
        """Places parameters, given abstractly with their logical axes, on the mesh.

        Returns:
          A tree of NamedSharding in the shape of the unboxed parameters.

        Raises:
          ValueError: naming each parameter with a dimension that its mesh axes do not divide.
        """
        specs = nn.get_partition_spec(boxed_params)
        shardings = nn.logical_to_mesh_sharding(specs, mesh, self.rules)
        problems = [
            line
            for (path, leaf), sharding in zip(
                jax.tree_util.tree_leaves_with_path(nn.unbox(boxed_params)),
                jax.tree.leaves(shardings),
                strict=True,
            )
            for line in _undivided(jax.tree_util.keystr(path), leaf.shape, sharding)
        ]
        if problems:
            raise ValueError(
                "these parameters do not divide over the mesh; change the sizes of the mesh or of "
                "the model:\n  " + "\n  ".join(problems)
            )
        return shardings

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


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits rows over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


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


def _undivided(name: str, shape: tuple[int, ...], sharding: NamedSharding) -> list[str]:
    lines = []
    for dimension, axes in zip(shape, sharding.spec, strict=False):
        axes = (axes,) if isinstance(axes, str) else axes or ()
        parts = math.prod(sharding.mesh.shape[a] for a in axes)
        if dimension % parts:
            lines.append(f"{name} {shape}: {dimension} over {' x '.join(axes)} = {parts}")
    return lines
