"""Reads the text that XLA prints of a compiled program.

The text is that of `jax.stages.Compiled.as_text()`: one device's program after all optimisations,
as the CPU, GPU and TPU compilers print it. Only what is needed to follow control flow and shapes
is read; every line that is no instruction is passed over.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from functools import cached_property

COLLECTIVES = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
"""The opcodes by which devices exchange data; `-start` and `-done` may follow."""

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-~]+) \(.*\{$")
_START = re.compile(r"^ +(ROOT )?%?([\w.\-~]+) = ")
_OPCODE = re.compile(r" ?([\w\-]+)\(")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-~]+)"
)
_CALLED_LISTS = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z\d]*)\[([\d,<=]*)\]")
_BITS = {"pred": 8, "token": 0, "opaque": 0}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      shape: of the result, as printed; `shape_bytes` measures it.
      operands: names of instructions in the same computation; for a constant or a parameter, what
        stands between its brackets.
      attributes: what follows the operands.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    @cached_property
    def called(self) -> tuple[str, ...]:
        """The computations that it names, in the order of the text."""
        attributes = self.attributes.split(", metadata=")[0]
        lists = _CALLED_LISTS.findall(attributes)
        listed = [name.strip().lstrip("%") for names in lists for name in names.split(",")]
        return (*_CALLED.findall(attributes), *listed)

    def attribute(self, name: str) -> str | None:
        """Gives the word behind `name=`, without %, or None."""
        found = re.search(rf"\b{name}=%?([\w.\-~]+)", self.attributes)
        return found[1] if found else None


@dataclasses.dataclass(frozen=True)
class Computation:
    """A computation's instructions by name, and the name of the one that is its result."""

    name: str
    instructions: Mapping[str, Instruction]
    root: str


@dataclasses.dataclass(frozen=True)
class Program:
    """A whole module: its computations by name, the entry's name, and how many devices run it."""

    name: str
    computations: Mapping[str, Computation]
    entry: str
    num_devices: int


def read_program(text: str) -> Program:
    """Parses the text of a compiled module.

    Raises:
      ValueError: if the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, open_name, root, last = None, None, "", ("", "")
    lines: dict[str, Instruction] = {}
    for line in text.splitlines():
        if header := _HEADER.match(line):
            open_name, lines, root, last = header[2], {}, "", ("", "")
            entry = open_name if header[1] else entry
        elif line == "}" and open_name is not None:
            computations[open_name] = Computation(open_name, lines, root)
            open_name = None
        elif open_name is not None and (start := _START.match(line)):
            last = start[2], line[start.end() :]
            lines[start[2]] = _instruction(*last)
            root = start[2] if start[1] else root
        elif open_name is not None and last[0]:
            # What describes a kernel may take several lines.
            last = last[0], f"{last[1]} {line}"
            lines[last[0]] = _instruction(*last)
    if entry is None:
        raise ValueError(
            f"a text of {len(text)} characters without an ENTRY computation arrived; give the "
            "text of a compiled program, as `compiled.as_text()` prints it."
        )
    first_line = text.split("\n", 1)[0]
    counts = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", first_line)
    name = first_line.removeprefix("HloModule ").partition(",")[0]
    return Program(name, computations, entry, math.prod(map(int, counts)))


def array_shape(shape: str) -> tuple[int, ...]:
    """Gives the sizes of an array, or of the first one of a tuple; () if there is none."""
    found = _ARRAY.search(shape)
    return tuple(int(n.lstrip("<=")) for n in found[2].split(",") if n) if found else ()


def shape_bytes(shape: str) -> int:
    """Measures an array or a tuple of arrays, such as `(bf16[8,128]{1,0}, u32[])`, in bytes.

    Padding by the device's tiles is not counted.
    """
    total = 0
    for dtype, dimensions in _ARRAY.findall(shape):
        bits = _BITS[dtype] if dtype in _BITS else int(re.findall(r"\d+", dtype)[0])
        sizes = (int(n.lstrip("<=")) for n in dimensions.split(",") if n)
        total += math.ceil(math.prod(sizes) * bits / 8)
    return total


def _instruction(name: str, rest: str) -> Instruction:
    shape_end = _closing(rest, 0) if rest.startswith("(") else _first_space(rest)
    opcode = _OPCODE.match(rest, shape_end)
    if opcode is None:
        return Instruction(name, rest, "", (), "")
    end = _closing(rest, opcode.end() - 1)
    listed = re.sub(r"/\*.*?\*/", "", rest[opcode.end() : end - 1])
    if opcode[1] in ("constant", "parameter"):
        operands: tuple[str, ...] = (listed,)
    else:
        operands = tuple(operand.split()[-1].lstrip("%") for operand in _parts(listed))
    return Instruction(name, rest[:shape_end], opcode[1], operands, rest[end:])


def _first_space(rest: str) -> int:
    return rest.find(" ") if " " in rest else len(rest)


def _closing(text: str, start: int) -> int:
    """Gives the index behind the bracket that closes the one at `start`."""
    depth = 0
    for bracket in re.compile(r"[()]").finditer(text, start):
        depth += 1 if bracket[0] == "(" else -1
        if not depth:
            return bracket.end()
    return len(text)


def _parts(listed: str) -> Iterator[str]:
    """Splits operands at the commas outside of any bracket, for some prints include shapes."""
    depth, begin = 0, 0
    for mark in re.finditer(r"[(){}\[\],]", listed):
        if mark[0] == "," and not depth:
            yield listed[begin : mark.start()]
            begin = mark.end()
        elif mark[0] != ",":
            depth += 1 if mark[0] in "({[" else -1
    if listed[begin:].strip():
        yield listed[begin:]
