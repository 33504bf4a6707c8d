"""What devices send each other to look rows up."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from alexatm_jax.model.layers import TokenTable
from alexatm_jax.partitioning import Partitioning, batch_sharding, decoding_rules


@pytest.fixture
def gathered(tiny, tmp_path):
    """Compiles a lookup of [8, 4] tokens, split over `fsdp`; gives the arrays gathered for it."""

    def look_up(dtype: str, decoding: bool) -> list[str]:
        table = TokenTable(tiny(d_model=16, num_heads=2, dtype=dtype))
        partitioning = Partitioning(1, 8, 1)
        mesh = partitioning.make_mesh()
        tokens = jax.ShapeDtypeStruct((8, 4), jnp.int32)
        boxed = jax.eval_shape(table.init, jax.random.key(0), tokens)
        params = partitioning.placed_params(boxed, mesh)
        tokens = tokens.update(sharding=batch_sharding(mesh))
        rules = decoding_rules(partitioning.rules, 8, 16) if decoding else partitioning.rules
        with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
            lowered = jax.jit(table.apply).lower(params, tokens)
        # Later passes of XLA:CPU gather in float32 whatever they are given.
        lowered.compile({"xla_dump_to": str(tmp_path), "xla_dump_hlo_pass_re": "spmd.*"})
        (program,) = tmp_path.glob("*after_spmd-partitioning*")
        return re.findall(r"= (\w+\[[\d,]+\])\S* all-gather\(", program.read_text())

    return look_up


@pytest.mark.parametrize(("dtype", "short"), [("float32", "f32"), ("bfloat16", "bf16")])
def test_a_table_travels_in_the_compute_dtype(gathered, dtype, short):
    assert gathered(dtype, decoding=False) == [f"{short}[29,16]"]


def test_no_table_is_gathered_while_states_are_split_over_their_width(gathered):
    """Then tokens go to the table's parts: all of them to every device."""
    arrays = gathered("float32", decoding=True)
    assert arrays and all(array.startswith(("s32[8,4", "pred[8,4")) for array in arrays)
