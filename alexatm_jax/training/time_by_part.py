"""Breaks the time of profiled steps down by the parts of the model.

An instant belongs to what runs in it: in equal shares to what runs side by side, to communication
only where nothing else runs, and to nobody where the device is idle. So the shares add up to the
time from the first instruction to the last.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jax.profiler import ProfileData

from alexatm_jax.hlo import read_program
from alexatm_jax.training.instruction_sources import (
    COMMUNICATION,
    IDLE,
    PASSES,
    Sources,
    op_name_of,
)
from alexatm_jax.training.progress import engineering
from alexatm_jax.training.trace_events import DeviceEvents, busy_times, device_events

NUM_LONGEST = 40
"""Instructions that are listed one by one."""


@dataclasses.dataclass(frozen=True)
class Row:
    """Time of one part, of its matrix products or of the rest.

    Attributes:
      seconds: of a step, by PASSES and "".
      flops: of the products in it, on a device; not a number if they cannot be counted.
    """

    part: str
    is_product: bool
    seconds: Mapping[str, float]
    flops: float

    @property
    def total(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())


class Longest(NamedTuple):
    """One instruction: its seconds and executions a step, and what the compiler made of it."""

    seconds: float
    runs: float
    name: str
    part: str
    shape: str
    op_name: str


@dataclasses.dataclass(frozen=True)
class Breakdown:
    """The time of a step, on average over steps and devices; `str` of it is a table.

    Attributes:
      rows: the largest first, IDLE among them.
      step_seconds: of which the rows are parts.
      longest: the instructions that took longest.
    """

    rows: tuple[Row, ...]
    step_seconds: float
    longest: tuple[Longest, ...]

    @property
    def shares(self) -> dict[str, float]:
        """The shares of communication that nothing hides, and of idle devices."""
        return {
            part: sum(row.total for row in self.rows if row.part == part) / self.step_seconds
            for part in (COMMUNICATION, IDLE)
        }

    def __str__(self) -> str:
        """Gives a table of the rows."""
        header = ("part", "", "ms a step", "share", *PASSES, "products at")
        total = ("all", "", f"{1e3 * self.step_seconds:.1f}", "100.0 %", *[""] * 4)
        return _aligned([header, *map(self._cells, self.rows), total], left=2)

    def longest_text(self) -> str:
        """Gives a table of the instructions that took longest."""
        header = ("ms a step", "runs", "instruction", "part", "result", "traced in")
        cells = [
            (f"{1e3 * line.seconds:.1f}", f"{line.runs:g}", *line[2:5], line.op_name[-100:])
            for line in self.longest
        ]
        return _aligned([header, *cells], left=6)

    def _cells(self, row: Row) -> tuple[str, ...]:
        rate = row.flops / row.total if row.flops > 0 else 0.0
        return (
            row.part,
            "products" if row.is_product else "",
            f"{1e3 * row.total:.1f}",
            f"{row.total / self.step_seconds:.1%}".replace("%", " %"),
            *(f"{1e3 * row.seconds[name]:.1f}" if row.seconds.get(name) else "" for name in PASSES),
            f"{engineering(rate)}FLOP/s" if rate else "",
        )


def _aligned(cells: Sequence[Sequence[str]], left: int) -> str:
    """Aligns columns, the first `left` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def time_by_part(trace_dir: str | Path, hlo_text: str, num_steps: int = 1) -> Breakdown:
    """Breaks a trace of `jax.profiler` down by the parts of the model.

    Args:
      trace_dir: given to `jax.profiler.trace`; of several traces in it, the newest is read.
      hlo_text: of the program that ran, from `compiled.as_text()`.
      num_steps: executions of the program in the trace.

    Raises:
      ValueError: if the folder holds no trace, or the program did not run in it.
    """
    traces = sorted(Path(trace_dir).glob("**/*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not traces:
        raise ValueError(
            f"{trace_dir} holds no trace; give the folder that jax.profiler.trace wrote into."
        )
    sources = Sources(read_program(hlo_text))
    devices = [
        _usage(events, sources)
        for events in device_events(ProfileData.from_file(str(traces[-1])), sources.program.name)
        if any(span.name in sources.instructions for span in events.spans)
    ]
    if not devices:
        raise ValueError(
            f"no instruction of {sources.program.name} ran in {traces[-1]}; trace the steps of the "
            "program whose text is given."
        )
    parts = len(devices) * num_steps
    rows = _rows(devices, sources, parts)
    return Breakdown(rows, sum(row.total for row in rows), _longest(devices, sources, parts))


@dataclasses.dataclass
class _Usage:
    """Seconds and executions of each instruction on a device; IDLE is one too."""

    seconds: dict[str, float] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(float)
    )
    runs: Mapping[str, int] = dataclasses.field(default_factory=dict)


def _usage(events: DeviceEvents, sources: Sources) -> _Usage:
    """Shares every instant out among what runs in it."""
    own = [span for span in events.spans if span.name in sources.instructions]
    begin, end = min(span.start for span in own), max(span.end for span in own)
    usage = _Usage(runs=collections.Counter(span.name for span in events.spans))
    for start, stop, names in busy_times(events):
        seconds = (min(stop, end) - max(start, begin)) / 1e9
        if seconds <= 0:
            continue
        told = [name for name in names if not sources[name].gives_way] or names or (IDLE,)
        for name in told:
            usage.seconds[name] += seconds / len(told)
    return usage


def _rows(devices: Sequence[_Usage], sources: Sources, parts: int) -> tuple[Row, ...]:
    seconds: dict[tuple[str, bool], dict[str, float]] = {}
    flops: dict[tuple[str, bool], float] = collections.defaultdict(float)
    for usage in devices:
        for name, spent in usage.seconds.items():
            source = sources[name]
            key = source.part, source.is_product
            by_pass = seconds.setdefault(key, collections.defaultdict(float))
            by_pass[source.derivative] += spent / parts
            flops[key] += usage.runs.get(name, 0) * source.flops / parts
    rows = [Row(*key, by_pass, flops[key]) for key, by_pass in seconds.items()]
    return tuple(sorted(rows, key=lambda row: -row.total))


def _longest(devices: Sequence[_Usage], sources: Sources, parts: int) -> tuple[Longest, ...]:
    seconds: collections.Counter[str] = collections.Counter()
    runs: collections.Counter[str] = collections.Counter()
    for usage in devices:
        seconds.update(usage.seconds)
        runs.update(usage.runs)
    found = []
    for name, spent in seconds.most_common(NUM_LONGEST):
        line = sources.instructions[name][0] if name in sources.instructions else None
        shape, op_name = (line.shape, op_name_of(line)) if line else ("", "")
        part = sources[name].part
        found.append(Longest(spent / parts, runs[name] / parts, name, part, shape, op_name))
    return tuple(found)
