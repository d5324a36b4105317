"""What one chip does in one step, read off a compiled module, loop bodies in full.

`compiled.cost_analysis()` counts the body of a loop once. Here every computation is
counted as often as it runs: FLOPs of matrix products and convolutions, bytes moved
between the chip and its memory, and collectives by kind.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from minivim_lab.plan.products import window_pairs
from minivim_lab.plan.text import Array, Computation, Instruction, parse, sources

COLLECTIVES = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip
# Other names for an array, or control flow whose parts are counted.
FREE = (
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "call",
    "conditional", "after-all", "add-dependency", "opt-barrier", "partition-id",
    "replica-id", "async-start", "async-update",
)  # fmt: skip
# Custom calls of the TPU compiler that move nothing.
FREE_TARGETS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound")
# Other names and places of what an instruction made.
VIEWS = ("bitcast", "copy", "copy-start", "copy-done", "get-tuple-element")
COPIES = ("bitcast", "copy")
KERNEL = 'custom_call_target="tpu_custom_call"'
BRANCHES = ("branch_computations", "true_computation", "false_computation")
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
    # Calls of a program other than XLA's whose products are not known: they count none.
    unknown_kernels: int = 0
    # Of `hbm_bytes`, by "opcode at line".
    places: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Costs", times: int = 1) -> None:
        """Add the costs of a part that runs so often."""
        self.flops += times * other.flops
        self.hbm_bytes += times * other.hbm_bytes
        self.unknown_loops += other.unknown_loops
        self.unknown_kernels += other.unknown_kernels
        for place, size in other.places.items():
            self.places[place] += times * size
        for kind, traffic in other.collectives.items():
            total = self.collectives.setdefault(kind, Traffic())
            total.count += times * traffic.count
            total.bytes += times * traffic.bytes
            total.wire += times * traffic.wire


def costs(text: str) -> Costs:
    """Costs of the text of a compiled module (`compiled.as_text()`).

    FLOPs: two for each pair of numbers that a `dot`, a `convolution` or a kernel of
    attention multiplies, as XLA's own HloCostAnalysis counts; positions where a window
    meets padding or a hole of a dilated array are none. Elementwise operations are left
    out.

    Bytes: operands and results of the instructions that run, a fusion or a kernel as
    one, where they lie in HBM; of an array that is only sliced or updated in place, the
    slice. It is what the program asks for: caches are not modelled.

    Collectives: by the compiler's names, with one exception. Some gathers are written
    as the all-reduce of arrays that are zero but for one chip's part; they are called
    all-gather here, and send what the all-reduce sends.
    """
    return _run(parse(text), sources(text))


def _run(computation: Computation, lines: dict[str, str]) -> Costs:
    """The costs of running a computation once."""
    total, run = Costs(), partial(_run, lines=lines)
    for op in computation.instructions.values():
        _products(op, total)
        if moved := _moved(op):
            total.hbm_bytes += moved
            total.places[_place(op, lines)] += moved
        if op.opcode == "while":
            trips = trip_count(op)
            total.unknown_loops += trips is None
            for part in op.called("condition", "body"):
                total.add(run(part), 1 if trips is None else trips)
        elif op.opcode == "conditional":
            found = map(run, op.called(*BRANCHES))
            total.add(max(found, key=lambda c: (c.flops, c.hbm_bytes), default=Costs()))
        elif op.opcode in ("call", "async-start"):
            for part in op.called("to_apply", "calls", "called_computations"):
                total.add(run(part))
    return total


def _place(op: Instruction, lines: dict[str, str]) -> str:
    """Its line, or that of the largest array within a fusion that has none itself."""
    parts = _fused(op).instructions.values() if op.opcode == "fusion" else ()
    by_size = sorted(parts, key=lambda part: -_in_hbm(*part.shape))
    frames = (one.attribute("stack_frame_id").rstrip("}") for one in (op, *by_size))
    named = map(lines.get, frames)
    return f"{op.opcode} at {next(filter(None, named), 'no line')}"


def _fused(op: Instruction) -> Computation:
    return op.called("calls")[0]


def _products(op: Instruction, total: Costs) -> None:
    """Add the FLOPs and the exchange of an instruction, or of all in a fusion."""
    kind = op.opcode.removesuffix("-start")
    if kind == "fusion":
        for inner in _fused(op).instructions.values():
            _products(inner, total)
    elif kind == "dot":
        sizes = op.operands[0].shape[0].sizes
        axes = re.findall(r"\d+", op.attribute("lhs_contracting_dims"))
        contracted = math.prod(sizes[int(axis)] for axis in axes)
        total.flops += 2 * math.prod(op.shape[0].sizes) * contracted
    elif kind == "convolution":
        total.flops += convolution_flops(op)
    elif KERNEL in op.attributes:
        flops = kernel_flops(op)
        total.add(Costs(flops=flops or 0, unknown_kernels=flops is None))
    elif kind in COLLECTIVES:
        total.add(Costs(collectives=_exchanged(kind, op)))


def _exchanged(kind: str, op: Instruction) -> dict[str, Traffic]:
    share = 1 - 1 / group_size(op)
    wire = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share)
    sizes: dict[str, int] = {}
    if kind == "all-reduce":
        # Fused with the choice of a part it is a TPU's reduce-scatter.
        scattered = "all-reduce-scatter" in op.within.name
        whole = "reduce-scatter" if scattered else kind
        # By its results: a TPU may round on the way, from float32 to bfloat16.
        for operand, array in zip(op.operands, _results(op), strict=True):
            named = "all-gather" if _is_part(operand) else whole
            sizes[named] = sizes.get(named, 0) + array.bytes
    else:
        arrays = _results(op) if kind == "all-gather" else _operands(op)
        sizes[kind] = sum(array.bytes for array in arrays)
    return {name: Traffic(1, size, size * wire) for name, size in sizes.items()}


def _is_part(op: Instruction) -> bool:
    """Whether an array is zero but for this chip's part: its sum is a gather."""
    element = 0
    while op.opcode in VIEWS:
        if op.opcode == "get-tuple-element":
            element = int(op.attribute("index"))
        op = op.operands[0]
    outer = op
    if outer.opcode == "fusion":
        op = _fused(outer).last
        if op.opcode == "tuple":
            op = op.operands[element]
    op = op.behind("bitcast")
    if op.opcode != "dynamic-update-slice":
        return False
    into = op.operands[0].behind("bitcast")
    if into.opcode == "parameter" and outer.opcode == "fusion":
        into = outer.operands[int(into.inside)].behind("bitcast")
    if into.opcode == "broadcast":
        into = into.operands[0]
    return into.opcode == "constant" and into.inside in ("0", "-0", "false")


def _moved(op: Instruction) -> int:
    """Bytes between chip and HBM."""
    if op.opcode in FREE or op.opcode.endswith("-done"):
        return 0
    if any(target in op.attributes for target in FREE_TARGETS):
        return 0
    if op.opcode == "fusion":
        # The first array of each operand; a token has none.
        shapes = ((i, operand.shape) for i, operand in enumerate(op.operands))
        return _written(op) + sum(_read(op, i, s[0]) for i, s in shapes if s)
    operands, results = _operands(op), _results(op)
    if op.opcode.removesuffix("-start") in READS_A_PART:
        part = 0 if operands[0].space else sum(array.bytes for array in results)
        return part + _in_hbm(*results, *operands[1:])
    if op.opcode in ("dynamic-update-slice", "scatter"):
        # A scatter reads what it adds to.
        scatter = op.opcode == "scatter"
        part = operands[-1 if scatter else 1].bytes * (2 if scatter else 1)
        return (0 if operands[0].space else part) + _in_hbm(*operands[1:])
    return _in_hbm(*operands, *results)


def _in_hbm(*arrays: Array) -> int:
    return sum(array.bytes for array in arrays if not array.space)


def _operands(op: Instruction) -> list[Array]:
    return [array for operand in op.operands for array in operand.shape]


def _results(op: Instruction) -> tuple[Array, ...]:
    """Arrays that an instruction makes.

    An asynchronous start names more: a `copy-start` (result, operand, ...), collectives
    (operands, results, ...); an `all-reduce-start` results only.
    """
    kind, start, _ = op.opcode.partition("-start")
    if not start or kind == "all-reduce":
        return op.shape
    if kind == "copy":
        return op.shape[:1]
    count = len(_operands(op))
    return op.shape[count : 2 * count if kind in COLLECTIVES else count + 1]


def _read(fusion: Instruction, number: int, array: Array) -> int:
    """Bytes that a fusion reads of an operand: the slices where it only slices."""
    if array.space:
        return 0
    inner = _fused(fusion).instructions.values()
    of = ("parameter", str(number))
    total, todo = 0, [op for op in inner if (op.opcode, op.inside) == of]
    while todo:
        source = todo.pop()
        if source is _fused(fusion).last:
            return array.bytes
        for user in (op for op in inner if source in op.operands):
            first = user.operands[0] is source
            if user.opcode == "bitcast":
                todo.append(user)
            elif first and user.opcode in READS_A_PART:
                total += user.shape[0].bytes
            elif user.opcode == "fusion":
                places = [i for i, part in enumerate(user.operands) if part is source]
                total += sum(_read(user, i, array) for i in places)
            elif not (first and user.opcode == "dynamic-update-slice"):
                return array.bytes
    return min(total, array.bytes)


def _written(fusion: Instruction) -> int:
    """Bytes that a fusion writes: the update where a result is updated in place."""
    last = _fused(fusion).last
    parts = last.operands if last.opcode == "tuple" else [last]
    total = 0
    for part, array in zip(parts, fusion.shape, strict=False):
        made = part.behind("bitcast")
        if made.opcode == "dynamic-update-slice" and not array.space:
            total += made.operands[1].shape[0].bytes
        elif made.opcode == "fusion" and not array.space:
            total += _written(made)
        else:
            total += _in_hbm(array)
    return total


def trip_count(loop: Instruction) -> int | None:
    """How often a loop runs, or None: by its note, or from `i < N` in its condition."""
    if note := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(note[1])
    last = loop.called("condition")[0].last
    compare = _fused(last).last if last.opcode == "fusion" else last
    if compare.opcode != "compare":
        return None
    index = bound = None
    for op in compare.operands:
        if op.opcode == "parameter" and last.opcode == "fusion":
            op = last.operands[int(op.inside)]
        op = op.behind(*COPIES)
        if op.opcode == "constant":
            bound = int(op.inside)
        elif op.opcode == "get-tuple-element":
            index = int(op.attribute("index"))
    beyond = {"LT": 0, "LE": 1, "NE": 0}.get(compare.attribute("direction"))
    if index is None or bound is None or beyond is None:
        return None
    start = loop.operands[0]
    if start.opcode == "tuple":
        start = start.operands[index]
    start = start.behind(*COPIES)
    first = int(start.inside) if start.opcode == "constant" else 0
    return max(bound + beyond - first, 0)


def group_size(op: Instruction) -> int:
    """Chips that exchange with each other; `ValueError` where the text is not known.

    Groups are written `{{0,1},{2,3}}`, `[2,4]<=[8]` (two groups of four) or as axes of
    a mesh, `mesh['a'=2,'b'=4] {'b'}`, of which an axis may be a part, `'b':(1)2`.
    """
    text = op.attributes
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
    raise ValueError(f"cannot read the groups of {op.name}")


def convolution_flops(op: Instruction) -> int:
    """`2 * batch * outputs * inputs / groups * valid positions` of a convolution."""
    labels = re.split(r"_|->", op.attribute("dim_labels"))
    # The sizes of data, kernel and result by the letter of an axis.
    data, kernel, out = (
        dict(zip(letters, one.shape[0].sizes, strict=True))
        for letters, one in zip(labels, (*op.operands[:2], op), strict=True)
    )
    spatial = sorted(data.keys() - set("bf"))
    axes = [(data[axis], kernel[axis], out[axis]) for axis in spatial]
    # Such as {size=3x3 stride=2x2 pad=1_1x1_1 lhs_dilate=1x2}.
    numbers = {
        name: [int(part.split("_")[0]) for part in values.split("x")]
        for name, values in re.findall(r"(\w+)=([\w\-]+)", op.attribute("window"))
    }
    names = ("stride", "pad", "lhs_dilate", "rhs_dilate")
    pairs = window_pairs(axes, *(numbers.get(name, ()) for name in names))
    groups = int(op.attribute("feature_group_count") or 1)
    batch = data["b"] // int(op.attribute("batch_group_count") or 1)
    return 2 * batch * (data["f"] // groups) * kernel["o"] * pairs


def kernel_flops(op: Instruction) -> int | None:
    """FLOPs of one of JAX's kernels of attention by its shapes; None for another one.

    Products of `[N, d]` and `[T, d]` for each head: forward two; backward two, which
    make the softmax and its slope again, and one for every gradient that is written.
    """
    phase = re.match(r"splash_mha_(fwd|dq|dkv)", op.name)
    if phase is None:
        return None
    # Before queries and keys stand whole numbers, which say what the mask leaves out.
    q, k, *_ = (array.sizes for array in _operands(op) if "f" in array.dtype)
    made = [array.sizes for array in op.shape if len(array.sizes) >= len(q)]
    products = 2 if phase[1] == "fwd" else 2 + len(made)
    # Operands may have tokens or `d` last, results have `d`.
    return 2 * products * math.prod(q) * math.prod(k[-2:]) // made[0][-1]
