"""What training carries from step to step, and how it first comes to be."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jax.sharding import Mesh

from alexatm_jax.batch import OBJECTIVES
from alexatm_jax.model.flops import PARTS
from alexatm_jax.partitioning import Partitioning, placed, replicated
from alexatm_jax.training.optimizer import Optimizer
from alexatm_jax.training.optimizer_state import opt_state_shardings
from alexatm_jax.training.phases import ResolvedPhase

Sums = dict[str, Array]

Given = tuple[Array, np.ndarray | None]
"""A leaf's values from elsewhere, and which entries of its first axis they fill; None is all."""


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and replaces.

    Attributes:
      step: int32 scalar, the number of updates made.
      params: the model's parameters, unboxed.
      opt_state: optax's, of each group of `ResolvedPhase.groups`; what is frozen has none.
      sums: metrics summed since the last progress line, so that a run stopped between two lines
        continues with the same next line.
    """

    step: Any
    params: Any
    opt_state: Any
    sums: Sums


def zero_sums() -> Sums:
    """Gives the sums before the first step of a progress line; `training.step` adds to them."""
    per_objective = jnp.zeros(len(OBJECTIVES), jnp.float32)
    scalars = (
        "steps",
        "gradient_norm",
        "encoder_tokens",
        "decoder_tokens",
        "encoder_pairs",
        "decoder_pairs",
        "cross_pairs",
    )
    return {"loss": per_objective, "weight": per_objective} | {
        name: jnp.zeros((), jnp.float32) for name in scalars
    }


@functools.lru_cache(maxsize=16)  # tracing takes a second, and many ask
def abstract_params(model: nn.Module) -> Any:
    """Gives the boxed, abstract parameters: shapes, dtypes and logical axes, no memory."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]


def part_of(tree: Mapping[str, Any], parts: Collection[str]) -> dict[str, Any]:
    """Gives some parts of a tree of parameters, by its first names."""
    return {name: tree[name] for name in sorted(parts)}


def directions(
    model: nn.Module, optimizer: Optimizer, phase: ResolvedPhase
) -> dict[str, optax.GradientTransformation]:
    """Gives what makes each group's updates: at learning rate 1, and without clipping."""
    specs = nn.get_partition_spec(abstract_params(model))
    return {
        name: optimizer.direction(part_of(specs, parts)) for name, parts in phase.groups.items()
    }


def _first_opt_state(
    model: nn.Module, optimizer: Optimizer, phase: ResolvedPhase, params: Any
) -> dict[str, Any]:
    made = directions(model, optimizer, phase)
    return {name: made[name].init(part_of(params, parts)) for name, parts in phase.groups.items()}


def state_shardings(
    model: nn.Module,
    optimizer: Optimizer,
    phase: ResolvedPhase,
    partitioning: Partitioning,
    mesh: Mesh,
) -> TrainState:
    """Places the whole state: optimizer moments beside their parameters, the rest everywhere."""
    boxed = abstract_params(model)
    shapes, params = nn.unbox(boxed), partitioning.param_shardings(boxed, mesh)
    everywhere = replicated(mesh)
    opt_state = {
        name: opt_state_shardings(
            direction,
            part_of(shapes, phase.groups[name]),
            part_of(params, phase.groups[name]),
            mesh,
        )
        for name, direction in directions(model, optimizer, phase).items()
    }
    sums = jax.tree.map(lambda _: everywhere, jax.eval_shape(zero_sums))
    return TrainState(everywhere, params, opt_state, sums)


def create_state(
    model: nn.Module,
    optimizer: Optimizer,
    phase: ResolvedPhase,
    shardings: TrainState,
    seed: int,
    given: Mapping[str, Given] | None = None,
) -> TrainState:
    """Initialises the state, every leaf born on its own devices.

    The values depend on the seed and on `given` alone, not on the mesh.

    Args:
      phase: the first one.
      given: parameters that start from elsewhere, by "/"-joined path, in their own shape, dtype
        and sharding; the arrays are donated, so that no leaf is held twice.
    """
    given = given or {}
    filled = {path: mask for path, (_, mask) in given.items()}

    def create(key: Array, arrays: dict[str, Array]) -> TrainState:
        tokens = jnp.zeros((1, 1), jnp.int32)
        leaves = flatten_dict(nn.unbox(model.init(key, tokens, tokens)["params"]), sep="/")
        for path, array in arrays.items():
            leaves[path] = _filled(leaves[path], array, filled[path])
        params = unflatten_dict(leaves, sep="/")
        opt_state = _first_opt_state(model, optimizer, phase, params)
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state, zero_sums())

    arrays = {path: array for path, (array, _) in given.items()}
    return jax.jit(create, out_shardings=shardings, donate_argnums=1)(jax.random.key(seed), arrays)


def _filled(initial: Array, array: Array, mask: np.ndarray | None) -> Array:
    if mask is None:
        return array
    return jnp.where(mask.reshape(-1, *(1,) * (initial.ndim - 1)), array, initial)


def abstract_state(
    model: nn.Module, optimizer: Optimizer, phase: ResolvedPhase, shardings: TrainState
) -> TrainState:
    """Gives the state's shapes, dtypes and shardings without allocating any of it."""
    params = nn.unbox(abstract_params(model))
    shapes = TrainState(
        jax.ShapeDtypeStruct((), jnp.int32),
        params,
        jax.eval_shape(functools.partial(_first_opt_state, model, optimizer, phase), params),
        jax.eval_shape(zero_sums),
    )
    return placed(shapes, shardings)


def entered(
    state: TrainState,
    model: nn.Module,
    optimizer: Optimizer,
    phase: ResolvedPhase,
    shardings: TrainState,
) -> TrainState:
    """Changes the optimizer's state from that of the phase before to that of `phase`.

    What trained before and still does keeps its state; what begins to train gets a new one, born
    on its own devices; what is frozen loses its state.

    Args:
      state: of the phase before, or already of this one.
      shardings: of the state in this phase.
    """
    held = {
        name: _of_parts(state.opt_state[name], parts)
        for name, parts in phase.groups.items()
        if name in state.opt_state
    }
    begun = {name: phase.groups[name] for name in phase.groups.keys() - held.keys()}
    if begun:
        starting = dataclasses.replace(phase, groups=begun)
        held |= jax.jit(
            functools.partial(_first_opt_state, model, optimizer, starting),
            out_shardings=part_of(shardings.opt_state, begun),
        )(state.params)
    return dataclasses.replace(state, opt_state=held)


def _of_parts(opt_state: Any, parts: Collection[str]) -> Any:
    """Cuts a group's state down to these parts, in every tree like the parameters within it."""

    def is_params(node: Any) -> bool:
        return isinstance(node, dict) and set(parts) <= node.keys() <= set(PARTS)

    return jax.tree.map(
        lambda node: part_of(node, parts) if is_params(node) else node,
        opt_state,
        is_leaf=is_params,
    )
