"""Greedy generation: the whole answer in one compiled loop."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from alexatm_jax.decoding.cache import DecoderCache
from alexatm_jax.model.transformer import Transformer


class Prompts(NamedTuple):
    """Encoder inputs of a batch, int32 [B, S] each, named as in `alexatm_jax.batch`."""

    tokens: Any
    positions: Any
    segment_ids: Any


class _Loop(NamedTuple):
    cache: DecoderCache
    previous_B: Array
    tokens_BT: Array
    ended_B: Array


def greedy(
    model: Transformer,
    params: Any,
    prompts: Prompts,
    *,
    max_new_tokens: int,
    bos_id: int,
    ends_V: Array,
) -> Array:
    """Takes the likeliest token until every row has ended; one `lax.while_loop`, no host.

    Each prompt is encoded once, its cross-attention keys and values are projected once, and each
    step computes one position.

    Args:
      prompts: one example per row, segment id 1 on its tokens.
      max_new_tokens: T, the most tokens of an answer, with its last.
      bos_id: what the decoder starts from.
      ends_V: bool [V], the tokens after which a row is done, `</s>` among them.

    Returns:
      int32 [B, T]: each row's tokens with the ending one, then zeros.

    Raises:
      ValueError: if T is beyond the decoder's positions.

    Source: all few-shot generation of the paper is greedy (recipe §5).
    """
    config = model.config
    if max_new_tokens > config.max_positions:
        raise ValueError(
            f"max_new_tokens is {max_new_tokens}; the decoder has {config.max_positions} "
            "positions: ask for fewer tokens."
        )
    apply: Callable[..., Any] = functools.partial(model.apply, {"params": params})
    encoded_BSD = apply(*prompts, method="encode")
    cross = apply(encoded_BSD, method="cross_keys_values")
    cross_mask = (prompts.segment_ids > 0)[:, None, None]
    table_VD = apply(method="output_table").astype(encoded_BSD.dtype)
    batch_size = prompts.tokens.shape[0]

    def unfinished(loop: _Loop) -> Array:
        return (loop.cache.length < max_new_tokens) & ~loop.ended_B.all()

    def step(loop: _Loop) -> _Loop:
        position = loop.cache.length
        hidden_B1D, cache = apply(
            cross,
            cross_mask,
            loop.previous_B[:, None],
            jnp.broadcast_to(position, (batch_size, 1)),
            loop.cache,
            loop.cache.mask(1),
            method="decode_cached",
        )
        logits_BV = jnp.einsum(
            "BD,VD->BV", hidden_B1D[:, 0], table_VD, preferred_element_type=jnp.float32
        )
        token_B = jnp.where(loop.ended_B, 0, logits_BV.argmax(axis=-1).astype(jnp.int32))
        return _Loop(
            cache.advance(1),
            token_B,
            jax.lax.dynamic_update_slice(loop.tokens_BT, token_B[:, None], (0, position)),
            loop.ended_B | ends_V[token_B],
        )

    start = _Loop(
        DecoderCache.empty(config, batch_size, max_new_tokens),
        jnp.full((batch_size,), bos_id, jnp.int32),
        jnp.zeros((batch_size, max_new_tokens), jnp.int32),
        # Rows without a token are padding of the batch: nothing to answer.
        ~(prompts.segment_ids > 0).any(axis=1),
    )
    return jax.lax.while_loop(unfinished, step, start).tokens_BT
