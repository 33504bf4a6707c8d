"""What would make a job fit is searched in the order of its cost, and compiled."""

from __future__ import annotations

import dataclasses

import pytest

from alexatm_jax.decoding.config import DecodingConfig
from alexatm_jax.partitioning import Partitioning
from alexatm_jax.planning import advice
from alexatm_jax.planning.advice import NUM_SUGGESTIONS, best_of_stages, find_advice
from alexatm_jax.planning.plan import Plan, ProgramPlan, least_training_bytes, make_plan
from alexatm_jax.planning.table import advice_text

STATE = 100


@pytest.fixture
def imagined(monkeypatch, make_job, make_machine):
    """Makes a plan whose memory is a formula; gives it and the jobs that were tried."""
    tried = []

    def needed(name, job) -> int:
        bytes_per_row = {"none": 32, "dots": 8, "full": 2}[job.model.remat]
        if name != "train":
            return STATE // 2 + job.prompts_at_a_time(8)
        return STATE + bytes_per_row * job.rows_per_device(8)

    def plan_program(name, job, machine) -> ProgramPlan:
        tried.append(job)
        size = needed(name, job)
        return ProgramPlan(name, "", 1, 1, None, None, size, 0, 0, machine.fits(size))

    monkeypatch.setattr(advice, "plan_program", plan_program)
    monkeypatch.setattr(advice, "least_training_bytes", lambda job, machine: STATE)

    def make(usable_bytes: int, prompts: int = 4, **job) -> Plan:
        decoding = DecodingConfig(batch_size=prompts, max_new_tokens=5)
        job = dataclasses.replace(make_job(**job), decoding=decoding)
        machine = make_machine(usable_bytes)
        programs = tuple(plan_program(name, job, machine) for name in ("train", "generate"))
        tried.clear()
        return Plan(job, machine, {}, (), programs)

    return make, tried


def test_the_fewest_microbatches_that_fit_come_first(imagined):
    make, _ = imagined
    plan = make(STATE + 4 * 32, rows=256, num_microbatches=1)  # 64 rows a device; 4 fit
    trials = find_advice(plan, 100)
    assert [trial.bindings for trial in best_of_stages(trials)] == [
        ("loop.TrainingConfig.num_microbatches=16",),
        ("config.ModelConfig.remat=dots", "loop.TrainingConfig.num_microbatches=4"),
    ]
    assert ("loop.TrainingConfig.num_microbatches=8",) in [
        trial.bindings for trial in trials if not trial.fits
    ]
    text = advice_text(trials)
    assert text.index("num_microbatches=16") < text.index("too large") < text.index("batches=8")


def test_remat_is_changed_in_both_stacks(imagined):
    make, tried = imagined
    plan = make(STATE + 4 * 8, rows=256, num_microbatches=8, decoder_remat="none")
    best = best_of_stages(find_advice(plan, 100))
    assert best[1].bindings[:2] == (
        "config.ModelConfig.remat=dots",
        "config.ModelConfig.decoder_remat=None",
    )
    changed = {job.model.decoder_remat for job in tried if job.model.remat == "dots"}
    assert changed == {None}


def test_what_fits_is_asked_nothing(imagined):
    make, tried = imagined
    assert find_advice(make(10**9), 100) == ()
    assert tried == []


def test_no_memory_for_the_state_is_known_without_compiling(imagined):
    make, tried = imagined
    trials = [t for t in find_advice(make(STATE - 1), 100) if t.program == "train"]
    layouts = [(t.bindings[:3], "param_dtype" in str(t.bindings)) for t in trials]
    assert len(trials) == len(set(layouts)) >= 3  # each layout once, whatever the remat
    assert not any(trial.fits for trial in trials)
    assert all(trial.compiled is None for trial in trials)
    assert not [job for job in tried if job.training.num_microbatches > 2]
    assert "nothing that was tried" in advice_text(trials)
    assert "not compiled" in advice_text(trials)


@pytest.mark.parametrize(("slice_axis", "copies"), [("data", 2), ("fsdp", 1)])
def test_slices_that_data_crosses_keep_a_copy_each(imagined, slice_axis, copies):
    make, tried = imagined
    slices = Partitioning(4, 2, 1, num_slices=2, slice_axis=slice_axis)
    find_advice(make(STATE + 1, partitioning=slices, remat="full"), 100)
    meshes = {job.partitioning.mesh_shape(8) for job in tried}
    assert meshes >= {(copies, 8 // copies // tensor, tensor) for tensor in (1, 2, 4)}


def test_answers_are_asked_for_fewer_at_a_time(imagined):
    make, _ = imagined
    trials = find_advice(make(STATE // 2 + 8, prompts=64), 100)  # on each of 2 x 2 parts
    best = [trial.bindings for trial in best_of_stages(trials) if trial.program == "generate"]
    assert best[0] == ("DecodingConfig.batch_size=2",)


def test_time_bounds_the_search(imagined):
    make, tried = imagined
    assert find_advice(make(STATE + 1), 0) == ()
    assert tried == []


@pytest.mark.slow
def test_what_is_said_to_fit_does(make_job, make_machine):
    """The real compiler: microbatches, then sharding, make a copied state fit."""
    job = make_job(Partitioning(data=8), num_microbatches=1, rows=64, remat="none")
    unbounded = make_plan(job, make_machine()).programs[0]
    least = least_training_bytes(job, make_machine())
    machine = make_machine((unbounded.needed_bytes + least) // 2)
    plan = make_plan(job, machine)
    assert plan.programs[0].fits is False
    trials = find_advice(plan, 300)
    fits = [trial for trial in trials if trial.fits and trial.program == "train"]
    assert len(fits) >= NUM_SUGGESTIONS
    assert all(trial.compiled.needed_bytes <= machine.usable_bytes for trial in fits)
    assert dataclasses.asdict(fits[0])["bindings"]
