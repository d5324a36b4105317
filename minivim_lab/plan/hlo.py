"""What one chip does in one step, read off a compiled module, loop bodies in full.

`compiled.cost_analysis()` counts the body of a loop once. Here every computation is
counted as often as it runs: FLOPs of matrix products and convolutions, bytes moved
between the chip and its memory, and collectives by kind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from minivim_lab.plan.text import Array, Computation, Instruction, Module, parse
from minivim_lab.plan.window import Window

COLLECTIVES = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip
# Names for what is there already, or for control flow whose parts are counted.
FREE = (
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "call",
    "conditional", "after-all", "add-dependency", "opt-barrier", "partition-id",
    "replica-id", "async-start", "async-update",
)  # fmt: skip
# Custom calls of the TPU compiler that move nothing.
FREE_TARGETS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound")
# Other names and places of what an instruction made.
VIEWS = ("bitcast", "copy", "copy-start", "copy-done", "get-tuple-element")
READS_A_PART = ("dynamic-slice", "slice", "gather")


@dataclass
class Traffic:
    """Collectives of one kind: how many, how large, and what leaves a chip.

    `bytes` is the whole array that all chips of a group agree on: the reduced,
    gathered or scattered one. `wire` is what each chip sends on a ring of n chips:
    `(n - 1)/n` of it, twice for an all-reduce, all of it for a permutation.
    """

    count: int = 0
    bytes: int = 0
    wire: float = 0.0


@dataclass
class Costs:
    """One chip, one step."""

    flops: int = 0
    hbm_bytes: int = 0
    collectives: dict[str, Traffic] = field(default_factory=dict)
    # Loops whose length the text does not say; their bodies count once.
    unknown_loops: int = 0


def wire_bytes(collectives: dict[str, Traffic]) -> float:
    """What a chip sends in all collectives together."""
    return sum((one.wire for one in collectives.values()), 0.0)


def costs(text: str) -> Costs:
    """Costs of the text of a compiled module (`compiled.as_text()`).

    FLOPs: two for each pair of numbers that a `dot` or `convolution` multiplies, as
    XLA's own HloCostAnalysis counts; positions where a window meets padding or a hole
    of a dilated array are none. Elementwise operations are left out.

    Bytes: operands and results of the instructions that run, a fusion as one, where
    they lie in HBM; of an array that is only sliced or updated in place, the slice.
    It is what the program asks for: caches are not modelled.

    Collectives: by the compiler's names, with one exception. Some gathers are written
    as the all-reduce of arrays that are zero but for one chip's part; they are called
    all-gather here, and send what the all-reduce sends.
    """
    module, found = parse(text), Costs()
    _Count(module, found).run(module.computations[module.entry], 1)
    return found


@dataclass
class _Count:
    module: Module
    found: Costs

    def run(self, computation: Computation, times: int) -> None:
        """Add a computation that runs so often."""
        for one in computation.instructions.values():
            self._products(one, computation, times)
            self._collective(one, computation, times)
            self.found.hbm_bytes += times * self._moved(one, computation)
            if one.opcode == "while":
                trips = trip_count(self.module, computation, one)
                self.found.unknown_loops += trips is None
                for name in one.called("condition", "body"):
                    self.run(self._named(name), times * (1 if trips is None else trips))
            elif one.opcode == "conditional":
                self._largest(one, times)
            elif one.opcode in ("call", "async-start"):
                for name in one.called("to_apply", "calls", "called_computations"):
                    self.run(self._named(name), times)

    def _named(self, name: str) -> Computation:
        return self.module.computations[name]

    def _largest(self, one: Instruction, times: int) -> None:
        """Of the branches of a condition the one with the most FLOPs."""
        names = one.called(
            "branch_computations", "true_computation", "false_computation"
        )
        options = []
        for name in names:
            branch = Costs()
            _Count(self.module, branch).run(self._named(name), times)
            options.append(branch)
        if options:
            _add(self.found, max(options, key=lambda c: (c.flops, c.hbm_bytes)))

    def _products(self, one: Instruction, within: Computation, times: int) -> None:
        if one.opcode == "fusion":
            for inner, computation in self._fused(one):
                self._products(inner, computation, times)
                self._collective(inner, computation, times)
        elif one.opcode == "dot":
            self.found.flops += times * dot_flops(one, within)
        elif one.opcode == "convolution":
            self.found.flops += times * convolution_flops(one, within)

    def _fused(self, one: Instruction) -> Iterator[tuple[Instruction, Computation]]:
        for name in one.called("calls"):
            computation = self._named(name)
            for inner in computation.instructions.values():
                yield inner, computation

    def _collective(self, one: Instruction, within: Computation, times: int) -> None:
        kind = one.opcode.removesuffix("-start")
        if kind not in COLLECTIVES or one.opcode.endswith("-done"):
            return
        if not (count := group_size(one)):
            raise ValueError(f"cannot read the groups of {one.name}")
        share = 1 - 1 / count
        wire = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share)
        sizes: dict[str, int] = {}
        if kind == "all-reduce":
            whole = "reduce-scatter" if _is_scattered(within) else kind
            # By its results: a TPU may round on the way, from float32 to bfloat16.
            for name, array in zip(one.operands, _results(one), strict=True):
                named = "all-gather" if self._is_part(name, within) else whole
                sizes[named] = sizes.get(named, 0) + array.bytes
        else:
            arrays = _results(one) if kind == "all-gather" else _operands(one, within)
            sizes[kind] = sum(a.bytes for a in arrays)
        for named, size in sizes.items():
            total = self.found.collectives.setdefault(named, Traffic())
            total.count += times
            total.bytes += times * size
            total.wire += times * size * wire

    def _is_part(self, name: str, within: Computation) -> bool:
        """An array of zeros but for this chip's part, whose sum is an all-gather."""
        one, element = within.instructions[name], 0
        while one.opcode in VIEWS:
            if one.opcode == "get-tuple-element":
                element = int(one.attribute("index"))
            one = within.instructions[one.operands[0]]
        inner, outer = within, one
        if one.opcode == "fusion":
            inner = self._named(one.called("calls")[0])
            one = inner.last
            if one.opcode == "tuple":
                one = inner.instructions[one.operands[element]]
        one = _behind(one, inner)
        if one.opcode != "dynamic-update-slice":
            return False
        into = _behind(inner.instructions[one.operands[0]], inner)
        if into.opcode == "parameter" and outer.opcode == "fusion":
            into = _behind(
                within.instructions[outer.operands[int(into.inside)]], within
            )
            inner = within
        if into.opcode == "broadcast":
            into = inner.instructions[into.operands[0]]
        return into.opcode == "constant" and into.inside in ("0", "-0", "false")

    def _moved(self, one: Instruction, within: Computation) -> int:
        """Bytes between chip and HBM."""
        if one.opcode in FREE or one.opcode.endswith("-done"):
            return 0
        if any(target in one.attributes for target in FREE_TARGETS):
            return 0
        if one.opcode == "fusion":
            inner = self._named(one.called("calls")[0])
            reads = sum(
                _read(inner, number, array)
                for number, array in enumerate(_each_operand(one, within))
            )
            return reads + _written(inner, one)
        operands, results = _operands(one, within), _results(one)
        written = sum(map(_in_hbm, results))
        if one.opcode.removesuffix("-start") in READS_A_PART:
            source = _in_hbm(operands[0]) and sum(a.bytes for a in results)
            return source + written + sum(map(_in_hbm, operands[1:]))
        if one.opcode in ("dynamic-update-slice", "scatter"):
            part = operands[1] if one.opcode[0] == "d" else operands[-1]
            target = part.bytes if _in_hbm(operands[0]) else 0
            again = 2 if one.opcode == "scatter" else 1
            return again * target + sum(map(_in_hbm, operands[1:]))
        return sum(map(_in_hbm, operands)) + written


def _add(total: Costs, other: Costs) -> None:
    total.flops += other.flops
    total.hbm_bytes += other.hbm_bytes
    total.unknown_loops += other.unknown_loops
    for kind, traffic in other.collectives.items():
        mine = total.collectives.setdefault(kind, Traffic())
        mine.count += traffic.count
        mine.bytes += traffic.bytes
        mine.wire += traffic.wire


def _behind(one: Instruction, within: Computation) -> Instruction:
    """What a view shows."""
    while one.opcode == "bitcast":
        one = within.instructions[one.operands[0]]
    return one


def _in_hbm(array: Array) -> int:
    return 0 if array.space else array.bytes


def _each_operand(one: Instruction, within: Computation) -> list[Array]:
    """The first array of each operand."""
    found = [within.instructions[name].shape for name in one.operands]
    return [shape[0] if shape else Array("token", ()) for shape in found]


def _operands(one: Instruction, within: Computation) -> list[Array]:
    """All arrays of all operands."""
    return [a for name in one.operands for a in within.instructions[name].shape]


def _results(one: Instruction) -> tuple[Array, ...]:
    """Arrays that an instruction makes.

    The start of an asynchronous one names results, operands and counters together:
    `copy-start` and `slice-start` as (result, operand, ...), collectives as (operands,
    results, ...), an `all-reduce-start` as results only.
    """
    if not one.opcode.endswith("-start") or one.opcode == "all-reduce-start":
        return one.shape
    if one.opcode == "copy-start":
        return one.elements[0]
    return one.elements[1] if len(one.elements) > 1 else one.shape


def _read(inner: Computation, number: int, array: Array) -> int:
    """Bytes that a fusion reads of an operand: the slices where it only slices."""
    parameter = inner.parameters.get(number)
    if parameter is None or array.space:
        return 0
    total, todo = 0, [parameter]
    while todo:
        source = todo.pop()
        for user in inner.users[source.name]:
            first = user.operands[0] == source.name
            if user.opcode == "bitcast":
                todo.append(user)
            elif first and user.opcode in READS_A_PART:
                total += user.shape[0].bytes
            elif not (first and user.opcode == "dynamic-update-slice"):
                return array.bytes
    return min(total, array.bytes)


def _written(inner: Computation, one: Instruction) -> int:
    """Bytes that a fusion writes: the update where a result is updated in place."""
    last = inner.last
    names = last.operands if last.opcode == "tuple" else (last.name,)
    total = 0
    for name, array in zip(names, one.shape, strict=False):
        made = _behind(inner.instructions[name], inner)
        if made.opcode == "dynamic-update-slice" and not array.space:
            total += inner.instructions[made.operands[1]].shape[0].bytes
        else:
            total += _in_hbm(array)
    return total


def _is_scattered(within: Computation) -> bool:
    """A fusion of an all-reduce with the choice of a part: a TPU's reduce-scatter."""
    return "all-reduce-scatter" in within.name


# --- loops -------------------------------------------------------------------------


def trip_count(module: Module, within: Computation, loop: Instruction) -> int | None:
    """How often a loop runs, or None: by its note, or from `i < N` in its condition."""
    if note := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(note[1])
    condition = module.computations[loop.called("condition")[0]]
    compared = _comparison(module, condition)
    if compared is None:
        return None
    index, bound, order = compared
    start = _constant(module, within, loop.operands[0], index) or 0
    ends = {"LT": bound, "LE": bound + 1, "NE": bound}.get(order)
    return None if ends is None else max(ends - start, 0)


def _comparison(module: Module, condition: Computation) -> tuple[int, int, str] | None:
    """`i < N` at a condition's end: which element of the state, N, and the order."""
    last = condition.last
    inside, outer = condition, None
    if last.opcode == "fusion":
        outer, inside = last, module.computations[last.called("calls")[0]]
        last = inside.last
    if last.opcode != "compare":
        return None
    index = bound = None
    for name in last.operands:
        one = inside.instructions[name]
        if one.opcode == "parameter" and outer is not None:
            one = condition.instructions[outer.operands[int(one.inside)]]
        while one.opcode in ("copy", "bitcast"):
            one = condition.instructions[one.operands[0]]
        if one.opcode == "constant":
            bound = int(one.inside)
        elif one.opcode == "get-tuple-element":
            index = int(one.attribute("index"))
    if index is None or bound is None:
        return None
    return index, bound, last.attribute("direction")


def _constant(module: Module, within: Computation, name: str, index: int) -> int | None:
    """The whole number that a tuple's element starts as, if the text shows it."""
    one = within.instructions[name]
    if one.opcode == "tuple":
        one = within.instructions[one.operands[index]]
    while one.opcode in ("copy", "bitcast"):
        one = within.instructions[one.operands[0]]
    return int(one.inside) if one.opcode == "constant" else None


# --- collectives -------------------------------------------------------------------


def group_size(one: Instruction) -> int:
    """Chips that exchange with each other; 0 where the text does not say.

    Groups are written `{{0,1},{2,3}}`, `[2,4]<=[8]` (two groups of four) or as axes of
    a mesh, `mesh['a'=2,'b'=4] {'b'}`, of which an axis may be a part, `'b':(1)2`.
    """
    text = one.attributes
    if "source_target_pairs" in text:
        return 2
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", text):
        return int(match[2])
    mesh = re.search(r"replica_groups=(?:@?\w*)?mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text)
    if mesh:
        sizes = {k: int(v) for k, v in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
        return len(match[1].split(","))
    return 0


# --- products ----------------------------------------------------------------------


def _pair(one: Instruction, within: Computation) -> tuple[Array, Array]:
    left, right = (within.instructions[name].shape[0] for name in one.operands[:2])
    return left, right


def dot_flops(one: Instruction, within: Computation) -> int:
    """`2 * results * contracted`."""
    left, _ = _pair(one, within)
    axes = re.findall(r"\d+", one.attribute("lhs_contracting_dims"))
    contracted = math.prod(left.sizes[int(axis)] for axis in axes)
    return 2 * math.prod(one.shape[0].sizes) * contracted


def convolution_flops(one: Instruction, within: Computation) -> int:
    """`2 * batch * outputs * inputs / groups * valid positions` of a convolution."""
    left, right = _pair(one, within)
    data, kernel, out = re.split(r"_|->", one.attribute("dim_labels"))
    window = Window.parse(one.attribute("window"))
    pairs = 1
    for axis, letter in enumerate(sorted(set(data) - set("bf"))):
        pairs *= window.valid(
            axis,
            base=left.sizes[data.index(letter)],
            kernel=right.sizes[kernel.index(letter)],
            results=one.shape[0].sizes[out.index(letter)],
        )
    groups = int(one.attribute("feature_group_count") or 1)
    batches = int(one.attribute("batch_group_count") or 1)
    batch, inputs = left.sizes[data.index("b")], left.sizes[data.index("f")]
    outputs = right.sizes[kernel.index("o")]
    return 2 * (batch // batches) * (inputs // groups) * outputs * pairs
