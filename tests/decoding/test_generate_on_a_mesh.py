"""What devices send each other while they generate."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from alexatm_jax.decoding.config import DecodingConfig
from alexatm_jax.decoding.encoded import Prompts
from alexatm_jax.decoding.generate import generate
from alexatm_jax.model import ModelConfig, Transformer
from alexatm_jax.partitioning import Partitioning, batch_sharding, replicated
from alexatm_jax.planning.collectives import read_collectives
from alexatm_jax.training.state import abstract_params

pytestmark = pytest.mark.usefixtures("quick_compilation")


def compiled_generate(partitioning: Partitioning, num_rows: int, vocab_size: int = 64):
    """Compiles 16 tokens of a small model for eight devices; gives its parameters, too."""
    sizes = dict(vocab_size=vocab_size, d_model=64, num_heads=8, d_ff=256, max_positions=32)
    layers = dict(num_encoder_layers=1, num_decoder_layers=2, dropout_rate=0.0)
    model, mesh = Transformer(ModelConfig(**sizes, **layers)), partitioning.make_mesh()
    params = partitioning.placed_params(abstract_params(model), mesh)
    rows = jax.ShapeDtypeStruct((num_rows, 4), jnp.int32, sharding=batch_sharding(mesh))
    stops = jax.ShapeDtypeStruct((8, vocab_size), jnp.int32, sharding=replicated(mesh))
    config = DecodingConfig(max_new_tokens=16)
    function = functools.partial(generate, model, config=config, start_id=0, eos_id=1)
    with jax.set_mesh(mesh), nn.logical_axis_rules(partitioning.rules):
        prompts = Prompts(*(rows for _ in Prompts._fields))
        return jax.jit(function).lower(params, prompts, stops).compile(), params


@pytest.mark.parametrize(
    ("num_rows", "most"),
    [
        (8, 2),  # gathering the decoder for each token would make it 9.6
        (128, 10),  # sending the states to the weights would make it 19.6
    ],
)
def test_what_is_smaller_moves_the_tokens_or_the_weights(num_rows, most):
    """Under `fsdp` the encoder is gathered once; the decoder for each token if it has many rows.

    Args:
      most: times the bytes of the parameters that may move.
    """
    compiled, params = compiled_generate(Partitioning(1, 8, 1), num_rows)
    moved = sum(row.bytes for row in read_collectives(compiled.as_text()))
    assert moved < most * 4 * sum(leaf.size for leaf in jax.tree.leaves(params))


def test_no_device_holds_the_decoders_whole_table():
    """Gathered for the lookups of the decoder, it made the temporaries 1.7 tables."""
    compiled, params = compiled_generate(Partitioning(2, 2, 2), 8, vocab_size=4096)
    table = params["decoder_tokens"]["table"]
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * table.size
