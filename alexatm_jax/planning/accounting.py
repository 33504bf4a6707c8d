"""Counts parameters and bytes from shapes, dtypes and shardings alone: nothing is compiled."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend.core import Literal
from jax.tree_util import DictKey

from alexatm_jax.batch import batch_shapes
from alexatm_jax.model.config import ModelConfig
from alexatm_jax.model.flops import PARTS
from alexatm_jax.model.transformer import Transformer
from alexatm_jax.training.state import TrainState, abstract_params
from alexatm_jax.training.step import batch_loss


@dataclasses.dataclass(frozen=True)
class TableRow:
    """One part of the model.

    Attributes:
      name: such as "encoder_tokens", "encoder feed_forward" or "decoder norms".
      parameters: how many, over all devices.
      parameter_bytes, optimizer_bytes, gradient_bytes: on one device, shards as placed.
    """

    name: str
    parameters: int
    parameter_bytes: int
    optimizer_bytes: int
    gradient_bytes: int


def tables(state: TrainState, trained: Collection[str]) -> tuple[TableRow, ...]:
    """Breaks a placed, abstract training state down by the parts of the model.

    What the optimizer and the state hold besides arrays for single parameters, such as counters
    and sums, is the last row, "scalars".

    Args:
      state: from `training.state.abstract_state`.
      trained: first names of the parameters that have gradients.
    """
    params = dict(_paths(state.params))
    held: collections.Counter[tuple[str, ...]] = collections.Counter()
    for path, leaf in _paths((state.opt_state, state.sums, state.step)):
        held[_owner(path, params)] += shard_bytes(leaf)
    rows: dict[str, TableRow] = {}
    for path, leaf in params.items():
        name = part_of(path)
        row = rows.get(name, TableRow(name, 0, 0, 0, 0))
        rows[name] = TableRow(
            name,
            row.parameters + leaf.size,
            row.parameter_bytes + shard_bytes(leaf),
            row.optimizer_bytes + held[path],
            row.gradient_bytes + (_float32_bytes(leaf) if path[0] in trained else 0),
        )
    ordered = sorted(rows.values(), key=lambda row: PARTS.index(row.name.split()[0]))
    return (*ordered, TableRow("scalars", 0, 0, held[()], 0))


def _owner(path: tuple[str, ...], params: Container[tuple[str, ...]]) -> tuple[str, ...]:
    """Gives the parameter at which a path of the optimizer's state ends, or ()."""
    ends = (path[start:] for start in range(len(path)))
    return next((end for end in ends if end in params), ())


def gradient_bytes(params: Mapping[str, Any], trained: Collection[str]) -> int:
    """Gives the bytes of the gradients on one device: float32, placed as their parameters are."""
    parts = {name: params[name] for name in trained}
    return sum(map(_float32_bytes, jax.tree.leaves(parts)))


def _float32_bytes(leaf: Any) -> int:
    return 4 * math.prod(leaf.sharding.shard_shape(leaf.shape))


def part_of(path: Sequence[str]) -> str:
    """Names the part of the model that a parameter belongs to, layers taken together."""
    if len(path) == 2:
        return path[0]
    stack, sublayer = path[0], path[-3] if path[-2] in _PROJECTIONS else path[-2]
    return f"{stack} norms" if sublayer.endswith("norm") else f"{stack} {sublayer}"


_PROJECTIONS = ("query", "key", "value", "out", "in")


def _paths(tree: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Gives every leaf with the names that lead to it, those of optax's wrappers left out."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield tuple(key.key for key in path if isinstance(key, DictKey)), leaf


def shard_bytes(leaf: Any) -> int:
    """Gives the bytes of an abstract, placed array on one device."""
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def tree_bytes(placed: Any) -> int:
    """Gives the bytes of a tree of abstract, placed arrays on one device."""
    return sum(map(shard_bytes, jax.tree.leaves(placed)))


def saved_activation_bytes(
    config: ModelConfig,
    rows: int,
    source_length: int,
    target_length: int,
    *,
    loss_chunk_length: int | None = None,
    tensor: int = 1,
    frozen: Collection[str] = (),
) -> int:
    """Gives what one device keeps of a forward pass for its backward pass.

    The loss is differentiated abstractly on the device's own rows, and what its backward pass
    asks for is added up, as JAX would save it: XLA may keep less, by computing some of it
    again, or more, by padding it. Left out are the parameters, and copies of parameters (casts
    to bfloat16): whatever does not grow with the rows.

    Args:
      rows: of a microbatch, on this device: rows divided by data x fsdp.
      loss_chunk_length: see `training.loss`.
      tensor: devices that share heads and feed-forward width; arrays of these are divided.
      frozen: first names of the parameters that are not differentiated by.
    """
    lengths = (source_length, target_length)
    one = _saved(config, rows, *lengths, loss_chunk_length, frozen)
    two = _saved(config, 2 * rows, *lengths, loss_chunk_length, frozen)
    return sum(
        math.prod(small.shape) * small.dtype.itemsize // (tensor if _is_wide(small, config) else 1)
        for small, large in zip(one, two, strict=True)
        if small.shape != large.shape
    )


def _saved(
    config: ModelConfig,
    rows: int,
    source: int,
    target: int,
    chunk: int | None,
    frozen: Collection[str],
) -> list[jax.core.ShapedArray]:
    """Lists the arrays that link the loss's forward pass to its backward pass."""
    model = Transformer(config)
    batch = {
        name: jax.ShapeDtypeStruct(shape, jnp.int32)
        for name, shape in batch_shapes(rows, source, target).items()
    }

    def linearised(params: dict[str, Any], batch: Any) -> list[Any]:
        def loss(trained: dict[str, Any]) -> Any:
            return batch_loss(model, params | trained, batch, jax.random.key(0), chunk)[0]

        trained = {name: params[name] for name in params if name not in frozen}
        return jax.tree.leaves(jax.vjp(loss, trained)[1])

    params = nn.unbox(abstract_params(model))
    jaxpr = jax.make_jaxpr(linearised)(params, batch).jaxpr
    given = set(jaxpr.invars)
    saved = dict.fromkeys(var for var in jaxpr.outvars if not isinstance(var, Literal))
    return [var.aval for var in saved if var not in given]


def _is_wide(array: Any, config: ModelConfig) -> bool:
    """Tells arrays of heads or of feed-forward width from those of model width, by their shape."""
    widths = {config.d_ff, config.decoder_ff}
    heads = {
        (config.num_heads, config.head_dim),
        (config.decoder_heads, config.decoder_head_dim),
    }
    shape = array.shape
    is_attention = len(shape) >= 4 and shape[-3] in (config.num_heads, config.decoder_heads)
    return (
        (bool(shape) and shape[-1] in widths)
        or shape[-2:] in heads
        or (is_attention and shape[-1] != config.d_model)
    )
