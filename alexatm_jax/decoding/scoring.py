"""How likely the decoder finds given texts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from alexatm_jax.decoding.drafts import NO_TOKEN
from alexatm_jax.decoding.encoded import Prompts
from alexatm_jax.model.masks import Segments
from alexatm_jax.model.transformer import Transformer

LOGIT_ROWS = 128
"""Rows of logits that exist at a time on each part of a mesh: 16 MB, in a vocabulary of 32 k."""


class Texts(NamedTuple):
    """What the decoder reads and is scored on: C lines of T tokens for each of B encoder rows.

    A line holds several *stems*: the decoder's start and a given text, which reads one prompt of
    the encoder row. Behind a stem stand its *branches*, the texts scored after it, without their
    last tokens. A branch sees its stem and itself, as if it were alone. A mesh spreads the rows
    over G parts; the tokens scored in the rows of one part stand in one list. All are int32.

    Attributes:
      tokens: [B, C, T], what the decoder reads.
      positions: [B, C, T]; all branches of a stem count on from it.
      prompts: [B, C, T], the segment of the encoder row that the token's stem reads.
      stems: [B, C, T], which stem of the line this is, from 1; 0 on padding.
      branches: [B, C, T], which branch of the stem, from 1; 0 on the stem itself.
      states: [G, E], places in the part's B / G x C x T tokens, whose states predict a scored one.
      targets: [G, E], the scored tokens of each part, then -1.
    """

    tokens: Any
    positions: Any
    prompts: Any
    stems: Any
    branches: Any
    states: Any
    targets: Any


def score_texts(
    model: Transformer,
    params: Any,
    prompts: Prompts,
    texts: Texts,
    *,
    logit_rows: int = LOGIT_ROWS,
) -> tuple[Array, Array]:
    """Gives the cross-entropy of every scored token, from one pass over encoder and decoder.

    All lines of an encoder row share its cross-attention keys and values. Logits are made of the
    scored tokens alone.

    Args:
      prompts: encoder rows, int32 [B, S], any number of prompts in each, as segments 1, 2, ...
      logit_rows: of each part, that exist at a time.

    Returns:
      float32 [G, E], nats, 0 where there is no target; and bool [G, E], whether greedy decoding
      would take the token: of equally likely tokens, that of the lowest id.

    Source: teacher forcing; choices are compared by it (recipe §5).
    """
    apply: Callable[..., Any] = functools.partial(model.apply, {"params": params})
    lines = Texts(*(field.reshape(-1, field.shape[-1]) for field in texts))
    prompts_BM = texts.prompts.reshape(len(prompts.tokens), -1)
    hidden_RTD = apply(
        apply(*prompts, method="encode"),
        lines.tokens,
        lines.positions,
        Segments.of_self(lines.stems, causal=True, branches_BL=lines.branches),
        Segments(prompts_BM, prompts.segment_ids),
        method="decode_masked",
    )
    table_VD = apply(method="output_table").astype(hidden_RTD.dtype)
    hidden_GMD = hidden_RTD.reshape(len(texts.targets), -1, hidden_RTD.shape[-1])
    return _judged(hidden_GMD, table_VD, texts.states, texts.targets, logit_rows)


def _judged(
    hidden_GMD: Array, table_VD: Array, states_GE: Array, targets_GE: Array, logit_rows: int
) -> tuple[Array, Array]:
    """Scores the targets of all parts, some at a time, until no part has any left."""
    parts, width = targets_GE.shape
    chunk = min(width, logit_rows)
    chunks = -(-width // chunk)
    padding = ((0, 0), (0, chunks * chunk - width))
    states_GE = jnp.pad(states_GE, padding)
    targets_GE = jnp.pad(targets_GE, padding, constant_values=NO_TOKEN)
    used = (targets_GE != NO_TOKEN).sum(axis=1).max()

    def unfinished(loop: tuple[Array, Array, Array]) -> Array:
        return (loop[0] < chunks) & (loop[0] * chunk < used)

    def step(loop: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        done, nats_GE, greedy_GE = loop
        begin = done * chunk
        states_GN = jax.lax.dynamic_slice_in_dim(states_GE, begin, chunk, axis=1)
        targets_GN = jax.lax.dynamic_slice_in_dim(targets_GE, begin, chunk, axis=1)
        hidden_GND = jnp.take_along_axis(hidden_GMD, states_GN[..., None], axis=1)
        # Flat, because CPUs take many times as long for a product of three dimensions.
        flat_RD = hidden_GND.reshape(-1, hidden_GND.shape[-1])
        nats_R, greedy_R = _cross_entropy(flat_RD, table_VD, targets_GN.reshape(-1))
        return (
            done + 1,
            jax.lax.dynamic_update_slice(nats_GE, nats_R.reshape(parts, chunk), (0, begin)),
            jax.lax.dynamic_update_slice(greedy_GE, greedy_R.reshape(parts, chunk), (0, begin)),
        )

    start = (jnp.zeros((), jnp.int32), jnp.zeros(targets_GE.shape), targets_GE == NO_TOKEN)
    _, nats_GE, greedy_GE = jax.lax.while_loop(unfinished, step, start)
    return nats_GE[:, :width], greedy_GE[:, :width]


def _cross_entropy(hidden_RD: Array, table_VD: Array, targets_R: Array) -> tuple[Array, Array]:
    """Gives the nats of R targets, 0 for `NO_TOKEN`, and whether each is the likeliest token."""
    logits_RV = jnp.einsum("RD,VD->RV", hidden_RD, table_VD, preferred_element_type=jnp.float32)
    ids_1V, targets_R1 = jnp.arange(table_VD.shape[0])[None], targets_R[:, None]
    # A comparison instead of a gather: it shards over the vocabulary without communication.
    picked_R1 = jnp.where(ids_1V == targets_R1, logits_RV, 0).sum(axis=-1, keepdims=True)
    better_RV = (logits_RV > picked_R1) | ((logits_RV == picked_R1) & (ids_1V < targets_R1))
    nats_R = jax.nn.logsumexp(logits_RV, axis=-1) - picked_R1[:, 0]
    return jnp.where(targets_R == NO_TOKEN, 0, nats_R), ~better_RV.any(axis=-1)
