"""The encoder-decoder of recipe §1, in Flax Linen.

Key of shapes, used in every array name and einsum of this package:

    B  batch                D  model width (d_model)
    S  source positions     H  attention heads
    T  target positions     K  width of one head (D / H)
    L  positions attending  F  feed-forward width (d_ff)
    M  positions attended   V  vocabulary
    N  layers of a stack    P  rows of a position table
"""

from alexatm_jax.model.config import ModelConfig
from alexatm_jax.model.transformer import Transformer

__all__ = ["ModelConfig", "Transformer"]
