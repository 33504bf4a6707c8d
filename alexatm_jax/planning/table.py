"""The plan as people read it on a terminal, and as programs read it in plan.json."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alexatm_jax.model.flops import ENCODER_PARTS
from alexatm_jax.planning.accounting import TableRow
from alexatm_jax.planning.advice import Trial, best_of_stages
from alexatm_jax.planning.estimate import ASSUMED_MFU, phase_rows, run_estimate
from alexatm_jax.planning.plan import RESERVE, Plan, ProgramPlan


def as_json(plan: Plan, trials: Sequence[Trial]) -> dict[str, Any]:
    """Gives everything that `plan.json` holds; bytes are those of one device.

    topology        planning.topology.Topology
    mesh            {"data", "fsdp", "tensor"}
    usable_bytes    memory that may be used, the reserve left free; null if unknown
    fits            true, false, or null if the memory is unknown
    num_parameters  of the whole model
    job             model, training, partitioning, lengths, batch, decoding
    phases          [planning.estimate.phase_rows]: what is trained, and how, from step to step
    tables          {training step: [planning.accounting.TableRow]}: parameters and state by part
    programs        [planning.plan.ProgramPlan], figures and collectives within
    run             planning.estimate.run_estimate: what the whole training run computes
    trials          [planning.advice.Trial], in the order in which they were tried
    """
    return {
        "topology": dataclasses.asdict(plan.machine.topology),
        "mesh": plan.mesh,
        "usable_bytes": plan.machine.usable_bytes,
        "fits": plan.fits,
        "num_parameters": plan.num_parameters,
        "job": dataclasses.asdict(plan.job),
        "phases": phase_rows(plan),
        "tables": {
            name: [dataclasses.asdict(row) for row in rows] for name, rows in plan.tables.items()
        },
        "programs": [
            dataclasses.asdict(program) | {"working_bytes": program.working_bytes}
            for program in plan.programs
        ],
        "run": run_estimate(plan),
        "trials": [dataclasses.asdict(trial) for trial in trials],
    }


def as_text(plan: Plan) -> str:
    """Renders the plan in paragraphs: machine, state, memory, traffic, arithmetic, verdict."""
    parts = (_heading, _phases, _state, _memory, _traffic, _arithmetic, _verdict)
    return "\n\n".join(part(plan) for part in parts)


def _heading(plan: Plan) -> str:
    topology = plan.machine.topology
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    lines = [
        f"{topology.text}: {topology.num_devices} x {topology.device_name}, mesh {mesh}",
        f"compiler: {topology.compiler}",
    ]
    return "\n".join(lines)


def _phases(plan: Plan) -> str:
    header = (
        *("phase", "program", "updates", "learning rate", "trained", "batch", "tokens"),
        *("FLOPs", f"an update IF at {ASSUMED_MFU:.0%}", "days"),
    )
    rows = phase_rows(plan)
    lines = [_table(header, map(_phase_row, rows), left=2)]
    for row in rows:
        if row["frozen"]:
            lines.append(f"phase {row['phase']} freezes {_frozen_text(row['frozen'])}")
        if row["rate_factors"]:
            factors = (f"{name} x {factor:g}" for name, factor in row["rate_factors"].items())
            lines.append(f"phase {row['phase']} changes rates: {', '.join(factors)}")
    return "\n".join(lines)


def _phase_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(row["phase"]),
        row["program"],
        f"{row['start_step']:,} to {row['end_step']:,}",
        " to ".join(f"{rate:.3g}" for rate in row["learning_rates"]),
        _si(row["trained_parameters"], ""),
        f"{row['batch_size']} x ({row['source_length']} + {row['target_length']})",
        _si(row["tokens"], ""),
        _si(row["flops"], "FLOP"),
        _duration(row["step_seconds"]),
        "unknown" if row["days"] is None else f"{row['days']:,.1f}",
    )


def _frozen_text(frozen: Sequence[str]) -> str:
    if not set(frozen) >= ENCODER_PARTS:
        return ", ".join(frozen)
    others = [part for part in frozen if part not in ENCODER_PARTS]
    return ", ".join(["the encoder with its embeddings", *others])


def _state(plan: Plan) -> str:
    first, *_ = plan.tables.values()
    of_parts = list(zip(*plan.tables.values(), strict=True))
    sizes = [_state_bytes(rows) for rows in of_parts]
    totals = [sum(column) for column in zip(*sizes, strict=True)]
    unit = _unit(max(totals))
    rows = [
        (row.name, f"{row.parameters:,}", *map(unit.text, line))
        for row, line in zip(first, sizes, strict=True)
    ]
    total = ("total", f"{plan.num_parameters:,}", *map(unit.text, totals))
    header = ["", "parameters", f"{unit.name} a device: parameters"]
    for name in plan.tables:
        of_step = "" if len(plan.tables) == 1 else f"{name}: "
        header += [f"{of_step}optimizer", "gradients"]
    return _table(header, [*rows, total])


def _state_bytes(rows: Sequence[TableRow]) -> list[int]:
    """Gives one part's bytes: of its parameters, then by training step."""
    steps = ((row.optimizer_bytes, row.gradient_bytes) for row in rows)
    return [rows[0].parameter_bytes, *itertools.chain.from_iterable(steps)]


def _memory(plan: Plan) -> str:
    unit = _unit(max(program.needed_bytes or 0 for program in plan.programs))
    header = (
        *(f"{unit.name} a device", "arguments", "+ outputs", "- donated", "+ temporaries"),
        *("+ code", "= needed", "fits"),
    )
    lines = [_table(header, [_memory_row(program, unit) for program in plan.programs])]
    for program in plan.programs:
        if program.gradient_bytes and program.figures:
            lines.append(
                f"{program.name}'s temporaries: gradients {unit.text(program.gradient_bytes)} + "
                f"saved activations {unit.text(program.activation_bytes)} + working memory "
                f"{unit.text(program.working_bytes)}"
            )
    lines += [f"{program.name}: {program.description}" for program in plan.programs]
    return "\n".join(lines)


def _memory_row(program: ProgramPlan, unit: _Unit) -> tuple[str, ...]:
    figures, verdict = program.figures, (unit.text(program.needed_bytes), _yes(program.fits))
    if figures is None:
        return (program.name, *["refused"] * 5, *verdict)
    parts = (
        *(figures.argument_bytes, figures.output_bytes, figures.alias_bytes),
        *(figures.temporary_bytes, figures.code_bytes),
    )
    return (program.name, *map(unit.text, parts), *verdict)


def _traffic(plan: Plan) -> str:
    found = [
        (program.name, collective)
        for program in plan.programs
        for collective in (program.figures.collectives if program.figures else ())
    ]
    if not found:
        return "no collectives: nothing is exchanged"
    unit = _unit(max(collective.bytes for _, collective in found))
    header = ("a call of", "collective", "devices", "count", "async", unit.name, "sent", "")
    rows = [
        (
            name,
            collective.kind,
            *(f"{n:,}" for n in (collective.group_size, collective.count, collective.asynchronous)),
            *(unit.text(n) for n in (collective.bytes, collective.sent_bytes)),
            "" if collective.bound == "exact" else collective.bound,
        )
        for name, collective in found
    ]
    return (
        _table(header, rows, left=2) + f"\n({unit.name} a device, of whole arrays; sent in a ring)"
    )


def _arithmetic(plan: Plan) -> str:
    header = ("a call", "FLOPs, all devices", "tokens", "at 100 % of the peak", "compiled in")
    rows = [
        (
            program.name,
            _si(program.flops, "FLOP"),
            f"{program.tokens:,.0f}",
            _duration(program.ideal_seconds),
            f"{program.figures.compile_seconds:.1f} s" if program.figures else "refused",
        )
        for program in plan.programs
    ]
    run, table = run_estimate(plan), _table(header, rows)
    if run["days"] is None:
        return f"{table}\n{run['steps']:,} updates are {_si(run['flops'], 'FLOP')}."
    return (
        f"{table}\nIF {ASSUMED_MFU:.0%} of the peak were reached: "
        f"{run['tokens_per_second']:,.0f} tokens a second, {run['days']:,.1f} days for "
        f"{run['steps']:,} updates ({_si(run['flops'], 'FLOP')})."
    )


def _verdict(plan: Plan) -> str:
    usable = plan.machine.usable_bytes
    if usable is None:
        return (
            "FITS? The memory of this device is unknown: give one, in GiB, such as "
            "--gin.planning.plan.memory_gib=80."
        )
    known = f"{_with_unit(usable)} a device ({RESERVE:.0%} of its memory left free)"
    too_large = [program for program in plan.programs if not program.fits]
    if not too_large:
        most = max(plan.programs, key=lambda program: program.needed_bytes or 0)
        return f"FITS: {most.name} needs the most, {_with_unit(most.needed_bytes)} of {known}."
    names = ", ".join(f"{p.name} ({_with_unit(p.needed_bytes)})" for p in too_large)
    return f"DOES NOT FIT: {names} of {known}."


def advice_text(trials: Sequence[Trial]) -> str:
    """Renders, program by program, what fits, then what was tried in vain."""
    lines = []
    for program in dict.fromkeys(trial.program for trial in trials):
        tried = [trial for trial in trials if trial.program == program]
        lines.append(f"What would make {program} fit, as compiled:")
        lines += map(_trial, best_of_stages(tried))
        lines += [] if any(trial.fits for trial in tried) else ["  nothing that was tried"]
        if failed := [trial for trial in tried if not trial.fits]:
            lines += [f"Tried for {program}, and too large:", *map(_trial, failed)]
    return "\n".join(lines)


def _trial(trial: Trial) -> str:
    flags = " ".join(f"--gin.{binding}" for binding in trial.bindings)
    note = "" if trial.compiled else "  (state and gradients alone; not compiled)"
    if any("param_dtype" in binding for binding in trial.bindings):
        note += "  (parameters and moments in bfloat16: another training)"
    return f"  {_with_unit(trial.needed_bytes):>12}  {flags}{note}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Aligns columns, the first `left` to the left, the others to the right."""
    cells = [tuple(header), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


@dataclasses.dataclass(frozen=True)
class _Unit:
    """MiB or GiB: one for all of a table."""

    name: str
    size: int

    def text(self, num_bytes: int | None) -> str:
        """Gives at least three digits, and 0 only for nothing."""
        if num_bytes is None:
            return "unknown"
        value = num_bytes / self.size
        if 0 < abs(value) < 0.001:
            return "< 0.001"
        return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"


def _unit(largest: int) -> _Unit:
    return _Unit("GiB", 2**30) if largest >= 2**29 else _Unit("MiB", 2**20)


def _with_unit(num_bytes: int | None) -> str:
    unit = _unit(num_bytes or 0)
    return f"{unit.text(num_bytes)} {unit.name}"


def _si(value: float | None, unit: str) -> str:
    """Writes a count with the prefix that leaves one to three digits before the point."""
    value = value or 0.0
    power = min(int(math.log10(value) // 3), len(_PREFIXES) - 1) if value >= 1 else 0
    return f"{value / 1000**power:,.2f} {_PREFIXES[power]}{unit}"


_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _yes(fits: bool | None) -> str:
    return {True: "yes", False: "NO", None: "unknown"}[fits]
