"""Says everything that defines a model: sizes, arithmetic, initialisation, dtypes."""

from __future__ import annotations

import dataclasses

NORMS = ("published", "standard")
ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu")
REMAT_POLICIES = ("none", "dots", "attention", "full")
"""From what keeps most to what keeps least."""
POSITION_INITS = ("normal", "sinusoid")
DTYPES = ("float32", "bfloat16")
ATTENTIONS = ("auto", "cudnn", "splash", "blocked", "reference")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Defines one encoder-decoder. The defaults are the published arithmetic (recipe §1).

    Attributes:
      vocab_size: rows of each token table; at least the vocabulary's size, padded as one likes.
      d_model, num_heads, d_ff: widths; num_heads divides d_model.
      num_encoder_layers, num_decoder_layers: depths.
      decoder_num_heads, decoder_d_ff: the decoder's, where they differ from the encoder's.
      max_positions: learned positions; the decoder's table has 2 rows more and position p
        reads row p + 2, as in the published classes.
      token_types: rows of the encoder's token-type table; row 0 is added to every token.
      norm: "published" divides by the root of the uncentred second moment, "standard" by the
        standard deviation; the same weights give other logits.
      norm_epsilon: added under the root.
      activation: "gelu" is exact (erf), "gelu_new" the tanh approximation.
      dropout_rate: on embeddings, attention outputs and feed-forward outputs.
      encoder_attention_dropout_rate, decoder_attention_dropout_rate: on attention probabilities.
      share_embeddings: one token table for encoder and decoder.
      tie_lm_head: the decoder's token table is also the LM head.
      scale_embeddings: multiply looked-up tokens by sqrt(d_model); token tables then start
        as N(0, 1/d_model) instead of N(0, 0.02^2).
      position_init: position tables start as N(0, 0.02^2), or as 0.7 x sinusoids.
      scan_layers: stack the layers' parameters and scan over them; compiles in a fraction
        of the time. Unrolled layers are named layer_0, layer_1, ...
      scan_unroll: layers that one iteration of the scan computes. More compile slower and run
        faster where copies are dear: all of a stack's save a CPU about 5 % of a training step.
      remat: what the backward pass recomputes: "none", "dots" (all but what attention and
        weights' products give), "attention" (all but what attention gives) or "full" (each layer
        from its input).
      decoder_remat: the decoder's, where it differs from the encoder's.
      attention: what computes attention over segments: "auto" takes the best that can, and
        `attention_rule` says who can what.
      dtype: of activations; param_dtype: of parameters. Softmax, LayerNorm and
        the loss run in float32 whatever these say.

    Raises:
      ValueError: if a field is not one of its values, or num_heads does not divide d_model.
    """

    vocab_size: int
    d_model: int
    num_heads: int
    d_ff: int
    num_encoder_layers: int
    num_decoder_layers: int
    decoder_num_heads: int | None = None
    decoder_d_ff: int | None = None
    max_positions: int = 1024
    token_types: int = 1
    norm: str = "published"
    norm_epsilon: float = 1e-12
    activation: str = "gelu"
    dropout_rate: float = 0.1
    encoder_attention_dropout_rate: float = 0.1
    decoder_attention_dropout_rate: float = 0.0
    share_embeddings: bool = False
    tie_lm_head: bool = False
    scale_embeddings: bool = False
    position_init: str = "normal"
    scan_layers: bool = True
    scan_unroll: int = 1
    remat: str = "none"
    decoder_remat: str | None = None
    attention: str = "auto"
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("norm", NORMS),
            ("activation", ACTIVATIONS),
            ("remat", REMAT_POLICIES),
            ("decoder_remat", (None, *REMAT_POLICIES)),
            ("position_init", POSITION_INITS),
            ("attention", ATTENTIONS),
            ("dtype", DTYPES),
            ("param_dtype", DTYPES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"ModelConfig.{name} is {getattr(self, name)!r}; choose one of {allowed}."
                )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in ("int", "int | None") and value is not None and value < 1:
                raise ValueError(f"ModelConfig.{field.name} is {value}; it must be at least 1.")
            if field.name.endswith("dropout_rate") and not 0 <= value < 1:
                raise ValueError(f"ModelConfig.{field.name} is {value}; it must be in [0, 1).")
        for num_heads in (self.num_heads, self.decoder_heads):
            if self.d_model % num_heads:
                raise ValueError(
                    f"d_model {self.d_model} does not divide into {num_heads} heads; "
                    "choose num_heads and decoder_num_heads among its divisors."
                )

    @property
    def head_dim(self) -> int:
        """K, the width of one of the encoder's heads."""
        return self.d_model // self.num_heads

    @property
    def decoder_heads(self) -> int:
        """H of the decoder, in self-attention and cross-attention."""
        return self.decoder_num_heads or self.num_heads

    @property
    def decoder_head_dim(self) -> int:
        """K, the width of one of the decoder's heads."""
        return self.d_model // self.decoder_heads

    @property
    def decoder_ff(self) -> int:
        """F of the decoder."""
        return self.decoder_d_ff or self.d_ff

    @property
    def decoder_remat_policy(self) -> str:
        """What the decoder's backward pass recomputes."""
        return self.decoder_remat or self.remat
