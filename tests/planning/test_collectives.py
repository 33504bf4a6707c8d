"""Collectives are counted in programs whose traffic is known, as each compiler prints them."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexatm_jax.hlo import read_program, shape_bytes
from alexatm_jax.planning.collectives import Collective, read_collectives
from alexatm_jax.planning.topology import make_devices, parse_topology

TEXTS = Path(__file__).parent / "hlo"
MIB = 2**20


def mesh_of(devices, *sizes):
    return Mesh(np.array(devices).reshape(sizes), ("x", "y")[: len(sizes)])


def counted(function, mesh, spec, out_spec=None, shape=(1024, 256)):
    """Compiles what every device does with its part of an array, and counts."""
    mapped = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=spec,
        out_specs=PartitionSpec() if out_spec is None else out_spec,
        check_vma=False,
    )
    argument = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
    return read_collectives(jax.jit(mapped).lower(argument).compile().as_text())


def repeat(times, step):
    return lambda x: jax.lax.scan(lambda x, _: (step(x), None), x, None, length=times)[0]


def add_up(x, axis="x"):
    return jax.lax.psum(jnp.sin(x), axis)


X = PartitionSpec("x")
# [1024, 256] float32 is 1 MiB; an eighth of it 128 KiB.
KNOWN = {
    "all-gather": (
        lambda x: jax.lax.all_gather(x, "x", tiled=True),
        (X, PartitionSpec()),
        Collective("all-gather", 8, 1, MIB, MIB * 7 // 8, 0),
    ),
    "all-to-all": (
        lambda x: jax.lax.all_to_all(x, "x", 0, 0, tiled=True),
        (X, X),
        Collective("all-to-all", 8, 1, MIB // 8, MIB // 8 * 7 // 8, 0),
    ),
    "reduce-scatter": (
        lambda x: jax.lax.psum_scatter(x, "x", tiled=True),
        (PartitionSpec(), X),
        Collective("reduce-scatter", 8, 1, MIB, MIB * 7 // 8, 0),
    ),
    "collective-permute": (
        lambda x: jax.lax.ppermute(x, "x", [(i, (i + 1) % 8) for i in range(8)]),
        (X, X),
        Collective("collective-permute", 2, 1, MIB // 8, MIB // 8, 0),
    ),
    "all-reduce in a loop": (
        repeat(7, add_up),
        (X, PartitionSpec()),
        Collective("all-reduce", 8, 7, 7 * MIB // 8, 7 * MIB // 8 * 2 * 7 // 8, 0),
    ),
    "a loop in a loop": (
        repeat(5, repeat(3, add_up)),
        (X, PartitionSpec()),
        Collective("all-reduce", 8, 15, 15 * MIB // 8, 15 * MIB // 8 * 2 * 7 // 8, 0),
    ),
    "several arrays at once": (
        lambda x: jax.lax.psum((x[:4], jnp.cos(x[:, :8])), "x"),
        (X, PartitionSpec()),
        Collective("all-reduce", 8, 1, 4 * (4 * 256 + 128 * 8), 4 * (4 * 256 + 1024) * 14 // 8, 0),
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_programs_on_simulated_devices(name):
    function, (spec, out_spec), expected = KNOWN[name]
    assert counted(function, mesh_of(jax.devices(), 8), spec, out_spec) == (expected,)


@pytest.mark.parametrize("topology", ["tpu:v4:2x2x2", "tpu:v5e:2x4", "tpu:v5p:2x2x2"])
@pytest.mark.parametrize("name", [name for name in KNOWN if name != "reduce-scatter"])
def test_known_programs_compiled_for_tpus(topology, name):
    pytest.importorskip("libtpu")
    function, (spec, out_spec), expected = KNOWN[name]
    mesh = mesh_of(make_devices(parse_topology(topology)), 8)
    (found,) = counted(function, mesh, spec, out_spec)
    assert (found.kind, found.count, found.bytes) == (expected.kind, expected.count, expected.bytes)


@given(st.lists(st.integers(1, 4), max_size=3), st.integers(1, 3))
@settings(max_examples=8)
def test_nested_loops_multiply(lengths, sums):
    def step(x):
        for _ in range(sums):
            x = add_up(x)
        return x

    for length in lengths:
        step = repeat(length, step)
    (found,) = counted(step, mesh_of(jax.devices(), 8), X)
    assert found.count == sums * int(np.prod(lengths))
    assert found.bytes == found.count * MIB // 8


def test_each_group_size_has_its_row():
    mesh = mesh_of(jax.devices(), 2, 4)
    found = counted(lambda x: add_up(add_up(x, "x"), "y"), mesh, X)
    assert sorted((c.group_size, c.count) for c in found) == [(2, 1), (4, 1)]


def test_what_stays_on_one_device_is_left_out():
    mesh = mesh_of(jax.devices(), 8, 1)
    assert counted(lambda x: add_up(x, "y"), mesh, X, X) == ()


def test_a_loop_that_may_end_earlier_gives_a_bound():
    def until_large(x):
        def unfinished(state):
            return (state[0] < 9) & (state[1].max() < 1e9)

        return jax.lax.while_loop(unfinished, lambda s: (s[0] + 1, add_up(s[1])), (0, x))[1]

    (found,) = counted(until_large, mesh_of(jax.devices(), 8), X)
    assert (found.count, found.bound) == (9, "at most")


def test_a_loop_of_unknown_length_counts_once():
    def until_large(x):
        return jax.lax.while_loop(lambda x: x.max() < 1e9, add_up, x)

    (found,) = counted(until_large, mesh_of(jax.devices(), 8), X)
    assert (found.count, found.bound) == (1, "at least")


def test_the_larger_branch_counts():
    def either(x):
        return jax.lax.cond(x.sum() > 0, lambda x: add_up(add_up(x)), lambda x: add_up(x), x)

    (found,) = counted(either, mesh_of(jax.devices(), 8), X)
    assert (found.count, found.bound) == (2, "at most")


def test_a_branch_without_any_counts_too():
    def either(x):
        return jax.lax.cond(x.sum() > 0, add_up, jnp.cos, x)

    (found,) = counted(either, mesh_of(jax.devices(), 8), X)
    assert (found.count, found.bound) == (1, "at most")


# What `hlo/write.py` says of its programs, by hand: the 5 weights of [2048, 2048], 8 MiB in
# bfloat16, are gathered forwards and backwards, and the gradient of each is summed and split.
STACKED = {
    "v5e": [("all-gather", 10, 80 * MIB, 5), ("reduce-scatter", 5, 40 * MIB, 0)],
    "h100": [("all-gather", 10, 80 * MIB, 10), ("reduce-scatter", 5, 40 * MIB, 5)],
}


@pytest.mark.parametrize("machine", STACKED)
def test_weights_split_over_devices(machine):
    found = read_collectives((TEXTS / f"{machine}_stacked_layers.txt").read_text())
    rows = [(c.kind, c.count, c.bytes, c.asynchronous) for c in found]
    assert rows == [*STACKED[machine], ("all-reduce", 1, 4, 0)]  # the last is the loss
    assert {(c.group_size, c.bound) for c in found} == {(8, "exact")}


def test_the_parts_of_a_split_all_gather_count_once():
    text = (TEXTS / "v5e_stacked_layers.txt").read_text()
    lines = re.findall(r" all-gather\(.*channel_id=9,.*", text)
    assert len(lines) == 3  # it starts in one fusion, goes on in the next, and ends in a third
    assert "known_trip_count" not in text


def test_the_inner_side_split_over_devices():
    """Both products gather or scatter [4096, 2048] in bfloat16, 16 MiB."""
    gather, scatter = read_collectives((TEXTS / "h100_feed_forward.txt").read_text())
    assert (gather.kind, gather.bytes) == ("all-gather", 16 * MIB)
    assert (scatter.kind, scatter.bytes) == ("reduce-scatter", 16 * MIB)
    assert gather.asynchronous == scatter.asynchronous == 0  # "is_sync": true
    found = read_collectives((TEXTS / "v4_feed_forward.txt").read_text())
    # The compiler pads what it scatters, and hands the border on.
    rows = [(c.kind, c.group_size, c.count, c.bytes >> 20) for c in found]
    assert rows == [
        ("all-gather", 4, 1, 16),
        ("reduce-scatter", 4, 1, 16),
        ("collective-permute", 2, 1, 0),
    ]


PROGRAM = """HloModule hand_made, num_partitions=8

%gathering (shard: f32[2,4]) -> f32[8,4] {{
  %shard = f32[2,4]{{1,0}} parameter(0)
  ROOT %whole = f32[8,4]{{1,0}} all-gather(%shard), dimensions={{0}}, {groups}
}}

ENTRY %main (x: f32[2,4]) -> f32[8,4] {{
  %x = f32[2,4]{{1,0:T(8,128)(2,1)S(1)}} parameter(0)
  %begun = ((f32[2,4]), f32[8,4], u32[]) async-start(f32[2,4]{{1,0}} %x), calls=%gathering
  %going = ((f32[2,4]), f32[8,4], u32[]) async-update(%begun), calls=%gathering
  ROOT %ended = f32[8,4]{{1,0}} async-done(%going), calls=%gathering
}}
"""


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
        ("replica_groups={}", 8),
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", 2),
        ("replica_groups=mesh['data'=2,'model'=4] {'model'}", 4),
        ("replica_groups=mesh['data'=2,'model'=4] {'data','model'}", 8),
        ("replica_groups=mesh['all'=8] {'all':(2)4}", 4),
        ("use_global_device_ids=true", 8),
    ],
)
def test_devices_in_every_notation_and_a_wrapped_collective(groups, size):
    (found,) = read_collectives(PROGRAM.format(groups=groups))
    assert (found.group_size, found.count, found.asynchronous) == (size, 1, 1)
    assert found.bytes == size * 2 * 4 * 4


def test_an_unknown_notation_is_refused():
    with pytest.raises(ValueError, match="whole runs among devices in a notation"):
        read_collectives(PROGRAM.format(groups="replica_groups=everyone"))


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="without an ENTRY"):
        read_program("HloModule cut_short\n")


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("bf16[8,128]{1,0:T(8,128)(2,1)S(1)}", 2048),
        ("(f32[3]{0}, /*index=1*/(s32[], pred[5]))", 21),
        ("s4[7]", 4),
        ("f8e4m3fn[10]", 10),
        ("c64[2]", 16),
        ("token[]", 0),
        ("f32[<=6]", 24),
    ],
)
def test_sizes_of_shapes(shape, size):
    assert shape_bytes(shape) == size


COUNTED_LOOP = """HloModule loops, num_partitions=2

%sum (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}}

%body (state: (s32[], f32[4], s32[])) -> (s32[], f32[4], s32[]) {{
  %state = (s32[], f32[4], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[4] get-tuple-element(%state), index=1
  %kept = s32[] get-tuple-element(%state), index=2
  %next = s32[] {change}(%i, %kept)
  %y = f32[4] all-reduce(%x), replica_groups={{{{0,1}}}}, to_apply=%sum
  ROOT %out = (s32[], f32[4], s32[]) tuple(%next, %y, %kept)
}}

%compared (p: s32[]) -> pred[] {{
  %p = s32[] parameter(0)
  %limit = s32[] constant({limit})
  ROOT %less = pred[] compare({sides}), direction={direction}
}}

%condition (state: (s32[], f32[4], s32[])) -> pred[] {{
  %state = (s32[], f32[4], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  ROOT %fused = pred[] fusion(%i), kind=kLoop, calls=%compared
}}

ENTRY %main (x: f32[4]) -> f32[4] {{
  %x = f32[4] parameter(0)
  %first = s32[] constant({first})
  %begin = s32[] copy(%first)
  %step = s32[] constant({step})
  %init = (s32[], f32[4], s32[]) tuple(%begin, %x, %step)
  %loop = (s32[], f32[4], s32[]) while(%init), condition=%condition, body=%body
  ROOT %r = f32[4] get-tuple-element(%loop), index=1
}}
"""
COMPARISONS = {
    "LT": lambda a, b: a < b,
    "LE": lambda a, b: a <= b,
    "GT": lambda a, b: a > b,
    "GE": lambda a, b: a >= b,
    "NE": lambda a, b: a != b,
}


@given(
    first=st.integers(-20, 20),
    step=st.integers(-5, 5),
    limit=st.integers(-20, 20),
    direction=st.sampled_from(sorted(COMPARISONS)),
    swapped=st.booleans(),
    change=st.sampled_from(["add", "subtract"]),
)
def test_counters_count_as_they_run(first, step, limit, direction, swapped, change):
    """Against a loop that is run; the step is kept in the loop's state, and the test is fused."""
    sides = "%limit, %p" if swapped else "%p, %limit"
    text = COUNTED_LOOP.format(
        **{"first": first, "step": step, "limit": limit},
        **{"direction": direction, "sides": sides, "change": change},
    )
    compares = COMPARISONS[direction]
    i, trips = first, 0
    while trips < 100 and (compares(limit, i) if swapped else compares(i, limit)):
        i, trips = i + (step if change == "add" else -step), trips + 1
    found = read_collectives(text)
    if trips == 100:  # it ends when the number overflows, if ever
        assert [(c.count, c.bound) for c in found] == [(1, "at least")]
    else:
        assert sum(c.count for c in found) == trips


FUSED = """HloModule fused, num_partitions=4

%fused (x: f32[8,4], w: f32[8,4], at: s32[]) -> f32[2,4] {{
  %x = f32[8,4] parameter(0)
  %w = f32[8,4] parameter(1)
  %at = s32[] parameter(2)
  %summed = f32[8,4] all-reduce(%x), replica_groups={{}}, to_apply=%sum
  %alike = f32[8,4] bitcast(%summed)
  ROOT %part = f32[2,4] dynamic-slice({whole}, %at, %at), dynamic_slice_sizes={{2,4}}
}}

ENTRY %main (x: f32[8,4], w: f32[8,4], at: s32[]) -> f32[2,4] {{
  %x = f32[8,4] parameter(0)
  %w = f32[8,4] parameter(1)
  %at = s32[] parameter(2)
  ROOT %r = f32[2,4] fusion(%x, %w, %at), kind=kCustom, calls=%fused
}}
"""


@pytest.mark.parametrize(("whole", "kind"), [("%alike", "reduce-scatter"), ("%w", "all-reduce")])
def test_only_a_sum_that_is_itself_cut_is_a_reduce_scatter(whole, kind):
    (found,) = read_collectives(FUSED.format(whole=whole))
    assert (found.kind, found.bytes) == (kind, 8 * 4 * 4)
