"""The plan of a run on a machine that need not be here: what it holds, moves and computes.

Where each figure comes from:

* Parameters, and the bytes per device of parameters, optimizer state and gradients, are counted
  from shapes, dtypes and shardings (`planning.accounting`).
* Arguments, outputs, temporaries and code of a program are the compiler's own figures for one
  device, and so are the collectives (`planning.compiled`).
* The compiler reports temporaries as one figure. Of the training step's, two parts are known
  beforehand: the gradients, and the activations that the forward pass of a microbatch keeps for
  its backward pass. `working` is what remains: logits, gathered parameters, the layer at work,
  buffers of collectives. The three add up to the compiler's figure by definition. `working` can
  be negative, where the compiler never holds all gradients and activations at once.
* FLOPs come from a formula (`model.flops`): what must be computed, never recomputation.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import jax
from flax import linen as nn
from jax.sharding import Mesh

from alexatm_jax.planning.accounting import (
    TableRow,
    gradient_bytes,
    saved_activation_bytes,
    tables,
    tree_bytes,
)
from alexatm_jax.planning.compiled import CompiledFigures, DoesNotFit, compile_figures
from alexatm_jax.planning.job import Job
from alexatm_jax.planning.programs import Program, make_program, placed_state, program_names
from alexatm_jax.planning.topology import Topology, check_slices
from alexatm_jax.training.state import TrainState

logger = logging.getLogger(__name__)

RESERVE = 0.05
"""Share of a device's memory that a plan leaves free, for fragmentation and for the runtime's and
the communication library's own buffers. XLA's figures know nothing of these."""


@dataclasses.dataclass(frozen=True)
class ProgramPlan:
    """One compiled program.

    Attributes:
      name: one of `programs.program_names`; `description` gives its shapes.
      flops: of one call, over all devices; `tokens` are read and written by it.
      ideal_seconds: of one call, if every device computed at its peak; None if unknown.
      figures: the compiler's; None if it refused the program for its memory.
      needed_bytes: what a device must have free to run it; of a refused program, what the
        compiler said that it needs, None if it did not say.
      gradient_bytes, activation_bytes: parts of the temporaries, see above; 0 where nothing is
        trained.
      fits: whether a device has the memory; None if its memory is unknown.
    """

    name: str
    description: str
    flops: float
    tokens: float
    ideal_seconds: float | None
    figures: CompiledFigures | None
    needed_bytes: int | None
    gradient_bytes: int
    activation_bytes: int
    fits: bool | None

    @property
    def working_bytes(self) -> int | None:
        """What the temporaries hold besides gradients and activations."""
        if self.figures is None:
            return None
        return self.figures.temporary_bytes - self.gradient_bytes - self.activation_bytes


@dataclasses.dataclass(frozen=True)
class Machine:
    """The devices, and what one of them may hold and compute.

    Attributes:
      topology: which devices, and what compiles for them.
      devices: those to build the mesh of.
      usable_bytes: memory of a device less the reserve; None if unknown.
    """

    topology: Topology
    devices: Sequence[jax.Device]
    usable_bytes: int | None

    @classmethod
    def of(
        cls, topology: Topology, devices: Sequence[jax.Device], memory_bytes: int | None = None
    ) -> Machine:
        """Leaves the reserve free of `memory_bytes`, by default the topology's."""
        memory_bytes = memory_bytes or topology.memory_bytes
        return cls(topology, devices, memory_bytes and int(memory_bytes * (1 - RESERVE)))

    def fits(self, num_bytes: int) -> bool | None:
        """Tells whether a device holds so much; None if its memory is unknown."""
        return None if self.usable_bytes is None else num_bytes <= self.usable_bytes


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that was found out about a job on a machine.

    Attributes:
      mesh: sizes of data, fsdp and tensor.
      tables: parameters and state, part by part, by the training step that holds them.
      programs: the training step or steps, rank and generate.
    """

    job: Job
    machine: Machine
    mesh: dict[str, int]
    tables: dict[str, tuple[TableRow, ...]]
    programs: tuple[ProgramPlan, ...]

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model."""
        return sum(row.parameters for row in next(iter(self.tables.values())))

    @property
    def fits(self) -> bool | None:
        """Whether every program fits a device; None if its memory is unknown."""
        verdicts = [program.fits for program in self.programs]
        return None if None in verdicts else all(verdicts)


def states_on(job: Job, machine: Machine) -> dict[str, TrainState]:
    """Gives the state of each of `Job.steps` abstractly, as it lies on the machine.

    Raises:
      ValueError: if the job does not divide over the devices, lengths are beyond the model's, or
        several slices of TPUs are not here.
    """
    check_slices(machine.topology, job.partitioning.num_slices)
    job.check(len(machine.devices))
    mesh = job.partitioning.make_mesh(machine.devices)
    return {name: placed_state(job, mesh, phases[0]) for name, phases in job.steps.items()}


def make_plan(job: Job, machine: Machine) -> Plan:
    """Counts what shapes tell, then compiles the programs.

    Raises:
      ValueError: see `states_on`.
    """
    rows = {
        name: tables(state, job.steps[name][0].trained)
        for name, state in states_on(job, machine).items()
    }
    programs = tuple(plan_program(name, job, machine) for name in program_names(job))
    mesh = dict(job.partitioning.make_mesh(machine.devices).shape)
    return Plan(job, machine, mesh, rows, programs)


def plan_program(name: str, job: Job, machine: Machine) -> ProgramPlan:
    """Compiles one of `programs.program_names` and reads what the compiler says of it."""
    mesh = job.partitioning.make_mesh(machine.devices)
    program = make_program(name, job, mesh)
    gradients, activations = _known_temporaries(name, job, mesh) if name in job.steps else (0, 0)
    figures: CompiledFigures | None = None
    needed: int | None
    logger.info("compiling %s: %s", name, program.description)
    try:
        figures = _compile(program, job, mesh)
        needed = total_bytes(figures)
        fits = machine.fits(needed)
    except DoesNotFit as refused:
        needed, fits = refused.needed_bytes, False
    peak = machine.topology.peak(job.model.dtype)
    return ProgramPlan(
        name,
        program.description,
        program.flops,
        program.tokens,
        program.flops / (peak * mesh.size) if peak else None,
        figures,
        needed,
        gradients,
        activations,
        fits,
    )


def total_bytes(figures: CompiledFigures) -> int:
    """Gives what a device must have free for a program and all that it reads and writes."""
    results = figures.output_bytes - figures.alias_bytes  # donated arguments are written over
    return figures.argument_bytes + results + figures.temporary_bytes + figures.code_bytes


def least_training_bytes(job: Job, machine: Machine) -> int:
    """Gives what training holds whatever the compiler does: the state and its gradients."""
    return max(
        tree_bytes(state) + gradient_bytes(state.params, job.steps[name][0].trained)
        for name, state in states_on(job, machine).items()
    )


def _compile(program: Program, job: Job, mesh: Mesh) -> CompiledFigures:
    with nn.logical_axis_rules(job.partitioning.rules):
        return compile_figures(
            program.function,
            *program.arguments,
            donate_argnums=program.donate_argnums,
            mesh=mesh,
            out_shardings=program.out_shardings,
        )


def _known_temporaries(name: str, job: Job, mesh: Mesh) -> tuple[int, int]:
    """Gives the gradients' bytes and the saved activations' on one device."""
    phase = job.steps[name][0]
    activations = saved_activation_bytes(
        job.model,
        job.rows_per_device(mesh.size, [phase]),
        phase.source_length,
        phase.target_length,
        loss_chunk_length=job.training.loss_chunk_length,
        tensor=mesh.shape["tensor"],
        frozen=phase.frozen,
    )
    return gradient_bytes(placed_state(job, mesh, phase).params, phase.trained), activations
