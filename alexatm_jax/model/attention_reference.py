"""Attention by its definition, which keeps all scores: the others are tested against it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from alexatm_jax.model.dropout import dropped
from alexatm_jax.model.masks import Visible


def reference_attention(
    q_BLHK: Array,
    k_BMHK: Array,
    v_BMHK: Array,
    visible: Visible,
    dropout_rate: float,
    dropout_key: Array | None,
) -> Array:
    """Computes softmax(Q K^T) V, of queries that are scaled already; gives [B, L, H, K].

    A query that sees no key gets the mean of all values.

    Source: arXiv:1706.03762, Sec. 3.2.1; scores and softmax are float32 from the product on.
    """
    scores_BHLM = jnp.einsum("BLHK,BMHK->BHLM", q_BLHK, k_BMHK, preferred_element_type=jnp.float32)
    scores_BHLM = jnp.where(visible.mask(), scores_BHLM, jnp.finfo(jnp.float32).min)
    probs_BHLM = jax.nn.softmax(scores_BHLM).astype(q_BLHK.dtype)
    if dropout_key is not None:
        probs_BHLM = dropped(probs_BHLM, dropout_key, dropout_rate)
    return jnp.einsum("BHLM,BMHK->BLHK", probs_BHLM, v_BMHK)
