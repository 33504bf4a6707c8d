"""Time goes to what ran: in made-up traces of known times, and in a real one of a real step."""

from __future__ import annotations

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from alexatm_jax.hlo import read_program
from alexatm_jax.training import time_by_part as breakdown
from alexatm_jax.training.instruction_sources import Sources, part_of
from alexatm_jax.training.trace_events import DeviceEvents, Hand, Span, busy_times, device_events

SCOPE = "jit(train_step)/jvp(Transformer.hidden_states)/Transformer.encode/encoder/encoder._run"
LAYERS = f"{SCOPE}/while/body/closed_call/layers"
KEYS = f"{LAYERS}/self_attention.keys_values/key/dot_general"
ATTENTION = f"{LAYERS}/self_attention/attention/fmha"
BACKWARD = "jit(train_step)/transpose(jvp(loss))/dot_general"
UPDATE = "jit(train_step)/optimizer/mul"

SUMMED = "lhs_contracting_dims={1}, rhs_contracting_dims={0}"
GEMM = """custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":
{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}""".replace("\n", "")
FMHA = GEMM.replace("__cublas$gemm", "__cudnn$fmhaSoftmax")


def traced_in(op_name: str) -> str:
    return f'metadata={{op_name="{op_name}"}}'


PROGRAM = f"""HloModule jit_train_step, num_partitions=2

%fused (p.1: f32[4,8], p.2: f32[8,16]) -> f32[4,16] {{
  %p.1 = f32[4,8] parameter(0)
  %p.2 = f32[8,16] parameter(1)
  %product = f32[4,16] dot(%p.1, %p.2), {SUMMED}, {traced_in(LAYERS + "/feed_forward/in/dot")}
  ROOT %root = f32[4,16] add(%product, %product), {traced_in(LAYERS + "/dropout/add")}
}}

%filled (p.3: f32[]) -> f32[4,8] {{
  %p.3 = f32[] parameter(0)
  ROOT %broadcast = f32[4,8] broadcast(%p.3), dimensions={{}}
}}

ENTRY %main (x: f32[4,8], w: f32[8,16]) -> f32[4,16] {{
  %x = f32[4,8] parameter(0)
  %w = f32[8,16] parameter(1)
  %zero = f32[] constant(0)
  %fill = f32[4,8] fusion(%zero), kind=kLoop, calls=%filled
  %gather = f32[8,16] all-gather(%w), dimensions={{0}}, {traced_in(LAYERS + "/feed_forward/in/dot")}
  %gemm = (f32[4,16], s8[64]) custom-call(%x, %gather), {GEMM}, {traced_in(BACKWARD)}
  %convolution = f32[4,16] convolution(%x, %gather), dim_labels=bf_io->bf, {traced_in(KEYS)}
  %update = f32[4,16] multiply(%convolution, %convolution), {traced_in(UPDATE)}
  %attended = f32[4,8] custom-call(%x, %x), {FMHA}, {traced_in(ATTENTION)}
  ROOT %fusion = f32[4,16] fusion(%x, %gather), calls=%fused, {traced_in(LAYERS + "/dropout/add")}
}}
"""


@pytest.fixture(scope="module")
def sources():
    return Sources(read_program(PROGRAM))


def test_instructions_come_from_the_part_that_their_name_tells(sources):
    products = 2.0 * 4 * 8 * 16
    assert sources["fusion"] == ("encoder feed-forward", True, "forward", products)
    assert sources["gemm"] == ("loss and head", True, "backward", products)
    assert sources["convolution"][:2] == ("encoder self-attention projections", True)
    assert sources["convolution"].flops == products
    assert sources["attended"][:2] == ("encoder self-attention", True)
    assert math.isnan(sources["attended"].flops)  # it has two products
    assert sources["update"] == ("optimizer", False, "", 0)
    assert sources["fill"].part == "copies and fills"
    assert sources["gather"].part == "communication"
    assert sources["fusion.9"].part == "other programs"


@pytest.mark.parametrize(
    ("op_name", "part"),
    [
        (f"{LAYERS}/self_attention/BHLM,BMHK->BLHK/dot_general", "encoder self-attention"),
        (f"{LAYERS}/self_attention/out/dot_general", "encoder self-attention projections"),
        (f"{LAYERS}/self_attention/dropout/jit(_bernoulli)/lt", "dropout"),
        (f"{LAYERS}/self_attention_norm/mul", "norms"),
        (f"{LAYERS}/add", "encoder other"),
        (f"{SCOPE}/dynamic_slice".replace("encode", "decode"), "decoder other"),
        ("jit(train_step)/jvp(Transformer.hidden_states)/Transformer.decode/"
         "Transformer._embed_decoder/decoder_tokens/jit(_take)/gather", "embeddings"),
        ("jit(train_step)/transpose(jvp())/while/body/mul", "loss and head"),
        ("jit(train_step)/while/body/jvp(metrics)/reduce_sum", "metrics"),
        ("jit(train_step)/div", "optimizer"),
        ("reduce_sum", "unnamed"),
    ],
)  # fmt: skip
def test_names_tell_the_part(op_name, part):
    assert part_of(op_name) == part


def spans(*given):
    return DeviceEvents([Span(1e9 * a, 1e9 * b, line, name) for a, b, line, name in given])


def times(events, sources):
    """Breaks made-up events down, as if one step had been traced."""
    usage = breakdown._usage(events, sources)
    found = breakdown._rows([usage], sources, parts=1)
    return {(row.part, row.is_product): round(row.total, 9) for row in found}


def test_an_instant_is_shared_by_what_runs_in_it(sources):
    events = spans(
        (0, 4, 0, "fusion"),  # alone for 2, then beside the update for 2
        (2, 5, 1, "update"),
        (4, 7, 2, "gather"),  # hidden for 1, then alone for 2
        (8, 9, 0, "fill"),  # after 1 in which nothing runs
    )
    found = times(events, sources)
    assert found == {
        ("encoder feed-forward", True): 3,
        ("optimizer", False): 2,
        ("communication", False): 2,
        ("idle", False): 1,
        ("copies and fills", False): 1,
    }
    assert sum(found.values()) == 9


def test_the_innermost_of_nested_instructions_is_at_work():
    events = spans(
        (0, 10, 0, "while"), (0, 4, 0, "fusion"), (4, 4, 0, "fill"), (4, 10, 0, "update")
    )
    assert [(b - a, names) for a, b, names in busy_times(events)] == [
        (4e9, ("fusion",)),
        (6e9, ("update",)),
    ]


def test_tasks_work_for_the_instruction_that_left_them_to_the_pool():
    """A product leaves a task to another thread, which leaves a part of it to a third one."""
    instructions = Span(0, 2, 0, "fusion"), Span(6, 7, 1, "update")
    tasks = Span(3, 9, 1, "", 7), Span(5, 8, 2, "", 8)
    events = DeviceEvents([*instructions, *tasks], [Hand(1, 0, 7), Hand(4, 1, 8)])
    found = [(a, b, names) for a, b, names in busy_times(events)]
    assert (2, 3, ()) in found
    assert (3, 4, ("fusion",)) in found
    assert (5, 6, ("fusion", "fusion")) in found
    assert (6, 7, ("update", "fusion")) in found


def plane(name, **lines):
    def event(name, start, seconds, **stats):
        return SimpleNamespace(
            name=name, start_ns=1e9 * start, duration_ns=1e9 * seconds, stats=stats.items()
        )

    made = [
        SimpleNamespace(name=line.replace("_", " "), events=[event(*e[:3], **e[3]) for e in events])
        for line, events in lines.items()
    ]
    return SimpleNamespace(name=name, lines=made)


def test_lines_of_accelerators_are_read_as_their_tracers_write_them():
    """By their documented layout: none was there to be traced."""
    tpu = plane(
        "/device:TPU:0",
        XLA_Modules=[("jit_train_step(1)", 0, 9, {})],
        XLA_Ops=[("%fusion = f32[4,16] fusion(%x)", 0, 2, {}), ("%update = f32[] add()", 2, 1, {})],
    )
    gpu = plane(
        "/device:GPU:0",
        Steps=[("1", 0, 9, {})],
        **{
            "Stream #13(Compute)": [
                ("void kernel<1>", 0, 2, {"hlo_op": "gemm", "hlo_module": "jit_train_step"}),
                ("copy", 2, 1, {"hlo_op": "copy", "hlo_module": "jit_other"}),
            ],
            "Stream #14(MemcpyD2D)": [("MemcpyD2D", 1, 1, {})],
        },
    )
    launch = {"hlo_op": "gemm", "hlo_module": "jit_train_step"}
    host = plane("/host:CPU", python=[("cuLaunchKernel", 0, 1, launch)])
    found = list(device_events(SimpleNamespace(planes=[host, tpu, gpu]), "jit_train_step"))
    names = [[span.name for span in events.spans] for events in found]
    assert names == [["fusion", "update"], ["gemm", "jit_other/copy", "MemcpyD2D"]]
    assert {span.line for span in found[1].spans} == {0, 1}


def test_a_real_trace_is_accounted_for(tmp_path):
    """Two steps on this machine's CPU: products, with their FLOPs, and what follows them."""

    def loss(w, x):
        with jax.named_scope("encoder"), jax.named_scope("feed_forward"):
            y = x @ w
        with jax.named_scope("dropout"):
            return jnp.sum(jnp.sin(y) ** 2)

    def train_step(w, x):
        gradient = jax.grad(loss)(w, x)
        with jax.named_scope("optimizer"):
            return w - jnp.exp(gradient)

    w, x = jnp.ones((256, 384)), jnp.ones((512, 256))
    program = jax.jit(train_step).lower(w, x).compile()
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with jax.profiler.trace(tmp_path, profiler_options=options):
        for _ in range(2):
            w = program(w, x)
        w.block_until_ready()
    found = breakdown.time_by_part(tmp_path, program.as_text(), num_steps=2)
    parts = {(row.part, row.is_product): row for row in found.rows}
    products = parts["encoder feed-forward", True]
    assert products.flops == 2 * (2 * 512 * 256 * 384)
    assert products.seconds["forward"] > 0 and products.seconds["backward"] > 0
    assert parts["dropout", False].total > 0 and parts["optimizer", False].total > 0
    assert math.isclose(found.step_seconds, sum(row.total for row in found.rows))
    assert found.shares.keys() == {"communication", "idle"}
    assert "encoder feed-forward" in str(found) and "dot" in found.longest_text()
    with pytest.raises(ValueError, match="no instruction of jit_other ran"):
        breakdown.time_by_part(tmp_path, PROGRAM.replace("jit_train_step", "jit_other"))


def test_a_folder_without_a_trace_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no trace"):
        breakdown.time_by_part(tmp_path, PROGRAM)
