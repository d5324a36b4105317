"""A plan: what a recipe costs on a slice, as figures and as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from minivim.config import OptimConfig, StackConfig
from minivim.describe import count_parameters
from minivim.errors import UserError
from minivim.sharding import MeshShape, make_mesh
from minivim.train import TrainableRecipe
from minivim_lab.plan.chips import Slice, available_bytes
from minivim_lab.plan.hlo import Traffic
from minivim_lab.plan.program import Program, compiled, inputs, model_flops, schedule

DAY = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The answer for one recipe on one slice; bytes and FLOPs are those of one chip.

    A step is the mean over the run: a step with lazy terms counts as often as it comes.
    """

    recipe: str
    stage: str
    settings: tuple[str, ...]
    topology: str
    chips: int
    mesh: str
    precision: str
    remat: str
    optimiser: str
    batch_size: int
    accumulate: int
    steps: int
    # Trained values, and those of frozen networks inside the step by name.
    parameters: int
    frozen: dict[str, int]
    state_bytes: int
    argument_bytes: int
    available_bytes: int
    programs: tuple[Program, ...]
    # Of one step on one chip, with nothing computed twice.
    model_flops: float
    # Share of the chip's peak at which the model's FLOPs are assumed to run.
    mfu: float
    peak_flops: float
    hbm_bandwidth: float
    ici_bandwidth: float
    # Whether the compiler was asked for little effort.
    quick: bool = False

    @property
    def fits(self) -> bool:
        """Every program of the run does."""
        return all(one.fits for one in self.programs)

    @property
    def needed_bytes(self) -> int:
        """Of the largest program."""
        return max(one.needed for one in self.programs)

    @property
    def temporaries(self) -> int:
        """What lies beside the arguments when the most does."""
        return self.needed_bytes - self.argument_bytes

    def _mean(self, of: Callable[[Program], float]) -> float:
        return sum((one.share * of(one) for one in self.programs), 0.0)

    @property
    def flops(self) -> float:
        """With what is computed twice."""
        return self._mean(lambda one: one.flops)

    @property
    def hbm_bytes(self) -> float:
        return self._mean(lambda one: one.hbm_bytes)

    @property
    def wire_bytes(self) -> float:
        return self._mean(lambda one: one.wire_bytes)

    @property
    def limits(self) -> dict[str, float]:
        """Seconds a step, if nothing but this held the chip up."""
        return {
            "arithmetic": self.flops / self.peak_flops,
            "memory": self.hbm_bytes / self.hbm_bandwidth,
            "links": self.wire_bytes / self.ici_bandwidth,
        }

    @property
    def bound(self) -> str:
        """The limit that binds."""
        return max(self.limits, key=lambda name: self.limits[name])

    @property
    def seconds(self) -> float:
        """A step: the model's FLOPs at `mfu` of the peak, or the limit if longer."""
        assumed = self.model_flops / (self.mfu * self.peak_flops)
        return max(assumed, *self.limits.values())

    @property
    def days(self) -> float:
        return self.steps * self.seconds / DAY

    @property
    def chip_hours(self) -> float:
        return 24 * self.days * self.chips

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON, derived figures included."""
        derived = (
            "fits", "needed_bytes", "temporaries", "flops", "hbm_bytes", "wire_bytes",
            "limits", "bound", "seconds", "days", "chip_hours",
        )  # fmt: skip
        unknown = () if self.fits else derived[2:]
        return dataclasses.asdict(self) | {
            name: None if name in unknown else getattr(self, name) for name in derived
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Plan:
        """Inverse of `as_dict`."""
        names = {item.name for item in dataclasses.fields(cls)}
        kept = {name: value for name, value in values.items() if name in names}
        programs = []
        for one in kept["programs"]:
            traffic = {k: Traffic(**v) for k, v in one["collectives"].items()}
            programs.append(Program(**{**one, "collectives": traffic}))
        settings = tuple(kept["settings"])
        return cls(**{**kept, "programs": tuple(programs), "settings": settings})


def plan(
    recipe: TrainableRecipe,
    *,
    topology: str,
    mesh: MeshShape | None = None,
    mfu: float = 0.5,
    quick: bool = False,
    settings: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Compile the recipe's train step for a slice that is not there.

    `quick` asks the compiler for little effort: the program may need somewhat more than
    it could. `say` hears what is being compiled; `settings` are those that made the
    recipe, for the record. Raises `UserError` for a topology, mesh or batch that cannot
    be, and where the TPU compiler is not installed. Out of memory is no error: see
    `fits`.
    """
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu {mfu} is not in (0, 1]; use 0.5")
    where = Slice.parse(topology)
    devices = where.devices()
    over = make_mesh(mesh, devices=devices)
    found = inputs(recipe, over)
    programs = []
    for name, (due, share) in schedule(found.objective).items():
        say(f"compiling the {name} of {recipe.name} for {where.chips} x {where.name}")
        one = compiled(
            found, name=name, due=due, share=share, chips=over.size, quick=quick
        )
        say(f"{'compiled' if one.fits else 'refused'} in {one.compile_seconds:.0f} s")
        programs.append(one)
    return Plan(
        recipe=recipe.name,
        stage=recipe.stage,
        settings=settings,
        topology=where.name,
        chips=over.size,
        mesh=",".join(f"{axis}={size}" for axis, size in over.shape.items()),
        precision=_all(recipe, "precision"),
        remat=_all(recipe, "remat"),
        optimiser=optimiser_words(recipe.optim),
        batch_size=recipe.run.batch_size,
        accumulate=recipe.run.accumulate,
        steps=recipe.run.steps,
        parameters=count_parameters(found.objective.model),
        frozen={k: _size(v) for k, v in found.objective.constants.items()},
        state_bytes=found.state_bytes,
        argument_bytes=found.argument_bytes,
        available_bytes=available_bytes(devices),
        programs=tuple(programs),
        model_flops=model_flops(recipe) / over.size,
        mfu=mfu,
        quick=quick,
        peak_flops=where.chip.flops,
        hbm_bandwidth=where.chip.hbm_bandwidth,
        ici_bandwidth=where.chip.ici_bandwidth,
    )


def _size(state: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(state))


def _all(recipe: TrainableRecipe, name: str) -> str:
    """A setting of every Transformer of a recipe: one word, or one for each."""
    model: Any = recipe.model
    stacks = (getattr(model, part, None) for part in ("stack", "encoder", "decoder"))
    words = [str(getattr(s, name)) for s in stacks if isinstance(s, StackConfig)]
    return "/".join(dict.fromkeys(words)) or "-"


def optimiser_words(config: OptimConfig) -> str:
    """The optimiser by what it keeps for every parameter."""
    first, second = config.first_moment, config.second_moment
    if (first, second) == ("float32", "full"):
        return "AdamW"
    kept = {"full": "full second moment", "factored": "factored second moment"}
    return f"AdamW, {first} first and {kept[second]}"


# --- in words ----------------------------------------------------------------------


def gib(count: int) -> str:
    """Bytes as the compiler writes them."""
    return f"{count / 2**30:.2f} GiB"


def table(found: Plan) -> str:
    """The plan for a terminal."""
    rows = [*_what(found), *_memory(found)]
    if found.fits:
        rows += _work(found) + _time(found)
    rows += [("compiled in", _compile_times(found))]
    width = max(len(name) for name, _ in rows)
    lines = [f"{found.stage} {found.recipe} on {found.chips} x TPU {found.topology}"]
    lines += [f"  {name:{width}}  {text}" for name, text in rows]
    return "\n".join(lines)


def verdict(found: Plan) -> str:
    """Fits or not, with the compiler's figures, in one or two lines."""
    if found.fits:
        return (
            f"fits: {gib(found.needed_bytes)} of {gib(found.available_bytes)} on each "
            "chip"
        )
    refused = next(one for one in found.programs if not one.fits)
    return (
        f"does not fit: the {refused.name} needs {gib(refused.needed)} of "
        f"{gib(found.available_bytes)} on each chip, state {gib(found.state_bytes)}\n"
        f"compiler: {refused.refusal}"
    )


def _what(found: Plan) -> list[tuple[str, str]]:
    frozen = ", ".join(f"{k} ({v / 1e6:.1f} M)" for k, v in found.frozen.items())
    parts = f" in {found.accumulate} parts" if found.accumulate > 1 else ""
    return [
        ("mesh", found.mesh),
        ("parameters", f"{found.parameters:,}"),
        ("frozen in the step", frozen or "nothing"),
        ("optimiser", found.optimiser),
        ("precision, remat", f"{found.precision}, {found.remat}"),
        ("batch", f"{found.batch_size}{parts}, {found.steps:,} steps"),
    ]


def _memory(found: Plan) -> list[tuple[str, str]]:
    rows = [("state", gib(found.state_bytes))]
    for one in found.programs:
        text = f"{gib(one.needed)} needed of {gib(found.available_bytes)}"
        if one.fits:
            beside = one.needed - found.argument_bytes
            text += f", {gib(beside)} of them beside state and batch"
        rows.append((f"memory, {one.name}", text if one.fits else f"{text}: refused"))
    return rows


def _work(found: Plan) -> list[tuple[str, str]]:
    again = found.flops / found.model_flops - 1
    rows = [
        ("FLOPs", f"{found.flops:.3e}, of the model {found.model_flops:.3e} "
                  f"({again:+.0%} computed again)"),
        ("memory traffic", f"{found.hbm_bytes / 1e9:.1f} GB"),
    ]  # fmt: skip
    kinds = sorted({kind for one in found.programs for kind in one.collectives})
    for kind in kinds:
        count, size = (
            sum(
                one.share * getattr(one.collectives[kind], name)
                for one in found.programs
                if kind in one.collectives
            )
            for name in ("count", "bytes")
        )
        rows.append((kind, f"{count:.0f} of {size / 1e9:.2f} GB together"))
    if loops := sum(one.unknown_loops for one in found.programs):
        rows.append(("loops", f"{loops} of unknown length, counted once"))
    return rows


def _time(found: Plan) -> list[tuple[str, str]]:
    limits = ", ".join(f"{k} {1e3 * v:.1f}" for k, v in found.limits.items())
    return [
        ("limits, ms a step", f"{limits}; {found.bound} binds"),
        (
            f"at {found.mfu:.0%} utilisation",
            f"{1e3 * found.seconds:.1f} ms a step, {found.days:.2f} days, "
            f"{found.chip_hours:,.0f} chip-hours",
        ),
    ]


def _compile_times(found: Plan) -> str:
    return ", ".join(
        f"{one.compile_seconds:.0f} s ({one.processor_seconds:.0f} s of processors)"
        for one in found.programs
    )
