"""Values reach their leaves however layers are stored, each device reading its own shares."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from hypothesis import given as drawn
from hypothesis import strategies as st

from alexatm_jax.partitioning import Partitioning
from alexatm_jax.training import leaf_reading
from alexatm_jax.training.config import TrainingConfig
from alexatm_jax.training.leaf_reading import layer_numbers
from alexatm_jax.training.optimizer import AdamW, LinearSchedule
from alexatm_jax.training.state import create_state, state_shardings
from alexatm_jax.training.warm_start import WarmStart, prepare

OPTIMIZER = AdamW(LinearSchedule(0.1, 0.1, total_steps=10))
MESH_222 = Partitioning(data=2, fsdp=2, tensor=2)


@pytest.fixture(scope="module")
def sources(tiny, write_checkpoint, tmp_path_factory) -> dict[str, Path]:
    """Checkpoints of bfloat16 parameters: layers stacked, and unrolled."""
    folder = tmp_path_factory.mktemp("sources")
    for layout in ("stacked", "unrolled"):
        model = tiny(scan_layers=layout == "stacked", param_dtype="bfloat16")
        write_checkpoint(folder / layout, model)
    return {layout: folder / layout for layout in ("stacked", "unrolled")}


def shardings_of(model, partitioning=MESH_222):
    mesh = partitioning.make_mesh(jax.devices()[: 8 if partitioning == MESH_222 else 1])
    return state_shardings(model, OPTIMIZER, phase_of(model), partitioning, mesh)


def phase_of(model):
    return TrainingConfig(1, OPTIMIZER).resolved_phases(model.config, 8, 6, 7)[0]


def read(model, source, copies="model", rows="equal", partitioning=MESH_222):
    start = prepare(WarmStart(str(source), copies, rows), model)
    return start.read(shardings_of(model, partitioning).params)


def started(model, given):
    return create_state(model, OPTIMIZER, phase_of(model), shardings_of(model), 0, given)


def assert_identical(left, right) -> None:
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@pytest.mark.parametrize(
    ("there", "here", "batch_bytes"),
    [
        ("stacked", "stacked", 1),
        ("stacked", "unrolled", leaf_reading.BATCH_BYTES),
        ("unrolled", "stacked", leaf_reading.BATCH_BYTES),
        ("unrolled", "unrolled", leaf_reading.BATCH_BYTES),
    ],
)
def test_a_whole_model_arrives_whatever_the_layout(
    tiny, sources, values_of, values_by_layer, monkeypatch, there, here, batch_bytes
):
    monkeypatch.setattr(leaf_reading, "BATCH_BYTES", batch_bytes)
    model = tiny(scan_layers=here == "stacked")
    wanted = values_of(tiny(param_dtype="bfloat16"))
    for partitioning in (MESH_222, Partitioning())[: 2 if batch_bytes > 1 else 1]:
        given = read(model, sources[there], partitioning=partitioning)
        arrays = {path: array for path, (array, filled) in given.items() if filled is None}
        assert_identical(values_by_layer(unflatten_dict(arrays, sep="/")), wanted)
        places = flatten_dict(shardings_of(model, partitioning).params, sep="/")
        assert {path: array.sharding for path, array in arrays.items()} == places
        assert {array.dtype for array in arrays.values()} == {np.dtype("float32")}


def test_what_was_read_becomes_the_state_and_is_held_once(
    tiny, sources, values_of, values_by_layer
):
    model = tiny()
    given = read(model, sources["stacked"])
    state = started(model, given)
    assert all(array.is_deleted() for array, _ in given.values())
    assert_identical(values_by_layer(state.params), values_of(tiny(param_dtype="bfloat16")))
    moments = state.opt_state["from_0"][0]
    assert int(state.step) == int(moments.count) == 0
    assert all(not leaf.any() for leaf in jax.tree.leaves((moments.mu, moments.nu)))
    assert jax.tree.map(lambda leaf: leaf.sharding, state.params) == shardings_of(model).params


PARTS = [
    ("encoder/layer_1/.*", r"\g<0>"),
    (r"decoder/layer_\d/self_attention/(.*)", r"encoder/layer_0/self_attention/\1"),
    ("decoder_positions/table", r"\g<0>"),
    ("(encoder_tokens|lm_head)/table", "decoder_tokens/table"),
]


@pytest.fixture(scope="module")
def cold(tiny, values_by_layer):
    """A larger vocabulary and fewer positions, initialised."""
    return values_by_layer(started(tiny(vocab_size=24, max_positions=4), {}).params)


@pytest.mark.parametrize("there", ["stacked", "unrolled"])
def test_parts_are_read_and_the_rest_is_as_in_a_cold_start(
    tiny, sources, cold, values_of, values_by_layer, there
):
    """One layer of two, one layer into two, one table into two, tables of more and fewer rows."""
    model = tiny(vocab_size=24, max_positions=4)
    warm = values_by_layer(started(model, read(model, sources[there], PARTS, "prefix")).params)
    theirs = values_of(tiny(param_dtype="bfloat16"))
    wanted = dict(cold)
    for name in cold:
        if name.startswith("encoder/layer_1/"):
            wanted[name] = theirs[name]
        elif name.startswith("decoder/layer_") and "/self_attention/" in name:
            wanted[name] = theirs["encoder/layer_0/" + name.split("/", 2)[2]]
    wanted["decoder_positions/table"] = theirs["decoder_positions/table"][:6]
    for name in ("encoder_tokens/table", "lm_head/table"):
        wanted[name] = np.concatenate([theirs["decoder_tokens/table"], cold[name][20:]])
    assert_identical(warm, wanted)


@drawn(st.sets(st.integers(0, 60)))
def test_layers_are_listed_in_runs(layers):
    text = layer_numbers([f"encoder/layer_{layer}/x" for layer in layers] + ["lm_head/table"])
    ends = [[int(end) for end in run.split("-")] for run in text.split(", ") if run]
    assert {layer for run in ends for layer in range(run[0], run[-1] + 1)} == layers
    assert all(left[-1] + 1 < right[0] for left, right in zip(ends, ends[1:], strict=False))
