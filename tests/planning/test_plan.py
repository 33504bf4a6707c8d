"""The plan of a small job against counts made another way."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import jax
import pytest
from jax.extend.core import jaxprs_in_params
from jax.interpreters import partial_eval

from alexatm_jax.batch import batch_shapes
from alexatm_jax.model.flops import ENCODER_PARTS, PARTS, Work, forward_flops, training_flops
from alexatm_jax.partitioning import Partitioning
from alexatm_jax.planning.accounting import tree_bytes
from alexatm_jax.planning.compiled import DoesNotFit
from alexatm_jax.planning.estimate import ASSUMED_MFU, phase_rows, run_estimate
from alexatm_jax.planning.plan import (
    RESERVE,
    Machine,
    least_training_bytes,
    make_plan,
    plan_program,
    states_on,
    total_bytes,
)
from alexatm_jax.planning.programs import make_program
from alexatm_jax.planning.table import advice_text, as_json, as_text
from alexatm_jax.planning.topology import parse_topology
from alexatm_jax.training.optimizer import LinearSchedule
from alexatm_jax.training.phases import Phase


def product_flops(jaxpr) -> int:
    """Adds 2 operations per multiply-add of every matrix product, loops unrolled."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            summed = equation.params["dimension_numbers"][0][0]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod((*equation.outvars[0].aval.shape, *(left[a] for a in summed)))
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += sum(times * product_flops(inner) for inner in jaxprs_in_params(equation.params))
    return total


def counted(program) -> int:
    return product_flops(jax.make_jaxpr(program.function)(*program.arguments).jaxpr)


def test_flops_are_the_products_of_the_real_programs(make_job, plan):
    job, (train, rank, generate) = make_job(), plan.programs
    mesh = job.partitioning.make_mesh(plan.machine.devices)
    # The programs compute masked pairs too: add these to what the formula counts.
    work = dataclasses.replace(Work.of_rows(16, 10, 8), decoder_pairs=16 * 8 * 8)
    metrics = 2 * 2 * 16 * 8 * 2  # loss and weight of each token go to one of two objectives
    assert counted(make_program("train", job, mesh)) == training_flops(job.model, work) + metrics
    masked_pairs = 16 * (8 * 8 - 8 * 9 / 2)
    per_pair = 3 * 2 * 2 * 16 * 3  # backward twice forward; multiply, add; D twice; layers
    assert train.flops == training_flops(job.model, work) - masked_pairs * per_pair

    prompts = 4 * 2 * 2  # four on each part of data x fsdp, as TextModel answers them
    work = Work.of_rows(prompts, 12, 5, answers_per_row=3)
    assert rank.flops == forward_flops(job.model, work)
    masked = dataclasses.replace(work, decoder_pairs=prompts * 3 * 5 * 5)
    assert counted(make_program("rank", job, mesh)) == forward_flops(job.model, masked)
    assert generate.flops == forward_flops(job.model, Work.of_rows(prompts, 12, 5))


def test_the_compiler_is_given_what_shapes_say(plan):
    job, train = plan.job, plan.programs[0]
    state = states_on(job, plan.machine)["train"]
    numbers = sum(math.prod(shape) for shape in batch_shapes(16, 10, 8).values())
    batch_bytes = 4 * numbers // 4  # int32 over data x fsdp
    assert train.figures.argument_bytes == tree_bytes(state) + batch_bytes
    assert train.figures.alias_bytes == pytest.approx(tree_bytes(state), rel=0.01)
    parts = (train.gradient_bytes, train.activation_bytes, train.working_bytes)
    assert sum(parts) == train.figures.temporary_bytes
    assert train.gradient_bytes == tree_bytes(state.params)
    assert least_training_bytes(job, plan.machine) == tree_bytes(state) + parts[0]
    assert [program.fits for program in plan.programs] == [None] * 3 and plan.fits is None
    assert all(program.needed_bytes == total_bytes(program.figures) for program in plan.programs)


def test_sharded_parameters_are_gathered(plan):
    gathered = [c for c in plan.programs[0].figures.collectives if c.kind == "all-gather"]
    assert {collective.group_size for collective in gathered} >= {2}
    # Forward and backward, in each of 2 microbatches, at least.
    assert sum(collective.bytes for collective in gathered) > 4 * plan.programs[0].gradient_bytes


@pytest.mark.slow
def test_copied_parameters_are_only_summed(make_job, make_machine):
    copies = plan_program("train", make_job(Partitioning(data=8)), make_machine())
    assert {collective.kind for collective in copies.figures.collectives} == {"all-reduce"}
    summed = sum(collective.bytes for collective in copies.figures.collectives)
    gradients = copies.gradient_bytes
    assert gradients <= summed <= 2.5 * gradients  # once for each of 2 microbatches, or once


def test_memory_decides(plan):
    topology = dataclasses.replace(plan.machine.topology, memory_bytes=1000)
    machine = Machine.of(topology, plan.machine.devices)
    assert machine.usable_bytes == int(1000 * (1 - RESERVE))
    assert machine.fits(900) and not machine.fits(1000)
    assert Machine.of(topology, plan.machine.devices, 5000).fits(4000)


def test_a_program_that_its_compiler_refuses_is_planned_all_the_same(
    make_job, make_machine, monkeypatch
):
    def refuse(*arguments, **options):
        raise DoesNotFit("too large", 3 * 2**30, 2**30)

    monkeypatch.setattr("alexatm_jax.planning.plan.compile_figures", refuse)
    refused = make_plan(make_job(), make_machine(2**30))
    assert refused.fits is False
    train = refused.programs[0]
    assert (train.fits, train.needed_bytes, train.figures) == (False, 3 * 2**30, None)
    assert train.gradient_bytes > 0 and train.working_bytes is None
    text = as_text(refused)
    assert "refused" in text and "DOES NOT FIT: train (3.000 GiB)" in text
    assert json.loads(json.dumps(as_json(refused, ())))["programs"][0]["figures"] is None


def test_a_job_that_cannot_be_laid_out_is_refused(make_job, make_machine):
    for job, message in (
        (make_job(rows=12), "do not divide"),
        (make_job(num_microbatches=3), "3 microbatches"),
        (make_job(d_model=18, num_heads=3), "these parameters cannot be placed"),
        (make_job(max_positions=9), "TASK_FEATURE_LENGTHS"),
        (dataclasses.replace(make_job(), fill=0.0), "fill is 0.0"),
        (dataclasses.replace(make_job(), num_choices=0), "num_choices is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            states_on(job, make_machine())


def test_a_run_is_its_steps_one_after_the_other(plan):
    run, step = run_estimate(plan), plan.programs[0]
    assert step.ideal_seconds == pytest.approx(step.flops / 8e9)
    assert run["flops"] == 50 * step.flops
    assert run["days"] == pytest.approx(50 * step.ideal_seconds / ASSUMED_MFU / 86400)
    assert run["tokens_per_second"] == pytest.approx(16 * 18 * ASSUMED_MFU / step.ideal_seconds)
    [phase] = phase_rows(plan)
    assert (phase["flops"], phase["trained_parameters"]) == (run["flops"], plan.num_parameters)


def test_the_table_and_the_file_say_the_same(plan):
    text = as_text(plan)
    found = json.loads(json.dumps(as_json(plan, ())))
    assert f"{plan.num_parameters:,}" in text and found["num_parameters"] == plan.num_parameters
    assert found["mesh"] == {"data": 2, "fsdp": 2, "tensor": 2}
    assert found["fits"] is None and "memory_gib=" in text
    for program, row in zip(plan.programs, found["programs"], strict=True):
        assert row["needed_bytes"] == program.needed_bytes
        assert row["figures"]["temporary_bytes"] == program.figures.temporary_bytes
        assert f"\n{program.name}: {program.description}" in text
        for collective in program.figures.collectives:
            assert collective.kind in text
    assert f"IF {ASSUMED_MFU:.0%} of the peak were reached" in text
    assert max(map(len, text.splitlines())) <= 120
    assert advice_text(()) == ""


FROZEN, THAWED, LONGER = (
    Phase(0, frozen=["encoder"], batch_size=8),
    Phase(20, frozen=[], batch_size=16, rate_factors={"wiki*": 0.5}),
    Phase(30, schedule=LinearSchedule(1e-4, 1e-5, total_steps=50)),
)


@pytest.fixture(scope="module")
def in_phases(make_job, plan):
    """The same job in phases; the step that is as without them is not compiled again."""
    training = dataclasses.replace(plan.job.training, phases=(FROZEN, THAWED, LONGER))
    job = dataclasses.replace(plan.job, training=training)
    frozen = plan_program("train 1", job, plan.machine)
    thawed = dataclasses.replace(plan.programs[0], name="train 2")
    with pytest.MonkeyPatch.context() as patch:
        made = {program.name: program for program in (frozen, thawed, *plan.programs[1:])}
        patch.setattr("alexatm_jax.planning.plan.plan_program", lambda name, *_: made[name])
        return make_plan(job, plan.machine)


def test_every_phase_is_planned_and_equal_steps_are_compiled_once(in_phases, plan):
    names = [program.name for program in in_phases.programs]
    assert names == ["train 1", "train 2", "rank", "generate"]
    rows = phase_rows(in_phases)
    assert [row["program"] for row in rows] == ["train 1", "train 2", "train 2"]
    thawed = make_program("train 2", in_phases.job, plan.job.partitioning.make_mesh())
    whole = make_program("train", plan.job, plan.job.partitioning.make_mesh())
    assert (thawed.flops, thawed.arguments[1]) == (whole.flops, whole.arguments[1])
    frozen, thawed = in_phases.programs[:2]
    run = run_estimate(in_phases)
    assert run["flops"] == 20 * frozen.flops + 30 * thawed.flops
    assert run["tokens"] == 20 * 8 * 18 + 30 * 16 * 18


def test_a_frozen_encoder_costs_what_the_real_program_computes(in_phases):
    job, machine = in_phases.job, in_phases.machine
    program = make_program("train 1", job, job.partitioning.make_mesh(machine.devices))
    masked_pairs = dataclasses.replace(Work.of_rows(8, 10, 8), decoder_pairs=8 * 8 * 8)
    metrics = 2 * 2 * 8 * 8 * 2
    closed = jax.make_jaxpr(program.function)(*program.arguments)
    needed, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    wanted = training_flops(job.model, masked_pairs, ENCODER_PARTS) + metrics
    assert product_flops(needed) == wanted < 0.8 * training_flops(job.model, masked_pairs)


def test_what_is_frozen_has_neither_gradient_nor_optimizer_state(in_phases):
    frozen, thawed = in_phases.tables.values()
    for before, after in zip(frozen[:-1], thawed[:-1], strict=True):
        assert before.parameter_bytes == after.parameter_bytes > 0
        trains = before.name.split()[0] not in ENCODER_PARTS
        assert before.optimizer_bytes == trains * after.optimizer_bytes
        assert before.gradient_bytes == trains * after.gradient_bytes
        assert after.optimizer_bytes == 2 * after.gradient_bytes > 0
    states = states_on(in_phases.job, in_phases.machine)
    assert tree_bytes(states["train 1"]) < tree_bytes(states["train 2"])
    first, second, *_ = in_phases.programs
    assert first.figures.argument_bytes < second.figures.argument_bytes
    assert 0 < 2 * first.activation_bytes < second.activation_bytes  # half the rows, no encoder


def test_the_table_shows_what_changes_when(in_phases):
    text = as_text(in_phases)
    assert re.search(r"\n1 +train 1 +0 to 20 +0.001 to 0.000658 +[\d.]+ k +8 x \(10 \+ 8\) ", text)
    for part in (
        "phase 1 freezes the encoder with its embeddings",
        "phase 2 changes rates: wiki* x 0.5",
        "train 2: optimizer",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) <= 130
    found = json.loads(json.dumps(as_json(in_phases, ())))
    assert [phase["start_step"] for phase in found["phases"]] == [0, 20, 30]
    assert found["phases"][0]["frozen"] == [*PARTS[:4]]
    assert found["tables"].keys() == {"train 1", "train 2"}


def test_a_phase_that_cannot_be_laid_out_is_named(make_job, make_machine):
    job = make_job()
    phases = (Phase(0), Phase(10, batch_size=12))
    training = dataclasses.replace(job.training, phases=phases)
    with pytest.raises(ValueError, match="phase 2 of 2, steps 10-50: 6 rows"):
        states_on(dataclasses.replace(job, training=training), make_machine())


def test_a_plan_counts_only_the_full_share_of_rows(make_job, make_machine):
    half = dataclasses.replace(make_job(), fill=0.5)
    mesh = half.partitioning.make_mesh(make_machine().devices)
    program = make_program("train", half, mesh)
    assert program.flops == training_flops(half.model, Work.of_rows(16, 5, 4))
    assert program.tokens == 16 * 9


def test_several_slices_of_tpus_are_no_plan(make_job, make_machine):
    machine = dataclasses.replace(make_machine(), topology=parse_topology("tpu:v4:2x2x2"))
    with pytest.raises(ValueError, match="num_slices is 2 .*is one slice.*topology=cpu:16"):
        states_on(make_job(Partitioning(2, 2, 2, num_slices=2)), machine)
    assert states_on(make_job(Partitioning(2, 2, 2, num_slices=2)), make_machine())
