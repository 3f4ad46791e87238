"""The text of an optimized XLA program as data: computations and instructions.

    module = parse(compiled.as_text())
    module.computations[module.entry].instructions

Only what `plan.costs` needs is read; the text of every backend will do.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

_SHAPE = re.compile(r"([a-z][a-z0-9]*)\[([0-9,<=?]*)\](?:\{([^{}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_END = re.compile(r"\}(, execution_thread=.*)?\s*$")
_COMMENT = re.compile(r"/\*.*?\*/")
_FIRST_NUMBER = re.compile(r"\d+")


class Shape(NamedTuple):
    """An array. `space` is XLA's memory space: 0 is HBM, others (on TPU: 1, VMEM) are on the chip."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Without the padding of tiles. Tokens and opaque values have none."""
        return -(-self.elements * _bits(self.dtype) // 8)

    @property
    def hbm_bytes(self) -> int:
        return 0 if self.space else self.bytes


def _bits(dtype: str) -> int:
    if dtype == "pred":
        return 8
    if dtype in ("token", "opaque"):
        return 0
    digits = _FIRST_NUMBER.search(dtype)
    return int(digits.group()) if digits else 0  # f8e4m3fn is 8, bf16 16, c64 64


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line. `shapes` are the leaves of the result's type, in order; `operands` are names."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    arguments: str  # between the parentheses, as written: a constant's value, a parameter's number
    is_root: bool = False

    def called(self, key: str) -> str | None:
        """The computation under an attribute such as `body=`."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
        return found.group(1) if found else None

    def called_computations(self, key: str = "called_computations") -> list[str]:
        """The computations in an attribute that lists them."""
        found = re.search(rf"\b{key}=\{{([^}}]*)\}}", self.attributes)
        return re.findall(r"[\w.\-]+", found.group(1)) if found else []

    def integers(self, key: str) -> tuple[int, ...]:
        """The numbers of an attribute such as `lhs_contracting_dims={1,2}`."""
        found = re.search(rf"\b{key}=\{{([\d,]*)\}}", self.attributes)
        return tuple(int(n) for n in found.group(1).split(",") if n) if found else ()

    @property
    def channel(self) -> str | None:
        found = re.search(r"\bchannel_id=(\d+)", self.attributes)
        return found.group(1) if found else None

    @property
    def op_name(self) -> str:
        """Where in the Python program it is from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found.group(1) if found else ""


@dataclasses.dataclass
class Computation:
    """Instructions in order. Operands are defined in the same computation."""

    name: str
    instructions: dict[str, Instruction]

    @cached_property
    def root(self) -> Instruction:
        return next(i for i in self.instructions.values() if i.is_root)

    @cached_property
    def parameters(self) -> dict[int, Instruction]:
        return {int(i.arguments): i for i in self.instructions.values() if i.opcode == "parameter"}

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Name -> the instructions that read it."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in dict.fromkeys(instruction.operands):
                users.setdefault(operand, []).append(instruction)
        return users

    def operand(self, instruction: Instruction, index: int) -> Instruction | None:
        if index >= len(instruction.operands):
            return None
        return self.instructions.get(instruction.operands[index])

    def operand_shapes(self, instruction: Instruction) -> list[Shape]:
        """The leaves of every operand."""
        found = (self.instructions.get(name) for name in instruction.operands)
        return [shape for operand in found if operand for shape in operand.shapes]


@dataclasses.dataclass
class Module:
    computations: dict[str, Computation]
    entry: str

    def arrays(self, least: int) -> list[tuple[int, ...]]:
        """Dimensions of every array, inside of fusions too, of at least so many elements; the largest first."""
        every = {
            shape.dims
            for computation in self.computations.values()
            for instruction in computation.instructions.values()
            for shape in instruction.shapes
        }
        return sorted((dims for dims in every if math.prod(dims) >= least), key=lambda dims: (-math.prod(dims), dims))


def parse(text: str) -> Module:
    """Raises ValueError when the text has no entry computation."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in _logical_lines(text):
        if current is None:
            header = _HEADER.match(line)
            if header:
                current = Computation(header.group(2), {})
                computations[current.name] = current
                entry = current.name if header.group(1) else entry
        elif _END.match(line):
            _spell_out_elements(current)
            current = None
        else:
            instruction = _instruction(line)
            if instruction:
                current.instructions[instruction.name] = instruction
    if not entry:
        raise ValueError("the HLO text has no ENTRY computation")
    return Module(computations, entry)


def _spell_out_elements(computation: Computation) -> None:
    """Defines `x#1`, which some versions write for element 1 of x, as an instruction."""
    short = {name for one in computation.instructions.values() for name in one.operands if "#" in name}
    for name in short:
        source, _, index = name.rpartition("#")
        element = computation.instructions[source].shapes[int(index)]
        computation.instructions[name] = Instruction(
            name, "get-tuple-element", (element,), (source,), f", index={index}", ""
        )


def _logical_lines(text: str) -> Iterator[str]:
    """Lines; a piece of one (metadata of kernels has line breaks) is joined to what it belongs to."""
    held = ""
    for line in text.splitlines():
        if line.startswith("  ") or _END.match(line) or _HEADER.match(line) or not held.startswith("  "):
            if held:
                yield held
            held = line
        else:
            held += " " + line
    if held:
        yield held


def _instruction(line: str) -> Instruction | None:
    left, equals, right = line.strip().partition(" = ")
    if not equals:
        return None
    is_root = left.startswith("ROOT ")
    right = _COMMENT.sub("", right) if "/*" in right else right
    type_end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    opcode, _, rest = right[type_end:].strip().partition("(")
    end = _closing("(" + rest, 0) - 1
    arguments = rest[:end]
    return Instruction(
        name=left.removeprefix("ROOT ").lstrip("%"),
        opcode=opcode,
        shapes=tuple(shapes(right[:type_end])),
        # Some versions write the type before the name.
        operands=tuple(part.split()[-1].lstrip("%") for part in _split(arguments) if part.strip()),
        attributes=rest[end + 1 :],
        arguments=arguments.strip(),
        is_root=is_root,
    )


def shapes(text: str) -> Iterator[Shape]:
    """Every array type in `text`, in order; tuples are flattened."""
    for dtype, dims, layout in _SHAPE.findall(text):
        space = _SPACE.search(layout) if layout else None
        sizes = tuple(int(d.lstrip("<=")) for d in dims.split(",") if d and d != "?")
        yield Shape(dtype, sizes, int(space.group(1)) if space else 0)


def _closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`; strings are skipped."""
    depth, quoted, escaped = 0, False, False
    for i in range(start, len(text)):
        c = text[i]
        if quoted:
            quoted, escaped = (c != '"' or escaped), (c == "\\" and not escaped)
        elif c == '"':
            quoted = True
        elif c == "(":
            depth += 1
        elif c == ")":
            depth -= 1
            if depth == 0:
                return i
    raise ValueError(f"unbalanced parentheses in HLO: {text[:80]!r}")


def _split(text: str) -> Iterator[str]:
    """Pieces between top-level commas."""
    depth = start = 0
    for i, c in enumerate(text):
        if c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "," and depth == 0:
            yield text[start:i]
            start = i + 1
    yield text[start:]
