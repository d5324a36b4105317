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
# `name = shape opcode(inside), attributes`; no shape has a space before a bracket.
_NAMED = re.compile(
    r"^\s*(ROOT\s+)?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*?)\)(?:, |$)(.*)$"
)
# A comment, or the end of a line within braces, as in a kernel's metadata.
_LEFT_OUT = re.compile(r'/\*.*?\*/|\n(?="|}})')


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
    """A line, whose brackets hold operands or something else: a parameter's number."""

    within: Computation = field(repr=False)
    name: str
    made: str
    opcode: str
    inside: str
    attributes: str

    @cached_property
    def shape(self) -> tuple[Array, ...]:
        """All arrays in order; `<=` marks a size that is only a bound."""
        return tuple(
            Array(dtype, tuple(map(int, re.findall(r"\d+", sizes))), int(space or 0))
            for dtype, sizes, space in _ARRAY.findall(self.made)
        )

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
    for line in _LEFT_OUT.sub("", text).splitlines():
        if current is None:
            if head := _HEAD.match(line):
                current = module[head[2]] = Computation(head[2], module)
                entry = current if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif named := _NAMED.match(line):
            root, *parts = named.groups()
            op = current.instructions[parts[0]] = Instruction(current, *parts)
            if root:
                current.last = op
        else:
            raise ValueError(f"cannot read the instruction {line.strip()[:60]}")
    if entry is None:
        raise ValueError("this is no text of a compiled module: it has no ENTRY")
    return entry


def sources(text: str) -> dict[str, str]:
    """By `stack_frame_id` the innermost line that is no library's: `folder/file.py:7`.

    For one in `fast` also the line that asks for it.
    """
    tables = re.split(r"^(File\w+|FunctionNames|StackFrames)\n", text, flags=re.M)
    rows = {
        name: dict(re.findall(r"^(\d+) (.*)$", body.partition("\n\n")[0], re.M))
        for name, body in zip(tables[1::2], tables[2::2], strict=True)
    }
    found: dict[str, str] = {}
    for key, frame in rows.get("StackFrames", {}).items():
        place, parent = re.findall(r"=(\d+)", frame)
        name, _, line, *_ = re.findall(r"=(\d+)", rows["FileLocations"][place])
        file = rows["FileNames"][name].strip('"')
        # Parents come first, and are counted from one more: a root has parent 1.
        outer = found.get(str(int(parent) - 1), "")
        own = f"{'/'.join(file.split('/')[-2:])}:{line}"
        if "site-packages" in file:
            own = outer
        elif file.endswith(("/fast.py", "/sharding.py")):
            own = f"{own} for {outer.partition(' for ')[2] or outer}"
        found[key] = own
    return found
