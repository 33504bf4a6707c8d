"""Says which part of the model each instruction of a compiled training step comes from.

An instruction's `op_name` holds the Flax modules and the derivative that it was traced in. Of a
fusion, a matrix product's name counts if there is one within, and else the fusion's own.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from alexatm_jax.hlo import COLLECTIVES, Computation, Instruction, Program, array_shape
from alexatm_jax.model.flops import PARTS

COMMUNICATION = "communication"
IDLE = "idle"
LOOPS = "loops"
COPIES = "copies and fills"
PASSES = ("forward", "recomputed", "backward")
"""What a differentiated instruction computes; `""` for all others."""


class Source(NamedTuple):
    """Where an instruction comes from.

    Attributes:
      part: such as "encoder feed-forward", "dropout", "optimizer", COMMUNICATION or COPIES.
      is_product: whether matrices are multiplied.
      derivative: one of PASSES, or "".
      flops: of the products; not a number where their sizes cannot be read.
    """

    part: str
    is_product: bool = False
    derivative: str = ""
    flops: float = 0.0

    @property
    def gives_way(self) -> bool:
        """Whether its time counts only where nothing else runs."""
        return self.part in (COMMUNICATION, LOOPS)


class Sources:
    """The sources of a program's instructions, by their names."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.instructions: Mapping[str, tuple[Instruction, Computation]] = {
            name: (instruction, computation)
            for computation in program.computations.values()
            for name, instruction in computation.instructions.items()
        }
        self._source = functools.cache(self._find)

    def __getitem__(self, name: str) -> Source:
        """Gives the source of an instruction, IDLE's own, or that of another program's."""
        return self._source(name)

    def _find(self, name: str) -> Source:
        if name not in self.instructions:
            return Source(IDLE if name == IDLE else "other programs")
        whole, _ = self.instructions[name]
        contents = list(self._contents(name))
        opcodes = {re.sub("-(start|done)$", "", line.opcode) for line, _ in contents}
        if not opcodes.isdisjoint(COLLECTIVES):
            return Source(COMMUNICATION)
        if whole.opcode in _CONTROL:
            return Source(LOOPS)
        products = [(line, within) for line, within in contents if _is_product(line)]
        named = [*(line for line, _ in products), whole, *(line for line, _ in reversed(contents))]
        op_name = next(filter(None, map(op_name_of, named)), "")
        flops = sum(_product_flops(*product) for product in products)
        part = COPIES if opcodes <= _MOVES else part_of(op_name)
        return Source(part, bool(products), _derivative(op_name), flops)

    def _contents(self, name: str) -> Iterator[tuple[Instruction, Computation]]:
        """Gives an instruction, and all that is fused into it."""
        instruction, computation = self.instructions[name]
        yield instruction, computation
        if instruction.opcode == "fusion" or instruction.opcode.startswith("async-"):
            for called in instruction.called:
                for inner in self.program.computations[called].instructions:
                    yield from self._contents(inner)


_CONTROL = ("while", "conditional", "call")
_MOVES = {
    *("fusion", "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy"),
    *("transpose", "reshape", "broadcast", "slice", "dynamic-slice", "dynamic-update-slice"),
    *("concatenate", "pad", "iota", "reverse"),
}
"""What computes nothing."""

_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_KERNEL = re.compile(r'custom_call_target="[^"]*(?:gemm|matmul|fmha|attention|triton|tpu_custom)')
_ATTENTION_KERNEL = re.compile(r'custom_call_target="[^"]*(?:fmha|attention)')


def op_name_of(instruction: Instruction) -> str:
    """Gives what an instruction was traced in, the first of several; "" if it does not say."""
    found = _OP_NAME.search(instruction.attributes)
    return found[1].partition(";")[0] if found else ""


def _derivative(op_name: str) -> str:
    if "jvp(" not in op_name:
        return ""
    if "rematted_computation" in op_name:
        return "recomputed"
    return "backward" if "transpose(" in op_name else "forward"


_RANDOM = ("dropout", "threefry", "random", "bernoulli")
_PROJECTIONS = ("query", "key", "value", "out")
_EMBEDDINGS = {name for name in PARTS if name not in ("encoder", "decoder", "lm_head")}
_SCOPES = {"optimizer": "optimizer", "loss": "loss and head", "metrics": "metrics"}


def part_of(op_name: str) -> str:
    """Names the part of the model that an `op_name` such as the following belongs to.

    "jit(train_step)/jvp(Transformer.hidden_states)/Transformer.encode/encoder/layers/feed_forward/
    in/dot_general" is "encoder feed-forward". Outside of all modules, what is differentiated is
    the loss, and what is not the optimizer.
    """
    # A module's name may be followed by that of a method, as in "encoder._run".
    words = [word.partition(".")[0] for word in re.split(r"[/()]+", op_name)]
    if any(mark in word for word in words for mark in _RANDOM):
        return "dropout"
    for scope, part in _SCOPES.items():
        if scope in words:
            return part
    if not _EMBEDDINGS.isdisjoint(words):
        return "embeddings"
    if any(word.endswith("norm") for word in words):
        return "norms"
    for stack in ("encoder", "decoder"):
        if stack in words:
            return f"{stack} {_sublayer(words)}"
    if not op_name.startswith("jit("):
        return "unnamed"
    return "loss and head" if "jvp" in words else "optimizer"


def _sublayer(words: list[str]) -> str:
    for kind in ("self", "cross"):
        if f"{kind}_attention" in words:
            projects = not set(words).isdisjoint(_PROJECTIONS)
            return f"{kind}-attention{' projections' if projects else ''}"
    return "feed-forward" if "feed_forward" in words else "other"


def _is_product(instruction: Instruction) -> bool:
    if instruction.opcode == "custom-call":
        return bool(_KERNEL.search(instruction.attributes))
    return instruction.opcode in ("dot", "convolution")


_SUMMED = re.compile(r'lhs_contracting_dim(?:ension)?s"?[=:]([{\[][^}\]]*[}\]])')
_LABELS = re.compile(r"dim_labels=(\w+)_")


def _product_flops(instruction: Instruction, within: Computation) -> float:
    """Counts 2 for every multiply-add; a TPU's products are convolutions without a window.

    Not a number where that cannot be told, such as for a kernel of attention, which has two.
    """
    if _ATTENTION_KERNEL.search(instruction.attributes):
        return math.nan
    left = within.instructions.get(instruction.operands[0])
    attributes = instruction.attributes
    summed: list[int] = []
    if found := _SUMMED.search(attributes):
        summed = [int(axis) for axis in re.findall(r"\d+", found[1])]
    elif (labels := _LABELS.search(attributes)) and "window=" not in attributes:
        summed = [labels[1].index("f")]
    if left is None or not summed:
        return math.nan
    sizes = array_shape(left.shape)
    return 2.0 * math.prod((*array_shape(instruction.shape), *(sizes[axis] for axis in summed)))
