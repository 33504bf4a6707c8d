"""Prompts encoded once, for decoding any number of answers to each."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from alexatm_jax.decoding.cache import DecoderCache, shown, stored
from alexatm_jax.decoding.cpu_layout import transposed, unrolled
from alexatm_jax.model.transformer import Transformer


class Prompts(NamedTuple):
    """Encoder inputs of a batch, int32 [B, S] each, named as in `alexatm_jax.batch`.

    One example per row, segment id 1 on its tokens; rows without any are padding of the batch.
    """

    tokens: Any
    positions: Any
    segment_ids: Any


class EncodedPrompts:
    """The decoder of one model over one batch of prompts.

    Each prompt is encoded once and its cross-attention keys and values are projected once, and laid
    as the cache's are.
    """

    def __init__(
        self,
        model: Transformer,
        params: Any,
        prompts: Prompts,
        *,
        num_states: int,
        cpu_layout: bool = False,
    ):
        """Encodes the prompts.

        Args:
          num_states: rows on each part of a mesh, times the drafts of each; on any number of parts
            the arithmetic is that of so many.
          cpu_layout: copies weights into the layout of `decoding.cpu_layout`.
        """
        # No backward pass comes, and `nn.remat` would hide from unrolled layers which one each is.
        config = dataclasses.replace(model.config, remat="none", decoder_remat=None)
        model = model.clone(config=config)
        apply: Callable[..., Any] = functools.partial(model.apply, {"params": params})
        encoded_BSD: Array = apply(*prompts, method="encode")
        cross: Any = stored(apply(encoded_BSD, method="cross_keys_values"))
        self._config, self._rows = model.config, len(prompts.tokens)
        self._stacked = model.config.scan_layers and not cpu_layout
        if not self._stacked:
            model, params = unrolled(model, params)
            cross = tuple(tuple(layers) for layers in cross)
        # Laid out here once, and not wherever a step reads them.
        self._cross = jax.lax.optimization_barrier(cross)
        self._decode: Callable[..., Any] = functools.partial(model.apply, {"params": params})
        self._cross_mask = (prompts.segment_ids > 0)[:, None, None]
        table_VD: Array = apply(method="output_table").astype(encoded_BSD.dtype)
        # A single state is a product of a matrix and a vector, fast either way.
        self._transposed = cpu_layout and num_states > 1
        self._table = transposed(table_VD) if self._transposed else table_VD

    def empty_cache(self, num_positions: int) -> DecoderCache:
        """Makes room for so many tokens of each row."""
        return DecoderCache.empty(self._config, self._rows, num_positions, stacked=self._stacked)

    def logits(
        self, tokens_BT: Array, positions_BT: Array, cache: DecoderCache, self_mask: Array
    ) -> tuple[Array, DecoderCache]:
        """Decodes T tokens of each row, which lie behind those in the cache.

        Args:
          tokens_BT, positions_BT: int32 [B, T].
          self_mask: bool, broadcasts to [B, 1, T, M] over the cache's M places.

        Returns:
          float32 logits [B, T, V], and the cache grown by T places.
        """
        hidden_BTD, cache = self._decode(
            self._cross_keys_values(),
            self._cross_mask,
            tokens_BT,
            positions_BT,
            cache,
            self_mask,
            method="decode_cached",
        )
        # One flat matrix product: CPUs take many times as long for one of three dimensions.
        hidden_RD = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])
        logits_RV = jnp.einsum(
            "RD,DV->RV" if self._transposed else "RD,VD->RV",
            hidden_RD,
            self._table,
            preferred_element_type=jnp.float32,
        )
        logits_BTV = logits_RV.reshape(*tokens_BT.shape, -1)
        return logits_BTV, cache.advance(tokens_BT.shape[1])

    def _cross_keys_values(self) -> Any:
        """Shows keys and values as the decoder takes them: of all layers, or N of each."""
        if self._stacked:
            return shown(self._cross)
        return tuple(zip(*(shown(layer) for layer in zip(*self._cross, strict=True)), strict=True))
