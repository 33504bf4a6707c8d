"""Answers to prompts: encoded once, then decoded in one compiled loop without the host."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from alexatm_jax.decoding.beam import BeamSearch
from alexatm_jax.decoding.cache import DecoderCache
from alexatm_jax.decoding.config import DecodingConfig
from alexatm_jax.decoding.drafts import Drafts
from alexatm_jax.decoding.encoded import EncodedPrompts, Prompts
from alexatm_jax.decoding.limits import Limits
from alexatm_jax.decoding.sampling import Sampling
from alexatm_jax.decoding.stops import end_table
from alexatm_jax.model.transformer import Transformer
from alexatm_jax.partitioning import decoding_rules

__all__ = ["Answers", "Prompts", "generate", "greedy"]


class Answers(NamedTuple):
    """A answers to each of B prompts.

    Attributes:
      tokens_BAT: int32, each answer's tokens with the ending one, then -1.
      scores_BA: float32, log-probability over `length ** length_penalty` (1 without beams), the
        length being that of `drafts.score`; -inf where beams found fewer than A answers.
    """

    tokens_BAT: Array
    scores_BA: Array


def generate(
    model: Transformer,
    params: Any,
    prompts: Prompts,
    stops_QV: Array,
    keys_B2: Array | None = None,
    *,
    config: DecodingConfig,
    start_id: int,
    eos_id: int,
    cpu_layout: bool = False,
) -> Answers:
    """Answers a batch of prompts as `config` says; one `lax.while_loop`, no host.

    Each step computes one position of the W drafts of every prompt, until all have ended. The
    drafts are queries of one row, so they share the prompt's keys and values.

    Args:
      stops_QV: a table of `decoding.stops`: where answers end.
      keys_B2: uint32 [B, 2] from `sampling.prompt_key`; needed at a temperature above 0.
      start_id: what the decoder starts from.
      eos_id: `</s>`.
      cpu_layout: copies the decoder's weights into another layout before the loop: faster on CPUs,
        for twice their memory while it runs.

    Raises:
      ValueError: if max_new_tokens is beyond the decoder's positions, or the keys are missing.
    """
    config.check_fits(model.config)
    if config.temperature and keys_B2 is None:
        raise ValueError(
            f"temperature is {config.temperature} and no keys arrived; give sampling.prompt_key "
            "of every row."
        )
    batch, length, num_drafts = len(prompts.tokens), config.max_new_tokens, config.num_drafts
    num_states = config.batch_size * num_drafts
    encoded = EncodedPrompts(model, params, prompts, num_states=num_states, cpu_layout=cpu_layout)
    limits = Limits(config, jnp.asarray(stops_QV), eos_id)
    # Rows without a token are padding of the batch: nothing to answer.
    drafts = Drafts.start((prompts.segment_ids > 0).any(axis=1), num_drafts, length, start_id)
    search: Any = BeamSearch(limits) if config.num_beams > 1 else Sampling(limits, keys_B2)

    def unfinished(loop: tuple[DecoderCache, Any, Array]) -> Array:
        return (loop[2] < length) & search.unfinished(loop[1])

    def step(loop: tuple[DecoderCache, Any, Array]) -> tuple[DecoderCache, Any, Array]:
        cache, state, position = loop
        drafts = search.drafts(state)
        logits_BWV, cache = encoded.logits(
            drafts.previous(position),
            jnp.broadcast_to(position, (batch, num_drafts)),
            cache,
            drafts.self_mask(position),
        )
        return cache, search.step(state, logits_BWV, position), position + 1

    cache = encoded.empty_cache(length * num_drafts)
    start = (cache, search.start(drafts), jnp.zeros((), jnp.int32))
    rules = nn.get_logical_axis_rules()
    with nn.logical_axis_rules(decoding_rules(rules, batch * num_drafts, model.config.d_model)):
        _, state, _ = jax.lax.while_loop(unfinished, step, start)
    return Answers(*search.answers(state))


def greedy(
    model: Transformer,
    params: Any,
    prompts: Prompts,
    *,
    max_new_tokens: int,
    bos_id: int,
    ends_V: Array,
    cpu_layout: bool = False,
) -> Array:
    """Takes the likeliest token until every row has ended: `generate` with nothing else asked.

    Args:
      max_new_tokens: T, the most tokens of an answer, with its last.
      bos_id: what the decoder starts from.
      ends_V: bool [V], the tokens after which a row is done, `</s>` among them.
      cpu_layout: see `generate`.

    Returns:
      int32 [B, T]: each row's tokens with the ending one, then -1.

    Raises:
      ValueError: if T is beyond the decoder's positions.

    Source: all few-shot generation of the paper is greedy (recipe §5).
    """
    answers = generate(
        model,
        params,
        prompts,
        end_table(ends_V),
        config=DecodingConfig(batch_size=len(prompts.tokens), max_new_tokens=max_new_tokens),
        start_id=bos_id,
        eos_id=bos_id,
        cpu_layout=cpu_layout,
    )
    return answers.tokens_BAT[:, 0]
