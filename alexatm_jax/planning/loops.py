"""Finds how often the loops of a compiled program run."""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from collections.abc import Iterator

from alexatm_jax.hlo import Computation, Instruction, Program

TRANSPARENT = ("copy", "bitcast", "convert", "reshape", "copy-start", "copy-done", "opt-barrier")
"""These hand on the number that their first operand holds."""

_COUNTED = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Scope:
    """A computation as one instruction runs it; the entry has neither caller nor instruction."""

    program: Program
    computation: Computation
    caller: Scope | None = None
    instruction: Instruction | None = None

    def enter(self, instruction: Instruction, computation: str) -> Scope:
        """Gives the scope of a computation that an instruction of this one runs."""
        return Scope(self.program, self.program.computations[computation], self, instruction)


@dataclasses.dataclass(frozen=True)
class Value:
    """Where a number comes from, once all that only hands it on is left out.

    Attributes:
      scope, instruction: what makes it; a loop's own parameter stands for the loop's state.
      index: its place in the loop's state, if that is where it comes from.
    """

    scope: Scope
    instruction: Instruction
    index: int | None = None

    @property
    def constant(self) -> int | None:
        text = self.instruction.operands[0] if self.instruction.operands else ""
        is_integer = re.fullmatch(r"-?\d+", text)
        return int(text) if self.instruction.opcode == "constant" and is_integer else None


def trace(scope: Scope, name: str) -> Value:
    """Follows a value to its origin: through copies, tuples, fusions and unchanged loop state."""
    instruction = scope.computation.instructions[name]
    opcode, caller, by = instruction.opcode, scope.caller, scope.instruction
    if opcode in TRANSPARENT:
        return trace(scope, instruction.operands[0])
    if opcode in ("fusion", "call") and instruction.called:
        inner = scope.enter(instruction, instruction.called[0])
        return trace(inner, inner.computation.root)
    if opcode == "parameter" and caller and by and by.opcode in ("fusion", "call"):
        return trace(caller, by.operands[int(instruction.operands[0])])
    if opcode == "get-tuple-element":
        return _element(
            trace(scope, instruction.operands[0]), int(instruction.attribute("index") or 0)
        )
    return Value(scope, instruction)


def _element(value: Value, index: int) -> Value:
    """Gives an element of a tuple: what it was made of, or held when its loop began."""
    scope, instruction = value.scope, value.instruction
    by, caller = scope.instruction, scope.caller
    if instruction.opcode == "tuple":
        return trace(scope, instruction.operands[index])
    if instruction.opcode == "while":
        body = scope.enter(instruction, instruction.attribute("body") or "")
        if _keeps(body.computation, index):
            return _element(trace(scope, instruction.operands[0]), index)
    if instruction.opcode == "parameter" and caller and by and by.opcode == "while":
        body = caller.enter(by, by.attribute("body") or "")
        if _keeps(body.computation, index):
            return _element(trace(caller, by.operands[0]), index)
    return Value(scope, instruction, index)


def _keeps(body: Computation, index: int) -> bool:
    """Says whether a loop hands an element of its state on as it is."""
    lines = body.instructions
    if lines[body.root].opcode != "tuple":
        return False
    line = lines[lines[body.root].operands[index]]
    while line.opcode in TRANSPARENT:
        line = lines[line.operands[0]]
    is_element = line.opcode == "get-tuple-element" and line.attribute("index") == str(index)
    return is_element and lines[line.operands[0]].opcode == "parameter"


@dataclasses.dataclass(frozen=True)
class Trips:
    """How often a loop's body runs; `exact` is False where it may end earlier."""

    count: int
    exact: bool


def trip_count(scope: Scope, loop: Instruction) -> Trips | None:
    """Finds how often a `while` runs; None if neither the compiler says so nor a counter shows it.

    A counter is an element of the loop's state that starts at a constant, changes by a constant,
    and is compared with one. Where other conditions are joined to it by `and`, as in decoding until
    every row has ended, its count is the most that there can be.
    """
    if counted := _COUNTED.search(loop.attributes):
        return Trips(int(counted[1]), exact=True)
    condition = scope.enter(loop, loop.attribute("condition") or "")
    tests = list(_conjuncts(trace(condition, condition.computation.root)))
    bounds = [n for test in tests if (n := _counted_by(scope, loop, test)) is not None]
    return Trips(min(bounds), exact=len(tests) == 1) if bounds else None


def _conjuncts(test: Value) -> Iterator[Value]:
    if test.instruction.opcode != "and":
        yield test
        return
    for operand in test.instruction.operands:
        yield from _conjuncts(trace(test.scope, operand))


_MIRRORED = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE", "NE": "NE"}
_HOLDS = {
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
    "NE": operator.ne,
}


def _counted_by(scope: Scope, loop: Instruction, test: Value) -> int | None:
    """Counts the trips that one comparison of a counter with a constant allows."""
    direction = test.instruction.attribute("direction")
    if test.instruction.opcode != "compare" or direction not in _MIRRORED:
        return None
    left, right = (trace(test.scope, name) for name in test.instruction.operands)
    if left.constant is not None:
        left, right, direction = right, left, _MIRRORED[direction]
    if left.index is None or right.constant is None or left.scope.instruction is not loop:
        return None
    first = _element(trace(scope, loop.operands[0]), left.index).constant
    step = _step(scope.enter(loop, loop.attribute("body") or ""), left.index)
    return None if first is None or step is None else _trips(first, step, right.constant, direction)


def _step(body: Scope, index: int) -> int | None:
    """Gives what a loop adds to an element of its state on every trip."""
    root = body.computation.instructions[body.computation.root]
    if root.opcode != "tuple":
        return None
    change = trace(body, root.operands[index])
    if change.instruction.opcode not in ("add", "subtract"):
        return None
    old, by = (trace(change.scope, name) for name in change.instruction.operands)
    if change.instruction.opcode == "add" and old.constant is not None:
        old, by = by, old
    if (old.index, old.scope.instruction) != (index, body.instruction) or by.constant is None:
        return None
    return by.constant if change.instruction.opcode == "add" else -by.constant


def _trips(first: int, step: int, limit: int, direction: str) -> int | None:
    """Counts first, first + step, ... while it compares with the limit as `direction` says."""
    if not _HOLDS[direction](first, limit):
        return 0
    if direction == "NE":
        trips, rest = divmod(limit - first, step) if step else (-1, 0)
        return None if rest or trips < 0 else trips
    if direction in ("LE", "GE"):
        limit += 1 if direction == "LE" else -1
    if (step > 0) != (limit > first) or not step:
        return None  # it ends only when the number overflows
    return math.ceil((limit - first) / step)
