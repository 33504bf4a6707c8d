"""Keys and values of the tokens decoded so far."""

from __future__ import annotations

import dataclasses

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from alexatm_jax.model.attention import KeysValues
from alexatm_jax.model.config import ModelConfig

KEYS = ("batch", "heads", "length", "kv")
VALUES = ("batch", "heads", "kv", "length")
"""How keys and values lie in memory: attention sums over the last axis of both, the keys' K and the
values' M, and copies neither. XLA's CPU backend copied both at every step when they lay as
[B, M, H, K]: more than half of the time of a batch of 8."""

Layers = Array | tuple[Array, ...]
"""One array for all layers, or one for each."""


def stored(keys_values: KeysValues) -> KeysValues:
    """Lays keys and values [..., B, M, H, K] as `KEYS` and `VALUES`."""
    k_BMHK, v_BMHK = keys_values
    return jnp.moveaxis(k_BMHK, -3, -2), jnp.moveaxis(v_BMHK, -3, -1)


def shown(keys_values: KeysValues) -> KeysValues:
    """Shows what is `stored` as [..., B, M, H, K]; the compiler moves nothing."""
    k_BHMK, v_BHKM = keys_values
    return jnp.moveaxis(k_BHMK, -2, -3), jnp.moveaxis(v_BHKM, -1, -3)


@flax.struct.dataclass
class DecoderCache:
    """Self-attention keys and values of all decoder layers, for a fixed number of positions.

    A loop over tokens and layers writes in place: a scan over layers into one array of all, which
    it carries; unrolled layers into an array each, so that none is cut out to be read.

    Attributes:
      keys: [N, B, H, M, K], or N of [B, H, M, K]; positions not yet decoded hold zeros.
      values: the same with [B, H, K, M].
      length: int32 scalar, how many positions are decoded.
    """

    keys: Layers
    values: Layers
    length: Array

    @classmethod
    def empty(
        cls, config: ModelConfig, batch_size: int, num_positions: int, *, stacked: bool = True
    ) -> DecoderCache:
        """Makes room for `num_positions` tokens of `batch_size` rows.

        Args:
          stacked: whether all layers share an array, as a scan over them needs.
        """
        sizes = {
            "layers": config.num_decoder_layers,
            "batch": batch_size,
            "heads": config.decoder_heads,
            "length": num_positions,
            "kv": config.decoder_head_dim,
        }

        def zeros(axes: tuple[str, ...]) -> Array:
            made = jnp.zeros([sizes[axis] for axis in axes], jnp.dtype(config.dtype))
            return nn.with_logical_constraint(made, axes)

        def layers(axes: tuple[str, ...]) -> Layers:
            if stacked:
                return zeros(("layers", *axes))
            return tuple(zeros(axes) for _ in range(config.num_decoder_layers))

        return cls(layers(KEYS), layers(VALUES), jnp.zeros((), jnp.int32))

    def extend(self, layer: Array | int, new: KeysValues) -> tuple[DecoderCache, KeysValues]:
        """Writes a layer's new [B, T, H, K] behind `length`; gives all its [B, M, H, K].

        The length grows only by `advance`, once all layers have written.
        """
        new_BHTK, new_BHKT = stored(new)
        keys, k_BHMK = _written(self.keys, layer, new_BHTK, (0, 0, self.length, 0))
        values, v_BHKM = _written(self.values, layer, new_BHKT, (0, 0, 0, self.length))
        return dataclasses.replace(self, keys=keys, values=values), shown((k_BHMK, v_BHKM))

    def advance(self, num_tokens: int) -> DecoderCache:
        """Counts `num_tokens` more positions as decoded."""
        return dataclasses.replace(self, length=self.length + num_tokens)

    def mask(self, num_tokens: int) -> Array:
        """Lets each of the next T tokens see the decoded ones, its predecessors and itself.

        Returns:
          bool [1, 1, T, M].
        """
        ends_T1 = self.length + jnp.arange(num_tokens)[:, None]
        num_positions = self.keys[0].shape[2]
        return (jnp.arange(num_positions)[None] <= ends_T1)[None, None]


def _written(
    layers: Layers, layer: Array | int, new: Array, place: tuple[Array | int, ...]
) -> tuple[Layers, Array]:
    """Puts `new` at a place of one layer; gives all layers, and that one."""
    if isinstance(layers, tuple):
        assert isinstance(layer, int)
        own = jax.lax.dynamic_update_slice(layers[layer], new, place)
        return (*layers[:layer], own, *layers[layer + 1 :]), own
    layers = jax.lax.dynamic_update_slice(layers, new[None], (layer, *place))
    return layers, layers[layer]
