"""The text of a compiled XLA module as data: computations, instructions, shapes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import cached_property

BITS = {
    "pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16,
    "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64, "f16": 16, "bf16": 16,
    "f32": 32, "f64": 64, "c64": 64, "c128": 128,
}  # fmt: skip

_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([0-9,<=]*)\](?:\{([^{}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_HEAD = re.compile(r"^(ENTRY\s+)?%?([\w.\-]+)\s+\(.*\)\s*->\s*.*\{\s*$")
_NAMED = re.compile(r"^\s*(ROOT\s+)?%?([\w.\-]+)\s+=\s+(.*)$")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_COMMENT = re.compile(r"/\*.*?\*/")


@dataclass(frozen=True)
class Array:
    """One array: element type, sizes, and the memory it lies in (0: HBM)."""

    dtype: str
    sizes: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> int:
        """Without padding; tokens and other things without elements have none."""
        bits = BITS.get(self.dtype, 8 if self.dtype.startswith("f8") else 0)
        return math.prod(self.sizes) * bits // 8


@dataclass(frozen=True)
class Instruction:
    """`name = shape opcode(operands), attributes`."""

    name: str
    opcode: str
    # Flattened where it is a tuple.
    shape: tuple[Array, ...]
    operands: tuple[str, ...]
    # What stood between the brackets, such as the number of a parameter.
    inside: str
    attributes: str
    # Arrays of each element of a tuple; one for anything else.
    elements: tuple[tuple[Array, ...], ...] = ()

    def called(self, *names: str) -> list[str]:
        """Computations that these attributes name, as `calls=%x` or `={%x, %y}`."""
        found = []
        for name in names:
            match = re.search(rf"\b{name}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.attributes)
            if match:
                found += re.findall(r"[\w.\-]+", match[1])
        return found

    def attribute(self, name: str) -> str:
        """The text after `name=`, braces included, or nothing."""
        match = re.search(rf"\b{name}=(\{{[^}}]*\}}|[^\s,]+)", self.attributes)
        return match[1] if match else ""


@dataclass
class Computation:
    """Instructions by name, in order."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)
    root: str = ""

    @property
    def last(self) -> Instruction:
        return self.instructions[self.root]

    @cached_property
    def parameters(self) -> dict[int, Instruction]:
        """By number."""
        return {
            int(one.inside): one
            for one in self.instructions.values()
            if one.opcode == "parameter"
        }

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Who reads an instruction."""
        found: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for one in self.instructions.values():
            for operand in dict.fromkeys(one.operands):
                if operand in found:
                    found[operand].append(one)
        return found


@dataclass
class Module:
    """All computations; `entry` is the one that runs."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Module:
    """Read what `compiled.as_text()` returns; raises `ValueError` without an entry."""
    computations: dict[str, Computation] = {}
    current, entry = None, ""
    for line in text.splitlines():
        if current is None:
            if head := _HEAD.match(line):
                current = Computation(head[2])
                entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            computations[current.name] = current
            current = None
        elif named := _NAMED.match(line):
            one = _instruction(named[2], _COMMENT.sub("", named[3]))
            current.instructions[one.name] = one
            if named[1]:
                current.root = one.name
    if entry not in computations:
        raise ValueError("this is no text of a compiled module: it has no ENTRY")
    return Module(computations, entry)


def _instruction(name: str, rest: str) -> Instruction:
    cut = _closing(rest) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:cut], rest[cut:]
    match = _OPCODE.match(rest)
    if match is None:
        raise ValueError(f"cannot read the instruction {name}: {rest[:60]}")
    end = match.end() - 1 + _closing(rest[match.end() - 1 :])
    inside = rest[match.end() : end - 1]
    elements = tuple(arrays(part) for part in _elements(shape))
    return Instruction(
        name=name,
        opcode=match[1],
        shape=tuple(a for part in elements for a in part),
        operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
        inside=inside,
        attributes=rest[end:],
        elements=elements,
    )


def arrays(shape: str) -> tuple[Array, ...]:
    """All arrays of a shape, in order."""
    found = []
    for dtype, sizes, layout in _ARRAY.findall(shape):
        space = _SPACE.search(layout)
        # "<=" marks a size that is known as a bound only.
        numbers = tuple(int(s.lstrip("<=")) for s in sizes.split(",") if s)
        found.append(Array(dtype, numbers, int(space[1]) if space else 0))
    return tuple(found)


def _closing(text: str) -> int:
    """One past the bracket that closes the first one."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and letter == ")":
            return i + 1
    raise ValueError(f"a bracket stays open: {text[:60]}")


def _elements(shape: str) -> list[str]:
    """The parts of a tuple at its outermost level; the shape itself otherwise."""
    if not shape.startswith("("):
        return [shape]
    parts, depth, start = [], 0, 1
    for i, letter in enumerate(shape):
        depth += (letter in "({[") - (letter in ")}]")
        if (letter == "," and depth == 1) or depth == 0:
            parts.append(shape[start:i])
            start = i + 1
    return [part for part in parts if part.strip()]
