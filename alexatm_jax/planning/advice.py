"""What would make a program fit: changes that are tried by compiling them, cheapest first."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

from alexatm_jax.model.config import REMAT_POLICIES
from alexatm_jax.partitioning import Partitioning
from alexatm_jax.planning.job import Job
from alexatm_jax.planning.plan import (
    Machine,
    Plan,
    ProgramPlan,
    least_training_bytes,
    plan_program,
    states_on,
)

NUM_SUGGESTIONS = 2
"""The search for a program ends with so many different ways to make it fit."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One change that was tried.

    Attributes:
      program: what was to fit.
      stage: which change of layout or arithmetic; within one, only the rows at a time differ.
      splits: by how much fewer rows are computed at a time than asked for.
      bindings: what to add to the command, all of it, each behind `--gin.`.
      needed_bytes: of one device; None if the compiler refused and did not say. Where `compiled`
        is None, what the state and its gradients take by themselves, too much already.
      fits: whether that is within the usable memory.
      compiled: the program with the change.
    """

    program: str
    stage: int
    splits: int
    bindings: tuple[str, ...]
    needed_bytes: int | None
    fits: bool
    compiled: ProgramPlan | None


def find_advice(plan: Plan, seconds: float) -> tuple[Trial, ...]:
    """Tries changes for each program that does not fit, until enough do or time is spent.

    Training: more microbatches, then remat, then sharding over all devices, then tensor
    sharding, then parameters in bfloat16; at each stage with the fewest microbatches that fit.
    Ranking and generation: smaller batches, then the same shardings.

    Args:
      seconds: no compilation starts later than this.

    Returns:
      All trials in their order; empty if everything fits, or the memory is unknown.
    """
    deadline = time.perf_counter() + seconds
    trials: list[Trial] = []
    for program in plan.programs:
        if program.fits is False:
            stages = _stages(plan.job, plan.machine, program.name)
            trials += _search(program.name, stages, plan.machine, deadline)
    return tuple(trials)


def best_of_stages(trials: Sequence[Trial]) -> list[Trial]:
    """Keeps, of each program's stages, what fits with the most rows at a time."""
    best: dict[tuple[str, int], Trial] = {}
    for trial in trials:
        key = (trial.program, trial.stage)
        if trial.fits and (key not in best or trial.splits < best[key].splits):
            best[key] = trial
    return list(best.values())


@dataclasses.dataclass(frozen=True)
class _Change:
    """A changed job, and the bindings that change it."""

    job: Job
    bindings: tuple[str, ...] = ()

    def model(self, **values: str | None) -> _Change:
        changes: dict[str, Any] = dict(values)
        model = dataclasses.replace(self.job.model, **changes)
        lines = (f"config.ModelConfig.{name}={value}" for name, value in values.items())
        return _Change(dataclasses.replace(self.job, model=model), (*self.bindings, *lines))

    def remat(self, policy: str) -> _Change:
        """Sets what both stacks recompute."""
        own = {} if self.job.model.decoder_remat is None else {"decoder_remat": None}
        return self.model(remat=policy, **own)

    def mesh(self, partitioning: Partitioning) -> _Change:
        job = dataclasses.replace(self.job, partitioning=partitioning)
        lines = tuple(
            f"partitioning.Partitioning.{axis}={getattr(partitioning, axis)}"
            for axis in ("data", "fsdp", "tensor")
        )
        return _Change(job, (*self.bindings, *lines))

    def split(self, program: str, factor: int) -> _Change:
        """Computes a factor fewer rows at a time."""
        if factor == 1:
            return self
        if program in self.job.steps:
            count = self.job.training.num_microbatches * factor
            training = dataclasses.replace(self.job.training, num_microbatches=count)
            line = f"loop.TrainingConfig.num_microbatches={count}"
            return _Change(dataclasses.replace(self.job, training=training), (*self.bindings, line))
        batch_size = max(self.job.decoding.batch_size // factor, 1)
        decoding = dataclasses.replace(self.job.decoding, batch_size=batch_size)
        line = f"DecodingConfig.batch_size={batch_size}"
        return _Change(dataclasses.replace(self.job, decoding=decoding), (*self.bindings, line))

    def factors(self, program: str, num_devices: int) -> list[int]:
        """Lists by which powers of two the rows at a time can be divided."""
        rows = self.job.decoding.batch_size
        if program in self.job.steps:
            rows = self.job.rows_per_device(num_devices)
        return [2**n for n in range(rows.bit_length()) if rows % 2**n == 0]


def _stages(job: Job, machine: Machine, program: str) -> Iterator[_Change]:
    """Gives jobs from the nearest to the most changed, their rows at a time as they are."""
    policies = REMAT_POLICIES[REMAT_POLICIES.index(job.model.remat) :]
    if program not in job.steps:
        policies = policies[:1]
    change = _Change(job)
    for partitioning in (None, *_larger_shardings(job, machine)):
        resharded = change.mesh(partitioning) if partitioning else change
        for policy in policies:
            last = resharded if policy == policies[0] else resharded.remat(policy)
            yield last
    if job.model.param_dtype != "bfloat16":
        yield last.model(param_dtype="bfloat16")


def _larger_shardings(job: Job, machine: Machine) -> Iterator[Partitioning]:
    """Shards over all devices first, then heads and feed-forward too, over 2, 4 and 8.

    Slices that `data` crosses keep a copy each.
    """
    num_devices = len(machine.devices)
    before, tensor = job.partitioning, job.mesh_sizes(num_devices)[2]
    copies = before.num_slices if before.slice_axis == "data" else 1
    wider = [tensor] if job.mesh_sizes(num_devices)[0] > copies else []
    for count in (*wider, *(count for count in (2, 4, 8) if count > tensor)):
        sharded = dataclasses.replace(before, data=copies, fsdp=-1, tensor=count)
        try:
            states_on(dataclasses.replace(job, partitioning=sharded), machine)
        except ValueError:  # rows or parameters do not divide so
            continue
        yield sharded


def _search(
    program: str, stages: Iterator[_Change], machine: Machine, deadline: float
) -> Iterator[Trial]:
    """Tries each stage with the fewest rows at a time; where that fits, seeks the most."""
    num_fitting = 0
    too_large: set[tuple[Partitioning, str]] = set()  # whatever the rows and remat
    for index, change in enumerate(stages):
        if num_fitting >= NUM_SUGGESTIONS or time.perf_counter() > deadline:
            return
        layout = (change.job.partitioning, change.job.model.param_dtype)
        factors = change.factors(program, len(machine.devices))
        if index == 0:
            factors = factors[1:]  # as it is, it does not fit
        if not factors or layout in too_large:
            continue
        trial = _try(program, index, change, factors[-1], machine)
        yield trial
        num_fitting += trial.fits
        if trial.compiled is None:
            too_large.add(layout)
        low, high = 0, len(factors) - 1  # the smallest factor that fits is within
        while trial.fits and low < high and time.perf_counter() < deadline:
            middle = (low + high) // 2
            nearer = _try(program, index, change, factors[middle], machine)
            yield nearer
            low, high = (low, middle) if nearer.fits else (middle + 1, high)


def _try(program: str, stage: int, change: _Change, factor: int, machine: Machine) -> Trial:
    """Compiles a change, unless the state alone is too large for it."""
    change = change.split(program, factor)
    if program in change.job.steps:
        least = least_training_bytes(change.job, machine)
        if not machine.fits(least):
            return Trial(program, stage, factor, change.bindings, least, False, None)
    found = plan_program(program, change.job, machine)
    return Trial(
        program, stage, factor, change.bindings, found.needed_bytes, bool(found.fits), found
    )
