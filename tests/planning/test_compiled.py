"""What compilers say of programs agrees with what is known of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexatm_jax.batch import batch_shapes
from alexatm_jax.model import ModelConfig, Transformer
from alexatm_jax.partitioning import Partitioning, batch_sharding
from alexatm_jax.planning import compiled
from alexatm_jax.planning.compiled import DoesNotFit, compile_figures
from alexatm_jax.planning.topology import make_devices, parse_topology
from alexatm_jax.training.config import TrainingConfig
from alexatm_jax.training.optimizer import AdamW, LinearSchedule
from alexatm_jax.training.state import abstract_params, abstract_state, state_shardings
from alexatm_jax.training.step import make_train_step


@pytest.fixture
def mesh():
    return Mesh(np.array(jax.devices()[:8]), ("x",))


def array(mesh, shape, *spec, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))


def test_bytes_are_per_device(mesh):
    figures = compile_figures(lambda x: x * 2, array(mesh, (64, 128), "x"), mesh=mesh)
    assert figures.argument_bytes == figures.output_bytes == 64 * 128 * 4 // 8
    assert (figures.alias_bytes, figures.collectives) == (0, ())
    assert figures.compile_seconds > 0
    assert figures.host_peak_bytes > 2**26


def test_donated_arguments_make_room_for_results(mesh):
    figures = compile_figures(
        lambda x: x + 1, array(mesh, (64, 128), "x"), donate_argnums=0, mesh=mesh
    )
    assert figures.alias_bytes == figures.output_bytes == 64 * 128 * 4 // 8


def test_results_go_where_they_are_sent(mesh):
    everywhere = NamedSharding(mesh, PartitionSpec())
    figures = compile_figures(
        lambda x: x + 1, array(mesh, (64, 128), "x"), mesh=mesh, out_shardings=everywhere
    )
    assert figures.output_bytes == 64 * 128 * 4
    (gather,) = figures.collectives
    assert (gather.kind, gather.count, gather.bytes) == ("all-gather", 1, 64 * 128 * 4)


def test_no_array_is_made(mesh):
    """A petabyte, of which a device holds 128 TiB."""
    before = len(jax.live_arrays())
    x = array(mesh, (2**25, 2**23), "x")
    figures = compile_figures(lambda x: (x * x).sum(), x, mesh=mesh)
    assert figures.argument_bytes == 2**45 * 4
    assert len(jax.live_arrays()) == before


def test_temporaries_hold_what_is_kept(mesh):
    """A scan keeps the sines of 16 steps for its gradient: 16 x 64 KiB."""

    def loss(x):
        return jax.lax.scan(lambda x, _: (jnp.sin(x), None), x, None, length=16)[0].sum()

    figures = compile_figures(jax.grad(loss), array(mesh, (128, 1024), "x"), mesh=mesh)
    assert 16 * 2**16 <= figures.temporary_bytes < 20 * 2**16


def test_a_train_step_gathers_every_weight_twice_and_sums_every_gradient():
    """ZeRO-3 with remat: weights forwards and backwards, each table once, and never the optimizer.

    XLA:CPU moves float32. What is not split over `fsdp`, such as a norm's scale, is not gathered.
    """
    config = ModelConfig(
        vocab_size=512,
        d_model=128,
        num_heads=4,
        d_ff=256,
        num_encoder_layers=3,
        num_decoder_layers=2,
        max_positions=64,
        remat="full",
        dropout_rate=0.0,
        encoder_attention_dropout_rate=0.0,
    )
    model, partitioning = Transformer(config), Partitioning(fsdp=8)
    mesh = partitioning.make_mesh(jax.devices()[:8])
    schedule = LinearSchedule(peak=1e-3, final=1e-4, total_steps=100)
    optimizer = AdamW(schedule=schedule)
    phase = TrainingConfig(100, optimizer).resolved_phases(config, 8, 32, 32)[0]
    shardings = state_shardings(model, optimizer, phase, partitioning, mesh)
    state = abstract_state(model, optimizer, phase, shardings)
    rows = batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows)
        for name, shape in batch_shapes(8, 32, 32).items()
    }
    step = make_train_step(model, optimizer, phase, seed=0, log_period_steps=10)
    with nn.logical_axis_rules(partitioning.rules):
        figures = compile_figures(
            step,
            *(state, batch),
            donate_argnums=0,
            mesh=mesh,
            out_shardings=(shardings, shardings.sums),
        )
    moved = {c.kind: c.bytes for c in figures.collectives}
    stacked, tables = split_bytes(model, partitioning, mesh)
    assert moved["all-gather"] == pytest.approx(2 * stacked + tables, rel=0.05)
    assert moved["all-reduce"] == pytest.approx(stacked + tables, rel=0.1)
    per_device = sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(state)
    )
    assert figures.argument_bytes >= per_device + 8 * 32 * 4
    assert figures.alias_bytes == per_device


def split_bytes(model, partitioning, mesh):
    """Sums the float32 leaves that are split over devices: of the layers, and of the tables."""
    params = nn.unbox(abstract_params(model))
    shardings = partitioning.param_shardings(abstract_params(model), mesh)
    stacked = tables = 0
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(shardings), strict=True
    ):
        if not sharding.is_fully_replicated:
            in_layers = "layers" in jax.tree_util.keystr(path)
            stacked += in_layers * leaf.size * 4
            tables += (not in_layers) * leaf.size * 4
    return stacked, tables


@pytest.mark.parametrize(
    ("message", "needed", "available"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (256.00G) exceeds available HBM (30.75G).",
            256 * 2**30,
            int(30.75 * 2**30),
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 40.50G of 15.75G hbm. Exceeded hbm capacity by 24.75G.",
            int(40.5 * 2**30),
            int(15.75 * 2**30),
        ),
        ("RESOURCE_EXHAUSTED: in other words", None, None),
    ],
)
def test_what_a_refusing_compiler_says(message, needed, available):
    error = compiled._does_not_fit(message)
    assert (error.needed_bytes, error.available_bytes) == (needed, available)
    assert "fewer rows" in str(error)


def test_a_program_that_is_too_large_for_a_tpu():
    pytest.importorskip("libtpu")
    mesh = Mesh(np.array(make_devices(parse_topology("tpu:v5e:2x2"))), ("x",))
    x = array(mesh, (4, 64, 2**10, 2**20), "x", dtype=jnp.bfloat16)
    with pytest.raises(DoesNotFit) as caught:
        compile_figures(lambda x: jnp.cumsum(x * 2, 1), x, mesh=mesh)
    assert caught.value.available_bytes == parse_topology("tpu:v5e:2x2").memory_bytes
    assert caught.value.needed_bytes > 2**36
