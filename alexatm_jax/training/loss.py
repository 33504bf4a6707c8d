"""The vocabulary loss, computed a few positions at a time."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.sharding import PartitionSpec

from alexatm_jax.model.layers import HIDDEN

LOGITS_BYTES = 64 * 2**20
"""Logits that a device holds at a time by default, or those of D / 2 positions if they are more."""

Axes = tuple[str, ...]


def token_cross_entropy(
    hidden_BTD: Array,
    table_VD: Array,
    targets_BT: Array,
    weights_BT: Array,
    chunk_length: int | None = None,
) -> tuple[Array, Array]:
    """Sums the negative log-likelihood of target tokens, never holding all logits.

    Logits exist for some positions at a time, in float32. Differentiating costs no second
    projection: the forward pass already forms the gradients of its chunk, the table's added up
    in float32, and the backward pass scales them.

    On a mesh (`jax.set_mesh`, with flax's logical axis rules) each device computes its own rows
    against its own part of the vocabulary. The head is gathered over the other axes once and its
    gradient is reduced to the parts that it is stored in once, however many chunks there are;
    of the logits only maxima, sums and targets' logits cross devices.

    Args:
      hidden_BTD: [B, T, D], any float dtype; the last states of the decoder.
      table_VD: [V, D], the LM head.
      targets_BT: int32 [B, T], ids in [0, V).
      weights_BT: float32 [B, T], 1 where a token counts and 0 on padding.
      chunk_length: positions of each row whose logits a device holds at a time, or fewer. By
        default as many as `LOGITS_BYTES` hold, and never fewer than D / 2 positions in all: their
        logits are half as large as the head's gradient, which is held anyway and added to once
        a chunk.

    Returns:
      Total loss in nats, a float32 scalar and the only differentiable result; and the weighted
      loss of each token, float32 [B, T].

    Raises:
      ValueError: if the shapes disagree or chunk_length is not positive.

    Source: teacher-forced maximum likelihood, arXiv:1910.10683, Sec. 3.1.2.
    """
    if hidden_BTD.shape[:-1] != targets_BT.shape or targets_BT.shape != weights_BT.shape:
        raise ValueError(
            f"targets have shape {targets_BT.shape} and weights {weights_BT.shape}; states of "
            f"shape {hidden_BTD.shape} need {hidden_BTD.shape[:-1]} for both; use one batch."
        )
    if chunk_length is not None and chunk_length < 1:
        raise ValueError(f"chunk_length is {chunk_length}; give at least 1 position, or None.")
    return _summed(
        (_Placement.of_mesh(), chunk_length), hidden_BTD, table_VD, targets_BT, weights_BT
    )


@dataclasses.dataclass(frozen=True)
class _Placement:
    """Mesh axes, of more than one device each, that the loss is split over.

    Attributes:
      rows: split the batch.
      vocab, embed: split the table's dimensions as stored.
    """

    rows: Axes
    vocab: Axes
    embed: Axes

    @classmethod
    def of_mesh(cls) -> _Placement:
        """Looks the logical axes up in the rules and the mesh that are set; none is no axes."""
        sizes = jax.sharding.get_abstract_mesh().shape

        def large(*names: str) -> list[Axes]:
            spec = nn.logical_to_mesh_axes(names) or ()
            listed = [(axes,) if isinstance(axes, str) else axes or () for axes in spec]
            return [tuple(axis for axis in axes if sizes.get(axis, 1) > 1) for axes in listed]

        return cls(large(*HIDDEN)[0], *large("vocab", "embed"))

    @property
    def split_vocab(self) -> Axes:
        """Axes that split the vocabulary while logits are computed too."""
        return () if set(self.vocab) & set(self.rows) else self.vocab

    @property
    def to_gather(self) -> tuple[Axes, Axes]:
        """Axes over which each dimension of the table is gathered."""
        return (() if self.split_vocab else self.vocab), self.embed

    @property
    def to_scatter(self) -> tuple[Axes, Axes]:
        """Axes over which each dimension of its gradient is summed in parts."""
        vocab, embed = (tuple(a for a in axes if a in self.rows) for axes in self.to_gather)
        return vocab, embed

    def gathered(self, table_VD: Array) -> Array:
        """Gives all widths of the own part of the vocabulary."""
        for dimension, axes in enumerate(self.to_gather):
            if axes:
                table_VD = jax.lax.all_gather(table_VD, axes, axis=dimension, tiled=True)
        return table_VD

    def reduced(self, d_table_VD: Array) -> Array:
        """Sums the table's gradient over all rows, each device its own part."""
        for dimension, axes in enumerate(self.to_scatter):
            if axes:
                d_table_VD = jax.lax.psum_scatter(
                    d_table_VD, axes, scatter_dimension=dimension, tiled=True
                )
        done = sum(self.to_scatter, ())
        return _psum(d_table_VD, tuple(axis for axis in self.rows if axis not in done))

    def on_each_device(self, function: Callable[..., Any], *results: str) -> Callable[..., Any]:
        """Runs a function of (hidden, table, targets, weights) on every device's own part."""
        if not (self.rows or self.vocab or self.embed):
            return function
        rows, (vocab, embed) = PartitionSpec(self.rows), self.to_scatter
        specs = {"rows": rows, "d_table": PartitionSpec(self.split_vocab + vocab, embed)}
        return jax.shard_map(
            function,
            in_specs=(rows, PartitionSpec(self.vocab, self.embed), rows, rows),
            out_specs=tuple(specs[name] for name in results),
            check_vma=False,  # nothing differentiates it
        )


_Split = tuple[_Placement, int | None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(
    split: _Split, hidden_BTD: Array, table_VD: Array, targets_BT: Array, weights_BT: Array
) -> tuple[Array, Array]:
    """Sums the loss; also gives it per token."""
    placement, chunk_length = split

    def own(hidden_BTD: Array, table_VD: Array, *tokens: Array) -> tuple[Array]:
        table_VD = placement.gathered(table_VD.astype(hidden_BTD.dtype))
        chunks = _chunks(chunk_length, table_VD.shape[0], hidden_BTD, *tokens)
        losses_CN = jax.lax.map(
            lambda chunk: _chunk_loss(chunk, table_VD, placement.split_vocab)[0], chunks
        )
        return (_unchunked(losses_CN, tokens[0].shape),)

    (losses_BT,) = placement.on_each_device(own, "rows")(
        hidden_BTD, table_VD, targets_BT, weights_BT
    )
    return losses_BT.sum(), losses_BT


def _summed_forward(
    split: _Split, hidden_BTD: Array, table_VD: Array, targets_BT: Array, weights_BT: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    placement, chunk_length = split

    def own(hidden_BTD: Array, table_VD: Array, *tokens: Array) -> tuple[Array, Array, Array]:
        table_VD = placement.gathered(table_VD.astype(hidden_BTD.dtype))
        step = functools.partial(_chunk_gradients, table_VD, placement.split_vocab)
        chunks = _chunks(chunk_length, table_VD.shape[0], hidden_BTD, *tokens)
        zeros = jnp.zeros(table_VD.shape, jnp.float32)
        d_table_VD, (losses_CN, d_hidden_CND) = jax.lax.scan(step, zeros, chunks)
        return (
            _unchunked(losses_CN, tokens[0].shape),
            _psum(_unchunked(d_hidden_CND, hidden_BTD.shape), placement.split_vocab),
            placement.reduced(d_table_VD),
        )

    losses_BT, d_hidden_BTD, d_table_VD = placement.on_each_device(own, "rows", "rows", "d_table")(
        hidden_BTD, table_VD, targets_BT, weights_BT
    )
    return (losses_BT.sum(), losses_BT), (d_hidden_BTD, d_table_VD.astype(table_VD.dtype))


def _summed_backward(
    split: _Split, gradients: tuple[Array, Array], cotangents: tuple[Array, Array]
) -> tuple:
    return (*(x * cotangents[0].astype(x.dtype) for x in gradients), None, None)


_summed.defvjp(_summed_forward, _summed_backward)

_Chunk = tuple[Array, Array, Array]
"""States [N, D], targets [N] and weights [N] of some positions."""


def _chunks(
    chunk_length: int | None, vocab: int, hidden_BTD: Array, targets_BT: Array, weights_BT: Array
) -> _Chunk:
    """Deals B T positions into C chunks of N, as even as can be; padding has weight 0.

    Returns:
      [C, N, D], [C, N] and [C, N].
    """
    rows, length, width = hidden_BTD.shape
    most = max(math.ceil(width / 2), LOGITS_BYTES // (4 * vocab))
    if chunk_length is not None:
        most = rows * min(chunk_length, length)
    count = math.ceil(rows * length / most)
    size = math.ceil(rows * length / count)

    def dealt(x: Array) -> Array:
        x = x.reshape(rows * length, *x.shape[2:])
        x = jnp.pad(x, ((0, count * size - rows * length),) + ((0, 0),) * (x.ndim - 1))
        return x.reshape(count, size, *x.shape[1:])

    return dealt(hidden_BTD), dealt(targets_BT), dealt(weights_BT)


def _unchunked(x: Array, shape: tuple[int, ...]) -> Array:
    """[C, N, ...] -> [B, T, ...]: undoes `_chunks`."""
    x = x.reshape(-1, *shape[2:])
    return x[: shape[0] * shape[1]].reshape(shape)


def _chunk_loss(chunk: _Chunk, table_VD: Array, vocab: Axes) -> tuple[Array, Array, Array]:
    """Gives the weighted losses [N], and their derivatives after the logits as two factors.

    The logits' gradient, weight x (softmax - one-hot), is factor [N, V] times factor [N]:
    (exp(logits - max) - sum x one-hot) and weight / sum. The subtraction is in float32, where
    the softmax of a target that is nearly certain differs from 1.
    """
    hidden_ND, targets_N, weights_N = chunk
    logits_NV = jnp.einsum("ND,VD->NV", hidden_ND, table_VD, preferred_element_type=jnp.float32)
    own_N = targets_N - (jax.lax.axis_index(vocab) * table_VD.shape[0] if vocab else 0)
    is_own_N = (own_N >= 0) & (own_N < table_VD.shape[0])
    # A gather of a few numbers, where a comparison's sum would be a pass over all logits.
    picked_N = jnp.take_along_axis(logits_NV, own_N[:, None], axis=1, mode="clip")[:, 0]
    # Taken into the maximum, which it cannot exceed, it is not read after the exponentials have
    # taken the logits' place.
    peak_N = _pmax(jnp.maximum(logits_NV.max(axis=1), picked_N), vocab)
    exp_NV = jnp.exp(logits_NV - peak_N[:, None])
    picked_N = jnp.where(is_own_N, picked_N, 0)
    sums_N, picked_N = _psum((exp_NV.sum(axis=1), picked_N), vocab)
    losses_N = (jnp.log(sums_N) - (picked_N - peak_N)) * weights_N
    # A comparison instead of a scatter: it costs no pass of its own, on any device.
    hits_NV = jnp.arange(table_VD.shape[0])[None] == own_N[:, None]
    return losses_N, exp_NV - jnp.where(hits_NV, sums_N[:, None], 0), weights_N / sums_N


def _chunk_gradients(
    table_VD: Array, vocab: Axes, d_table_VD: Array, chunk: _Chunk
) -> tuple[Array, tuple[Array, Array]]:
    """Adds a chunk's gradient of the table; gives its losses [N] and states' gradient [N, D]."""
    hidden_ND = chunk[0]
    losses_N, factor_NV, scale_N = _chunk_loss(chunk, table_VD, vocab)
    factor_NV = factor_NV.astype(hidden_ND.dtype)
    d_hidden_ND = jnp.einsum("NV,VD->ND", factor_NV, table_VD, preferred_element_type=jnp.float32)
    d_table_VD += jnp.einsum(
        "NV,ND->VD",
        factor_NV,
        (hidden_ND * scale_N[:, None]).astype(hidden_ND.dtype),
        preferred_element_type=jnp.float32,
    )
    return d_table_VD, (losses_N, (d_hidden_ND * scale_N[:, None]).astype(hidden_ND.dtype))


def _psum(x: Any, axes: Axes) -> Any:
    return jax.lax.psum(x, axes) if axes else x


def _pmax(x: Array, axes: Axes) -> Array:
    return jax.lax.pmax(x, axes) if axes else x
