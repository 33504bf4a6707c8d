"""Where the optimizer's state lives: beside the parameters that it belongs to."""

from __future__ import annotations

from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import DictKey

from alexatm_jax.partitioning import replicated


def opt_state_shardings(
    transformation: optax.GradientTransformation,
    abstract_params: Any,
    param_shardings: Any,
    mesh: Mesh,
) -> Any:
    """Places the state of any optax transformation of nested dicts of parameters.

    What has a parameter's shape lives where the parameter does. A mean over some of its
    dimensions, kept with size 1 there, is divided along the others alone. Counts and whatever else
    belongs to no parameter have a copy on every device.

    Args:
      abstract_params: shapes and dtypes, unboxed; possibly only part of the model.
      param_shardings: a NamedSharding for each of them.

    Returns:
      NamedShardings in the shape of `transformation.init(params)`.
    """
    places = {
        _names(path): (leaf.shape, sharding.spec)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(abstract_params),
            jax.tree.leaves(param_shardings),
            strict=True,
        )
    }

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = _names(path)
        # optax wraps trees of the parameters' structure into its own, dicts among them.
        for start in range(len(names)):
            if names[start:] in places:
                return NamedSharding(mesh, _beside(leaf.shape, *places[names[start:]]))
        return replicated(mesh)

    state = jax.eval_shape(transformation.init, abstract_params)
    return jax.tree_util.tree_map_with_path(place, state)


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(key.key for key in path if isinstance(key, DictKey))


def _beside(
    shape: tuple[int, ...], param_shape: tuple[int, ...], spec: PartitionSpec
) -> PartitionSpec:
    """Keeps the mesh axes of the dimensions that are the parameter's; any others are whole."""
    if len(shape) != len(param_shape):
        return PartitionSpec()
    axes = (*spec, *(None,) * (len(shape) - len(spec)))
    sizes = zip(shape, param_shape, axes, strict=True)
    return PartitionSpec(*(place if size == whole else None for size, whole, place in sizes))
