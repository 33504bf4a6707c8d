"""How likely the decoder finds given answers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from alexatm_jax.decoding.cache import DecoderCache
from alexatm_jax.decoding.generate import Prompts
from alexatm_jax.model.transformer import Transformer


def score_choices(
    model: Transformer, params: Any, prompts: Prompts, choices_BCT: Array, *, bos_id: int
) -> tuple[Array, Array]:
    """Sums each choice's decoder cross-entropy, encoding every context once.

    The C choices of a context share its encoder pass and its cross-attention keys and values.

    Args:
      prompts: the B contexts, one example per row.
      choices_BCT: int32 [B, C, T], the tokens to score from the first position on, then zeros.
      bos_id: what the decoder starts from.

    Returns:
      float32 [B, C], nats summed over a choice's tokens; and int32 [B, C], its token count.

    Source: the choice with the lowest decoder cross-entropy wins (recipe §5).
    """
    apply: Callable[..., Any] = functools.partial(model.apply, {"params": params})
    batch_size, num_choices, length = choices_BCT.shape
    encoded_BSD = apply(*prompts, method="encode")
    cross = apply(encoded_BSD, method="cross_keys_values")
    cross_mask = (prompts.segment_ids > 0)[:, None, None]

    rows = batch_size * num_choices
    targets_RT = choices_BCT.reshape(rows, length)
    inputs_RT = jnp.pad(targets_RT, ((0, 0), (1, 0)), constant_values=bos_id)[:, :-1]
    cache = DecoderCache.empty(model.config, rows, length)
    hidden_RTD, _ = apply(
        jax.tree.map(lambda kv: jnp.repeat(kv, num_choices, axis=1), cross),
        jnp.repeat(cross_mask, num_choices, axis=0),
        inputs_RT,
        jnp.broadcast_to(jnp.arange(length)[None], (rows, length)),
        cache,
        cache.mask(length),
        method="decode_cached",
    )
    table_VD = apply(method="output_table").astype(hidden_RTD.dtype)
    logits_RTV = jnp.einsum("RTD,VD->RTV", hidden_RTD, table_VD, preferred_element_type=jnp.float32)
    log_probs_RTV = jax.nn.log_softmax(logits_RTV)
    picked_RT = jnp.take_along_axis(log_probs_RTV, targets_RT[..., None], axis=-1)[..., 0]
    real_RT = targets_RT > 0
    nats_R = -jnp.where(real_RT, picked_RT, 0).sum(axis=-1)
    shape = (batch_size, num_choices)
    return nats_R.reshape(shape), real_RT.sum(axis=-1).reshape(shape)
