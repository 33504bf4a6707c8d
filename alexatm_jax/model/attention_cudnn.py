"""Attention by cuDNN's fused kernels, on NVIDIA's GPUs, through JAX's public API."""

from __future__ import annotations

import jax
from jax import Array

from alexatm_jax.model.masks import Segments

CUDNN_FORWARD = "dot_product_attention_fwd_wrapper"
"""JAX's primitive for outputs and normalizers: remat policies keep both, or compute both again."""


def cudnn_attention(q_BLHK: Array, k_BMHK: Array, v_BMHK: Array, segments: Segments) -> Array:
    """Computes softmax(Q K^T) V, of queries that are scaled already; gives [B, L, H, K].

    The mask of segments is one [B, 1, L, M] array in the compute dtype, for all heads: the public
    API knows rows of one example besides, but not rows that several share. Its dropout is left
    out, because the seed is compiled in: all steps and layers would drop the same.

    Before JAX 0.11.1 the backward pass also computes the gradient of that mask, on every call, and
    throws it away.
    """
    mask_B1LM = Segments(segments.queries_BL, segments.keys_BM).mask()
    output: Array = jax.nn.dot_product_attention(
        q_BLHK,
        k_BMHK,
        v_BMHK,
        mask=mask_B1LM,
        scale=1.0,
        is_causal=segments.causal,
        implementation="cudnn",
    )
    return output
