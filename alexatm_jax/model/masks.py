"""Says which positions may attend to which."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def attention_mask(
    query_segments_BL: Array, key_segments_BM: Array, *, causal: bool = False
) -> Array:
    """Lets a query see the keys of its own segment, up to its own index if causal.

    Padding is segment 0: no real token attends to it. Padding attends to padding, so that no
    row of the softmax is empty; what it computes is never read.

    Args:
      query_segments_BL: int32 [B, L].
      key_segments_BM: int32 [B, M]; with `causal`, M equals L.

    Returns:
      bool [B, 1, L, M], true where attention is allowed.

    Raises:
      ValueError: if `causal` and L differs from M.
    """
    mask_BLM = query_segments_BL[:, :, None] == key_segments_BM[:, None, :]
    if causal:
        length, keys = mask_BLM.shape[1:]
        if length != keys:
            raise ValueError(
                f"a causal mask of {length} queries and {keys} keys was asked for; causal "
                "attention is self-attention, give the same segments twice."
            )
        mask_BLM &= jnp.tril(jnp.ones((1, length, keys), dtype=bool))
    return mask_BLM[:, None]
