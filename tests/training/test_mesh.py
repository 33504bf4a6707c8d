"""One device and eight train the same model, and eight hold an eighth of it each."""

from __future__ import annotations

import itertools
import json
import math

import jax
import numpy as np
import pytest
from flax import linen as nn

from alexatm_jax.model import attention_blocked
from alexatm_jax.partitioning import Partitioning, batch_sharding, to_devices
from alexatm_jax.training import loop
from alexatm_jax.training.config import TrainingConfig
from alexatm_jax.training.state import (
    abstract_params,
    abstract_state,
    create_state,
    state_shardings,
)


@pytest.fixture(scope="module")
def trained(tiny, adamw, make_batch, tmp_path_factory):
    """Trains three steps, dropout and accumulation on; gives losses, state."""

    def train(partitioning: Partitioning, num_devices: int):
        folder = tmp_path_factory.mktemp("run")
        batches = ((make_batch(index, rows=16), {"next": index}) for index in range(3))
        config = TrainingConfig(
            3, adamw(1e-3), num_microbatches=2, loss_chunk_length=4, log_period_steps=1
        )
        state = loop.train(
            tiny(),
            config,
            config.resolved_phases(tiny().config, 16, 6, 7),
            partitioning,
            partitioning.make_mesh(jax.devices()[:num_devices]),
            lambda phase, state, crossing: batches,
            folder,
            {},
        )
        rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [(row["loss"], row["gradient_norm"]) for row in rows], state

    return train


@pytest.fixture(scope="module")
def on_one_device(trained):
    return trained(Partitioning(), 1)


FACTORISATIONS = [
    sizes for sizes in itertools.product((1, 2, 4, 8), repeat=3) if math.prod(sizes) == 8
]


@pytest.fixture(scope="module")
def small_blocks():
    """Cuts 6 or 7 queries into two blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_blocked, "QUERIES", 4)
        yield


@pytest.fixture(scope="module")
def updated(tiny, sgd, make_batch, small_blocks):
    """Makes one step of gradient descent from drawn parameters; gives loss and parameters."""
    sizes = dict(d_model=16, num_heads=8, num_encoder_layers=1, num_decoder_layers=1, vocab_size=24)
    model = tiny(**sizes, scan_layers=False, attention="blocked")
    config = TrainingConfig(1, sgd(0.1), loss_chunk_length=4)
    phase = config.resolved_phases(model.config, 8, 6, 7)[0]

    def update(partitioning: Partitioning, num_devices: int):
        mesh = partitioning.make_mesh(jax.devices()[:num_devices])
        step = loop.compile_step(model, config, phase, partitioning, mesh)
        shardings = state_shardings(model, config.optimizer, phase, partitioning, mesh)
        abstract = abstract_state(model, config.optimizer, phase, shardings)
        rng = np.random.default_rng(0)
        first = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
        drawn = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype), first.params)
        first = jax.device_put(first.replace(params=drawn), shardings)
        state, sums = step(first, to_devices(make_batch(0), batch_sharding(mesh)))
        return float(sums["loss"].sum()), state.params

    return update


@pytest.fixture(scope="module")
def updated_on_one_device(updated):
    return updated(Partitioning(), 1)


@pytest.mark.parametrize(
    "partitioning",
    [Partitioning(*sizes) for sizes in FACTORISATIONS]
    + [Partitioning(2, 4, 1, num_slices=2), Partitioning(1, 4, 2, num_slices=2, slice_axis="fsdp")],
    ids=lambda p: f"{p.data}x{p.fsdp}x{p.tensor} in {p.num_slices}",
)
def test_every_mesh_of_eight_devices_makes_the_same_update(
    updated, updated_on_one_device, partitioning
):
    loss, params = updated(partitioning, 8)
    wanted_loss, wanted = updated_on_one_device
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), params, wanted
    )


def test_gradients_are_summed_into_parts(tiny, adamw):
    """On eight devices of `fsdp` no array that a device keeps is as large as the gradient."""
    sizes = dict(d_model=64, d_ff=256, num_encoder_layers=6, num_decoder_layers=6, remat="full")
    model = tiny(**sizes, encoder_attention_dropout_rate=0.0)
    config = TrainingConfig(1, adamw(), num_microbatches=2, loss_chunk_length=4)
    phase = config.resolved_phases(model.config, 16, 6, 7)[0]
    partitioning = Partitioning(1, 8, 1)
    step = loop.compile_step(model, config, phase, partitioning, partitioning.make_mesh())
    whole = sum(leaf.size * 4 for leaf in jax.tree.leaves(nn.unbox(abstract_params(model))))
    assert step.memory_analysis().temp_size_in_bytes < 0.75 * whole


@pytest.mark.parametrize(
    "sizes",
    [(2, 2, 2)]
    + [pytest.param(m, marks=pytest.mark.slow) for m in [(8, 1, 1), (1, 8, 1), (1, 2, 4)]],
    ids=str,
)
def test_eight_devices_train_as_one(trained, on_one_device, sizes):
    partitioning = Partitioning(*sizes)
    rows, state = trained(partitioning, 8)
    wanted_rows, wanted = on_one_device
    assert len(rows) == 3
    np.testing.assert_allclose(rows, wanted_rows, rtol=1e-4)
    # Adam divides by the gradient's size: where that is rounding, it still moves up to 1e-3 a step.
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=3e-4), state.params, wanted.params
    )
    moved = np.abs(np.asarray(state.params["lm_head"]["table"])).max()
    assert moved > 0.01

    _, fsdp, tensor = sizes
    moments = state.opt_state["from_0"][0]
    for tree in (state.params, moments.mu, moments.nu):
        kernel = tree["decoder"]["layers"]["cross_attention"]["query"]["kernel"]
        in_kernel = tree["encoder"]["layers"]["feed_forward"]["in"]["kernel"]
        shards = {
            "table": (tree["lm_head"]["table"], (20 // tensor, 8 // fsdp)),
            "query": (kernel, (2, 8 // fsdp, 4 // tensor, 2)),
            "in": (in_kernel, (2, 8 // fsdp, 16 // tensor)),
        }
        for name, (array, shape) in shards.items():
            assert {shard.data.shape for shard in array.addressable_shards} == {shape}, name
            assert len(array.addressable_shards) == 8


def test_optimizer_moments_live_beside_their_parameters(tiny, adamw, phases_of):
    partitioning, optimizer = Partitioning(data=1, fsdp=4, tensor=2), adamw()
    phase, mesh = phases_of(tiny(), optimizer)[0], partitioning.make_mesh()
    shardings = state_shardings(tiny(), optimizer, phase, partitioning, mesh)
    moments = shardings.opt_state["from_0"][0]
    assert moments.mu == moments.nu == shardings.params
    assert moments.count.is_fully_replicated and shardings.step.is_fully_replicated

    # Scanned kernels and tables hold all but a few thousandths of a large model.
    leaves = jax.tree.leaves(nn.unbox(abstract_params(tiny())))
    placed = zip(leaves, jax.tree.leaves(shardings.params), strict=True)
    held = sum(math.prod(s.shard_shape(x.shape)) for x, s in placed)
    assert held < 0.3 * sum(x.size for x in leaves)


def test_the_first_state_depends_on_the_seed_alone(tiny, adamw, phases_of):
    optimizer, states = adamw(), []
    phase = phases_of(tiny(), optimizer)[0]
    for partitioning, devices, seed in (
        (Partitioning(), 1, 3),
        (Partitioning(2, 2, 2), 8, 3),
        (Partitioning(), 1, 4),
    ):
        mesh = partitioning.make_mesh(jax.devices()[:devices])
        shardings = state_shardings(tiny(), optimizer, phase, partitioning, mesh)
        states.append(create_state(tiny(), optimizer, phase, shardings, seed))
    for x, y in zip(*map(jax.tree.leaves, states[:2]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)
    first, other = (state.params["lm_head"]["table"] for state in (states[0], states[2]))
    assert (np.asarray(first) != np.asarray(other)).all()
