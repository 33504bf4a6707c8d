"""Attention by JAX's Pallas kernel for TPUs, "splash": it holds no mask, skips causal blocks."""

from __future__ import annotations

import jax
from jax import Array
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from alexatm_jax.model.attention_blocked import ATTENDED
from alexatm_jax.model.masks import Segments

LANES = 128
"""Lengths are multiples of this, as are the kernel's blocks."""

LARGEST_BLOCK = 512


def splash_attention(
    q_BLHK: Array,
    k_BMHK: Array,
    v_BMHK: Array,
    segments: Segments,
    *,
    interpret: bool = False,
) -> Array:
    """Computes softmax(Q K^T) V, of queries that are scaled already; gives [B, L, H, K].

    A query that sees no key gets some mean of values.

    Args:
      q_BLHK, k_BMHK, v_BMHK: L and M are multiples of `LANES`.
      interpret: run the kernel step by step on any device, for tests.
    """
    q_BHLK, k_BHMK, v_BHMK = (x.swapaxes(1, 2) for x in (q_BLHK, k_BMHK, v_BMHK))
    shape = (q_BHLK.shape[2], k_BHMK.shape[2])
    mask = masks.CausalMask(shape) if segments.causal else masks.FullMask(shape)
    kernel = kernels.make_splash_mha_single_device(
        masks.MultiHeadMask([mask] * q_BHLK.shape[1]),
        block_sizes=_block_sizes(*shape),
        residual_checkpoint_name=ATTENDED,
        interpret=interpret,
    )
    ids = kernels.SegmentIds(segments.queries_BL, segments.keys_BM)
    o_BHLK: Array = jax.vmap(kernel)(q_BHLK, k_BHMK, v_BHMK, ids)
    return o_BHLK.swapaxes(1, 2)


def _block_sizes(queries: int, keys: int) -> kernels.BlockSizes:
    q, kv = _largest_block(queries), _largest_block(keys)
    return kernels.BlockSizes(
        block_q=q,
        block_kv=kv,
        block_q_dkv=q,
        block_kv_dkv=kv,
        block_q_dq=q,
        block_kv_dq=kv,
    )


def _largest_block(length: int) -> int:
    return max(n for n in range(LANES, LARGEST_BLOCK + 1, LANES) if length % n == 0)
