"""The text of a compiled XLA module as data: computations, instructions, shapes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

_ARRAY = re.compile(
    r"([a-z][a-z0-9]*)\[([0-9,<=]*)\](?:\{(?:[^{}]*S\((\d+)\))?[^{}]*\})?"
)
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
        """Without padding, by the bits in a type's name; a token has none."""
        bits = [8] if self.dtype == "pred" else re.findall(r"\d+", self.dtype)
        return math.prod(self.sizes) * int(bits[0]) // 8 if bits else 0


@dataclass(eq=False)
class Instruction:
    """`name = shape opcode(inside), attributes`."""

    within: Computation = field(repr=False)
    name: str
    opcode: str
    # The arrays of each element of a tuple; any other shape has one element.
    elements: tuple[tuple[Array, ...], ...]
    # Operands, or what else stands between the brackets: the number of a parameter.
    inside: str
    attributes: str

    @cached_property
    def shape(self) -> tuple[Array, ...]:
        return tuple(chain.from_iterable(self.elements))

    @cached_property
    def operands(self) -> list[Instruction]:
        names = re.findall(r"%([\w.\-]+)", self.inside)
        return [self.within.instructions[name] for name in names]

    def attribute(self, name: str) -> str:
        """The text after `name=`, braces included, or nothing."""
        match = re.search(rf"\b{name}=(\{{[^}}]*\}}|[^\s,]+)", self.attributes)
        return match[1] if match else ""

    def called(self, *names: str) -> list[Computation]:
        """Computations that these attributes name, as `calls=%x` or `={%x, %y}`."""
        lists = (re.findall(r"[\w.\-]+", self.attribute(name)) for name in names)
        return [self.within.module[name] for name in chain.from_iterable(lists)]

    def behind(self, *views: str) -> Instruction:
        """The instruction that others of these opcodes give another name or layout."""
        return self.operands[0].behind(*views) if self.opcode in views else self


@dataclass(eq=False)
class Computation:
    """Instructions by name, in order, and the one that gives the result."""

    name: str
    # All computations by name.
    module: dict[str, Computation] = field(repr=False)
    instructions: dict[str, Instruction] = field(default_factory=dict)
    last: Instruction = field(init=False)


def parse(text: str) -> Computation:
    """The computation that runs in `compiled.as_text()`; `ValueError` without one."""
    module: dict[str, Computation] = {}
    current = entry = None
    for line in text.splitlines():
        if current is None:
            if head := _HEAD.match(line):
                current = module[head[2]] = Computation(head[2], module)
                entry = current if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif named := _NAMED.match(line):
            op = _instruction(current, named[2], _COMMENT.sub("", named[3]))
            current.instructions[op.name] = op
            if named[1]:
                current.last = op
    if entry is None:
        raise ValueError("this is no text of a compiled module: it has no ENTRY")
    return entry


def _instruction(within: Computation, name: str, text: str) -> Instruction:
    cut = text.index(" ")
    shapes = [text[:cut]]
    if text.startswith("("):
        shapes, cut = _bracketed(text)
    match = _OPCODE.match(text, cut)
    if match is None:
        raise ValueError(f"cannot read the instruction {name}: {text[cut:][:60]}")
    start = match.end()
    end = start - 1 + _bracketed(text[start - 1 :])[1]
    elements = tuple(map(_arrays, shapes))
    inside, attributes = text[start : end - 1], text[end:]
    return Instruction(within, name, match[1], elements, inside, attributes)


def _arrays(shape: str) -> tuple[Array, ...]:
    """All arrays of a shape, in order; `<=` marks a size that is only a bound."""
    return tuple(
        Array(dtype, tuple(map(int, re.findall(r"\d+", sizes))), int(space or 0))
        for dtype, sizes, space in _ARRAY.findall(shape)
    )


def _bracketed(text: str) -> tuple[list[str], int]:
    """The parts of the bracket that the text starts with, and where it ends."""
    parts, depth, start = [], 0, 1
    for i, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if depth == 0 or (letter == "," and depth == 1):
            parts.append(text[start:i])
            start = i + 1
        if depth == 0:
            return [part for part in parts if part.strip()], i + 1
    raise ValueError(f"a bracket stays open: {text[:60]}")
