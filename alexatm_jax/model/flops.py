"""Counts the model's floating-point operations: what must be computed, never recomputation."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from alexatm_jax.model.config import ModelConfig

PARTS = (
    "encoder_tokens",
    "encoder_positions",
    "encoder_token_types",
    "encoder",
    "decoder_tokens",
    "decoder_positions",
    "decoder",
    "lm_head",
)
"""What can be frozen: the first names of the parameter tree."""

ENCODER_PARTS = frozenset(PARTS[:4])


@dataclasses.dataclass(frozen=True)
class Work:
    """What a step computes on, padding excluded; floats, since counts may be averages.

    Attributes:
      encoder_tokens, decoder_tokens: real tokens.
      encoder_pairs, decoder_pairs, cross_pairs: (query, key) pairs that may attend; a causal
        example of n tokens has n (n + 1) / 2.
    """

    encoder_tokens: float
    decoder_tokens: float
    encoder_pairs: float
    decoder_pairs: float
    cross_pairs: float

    @classmethod
    def of_rows(cls, rows: int, source: float, target: float, answers_per_row: int = 1) -> Work:
        """Counts rows of one example each: `source` tokens read, `target` written.

        Args:
          answers_per_row: targets that share one source, such as choices to rank or beams.
        """
        answers = rows * answers_per_row
        return cls(
            encoder_tokens=rows * source,
            decoder_tokens=answers * target,
            encoder_pairs=rows * source**2,
            decoder_pairs=answers * target * (target + 1) / 2,
            cross_pairs=answers * source * target,
        )


@dataclasses.dataclass(frozen=True)
class _MultiplyAdds:
    """Multiply-adds of one forward pass, by what their derivatives depend on."""

    encoder: float
    encoder_attention: float
    cross_keys_values: float
    decoder: float
    decoder_attention: float
    cross_attention: float
    head: float


def _multiply_adds(config: ModelConfig, work: Work) -> _MultiplyAdds:
    d, decoder_layers = config.d_model, config.num_decoder_layers
    encoder_layers = config.num_encoder_layers
    return _MultiplyAdds(
        encoder=encoder_layers * (4 * d * d + 2 * d * config.d_ff) * work.encoder_tokens,
        encoder_attention=encoder_layers * 2 * d * work.encoder_pairs,
        cross_keys_values=decoder_layers * 2 * d * d * work.encoder_tokens,
        decoder=decoder_layers * (6 * d * d + 2 * d * config.decoder_ff) * work.decoder_tokens,
        decoder_attention=decoder_layers * 2 * d * work.decoder_pairs,
        cross_attention=decoder_layers * 2 * d * work.cross_pairs,
        head=config.vocab_size * d * work.decoder_tokens,
    )


def forward_flops(config: ModelConfig, work: Work) -> float:
    """Counts a forward pass: 2 per multiply-add of every matrix product.

    Per encoder token: four D x D projections and two D x F in each encoder layer, and the
    decoder layers' cross-attention keys and values (2 D^2 each layer). Per decoder token: four
    D x D projections of self-attention, two of cross-attention, two D x F, and one row of the
    D x V head. Per attended pair and layer: D for the scores, D for the weighted sum. Look-ups,
    norms, softmax and activations are left out, as is usual (arXiv:2204.02311, App. B).

    Scoring given answers and decoding with a cache cost a forward pass too: both encode once,
    project cross-attention keys and values once, and compute every target position once.
    """
    return 2.0 * sum(dataclasses.astuple(_multiply_adds(config, work)))


def training_flops(config: ModelConfig, work: Work, frozen: Collection[str] = ()) -> float:
    """Counts a training step, leaving out what frozen parameters make needless.

    The backward pass of a product y = x W has two products as large as the forward one: the
    weights' gradient x^T dy and the activations' gradient dy W^T. A score or a weighted sum of
    attention multiplies two activations, so its two are both activations' gradients. Hence a
    step costs three forward passes when everything is trained.

    A weights' gradient disappears with its frozen weights. An activations' gradient is needed
    only where something before it is trained; it disappears
      * from the whole encoder, attention included, and from the cross-attention's key and value
        projections, once the encoder and all its embeddings are frozen: these then cost their
        forward pass alone, the projections with their weights' gradient besides;
      * from cross-attention, of its keys and values, if besides these projections are frozen;
      * from the decoder and the head, once all that feeds them is frozen too.
    An encoder frozen above embeddings that train still passes gradients down to them. A
    table's use as embedding has no products: only as LM head do its gradients count.

    Args:
      frozen: names of PARTS whose parameters are not updated; a table that is shared or tied
        goes by the name it has in the parameter tree.

    Returns:
      Floating-point operations.

    Raises:
      ValueError: if a name is not one of PARTS.
    """
    if unknown := sorted(set(frozen) - set(PARTS)):
        raise ValueError(f"frozen names {unknown}; choose among {', '.join(PARTS)}.")
    parts = existing_parts(config)
    trained = parts - set(frozen)
    below_encoder = bool(trained & ENCODER_PARTS)
    below_head = bool(trained & (parts - {"lm_head"}))
    encoder, decoder = "encoder" in trained, "decoder" in trained
    count = _multiply_adds(config, work)
    return 2.0 * (
        count.encoder * (1 + encoder + below_encoder)
        + count.encoder_attention * (1 + 2 * below_encoder)
        + count.cross_keys_values * (1 + decoder + below_encoder)
        + count.decoder * (1 + decoder + below_head)
        + count.decoder_attention * (1 + 2 * below_head)
        + count.cross_attention * (1 + below_head + (decoder or below_encoder))
        + count.head * (1 + (head_part(config) in trained) + below_head)
    )


def existing_parts(config: ModelConfig) -> set[str]:
    """Gives the parts of a model's tree: PARTS without the tables that are shared or tied away."""
    absent = {"decoder_tokens"} if config.share_embeddings else set()
    return set(PARTS) - absent - ({"lm_head"} if config.tie_lm_head else set())


def head_part(config: ModelConfig) -> str:
    """Names the part whose table is the LM head."""
    if not config.tie_lm_head:
        return "lm_head"
    return "encoder_tokens" if config.share_embeddings else "decoder_tokens"
