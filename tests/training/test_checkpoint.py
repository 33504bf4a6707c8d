"""Checkpoints are found, read in part, and refused by the field that differs."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from flax import linen as nn

from alexatm_jax.partitioning import Partitioning
from alexatm_jax.training import checkpoint
from alexatm_jax.training.checkpoint import (
    CheckpointError,
    Checkpoints,
    check_provenance,
    locate,
    read_params,
    read_provenance,
)
from alexatm_jax.training.config import TrainingConfig
from alexatm_jax.training.optimizer import AdamW, LinearSchedule
from alexatm_jax.training.state import (
    TrainState,
    abstract_params,
    directions,
    state_shardings,
    zero_sums,
)

OPTIMIZER = AdamW(LinearSchedule(0.1, 0.1, total_steps=10))


def state_at(model, step: int) -> TrainState:
    """A state whose every number differs from that of another step."""
    rng = np.random.default_rng(step)
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), nn.unbox(abstract_params(model))
    )
    opt_state = directions(model, OPTIMIZER, phase_of(model))["from_0"].init(params)
    opt_state = {"from_0": jax.tree.map(lambda x: x + step, opt_state)}
    sums = jax.tree.map(lambda x: x + step, zero_sums())
    return TrainState(jnp.asarray(step, jnp.int32), params, opt_state, sums)


def phase_of(model):
    return TrainingConfig(9, OPTIMIZER).resolved_phases(model.config, 8, 6, 7)[0]


def provenance_of(model) -> dict:
    return {"model": dataclasses.asdict(model.config), "vocabulary_sha256": "abc", "gin": "x = 1"}


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """A run's folder with the checkpoints of steps 4 and 6."""
    run = tmp_path_factory.mktemp("run")
    with Checkpoints(run / "checkpoints", max_to_keep=2) as checkpoints:
        assert checkpoints.latest_step() is None
        for step in (2, 4, 6):
            checkpoints.save(state_at(tiny(), step), {"next": step}, provenance_of(tiny()))
    return run


def assert_identical(tree, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_a_state_comes_back_whole(tiny, folder):
    mesh = Partitioning(data=2, fsdp=2, tensor=2).make_mesh()
    shardings = state_shardings(tiny(), OPTIMIZER, phase_of(tiny()), Partitioning(), mesh)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state_at(tiny(), 0),
        shardings,
    )
    with Checkpoints(folder / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() == 6
        for step in (4, 6):
            restored, reader = checkpoints.restore(step, abstract)
            assert_identical(restored, state_at(tiny(), step))
            assert jax.tree.map(lambda x: x.sharding, restored) == shardings
            assert reader == {"next": step}


def test_what_a_save_cut_short_has_left_is_removed(tiny, tmp_path):
    left = tmp_path / "3.orbax-checkpoint-tmp"
    (left / "params.orbax-checkpoint-tmp").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_at(tiny(), 6), {"next": 6}, provenance_of(tiny()))
    assert [path.name for path in tmp_path.iterdir()] == ["6"]


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (
            "other_phases",
            "such as opt_state/from_3/0/count, .* only here, such as opt_state/from_0",
        ),
        ("no_groups", "such as opt_state/0/count, .* only here, such as opt_state/from_0/0/count;"),
    ],
)
def test_the_state_of_other_phases_is_refused(tiny, tmp_path, held, message):
    """The second is the layout of checkpoints from before there were phases."""
    state = state_at(tiny(), 5)
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    group = state.opt_state["from_0"]
    state = state.replace(opt_state={"from_3": group} if held == "other_phases" else group)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state, {"next": 5}, provenance_of(tiny()))
    with (
        Checkpoints(tmp_path / "checkpoints") as checkpoints,
        pytest.raises(CheckpointError, match=f"checkpoint 5 .*{message}.* warm_start"),
    ):
        checkpoints.restore(5, wanted)


def test_saving_a_step_twice_keeps_the_first(tiny, folder):
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(state_at(tiny(), 6), {"next": -1}, provenance_of(tiny()))
    assert read_provenance(folder) == provenance_of(tiny())


def test_parameters_are_read_alone_and_placed(tiny, folder):
    mesh = Partitioning(data=1, fsdp=4, tensor=2).make_mesh()
    abstract = Partitioning().placed_params(abstract_params(tiny()), mesh)
    for path, step in ((folder, 6), (folder / "checkpoints" / "4", 4)):
        params, found = read_params(path, abstract)
        assert found == step
        assert_identical(params, state_at(tiny(), step).params)
        assert params["lm_head"]["table"].sharding.shard_shape((20, 8)) == (10, 2)


def test_a_checkpoint_is_found_by_three_names(folder):
    inner = folder / "checkpoints"
    assert locate(folder) == locate(inner) == locate(inner / "6") == (inner, 6)
    assert locate(str(inner / "4")) == (inner, 4)


@pytest.mark.parametrize(
    ("made", "asked", "found"),
    [
        ("", "missing", "there is no such folder"),
        ("empty", "empty", "it holds no whole step"),
        ("run/checkpoints", "run", "it holds no whole step"),
        ("run/checkpoints/5.orbax-checkpoint-tmp", "run", "it holds no whole step"),
        ("run/checkpoints/4", "run/checkpoints/7", "there is no such folder"),
    ],
)
def test_what_is_not_there_is_said(tmp_path, made, asked, found):
    (tmp_path / made).mkdir(parents=True, exist_ok=True)
    with pytest.raises(CheckpointError, match=rf"no checkpoint at .*{asked}: {found}; give a run"):
        locate(tmp_path / asked)


def test_a_foreign_step_has_no_provenance(tmp_path):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    (tmp_path / "checkpoints" / "3" / "weights.bin").write_bytes(b"...")
    with pytest.raises(CheckpointError, match="checkpoint 3 in .* has no readable provenance"):
        read_provenance(tmp_path)


def test_another_provenance_is_refused_by_its_fields(tiny):
    model = tiny()
    found = provenance_of(model)
    check_provenance(found, found | {"gin": "x = 2"}, "there")

    freely = tiny(dtype="bfloat16", remat="full", dropout_rate=0.2, position_init="sinusoid")
    check_provenance(found, provenance_of(freely), "there")

    wanted = provenance_of(tiny(d_ff=32, norm="published"))
    with pytest.raises(CheckpointError, match="made with something else") as refused:
        check_provenance(found, wanted, "run/checkpoints")
    assert "in run/checkpoints was" in str(refused.value)
    differences = [line.strip() for line in str(refused.value).splitlines()[1:-1]]
    assert differences == [
        "model.d_ff: 16 there, 32 here",
        "model.norm: 'standard' there, 'published' here",
    ]
    with pytest.raises(CheckpointError, match="vocabulary_sha256: 'abc' there, 'def' here"):
        check_provenance(found, found | {"vocabulary_sha256": "def"}, "run")
    with pytest.raises(CheckpointError, match=r"model: None there, \{'vocab_size'"):
        check_provenance({"vocabulary_sha256": "abc"}, found, "run")
    check_provenance(found | {"vocabulary_sha256": None}, found, "imported without a tokenizer")


def test_layers_of_large_leaves_are_stored_apart(tiny, tmp_path, monkeypatch):
    """So that an export, which reads rows of one layer, decodes little else."""
    monkeypatch.setattr(checkpoint, "_CHUNK_BYTES", 600)
    state = state_at(tiny(), 3)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, {}, provenance_of(tiny()))
    tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(tmp_path) / "3" / "params").tree
    layers = tree["encoder"]["layers"]["feed_forward"]
    assert layers["in"]["kernel"].storage.chunk_shape == (1, 8, 16)
    assert layers["in"]["bias"].storage.chunk_shape == (2, 16)
    assert tree["lm_head"]["table"].storage.chunk_shape == (10, 8)
