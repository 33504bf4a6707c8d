"""The vocabulary loss, computed a few positions at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def token_cross_entropy(
    hidden_BTD: Array,
    table_VD: Array,
    targets_BT: Array,
    weights_BT: Array,
    chunk_length: int | None = None,
) -> tuple[Array, Array]:
    """Sums the negative log-likelihood of target tokens, never holding all logits.

    Logits exist for `chunk_length` positions of every row at a time: [B, chunk_length, V] in
    float32. Differentiating costs no second projection: the forward pass already forms the
    gradients of its chunk, and the backward pass scales them.

    Args:
      hidden_BTD: [B, T, D], any float dtype; the last states of the decoder.
      table_VD: [V, D], the LM head.
      targets_BT: int32 [B, T], ids in [0, V).
      weights_BT: float32 [B, T], 1 where a token counts and 0 on padding.
      chunk_length: positions at a time; all T by default.

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
    length = targets_BT.shape[1]
    chunk_length = length if chunk_length is None else min(chunk_length, length)
    if chunk_length < 1:
        raise ValueError(f"chunk_length is {chunk_length}; give at least 1 position, or None.")
    padding = -length % chunk_length

    def chunked(x: Array) -> Array:
        """[B, T, ...] -> [chunks, B, chunk_length, ...]; what padding adds has weight 0."""
        x = jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2))
        return x.reshape(x.shape[0], -1, chunk_length, *x.shape[2:]).swapaxes(0, 1)

    total, losses = _summed(chunked(hidden_BTD), table_VD, chunked(targets_BT), chunked(weights_BT))
    return total, losses.swapaxes(0, 1).reshape(targets_BT.shape[0], -1)[:, :length]


def _chunk_loss(
    hidden_BLD: Array, table_VD: Array, targets_BL: Array, weights_BL: Array
) -> tuple[Array, Array, Array]:
    """Gives the weighted losses [B, L], and the softmax and one-hot targets [B, L, V]."""
    logits_BLV = jnp.einsum("BLD,VD->BLV", hidden_BLD, table_VD, preferred_element_type=jnp.float32)
    logits_BLV = logits_BLV - jax.lax.stop_gradient(logits_BLV.max(axis=-1, keepdims=True))
    exp_BLV = jnp.exp(logits_BLV)
    sums_BL1 = exp_BLV.sum(axis=-1, keepdims=True)
    # A comparison instead of a gather: it shards over the vocabulary without communication.
    hits_BLV = jnp.arange(table_VD.shape[0])[None, None] == targets_BL[..., None]
    picked_BL = jnp.where(hits_BLV, logits_BLV, 0).sum(axis=-1)
    losses_BL = (jnp.log(sums_BL1[..., 0]) - picked_BL) * weights_BL
    return losses_BL, exp_BLV / sums_BL1, hits_BLV


@jax.custom_vjp
def _summed(
    hidden_CBLD: Array, table_VD: Array, targets_CBL: Array, weights_CBL: Array
) -> tuple[Array, Array]:
    """Sums the loss over C chunks; also gives it per token."""
    table_VD = table_VD.astype(hidden_CBLD.dtype)
    losses_CBL = jax.lax.map(
        lambda chunk: _chunk_loss(chunk[0], table_VD, chunk[1], chunk[2])[0],
        (hidden_CBLD, targets_CBL, weights_CBL),
    )
    return losses_CBL.sum(), losses_CBL


def _summed_forward(
    hidden_CBLD: Array, table_VD: Array, targets_CBL: Array, weights_CBL: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    dtype = hidden_CBLD.dtype
    cast_VD = table_VD.astype(dtype)

    def step(d_table_VD: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, tuple]:
        hidden_BLD, targets_BL, weights_BL = chunk
        losses_BL, probs_BLV, hits_BLV = _chunk_loss(hidden_BLD, cast_VD, targets_BL, weights_BL)
        d_logits_BLV = ((probs_BLV - hits_BLV) * weights_BL[..., None]).astype(dtype)
        d_hidden_BLD = jnp.einsum("BLV,VD->BLD", d_logits_BLV, cast_VD)
        d_table_VD += jnp.einsum(
            "BLV,BLD->VD", d_logits_BLV, hidden_BLD, preferred_element_type=jnp.float32
        )
        return d_table_VD, (losses_BL, d_hidden_BLD)

    d_table_VD, (losses_CBL, d_hidden_CBLD) = jax.lax.scan(
        step,
        jnp.zeros(table_VD.shape, jnp.float32),
        (hidden_CBLD, targets_CBL, weights_CBL),
    )
    return (losses_CBL.sum(), losses_CBL), (d_hidden_CBLD, d_table_VD.astype(table_VD.dtype))


def _summed_backward(gradients: tuple[Array, Array], cotangents: tuple[Array, Array]) -> tuple:
    d_hidden_CBLD, d_table_VD = gradients
    scale = cotangents[0]
    return (
        d_hidden_CBLD * scale.astype(d_hidden_CBLD.dtype),
        d_table_VD * scale.astype(d_table_VD.dtype),
        None,
        None,
    )


_summed.defvjp(_summed_forward, _summed_backward)
