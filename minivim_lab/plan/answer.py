"""A plan: what a recipe costs on a slice, as figures and as a table."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from minivim.config import OptimConfig, leaves
from minivim.describe import count_parameters
from minivim.errors import UserError
from minivim.sharding import MeshShape, make_mesh
from minivim.trainer import TrainableRecipe
from minivim_lab.plan.chips import Slice
from minivim_lab.plan.hlo import Traffic
from minivim_lab.plan.program import Inputs, Program, compiled, model_flops, schedule


@dataclass(kw_only=True)
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
    model_flops: float  # of one step on one chip, with nothing computed twice
    mfu: float  # share of the chip's peak at which the model's FLOPs are assumed to run
    peak_flops: float
    hbm_bandwidth: float
    ici_bandwidth: float
    quick: bool = False  # whether the compiler was asked for little effort

    def __post_init__(self) -> None:
        self.fits = all(program.fits for program in self.programs)
        self.needed_bytes = max(program.needed for program in self.programs)
        self.temporaries = self.needed_bytes - self.argument_bytes
        # With what is computed twice.
        self.flops = sum((p.share * p.flops for p in self.programs), 0.0)
        self.hbm_bytes = sum((p.share * p.hbm_bytes for p in self.programs), 0.0)
        self.places = Counter[str]()  # the largest parts of it, by instruction and line
        for p in self.programs:
            self.places.update({k: p.share * size for k, size in p.places.items()})
        sent = ((p.share, t) for p in self.programs for t in p.collectives.values())
        self.wire_bytes = sum((share * traffic.wire for share, traffic in sent), 0.0)
        # Seconds a step, if nothing but this held the chip up.
        self.limits = {
            "arithmetic": self.flops / self.peak_flops,
            "memory": self.hbm_bytes / self.hbm_bandwidth,
            "links": self.wire_bytes / self.ici_bandwidth,
        }
        self.bound = max(self.limits, key=self.limits.__getitem__)
        # The model's FLOPs at `mfu` of the peak, or the limit if longer.
        assumed = self.model_flops / (self.mfu * self.peak_flops)
        self.seconds = max(assumed, *self.limits.values())
        self.days = self.steps * self.seconds / (24 * 3600)
        self.chip_hours = 24 * self.days * self.chips

    def exchanged(self, *kinds: str) -> tuple[float, float]:
        """Count and bytes of these collectives in a step."""
        count = size = 0.0
        for program in self.programs:
            for kind in program.collectives.keys() & set(kinds):
                count += program.share * program.collectives[kind].count
                size += program.share * program.collectives[kind].bytes
        return count, size

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON, derived figures included."""
        known = {"fits": self.fits, "needed_bytes": self.needed_bytes}
        names = ("temporaries", "flops", "hbm_bytes", "wire_bytes", "limits", "bound",
                 "seconds", "days", "chip_hours")  # fmt: skip
        derived = {name: getattr(self, name) if self.fits else None for name in names}
        return dataclasses.asdict(self) | known | derived

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Plan":
        kept = {name: values[name] for name in cls.__annotations__ if name in values}
        programs = []
        for program in values["programs"]:
            traffic = {k: Traffic(**v) for k, v in program["collectives"].items()}
            programs.append(Program(**program | {"collectives": traffic}))
        kept |= {"programs": tuple(programs), "settings": tuple(values["settings"])}
        return cls(**kept)


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

    `quick` asks the compiler for little effort: the program may need more memory. `say`
    hears what is being compiled; `settings` are those that made the recipe, for the
    record. Raises `UserError` for an impossible topology, mesh or batch, and without
    the TPU compiler. Out of memory is no error: see `fits`.
    """
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu {mfu} is not in (0, 1]; use 0.5")
    where = Slice(topology)
    over = make_mesh(mesh, devices=where.devices())
    given, programs, run, chip = Inputs(recipe, over), [], recipe.run, where.chip
    frozen = sum(leaf.size for leaf in jax.tree.leaves(given.objective.frozen))
    kind = "tokenizer" if recipe.stage == "prior" else "perceptual"
    for name, (due, share) in schedule(given.objective).items():
        say(f"compiling the {name} of {recipe.name} for {where.chips} x {where.name}")
        program = compiled(given, name, due=due, share=share, quick=quick)
        done = "compiled" if program.fits else "refused"
        say(f"{done} in {program.compile_seconds:.0f} s")
        programs.append(program)
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
        batch_size=run.batch_size,
        accumulate=run.accumulate,
        steps=run.steps,
        parameters=count_parameters(given.objective.model),
        frozen={kind: frozen} if frozen else {},
        state_bytes=given.state_bytes,
        argument_bytes=given.argument_bytes,
        available_bytes=round(chip.memory * 2**30),
        programs=tuple(programs),
        model_flops=model_flops(recipe) / over.size,
        mfu=mfu,
        quick=quick,
        peak_flops=chip.flops,
        hbm_bandwidth=chip.hbm_bandwidth,
        ici_bandwidth=chip.ici_bandwidth,
    )


def _all(recipe: TrainableRecipe, name: str) -> str:
    """A setting of every Transformer of a recipe: one word, or one for each."""
    found = leaves(recipe.model).items()
    words = [str(value) for key, value in found if key.split(".")[-1] == name]
    return "/".join(dict.fromkeys(words)) or "-"


def optimiser_words(config: OptimConfig) -> str:
    """The optimizer by what it keeps for every parameter."""
    first, second = config.first_moment, config.second_moment
    plain = (first, second) == ("float32", "full")
    return "AdamW" if plain else f"AdamW, {first} first and {second} second moment"


def gib(count: int) -> str:
    """Bytes as the compiler writes them, in MiB where they are few."""
    few = count < 2**27
    return f"{count / 2**20:.2f} MiB" if few else f"{count / 2**30:.2f} GiB"


def gb(count: float, digits: int = 1) -> str:
    """Bytes in powers of ten, as bandwidths are given."""
    few = count < 1e8
    return f"{count / 1e6:.{digits}f} MB" if few else f"{count / 1e9:.{digits}f} GB"


def ms(seconds: float) -> str:
    """Milliseconds, or microseconds below one."""
    return f"{1e6 * seconds:.1f} us" if seconds < 1e-3 else f"{1e3 * seconds:.1f} ms"


def table(answer: Plan) -> str:
    """The plan for a terminal, or what the compiler says of one that does not fit."""
    available = gib(answer.available_bytes)
    if refused := [program for program in answer.programs if not program.fits]:
        needed, state = gib(refused[0].needed), gib(answer.state_bytes)
        told = f"does not fit: the {refused[0].name} needs {needed} of {available}"
        return f"{told} on each chip, state {state}\ncompiler: {refused[0].refusal}"
    frozen = ", ".join(f"{k} ({v / 1e6:.1f} M)" for k, v in answer.frozen.items())
    parts = f" in {answer.accumulate} parts" if answer.accumulate > 1 else ""
    rows = {
        "mesh": answer.mesh,
        "parameters": f"{answer.parameters:,}",
        "frozen in the step": frozen or "nothing",
        "optimiser": answer.optimiser,
        "precision, remat": f"{answer.precision}, {answer.remat}",
        "batch": f"{answer.batch_size}{parts}, {answer.steps:,} steps",
        "state": gib(answer.state_bytes),
    }
    for program in answer.programs:
        more = gib(program.needed - answer.argument_bytes)
        memory = f"{gib(program.needed)} needed of {available}, {more} of them"
        rows[f"memory, {program.name}"] = f"{memory} beside state and batch"
    again = answer.flops / answer.model_flops - 1
    flops = f"{answer.flops:.3e}, of the model {answer.model_flops:.3e}"
    rows["FLOPs"] = f"{flops} ({again:+.0%} computed again)"
    rows["memory traffic"] = gb(answer.hbm_bytes)
    for number, (place, size) in enumerate(answer.places.most_common(5), 1):
        rows[f"  most of it, {number}"] = f"{gb(size)}, {place}"
    for kind in sorted({kind for p in answer.programs for kind in p.collectives}):
        count, size = answer.exchanged(kind)
        rows[kind] = f"{count:.0f} of {gb(size, 2)} together"
    if loops := sum(program.unknown_loops for program in answer.programs):
        rows["loops"] = f"{loops} of unknown length, counted once"
    if kernels := sum(program.unknown_kernels for program in answer.programs):
        rows["kernels"] = f"{kernels} that plan does not know, whose FLOPs count none"
    limits = ", ".join(f"{k} {ms(v)}" for k, v in answer.limits.items())
    rows["limits of a step"] = f"{limits}; {answer.bound} binds"
    step, days = f"{ms(answer.seconds)} a step", f"{answer.days:.2f} days"
    if answer.days < 0.01:
        days = f"{86_400 * answer.days:.2g} s"
    hours = f"{answer.chip_hours:,.0f} chip-hours"
    rows[f"at {answer.mfu:.0%} utilisation"] = f"{step}, {days}, {hours}"
    rows["compiled in"] = ", ".join(
        f"{p.compile_seconds:.0f} s ({p.processor_seconds:.0f} s of processors)"
        for p in answer.programs
    )
    width = max(map(len, rows))
    title = f"{answer.stage} {answer.recipe} on {answer.chips} x TPU {answer.topology}"
    return "\n".join([title, *(f"  {k:{width}}  {v}" for k, v in rows.items())])
