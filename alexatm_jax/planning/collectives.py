"""Counts what the devices of a compiled program send each other.

Loops count as often as they run, asynchronous halves once, and what the TPU compiler splits over
several fusions, to compute while it communicates, once too.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Literal

from alexatm_jax.hlo import COLLECTIVES, Instruction, Program, read_program, shape_bytes
from alexatm_jax.planning.loops import Scope, trace, trip_count

Bound = Literal["exact", "at most", "at least", "estimate"]


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind among as many devices, in one call of a program.

    Attributes:
      kind: one of `hlo.COLLECTIVES`. An all-reduce whose result is cut at once into the devices'
        own parts, which TPUs fuse and never make whole, is a reduce-scatter.
      group_size: the devices among which each of them runs; 2 for a permute, from one to another.
      count: how many each device executes.
      bytes: per device, the sum over these of the whole array: what comes out of an all-gather,
        what goes into any other. Array bytes, without padding.
      sent_bytes: per device, what it sends at least, as in a ring of n: (n - 1) / n of `bytes`,
        twice that for an all-reduce, all of it for a permute.
      asynchronous: how many of `count` let the device compute meanwhile.
      bound: "at most" if some stand in a loop that may end earlier, or in one branch of several;
        "at least" if in a loop of unknown length, which counts once; "estimate" if both occur.
    """

    kind: str
    group_size: int
    count: int
    bytes: int
    sent_bytes: int
    asynchronous: int
    bound: Bound = "exact"


def read_collectives(hlo_text: str) -> tuple[Collective, ...]:
    """Counts the collectives of a compiled program; those within one device are left out.

    Args:
      hlo_text: from `jax.stages.Compiled.as_text()`.

    Returns:
      One entry per kind and group size, in the order of `COLLECTIVES`, the most bytes first.

    Raises:
      ValueError: if the text holds no program, or devices in a notation that is not known.
    """
    program = read_program(hlo_text)
    entry = Scope(program, program.computations[program.entry])
    tallies: dict[tuple[str, int], _Tally] = collections.defaultdict(_Tally)
    for found in _walk(entry, _holders(program)):
        if found.group_size > 1:
            tallies[found.kind, found.group_size].add(found)
    rows = [tally.row(*key) for key, tally in tallies.items()]
    return tuple(sorted(rows, key=lambda row: (COLLECTIVES.index(row.kind), -row.bytes)))


@dataclasses.dataclass(frozen=True)
class _Found:
    """One collective of the text, with how often it runs."""

    kind: str
    group_size: int
    bytes: int
    asynchronous: bool
    count: int = 1
    at_most: bool = False
    at_least: bool = False

    def repeated(self, times: int, at_most: bool = False, at_least: bool = False) -> _Found:
        return dataclasses.replace(
            self,
            count=self.count * times,
            at_most=self.at_most or at_most,
            at_least=self.at_least or at_least,
        )


class _Tally:
    """Sums what was found of one kind and group size."""

    def __init__(self) -> None:
        self.count = self.bytes = self.asynchronous = 0
        self.at_most = self.at_least = False

    def add(self, found: _Found) -> None:
        self.count += found.count
        self.bytes += found.count * found.bytes
        self.asynchronous += found.count * found.asynchronous
        self.at_most |= found.at_most
        self.at_least |= found.at_least

    def row(self, kind: str, group_size: int) -> Collective:
        bounds: dict[tuple[bool, bool], Bound] = {
            (False, False): "exact",
            (True, False): "at most",
            (False, True): "at least",
            (True, True): "estimate",
        }
        sent = math.ceil(self.bytes * _sent_share(kind, group_size))
        bound = bounds[self.at_most, self.at_least]
        counts = (self.count, self.bytes, sent, self.asynchronous)
        return Collective(kind, group_size, *counts, bound)


def _sent_share(kind: str, group_size: int) -> float:
    if kind.startswith("collective-"):
        return 1.0
    return (group_size - 1) / group_size * (2 if kind == "all-reduce" else 1)


def _holders(program: Program) -> set[str]:
    """Names the computations that hold collectives, themselves or through what they call.

    All others, nearly all of a program, need no visit.
    """
    callers: dict[str, set[str]] = collections.defaultdict(set)
    pending: list[str] = []
    for name, computation in program.computations.items():
        for instruction in computation.instructions.values():
            for called in instruction.called:
                callers[called].add(name)
            if _kind(instruction):
                pending.append(name)
    holders: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in holders:
            holders.add(name)
            pending.extend(callers[name])
    return holders


def _kind(instruction: Instruction) -> str | None:
    """Gives the kind of a collective; None for other instructions and for second halves."""
    kind = instruction.opcode.removesuffix("-start")
    return kind if kind in COLLECTIVES else None


def _walk(scope: Scope, holders: set[str]) -> Iterator[_Found]:
    """Finds every collective that a computation runs."""
    chains: set[str] = set()
    for instruction in scope.computation.instructions.values():
        if kind := _kind(instruction):
            yield _found(scope, instruction, kind)
        elif instruction.opcode.endswith(("-done", "-update")):
            continue  # it names again what its -start runs
        elif holders.intersection(instruction.called):
            yield from _inside(scope, instruction, holders, chains)


def _inside(
    scope: Scope, instruction: Instruction, holders: set[str], chains: set[str]
) -> Iterator[_Found]:
    """Finds the collectives that an instruction runs in other computations.

    Args:
      chains: collectives split over fusions of this computation that were seen before.
    """
    called, opcode = instruction.called, instruction.opcode
    if opcode == "while":
        yield from _in_loop(scope, instruction, holders)
    elif opcode == "conditional":
        yield from _in_branches([list(_walk(scope.enter(instruction, c), holders)) for c in called])
    elif opcode == "fusion":
        yield from _in_fusion(scope.enter(instruction, called[0]), holders, chains)
    else:
        for name in called:
            for found in _walk(scope.enter(instruction, name), holders):
                is_async = found.asynchronous or opcode == "async-start"
                yield dataclasses.replace(found, asynchronous=is_async)


def _in_loop(scope: Scope, loop: Instruction, holders: set[str]) -> Iterator[_Found]:
    trips = trip_count(scope, loop)
    for role, more in (("body", 0), ("condition", 1)):
        name = loop.attribute(role) or ""
        if name in holders:
            for found in _walk(scope.enter(loop, name), holders):
                if trips is None:
                    yield found.repeated(1, at_least=True)
                else:
                    yield found.repeated(trips.count + more, at_most=not trips.exact)


def _in_branches(branches: list[list[_Found]]) -> Iterator[_Found]:
    """Takes, of each kind, the branch that moves most: only one of them runs."""
    keys = {(found.kind, found.group_size) for branch in branches for found in branch}
    for key in sorted(keys):
        alike = [[f for f in branch if (f.kind, f.group_size) == key] for branch in branches]
        most = max(alike, key=lambda branch: sum(f.count * f.bytes for f in branch))
        for found in most:
            yield found.repeated(1, at_most=any(branch != most for branch in alike))


def _in_fusion(scope: Scope, holders: set[str], chains: set[str]) -> Iterator[_Found]:
    """Finds the collectives of a fusion.

    TPUs fuse an all-gather, in part, with each of several computations: a first fusion starts it,
    others carry it on, a last one ends it. All of them print the same collective.
    """
    lines = scope.computation.instructions.values()
    cut = {
        trace(scope, line.operands[0]).instruction.name
        for line in lines
        if line.opcode == "dynamic-slice"
    }
    for line in lines:
        kind = _kind(line)
        if kind is None:
            if line.opcode == "fusion" and holders.intersection(line.called):
                yield from _in_fusion(scope.enter(line, line.called[0]), holders, chains)
            continue
        if kind == "all-reduce" and line.name in cut:
            kind = "reduce-scatter"
        found = _found(scope, line, kind)
        if "async_collective_fusion_config" in line.attributes:
            found = dataclasses.replace(found, asynchronous=True)
            chain = f"{line.attribute('channel_id')} {line.attribute('chain_id')}"
            if chain in chains:
                continue
            chains.add(chain)
        yield found


def _found(scope: Scope, instruction: Instruction, kind: str) -> _Found:
    lines = scope.computation.instructions
    size = sum(shape_bytes(lines[name].shape) for name in instruction.operands)
    group_size = _group_size(instruction, scope.program.num_devices)
    if kind == "all-gather":
        size *= group_size
    # The GPU's compiler splits all collectives and says which it then runs at one go.
    split = instruction.opcode.endswith("-start") and '"is_sync":true' not in instruction.attributes
    return _Found(kind, group_size, size, split)


_LISTED = re.compile(r"replica_groups=\{(?:\{([\d,]*)\}|\})")
_TILED = re.compile(r"replica_groups=\[(?:\d+,)*(\d+)\]<=")
_MESH = re.compile(r"replica_groups=@?[\w.]*\[([^\]]*)\][^{]*\{([^}]*)\}")


def _group_size(instruction: Instruction, num_devices: int) -> int:
    """Counts the devices among which a collective runs, in each of XLA's three notations.

    They are {{0,1},{2,3}}, its transposed iota [2,2]<=[4], and mesh['a'=2,'b'=2] {'b'}; {} is all.
    """
    text = instruction.attributes.split(", metadata=")[0]
    if instruction.opcode.startswith("collective-permute"):
        return 2
    if listed := _LISTED.search(text):
        return listed[1].count(",") + 1 if listed[1] else num_devices
    if tiled := _TILED.search(text):
        return int(tiled[1])
    if mesh := _MESH.search(text):
        sizes = dict(re.findall(r"'?(\w+)'?=(\d+)", mesh[1]))
        axes = re.findall(r"'?(\w+)'?(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    if "replica_groups=" not in text:
        return num_devices
    raise ValueError(
        f"{instruction.name} runs among devices in a notation that is not known: {text[:200]!r}; "
        "use a jax of constraints.txt."
    )
