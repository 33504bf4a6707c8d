"""The Pre-LN encoder-decoder itself: layers, stacks, model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from alexatm_jax.model.attention import ATTENDED, KeysValues, MultiHeadAttention
from alexatm_jax.model.attention_cudnn import CUDNN_FORWARD
from alexatm_jax.model.config import ModelConfig
from alexatm_jax.model.layers import HIDDEN, Dropout, FeedForward, LayerNorm, RowTable, TokenTable
from alexatm_jax.model.masks import Explicit, Segments, Visible

DECODER_POSITION_OFFSET = 2
"""Position p reads row p + 2 of the decoder's table, as in the published classes."""


class SelfAttentionCache(Protocol):
    """What a decoder layer asks of a cache; `decoding.cache.DecoderCache` is one."""

    def extend(self, layer: Array | int, new: KeysValues) -> tuple[Any, KeysValues]:
        """Stores a layer's new keys and values; gives (cache, all of that layer's so far)."""


def _branch_scale(num_layers: int, branches: int) -> float:
    """Keeps the residual stream's variance near 1 however many branches add to it."""
    return 1 / math.sqrt(branches * num_layers)


class EncoderLayer(nn.Module):
    """x + self-attention(norm(x)), then x + feed-forward(norm(x))."""

    config: ModelConfig

    def setup(self) -> None:
        cfg = self.config
        scale = _branch_scale(cfg.num_encoder_layers, 2)
        self.self_attention_norm = LayerNorm(cfg)
        self.self_attention = MultiHeadAttention(
            cfg, cfg.num_heads, cfg.encoder_attention_dropout_rate, scale
        )
        self.feed_forward_norm = LayerNorm(cfg)
        self.feed_forward = FeedForward(cfg, cfg.d_ff, scale)
        self.dropout = Dropout(cfg.dropout_rate)

    def __call__(self, x_BSD: Array, layer: Array | int, shared: dict) -> tuple[Array, None]:
        """Maps [B, S, D] to [B, S, D]; `shared` holds what sees what."""
        y_BSD = self.self_attention_norm(x_BSD)
        keys_values = self.self_attention.keys_values(y_BSD)
        y_BSD = self.self_attention(y_BSD, keys_values, shared["self_visible"])
        x_BSD = x_BSD + self.dropout(y_BSD)
        y_BSD = self.feed_forward(self.feed_forward_norm(x_BSD))
        x_BSD = x_BSD + self.dropout(y_BSD)
        return nn.with_logical_constraint(x_BSD, HIDDEN), None


class DecoderLayer(nn.Module):
    """Adds causal self-attention, cross-attention and feed-forward to x, each of norm(x)."""

    config: ModelConfig

    def setup(self) -> None:
        cfg = self.config
        scale = _branch_scale(cfg.num_decoder_layers, 3)
        self.self_attention_norm = LayerNorm(cfg)
        self.self_attention = MultiHeadAttention(
            cfg, cfg.decoder_heads, cfg.decoder_attention_dropout_rate, scale
        )
        self.cross_attention_norm = LayerNorm(cfg)
        self.cross_attention = MultiHeadAttention(
            cfg, cfg.decoder_heads, cfg.decoder_attention_dropout_rate, scale
        )
        self.feed_forward_norm = LayerNorm(cfg)
        self.feed_forward = FeedForward(cfg, cfg.decoder_ff, scale)
        self.dropout = Dropout(cfg.dropout_rate)

    def __call__(
        self, carry: tuple[Array, Any], layer: Array | int, shared: dict
    ) -> tuple[tuple[Array, Any], None]:
        """Maps ([B, T, D], cache) to the same.

        `shared` holds `self_visible` and `cross_visible`, and either `encoded` [B, S, D] or
        `cross_keys_values`, which are its projections for all layers, [N, B, S, H, K] each, or for
        unrolled layers N of [B, S, H, K].
        With C times as many decoder rows as encoder rows, each C in a row attend to one encoder
        row as C T queries, so that its keys and values are made once and never repeated.
        """
        x_BTD, cache = carry

        y_BTD = self.self_attention_norm(x_BTD)
        keys_values = self.self_attention.keys_values(y_BTD)
        if cache is not None:
            cache, keys_values = cache.extend(layer, keys_values)
        y_BTD = self.self_attention(y_BTD, keys_values, shared["self_visible"])
        x_BTD = x_BTD + self.dropout(y_BTD)

        if "cross_keys_values" in shared:
            k_NBSHK, v_NBSHK = shared["cross_keys_values"]
            keys_values = k_NBSHK[layer], v_NBSHK[layer]
        else:
            keys_values = self.cross_attention.keys_values(shared["encoded"])
        y_BTD = self.cross_attention_norm(x_BTD)
        y_BTD = y_BTD.reshape(keys_values[0].shape[0], -1, y_BTD.shape[-1])
        y_BTD = self.cross_attention(y_BTD, keys_values, shared["cross_visible"])
        x_BTD = x_BTD + self.dropout(y_BTD.reshape(x_BTD.shape))

        y_BTD = self.feed_forward(self.feed_forward_norm(x_BTD))
        x_BTD = x_BTD + self.dropout(y_BTD)
        return (nn.with_logical_constraint(x_BTD, HIDDEN), cache), None

    def cross_keys_values(
        self, carry: None, layer: Array | int, shared: dict
    ) -> tuple[None, KeysValues]:
        """Projects `shared["encoded"]` for this layer, in `__call__`'s form so that it scans."""
        return carry, self.cross_attention.keys_values(shared["encoded"])


_named = jax.checkpoint_policies.save_only_these_names(ATTENDED)


def _attended(primitive: Any, *args: Any, **params: Any) -> Any:
    """Keeps what implementations name, and what cuDNN gives, whose normalizers none can name."""
    return primitive.name == CUDNN_FORWARD or _named(primitive, *args, **params)


KEPT_BY_REMAT = {
    "full": None,
    "attention": _attended,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        _attended, jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    ),
}
"""What a layer's backward pass is left, besides the layer's input, by `ModelConfig.remat`."""


class Stack(nn.Module):
    """N layers one after the other, scanned or unrolled, then a LayerNorm.

    Attributes:
      remat: what their backward pass recomputes, as in `ModelConfig`.
    """

    config: ModelConfig
    layer_class: type[nn.Module]
    num_layers: int
    remat: str

    def setup(self) -> None:
        cfg = self.config
        layer_class = self.layer_class
        if self.remat != "none":
            layer_class = nn.remat(
                layer_class,
                policy=KEPT_BY_REMAT[self.remat],
                # Straight-line code would share what is to be computed again.
                prevent_cse=not cfg.scan_layers or cfg.scan_unroll >= self.num_layers,
            )
        if cfg.scan_layers:
            methods = [m for m in ("__call__", "cross_keys_values") if hasattr(layer_class, m)]
            self.layers = nn.scan(
                layer_class,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, nn.broadcast),
                length=self.num_layers,
                unroll=min(cfg.scan_unroll, self.num_layers),
                methods=methods,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )(cfg)
        else:
            self.layer = [layer_class(cfg) for _ in range(self.num_layers)]
        self.final_norm = LayerNorm(cfg)

    def _run(self, method: str, carry: Any, shared: dict) -> tuple[Any, Any]:
        """Carries a value through one method of every layer; stacks what they emit."""
        if self.config.scan_layers:
            return getattr(self.layers, method)(carry, jnp.arange(self.num_layers), shared)
        emitted = []
        for index, layer in enumerate(self.layer):
            carry, out = getattr(layer, method)(carry, index, shared)
            emitted.append(out)
        return carry, jax.tree.map(lambda *outs: jnp.stack(outs), *emitted)

    def __call__(self, carry: Any, shared: dict) -> Any:
        """Runs every layer; the caller applies `norm` to what it keeps."""
        return self._run("__call__", carry, shared)[0]

    def norm(self, x_BLD: Array) -> Array:
        """Applies the stack's last LayerNorm."""
        return self.final_norm(x_BLD)

    def cross_keys_values(self, encoded_BSD: Array) -> KeysValues:
        """Projects encoder output for every decoder layer: two arrays [N, B, S, H, K]."""
        return self._run("cross_keys_values", None, {"encoded": encoded_BSD})[1]


class Transformer(nn.Module):
    """The multilingual encoder-decoder of AlexaTM 20B (recipe §1).

    Segment ids are 0 on padding and 1, 2, ... for the examples that share a row; tokens attend
    within their own example. Dropout is on if, and only if, a "dropout" rng is given.
    """

    config: ModelConfig

    def setup(self) -> None:
        cfg = self.config
        sinusoid = cfg.position_init == "sinusoid"
        self.encoder_tokens = TokenTable(cfg)
        self.encoder_positions = RowTable(cfg, cfg.max_positions, sinusoid)
        self.encoder_token_types = RowTable(cfg, cfg.token_types)
        self.encoder = Stack(cfg, EncoderLayer, cfg.num_encoder_layers, cfg.remat)
        if not cfg.share_embeddings:
            self.decoder_tokens = TokenTable(cfg)
        decoder_rows = cfg.max_positions + DECODER_POSITION_OFFSET
        self.decoder_positions = RowTable(cfg, decoder_rows, sinusoid)
        self.decoder = Stack(cfg, DecoderLayer, cfg.num_decoder_layers, cfg.decoder_remat_policy)
        if not cfg.tie_lm_head:
            self.lm_head = TokenTable(cfg)
        self.dropout = Dropout(cfg.dropout_rate)

    def encode(self, tokens_BS: Array, positions_BS: Array, segment_ids_BS: Array) -> Array:
        """Encodes int32 [B, S] tokens: [B, S, D] in the compute dtype."""
        self._check_length(tokens_BS)
        x_BSD = (
            self.encoder_tokens(tokens_BS)
            + self.encoder_positions(positions_BS)
            + self.encoder_token_types(jnp.zeros_like(tokens_BS))
        )
        shared = {"self_visible": Segments.of_self(segment_ids_BS)}
        return self.encoder.norm(self.encoder(self._dropped(x_BSD), shared))

    def decode(
        self,
        encoded_BSD: Array,
        encoder_segment_ids_BS: Array,
        tokens_BT: Array,
        positions_BT: Array,
        segment_ids_BT: Array,
    ) -> Array:
        """Teacher-forces int32 [B, T] decoder inputs: hidden states [B, T, D]."""
        return self.decode_masked(
            encoded_BSD,
            tokens_BT,
            positions_BT,
            Segments.of_self(segment_ids_BT, causal=True),
            Segments(segment_ids_BT, encoder_segment_ids_BS),
        )

    def decode_masked(
        self,
        encoded_BSD: Array,
        tokens_RT: Array,
        positions_RT: Array,
        self_visible: Visible,
        cross_visible: Visible,
    ) -> Array:
        """Teacher-forces R = B C decoder rows, of which each C in a row read one encoder row.

        Args:
          encoded_BSD: [B, S, D].
          tokens_RT, positions_RT: int32.
          self_visible: of [R, T] queries and keys.
          cross_visible: of [B, C T] queries and [B, S] keys.

        Returns:
          Hidden states [R, T, D].
        """
        self._check_length(tokens_RT)
        x_RTD = self._dropped(self._embed_decoder(tokens_RT, positions_RT))
        shared = {
            "encoded": encoded_BSD,
            "self_visible": self_visible,
            "cross_visible": cross_visible,
        }
        x_RTD, _ = self.decoder((x_RTD, None), shared)
        return self.decoder.norm(x_RTD)

    def decode_cached(
        self,
        cross_keys_values: KeysValues,
        cross_mask: Array,
        tokens_BT: Array,
        positions_BT: Array,
        cache: SelfAttentionCache,
        self_mask: Array,
    ) -> tuple[Array, Any]:
        """Decodes the next T tokens after those in the cache.

        Args:
          cross_keys_values: from `cross_keys_values`, [N, B, S, H, K] each; for unrolled layers,
            N of [B, S, H, K] will do.
          cross_mask: bool [B, 1, T or 1, S].
          tokens_BT, positions_BT: int32.
          cache: stores keys and values of every layer.
          self_mask: bool, broadcasts to [B, 1, T, M] over the cache's M positions.

        Returns:
          Hidden states [B, T, D] and the extended cache.
        """
        x_BTD = self._embed_decoder(tokens_BT, positions_BT)
        shared = {
            "cross_keys_values": cross_keys_values,
            "self_visible": Explicit(self_mask),
            "cross_visible": Explicit(cross_mask),
        }
        x_BTD, cache = self.decoder((x_BTD, cache), shared)
        return self.decoder.norm(x_BTD), cache

    def cross_keys_values(self, encoded_BSD: Array) -> KeysValues:
        """Projects encoder output once for all decoder layers: two arrays [N, B, S, H, K]."""
        return self.decoder.cross_keys_values(encoded_BSD)

    def output_table(self) -> Array:
        """Gives the LM head, [V, D]: logits are hidden states times its transpose, no bias."""
        if not self.config.tie_lm_head:
            return self.lm_head.table()
        return self._decoder_table().table()

    def hidden_states(
        self,
        encoder_input_tokens: Array,
        decoder_input_tokens: Array,
        encoder_positions: Array | None = None,
        encoder_segment_ids: Array | None = None,
        decoder_positions: Array | None = None,
        decoder_segment_ids: Array | None = None,
    ) -> Array:
        """Runs both stacks on int32 [B, S] and [B, T]: the decoder's states [B, T, D].

        Without positions they count from 0; without segment ids every token is real.
        """

        def default(given: Array | None, tokens: Array, make: Callable[[Array], Array]) -> Array:
            return make(tokens) if given is None else given

        encoder_segment_ids = default(encoder_segment_ids, encoder_input_tokens, jnp.ones_like)
        encoded_BSD = self.encode(
            encoder_input_tokens,
            default(encoder_positions, encoder_input_tokens, _counted),
            encoder_segment_ids,
        )
        return self.decode(
            encoded_BSD,
            encoder_segment_ids,
            decoder_input_tokens,
            default(decoder_positions, decoder_input_tokens, _counted),
            default(decoder_segment_ids, decoder_input_tokens, jnp.ones_like),
        )

    def __call__(
        self,
        encoder_input_tokens: Array,
        decoder_input_tokens: Array,
        **positions_and_segments: Any,
    ) -> Array:
        """Gives float32 logits [B, T, V]; takes what `hidden_states` takes."""
        x_BTD = self.hidden_states(
            encoder_input_tokens, decoder_input_tokens, **positions_and_segments
        )
        table_VD = self.output_table().astype(x_BTD.dtype)
        return jnp.einsum("BTD,VD->BTV", x_BTD, table_VD, preferred_element_type=jnp.float32)

    def _decoder_table(self) -> TokenTable:
        return self.encoder_tokens if self.config.share_embeddings else self.decoder_tokens

    def _embed_decoder(self, tokens_BT: Array, positions_BT: Array) -> Array:
        rows_BT = positions_BT + DECODER_POSITION_OFFSET
        return self._decoder_table()(tokens_BT) + self.decoder_positions(rows_BT)

    def _dropped(self, x_BLD: Array) -> Array:
        x_BLD = self.dropout(x_BLD)
        return nn.with_logical_constraint(x_BLD, HIDDEN)

    def _check_length(self, tokens_BL: Array) -> None:
        if tokens_BL.shape[1] > self.config.max_positions:
            raise ValueError(
                f"{tokens_BL.shape[1]} tokens arrived; the position tables have "
                f"{self.config.max_positions} rows: shorten the input or raise max_positions."
            )


def _counted(tokens_BL: Array) -> Array:
    return jnp.broadcast_to(jnp.arange(tokens_BL.shape[1], dtype=jnp.int32), tokens_BL.shape)
