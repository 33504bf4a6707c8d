"""The mesh and what is placed on it."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental import mesh_utils
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from alexatm_jax.model import ModelConfig, Transformer
from alexatm_jax.partitioning import (
    DEFAULT_RULES,
    MESH_AXES,
    Partitioning,
    batch_sharding,
    decoding_rules,
    replicated,
    row_share,
    to_devices,
)
from alexatm_jax.training.state import abstract_params


def boxed(**changes):
    """Abstract parameters of a tiny model, with their logical axes."""
    sizes = dict(vocab_size=24, d_model=8, num_heads=4, d_ff=16)
    layers = dict(num_encoder_layers=3, num_decoder_layers=3, max_positions=5)
    return abstract_params(Transformer(ModelConfig(**(sizes | layers | changes))))


def with_rule(**changes):
    """Gives the default rules with other places; ... leaves the rule out."""
    rules = dict(DEFAULT_RULES) | changes
    return tuple((name, place) for name, place in rules.items() if place is not ...)


@pytest.mark.parametrize(
    ("sizes", "num_devices", "shape"),
    [
        ((-1, 1, 1), 1, (1, 1, 1)),
        ((-1, 1, 1), 8, (8, 1, 1)),
        ((2, 2, 2), 8, (2, 2, 2)),
        ((2, -1, 2), 8, (2, 2, 2)),
        ((1, 2, -1), 8, (1, 2, 4)),
        ((1, 256, 1), 256, (1, 256, 1)),
    ],
)
def test_minus_one_takes_what_the_devices_leave(sizes, num_devices, shape):
    assert Partitioning(*sizes).mesh_shape(num_devices) == shape


@given(sizes=st.tuples(*[st.sampled_from([-1, 1, 2, 3, 4, 8])] * 3), num_devices=st.integers(1, 24))
def test_a_mesh_uses_every_device_or_is_refused(sizes, num_devices):
    try:
        shape = Partitioning(*sizes).mesh_shape(num_devices)
    except ValueError:
        known = math.prod(n for n in sizes if n != -1)
        possible = num_devices % known == 0 if -1 in sizes else num_devices == known
        assert sizes.count(-1) > 1 or not possible
    else:
        assert math.prod(shape) == num_devices
        assert all(n in (asked, -1) or asked == -1 for n, asked in zip(shape, sizes, strict=True))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((2, 2, 1), "data=2, fsdp=2, tensor=1 needs 4 devices and 8 are here"),
        ((16, 1, 1), "needs 16 devices and 8 are here; change Partitioning.data, .fsdp or .tensor"),
        ((-1, 3, 1), "data=-1, fsdp=3, tensor=1 needs a multiple of 3 devices and 8 are here"),
        ((-1, -1, 1), "one at most is -1"),
        ((0, 1, 8), "data=0, .*sizes are positive"),
        ((-2, 1, 1), "sizes are positive"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        Partitioning(*sizes).make_mesh()


def test_a_mesh_names_its_axes():
    mesh = Partitioning(2, 2, 2).make_mesh()
    assert mesh.axis_names == MESH_AXES and mesh.devices.shape == (2, 2, 2)
    assert set(mesh.devices.flat) == set(jax.devices())
    assert Partitioning().make_mesh(jax.devices()[:3]).devices.shape == (3, 1, 1)


def test_parameters_live_where_the_rules_say():
    params = boxed()
    shardings = Partitioning().param_shardings(params, Partitioning(1, 4, 2).make_mesh())
    assert jax.tree.structure(shardings) == jax.tree.structure(nn.unbox(params))
    layers = shardings["decoder"]["layers"]
    found = {
        "table": shardings["lm_head"]["table"].spec,
        "query": layers["cross_attention"]["query"]["kernel"].spec,
        "out": layers["self_attention"]["out"]["kernel"].spec,
        "in": layers["feed_forward"]["in"]["kernel"].spec,
        "in bias": layers["feed_forward"]["in"]["bias"].spec,
        "norm": layers["feed_forward_norm"]["scale"].spec,
        "positions": shardings["decoder_positions"]["table"].spec,
    }
    assert found == {
        "table": P("tensor", "fsdp"),
        "query": P(None, "fsdp", "tensor", None),
        "out": P(None, "tensor", None, "fsdp"),
        "in": P(None, "fsdp", "tensor"),
        "in bias": P(None, "tensor"),
        "norm": P(None, None),
        "positions": P(None, "fsdp"),
    }


def test_other_rules_place_otherwise():
    shardings = Partitioning(rules=with_rule(vocab=None)).param_shardings(
        boxed(), Partitioning(1, 4, 2).make_mesh()
    )
    assert shardings["lm_head"]["table"].spec == P(None, "fsdp")


def test_placed_params_are_the_model_unboxed():
    mesh = Partitioning(1, 4, 2).make_mesh()
    placed = Partitioning().placed_params(boxed(), mesh)
    wanted = nn.unbox(boxed())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), placed) == jax.tree.map(
        lambda x: (x.shape, x.dtype), wanted
    )
    assert placed["lm_head"]["table"].sharding.shard_shape((24, 8)) == (12, 2)


def test_each_parameter_that_does_not_divide_is_named():
    mesh = Partitioning(1, 1, 8).make_mesh()
    with pytest.raises(ValueError, match="cannot be placed on the mesh") as refused:
        Partitioning().param_shardings(boxed(d_ff=20), mesh)
    lines = [line.strip() for line in str(refused.value).splitlines()[1:]]
    name = "['decoder']['layers']['cross_attention']['query']['kernel']"
    assert f"{name} (3, 8, 4, 2): 4 over tensor = 8" in lines
    assert (
        "['encoder']['layers']['feed_forward']['in']['bias'] (3, 20): 20 over tensor = 8" in lines
    )
    assert not any("table" in line for line in lines), "24 rows divide by 8"


def test_two_axes_of_the_mesh_may_share_a_dimension():
    partitioning = Partitioning(4, 2, 1, rules=with_rule(embed=("data", "fsdp")))
    mesh = partitioning.make_mesh()
    table = partitioning.param_shardings(boxed(), mesh)["lm_head"]["table"]
    assert table.shard_shape((24, 8)) == (24, 1)
    with pytest.raises(ValueError, match=r"\(24, 12\): 12 over data x fsdp = 8"):
        partitioning.param_shardings(boxed(d_model=12), mesh)


@pytest.mark.parametrize(("sizes", "divisor"), [((2, 2, 2), 4), ((8, 1, 1), 8), ((1, 1, 8), 1)])
def test_rows_divide_over_data_and_fsdp(sizes, divisor):
    partitioning = Partitioning(*sizes)
    for rows in range(1, 17):
        if rows % divisor == 0:
            partitioning.check_batch(rows, 8)
        else:
            with pytest.raises(ValueError, match=f"{rows} rows .* data x fsdp = {divisor} "):
                partitioning.check_batch(rows, 8)


def test_rows_of_the_host_become_one_global_array():
    mesh = Partitioning(2, 2, 2).make_mesh()
    host = {"x": np.arange(24, dtype=np.int32).reshape(8, 3)}
    array = to_devices(host, batch_sharding(mesh))["x"]
    np.testing.assert_array_equal(array, host["x"])
    assert array.sharding.spec == P(("data", "fsdp"))
    assert {shard.data.shape for shard in array.addressable_shards} == {(2, 3)}
    copies = jax.device_put(jnp.ones(3), replicated(mesh))
    assert {shard.data.shape for shard in copies.addressable_shards} == {(3,)}


def test_slices_follow_each_other_along_their_axis():
    devices = jax.devices()
    for partitioning, wanted in (
        (Partitioning(4, 2, 1, num_slices=2), [[0, 1], [2, 3], [4, 5], [6, 7]]),
        (Partitioning(2, 4, 1, num_slices=2, slice_axis="fsdp"), [[0, 1, 4, 5], [2, 3, 6, 7]]),
    ):
        mesh = partitioning.make_mesh(devices)
        assert np.vectorize(lambda device: device.id)(mesh.devices[:, :, 0]).tolist() == wanted


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh asks of a device: here of one whose slice, or process, is as given."""

    id: int
    process_index: int
    slice_index: int
    platform: str = "tpu"
    device_kind: str = "a chip of no known shape"
    coords: tuple[int, int, int] = (0, 0, 0)
    core_on_chip: int = 0


def chips(num_slices: int) -> list[Chip]:
    """Two slices of 2 x 2, or one of 2 x 4; a process has two neighbours; in any order."""
    found = [
        Chip(i, i // 2, i // (8 // num_slices), coords=(i % 2, i // 2 % (4 // num_slices), 0))
        for i in range(8)
    ]
    return found[5:] + found[:5]


def test_slices_are_those_that_the_devices_name():
    mesh = Partitioning(2, 4, num_slices=2).make_mesh(chips(2))
    assert [{chip.slice_index for chip in row.flat} for row in mesh.devices] == [{0}, {1}]
    wanted = mesh_utils.create_hybrid_device_mesh((1, 4, 1), (2, 1, 1), chips(2))
    assert (mesh.devices == wanted).all()
    with pytest.raises(ValueError, match=r"in 2 slice\(s\) and Partitioning.num_slices is 1"):
        Partitioning(2, 4).make_mesh(chips(2))


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [
        ((8, 1, 1), [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ((2, 2, 2), [(0, 4), (1, 4), (2, 4), (3, 4)]),
        # `tensor` spans two processes, which then hold the same rows; or all of them.
        ((1, 2, 4), [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ((1, 1, 8), [(0, 1), (0, 1), (0, 1), (0, 1)]),
    ],
)
def test_processes_share_rows_as_their_devices_do(sizes, shares):
    devices = np.array([Chip(i, i // 2, 0) for i in range(8)], object).reshape(sizes)
    mesh = Mesh(devices, MESH_AXES)
    assert [row_share(mesh, process) for process in range(4)] == shares
    assert row_share(Partitioning(2, 2, 2).make_mesh()) == (0, 1)


def test_processes_that_share_some_of_their_rows_are_refused():
    # 3 devices a process, 2 a row: the second process has half of two rows.
    devices = np.array([Chip(i, i // 3, 0) for i in range(6)], object).reshape(1, 3, 2)
    with pytest.raises(ValueError, match="rows of which only some are the same"):
        row_share(Mesh(devices, MESH_AXES), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_slices=0), "num_slices is 0 along slice_axis 'data'"),
        (dict(slice_axis="rows"), "slice_axis 'rows'; .*one of data, fsdp, tensor"),
        (dict(fsdp=8, num_slices=2), "2 slices do not divide data = 1 .* Partitioning.slice_axis"),
        (dict(rules=with_rule(embed="model")), r"'embed' on \['model'\], which the mesh does not"),
        (dict(rules=with_rule(batch="data")), "'batch' on data; .* keep that rule"),
        (dict(rules=(*DEFAULT_RULES, ("mlp", None))), "has 2 rules for 'mlp'; keep one"),
    ],
)
def test_an_impossible_layout_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Partitioning(**changes).mesh_shape(8)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            dict(embed="tensor"),
            [
                "['encoder']['layers']['feed_forward']['in']['kernel'] (3, 8, 16): "
                "embed and mlp are both on tensor"
            ],
        ),
        (
            dict(mlp=...),
            [
                "['encoder']['layers']['feed_forward']['in']['bias'] (3, 16): "
                "no rule for its logical axis 'mlp'"
            ],
        ),
        (
            dict(vocab=None, heads=None, mlp=None),
            ["tensor = 2, which splits neither parameters nor rows"],
        ),
    ],
)
def test_rules_that_do_not_fit_the_parameters_are_refused(changes, lines):
    partitioning = Partitioning(2, 2, 2, rules=with_rule(**changes))
    with pytest.raises(ValueError) as refused:
        partitioning.param_shardings(boxed(), partitioning.make_mesh())
    for line in lines:
        assert line in str(refused.value)


def test_single_tokens_are_split_as_the_weights_are():
    wanted = with_rule(rows=("data",), hidden=("fsdp",))
    assert dict(decoding_rules(DEFAULT_RULES, 32, 64)) == dict(wanted)
    assert decoding_rules(DEFAULT_RULES, 33, 64) == DEFAULT_RULES
    for unsplit in ((), with_rule(embed=None)):
        assert decoding_rules(unsplit, 32, 64) == unsplit


def test_a_parameter_without_logical_axes_is_refused():
    mesh = Partitioning(8).make_mesh()
    plain = {"kernel": jax.ShapeDtypeStruct((8, 2), jnp.float32)}
    with pytest.raises(ValueError, match=r"\['kernel'\] \(8, 2\): its logical axes are \(\)"):
        Partitioning(8).param_shardings(plain, mesh)
