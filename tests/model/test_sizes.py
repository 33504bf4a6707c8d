"""Every shipped model, counted without allocating one."""

from __future__ import annotations

import dataclasses
import math

import gin
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from alexatm_jax import gin_config
from alexatm_jax.model import ModelConfig, Transformer


def shipped(name: str) -> ModelConfig:
    gin_config.load([f"models/{name}.gin"], [], gin_config.search_paths([]))
    return gin.get_configurable(ModelConfig)()


def sizes(config: ModelConfig) -> dict[str, int]:
    """Parameters under each name of the model's first level."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    init = jax.eval_shape(Transformer(config).init, jax.random.key(0), tokens, tokens)
    return {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        for name, tree in nn.unbox(init["params"]).items()
    }


def test_alexatm_20b_counts_what_the_paper_counts():
    found = sizes(shipped("alexatm_20b"))
    assert sum(found.values()) == 19_751_751_680
    # Recipe §1, in billions; the figures there hold position tables with the embeddings.
    tables = sum(size for name, size in found.items() if name not in ("encoder", "decoder"))
    billions = [round(n / 1e9, 3) for n in (found["encoder"], found["decoder"], tables)]
    assert billions == [9.263, 8.592, 1.896]


def test_alexatm_20b_computes_as_published():
    """Recipe §1, field by field: weights can be read with no other arithmetic."""
    published = dict(
        vocab_size=153_600,
        d_model=4096,
        num_heads=32,
        d_ff=4 * 4096,
        num_encoder_layers=46,
        num_decoder_layers=32,
        max_positions=1024,
        token_types=1,
        norm="published",
        norm_epsilon=1e-12,
        activation="gelu",
        dropout_rate=0.1,
        encoder_attention_dropout_rate=0.1,
        decoder_attention_dropout_rate=0.0,
        share_embeddings=False,
        tie_lm_head=False,
        scale_embeddings=False,
    )
    found = dataclasses.asdict(shipped("alexatm_20b"))
    assert {name: found[name] for name in published} == published


@pytest.mark.parametrize(
    ("name", "millions"), [("tiny", 1.2), ("small", 60), ("base", 220), ("alexatm_20b", 19_752)]
)
def test_a_shipped_model_is_as_large_as_its_name_says(name, millions):
    config = shipped(name)
    d, f = config.d_model, config.d_ff
    norm, attention, feed_forward = 2 * d, 4 * (d * d + d), d * f + f + f * d + d
    tables = 3 - config.share_embeddings - config.tie_lm_head
    wanted = (
        config.num_encoder_layers * (attention + feed_forward + 2 * norm)
        + config.num_decoder_layers * (2 * attention + feed_forward + 3 * norm)
        + 2 * norm
        + tables * config.vocab_size * d
        + (config.max_positions + config.max_positions + 2 + config.token_types) * d
    )
    assert sum(sizes(config).values()) == wanted
    assert wanted / 1e6 == pytest.approx(millions, rel=0.05)
