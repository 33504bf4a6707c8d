"""Reads from a trace of `jax.profiler` which instructions a device ran at every instant."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from jax.profiler import ProfileData


class Span(NamedTuple):
    """Something that ran on one line: a thread of a CPU, a stream of a GPU, a core of a TPU.

    Attributes:
      start, end: nanoseconds.
      name: of the instruction; "" for a task that an instruction left to a pool of threads.
      task: the number of such a task; instructions have none.
    """

    start: float
    end: float
    line: int
    name: str
    task: int | None = None


class Hand(NamedTuple):
    """The moment at which what runs on a line leaves a task to a pool of threads."""

    time: float
    line: int
    task: int


@dataclasses.dataclass
class DeviceEvents:
    """What ran on one device; the CPU's simulated devices are one."""

    spans: list[Span] = dataclasses.field(default_factory=list)
    hands: list[Hand] = dataclasses.field(default_factory=list)


def device_events(data: ProfileData, program: str) -> Iterator[DeviceEvents]:
    """Gives the events of each device.

    Args:
      program: name of the module; instructions of others get a name that none of its own has.
    """
    planes = list(data.planes)
    # Beside an accelerator the host's threads launch instructions, under the same names.
    accelerators = ("/device:GPU", "/device:TPU")
    host_computes = not any(plane.name.startswith(accelerators) for plane in planes)
    for plane in planes:
        events = DeviceEvents()
        lines = list(plane.lines)
        if plane.name.startswith("/device:"):
            cores = [line for line in lines if line.name == "XLA Ops"]
            for number, line in enumerate(
                cores or [line for line in lines if line.name.startswith("Stream")]
            ):
                events.spans += _instructions(line, number, program)
        elif plane.name == "/host:CPU" and host_computes:
            for number, line in enumerate(lines):
                _read_thread(line, number, program, events)
        if events.spans:
            yield events


def _instructions(line: Any, number: int, program: str) -> Iterator[Span]:
    """Reads an accelerator's line, on which everything is an instruction or a kernel of one."""
    for event in line.events:
        stats = dict(event.stats)
        # TPUs print the whole instruction, "%dot.3 = bf16[...] ...".
        name = str(stats.get("hlo_op") or event.name.split(" = ")[0].lstrip("%"))
        name = _own(name, stats, program)
        yield Span(event.start_ns, event.start_ns + event.duration_ns, number, name)


def _read_thread(line: Any, number: int, program: str, events: DeviceEvents) -> None:
    """Reads a thread of a CPU: instructions, and tasks that they share with other threads."""
    begun: list[tuple[float, int]] = []
    for event in line.events:
        start, kind = event.start_ns, event.name.rpartition("ThreadpoolListener::")[2]
        stats = dict(event.stats)
        if "hlo_op" in stats:
            name = _own(str(stats["hlo_op"]), stats, program)
            events.spans.append(Span(start, start + event.duration_ns, number, name))
        elif kind == "Record":
            events.hands.append(Hand(start, number, stats["_p"]))
        elif kind == "StartRegion":
            begun.append((start, stats["_c"]))
        elif kind == "StopRegion" and begun:
            began, task = begun.pop()
            events.spans.append(Span(began, start, number, "", task))


def _own(name: str, stats: dict[str, Any], program: str) -> str:
    module = str(stats.get("hlo_module", program))
    return name if module.startswith(program) else f"{module}/{name}"


def busy_times(events: DeviceEvents) -> Iterator[tuple[float, float, tuple[str, ...]]]:
    """Gives (start, end, instructions at work) for all times, one instruction a busy line.

    Of spans within each other, the innermost is at work: a loop's body, not the loop. A task works
    for the instruction that left it to the pool.
    """
    marks: list[tuple[float, int, Any]] = [(hand.time, 2, hand) for hand in events.hands]
    for span in events.spans:
        if span.end > span.start:
            marks += [(span.start, 1, span), (span.end, 0, span)]
    # At one instant, what ends comes before what begins, and that before what it leaves to others.
    marks.sort(key=lambda mark: (mark[0], mark[1], -getattr(mark[2], "end", 0)))
    at_work: dict[int, list[tuple[Span, str]]] = collections.defaultdict(list)
    owners: dict[int, str] = {}
    before = marks[0][0] if marks else 0.0
    for time, kind, what in marks:
        if time > before:
            names = (stack[-1][1] for stack in at_work.values() if stack)
            yield before, time, tuple(name for name in names if name)
            before = time
        stack = at_work[what.line]
        if kind == 1:
            stack.append((what, what.name or owners.get(what.task, "")))
        elif kind == 0:
            stack.remove(next(item for item in stack if item[0] is what))
        elif stack:
            owners[what.task] = stack[-1][1]
