"""`python -m minivim_lab.plan.paper --page book/results`: plans of the paper's recipes.

Every row is a `minivim plan` in a process of its own, whose figures are kept in a
folder; a row that has them is not compiled again. Beside the compiler's figures stands
what the sharding rules say that chips must exchange, without a compiler.
"""

import argparse
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

from minivim import recipes
from minivim.config import with_overrides
from minivim.errors import UserError
from minivim.files import write, write_json
from minivim.sharding import AXES, MeshShape, spec_of
from minivim_lab.plan.answer import Plan, gib
from minivim_lab.plan.program import Inputs
from minivim_lab.tables import markdown_table

TOKENIZERS = ("vit-vqgan-ss", "vit-vqgan-bb", "vit-vqgan-sl")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One call of `minivim plan`."""

    name: str
    recipe: str
    settings: tuple[str, ...] = ()
    mesh: str = "data=-1"
    topology: str = "v4:4x4x4"

    @property
    def command(self) -> list[str]:
        """Without the file it writes to."""
        options = ["--topology", self.topology, "--mesh", self.mesh]
        chosen = ["--set", *self.settings] if self.settings else []
        # The convolutions of the discriminator take the compiler minutes otherwise.
        effort = ["--quick"] if self.recipe in TOKENIZERS else []
        return ["plan", self.recipe, *options, *effort, *chosen]


def _large(mesh: str, optimiser: str, precision: str, *, twice: bool = False) -> Row:
    """VIM-Large; `twice` with twice the batch on 128 chips."""
    settings = ["optim.first_moment=float32", "optim.second_moment=full"]
    settings = settings if optimiser == "adamw" else []
    settings += ["precision=bfloat16"] if precision == "bfloat16" else []
    settings += ["batch_size=2048"] if twice else []
    return Row(
        name=f"vim-large-{mesh}-{optimiser}-{precision}{'-128' if twice else ''}",
        recipe="vim-large",
        mesh=f"{mesh}=-1",
        settings=tuple(settings),
        topology="v4:4x4x8" if twice else "v4:4x4x4",
    )


RECIPES = (
    *(Row(name=name, recipe=name) for name in (*TOKENIZERS, "vim-base")),
    _large("data", "paper", "float32"),
)
GRID = tuple(
    _large(mesh, optimiser, precision)
    for mesh in ("data", "fsdp")
    for optimiser in ("adamw", "paper")
    for precision in ("float32", "bfloat16")
)
# The same work for every chip.
SCALING = tuple(
    _large(mesh, "paper", "float32", twice=twice)
    for mesh in ("data", "fsdp")
    for twice in (False, True)
)
ROWS = tuple({row.name: row for row in (*RECIPES, *GRID, *SCALING)}.values())
# Images a second in training, as the paper's Table 4 has them, on "128 CloudTPUv4".
PRINTED = {"vit-vqgan-ss": 1520, "vit-vqgan-bb": 960, "vit-vqgan-sl": 384}


def planned(row: Row, *, out: Path, limit: int) -> Plan:
    """The row's plan, from its file or a process of its own; may raise `UserError`."""
    file = out / f"{row.name}.json"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "minivim", *row.command]
        command += ["--json", str(file)]  # which is written whole or not at all
        how: Any = {"capture_output": True, "text": True, "timeout": limit}
        try:
            done = subprocess.run(command, check=False, **how)
        except subprocess.TimeoutExpired as error:
            problem = f"{row.name} took more than {limit} s"
            raise UserError(f"{problem}; use --limit {2 * limit}") from error
        if done.returncode not in (0, 3):
            lines = done.stderr.strip().splitlines() or ["no word"]
            raise UserError(f"{row.name}: {lines[-1].removeprefix('minivim: error: ')}")
    return Plan.from_dict(json.loads(file.read_text()))


def predicted(
    params: Any, mesh: Any, *, gathered: int = 2, summed: int = 4
) -> dict[str, int]:
    """Bytes of a step's exchanges by the rules; see `Traffic.bytes` for what counts.

    "gradients": every parameter's once, where the batch is split.
    "parameters": what `fsdp` splits is gathered for each use: the blocks' parameters in
    the forward and again in the backward pass, those outside of the loop once.

    gathered: bytes of a parameter on the way; a TPU multiplies in bfloat16 and gathers
    the rounded values. summed: bytes of a gradient of the blocks' matrices on the way,
    2 with precision=bfloat16, since the chips' shares are added before they are made
    float32. With `tensor` activations travel too: this does not count them.
    """
    gradients = parameters = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        count = math.prod(leaf.shape)
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        # A loop over the blocks reads a slice of each of their arrays.
        looped = "blocks" in name.split(".")
        product = looped and "kernel" in name.split(".")
        gradients += count * (summed if product else leaf.dtype.itemsize)
        split = "fsdp" in jax.tree.leaves(tuple(spec_of(name, leaf.shape, mesh)))
        if split and mesh.shape["fsdp"] > 1:
            parameters += gathered * count * (2 if looped else 1)
    several = mesh.shape["data"] * mesh.shape["fsdp"] > 1
    return {"gradients": gradients if several else 0, "parameters": parameters}


def rules_of(answer: Plan) -> dict[str, int]:
    """`predicted` for a plan's recipe and mesh; empty where activations travel too."""
    sizes = MeshShape.parse(answer.mesh).over(answer.chips)
    if sizes[2] > 1:
        return {}
    mesh = AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    recipe: Any = recipes.recipe(answer.stage, answer.recipe)
    given = Inputs(with_overrides(recipe, list(answer.settings)), None)
    summed = 4 if answer.precision == "float32" else 2
    return predicted(given.state.params, mesh, summed=summed)


def exchanged(answer: Plan) -> dict[str, float]:
    """The same two figures as the compiler has them, of a plan that fits."""
    _, gradients = answer.exchanged("all-reduce", "reduce-scatter")
    return {"gradients": gradients, "parameters": answer.exchanged("all-gather")[1]}


# Before each table; rows; titles.
TABLES = (
    (
        "## What the paper's recipes would cost, by the TPU's compiler\n\n"
        "Train steps as they are, compiled for slices of TPUv4 that are not there, at "
        "the paper's batch: `python -m minivim_lab.plan.paper`. Bytes and FLOPs are "
        "those of one chip and one step; GiB are 2^30 bytes. *Limits* are the seconds "
        "that arithmetic, memory traffic or links would take alone at the chip's "
        "published speed; *days* the recipe's steps at 50 % of the peak on the model's "
        "FLOPs, or at the slowest limit if that is longer; *compiled* the seconds of "
        "processors that each program took, those of the tokenizers with `--quick`. "
        "Nothing here was run.",
        RECIPES,
        "recipe | parameters | frozen in the step | state | needed of 30.75 | "
        "TFLOP (of the model) | limits, s | images/s (paper) | days | "
        "chip-hours | compiled, s",
    ),
    (
        "VIM-Large again, with and without the parameters split (`fsdp`):",
        GRID,
        "mesh | optimiser | precision | state | needed of 30.75 | limits, s | "
        "gradients, GB | gathered, GB | compiled, s",
    ),
    (
        "Twice the chips and twice the batch. *Rules* is what the sharding rules "
        "predict without a compiler, gradients and gathered parameters:",
        SCALING,
        "mesh | chips | batch | needed of 30.75 | TFLOP | against 64 chips | "
        "gradients, GB (rules) | gathered, GB (rules)",
    ),
)


def markdown(found: dict[str, Plan]) -> str:
    """The section of the results page; a row without a plan says so."""
    parts = []
    for words, rows, titles in TABLES:
        names = titles.split(" | ")
        parts += [words, markdown_table(names, (_line(r, names, found) for r in rows))]
    return "\n\n".join(parts)


def _line(row: Row, titles: list[str], found: dict[str, Plan]) -> list[str]:
    plan, base = found.get(row.name), found.get(row.name.removesuffix("-128"))
    if plan is None:
        return [row.name, "not compiled", *["-"] * (len(titles) - 2)]
    cells = _cells(plan, titles)
    if base:
        cells["against 64 chips"] = f"{plan.flops / base.flops - 1:+.2%}"
    return [cells.get(title, "-") for title in titles]


def _cells(plan: Plan, titles: list[str]) -> dict[str, str]:
    """Cells by the titles of their columns; the rules are asked where one needs it."""
    lazy = any("R1" in program.name for program in plan.programs)
    plain = plan.recipe in TOKENIZERS and not lazy
    frozen = ", ".join(f"{k} {v / 1e6:.0f} M" for k, v in plan.frozen.items())
    flops, of_model = plan.flops / 1e12, plan.model_flops / 1e12
    cells = {
        "recipe": f"{plan.recipe}, without R1" if plain else plan.recipe,
        "mesh": plan.mesh,
        "chips": str(plan.chips),
        "batch": f"{plan.batch_size:,}",
        "optimiser": plan.optimiser,
        "precision": plan.precision,
        "parameters": f"{plan.parameters / 1e6:,.0f} M",
        "frozen in the step": frozen or "-",
        "state": gib(plan.state_bytes),
        "needed of 30.75":
            f"{gib(plan.needed_bytes)}, {'fits' if plan.fits else '**refused**'}",
        "TFLOP": f"{flops:.2f}",
        "TFLOP (of the model)": f"{flops:.1f} ({of_model:.1f})",
        "compiled, s": " + ".join(f"{p.processor_seconds:.0f}" for p in plan.programs),
    }  # fmt: skip
    if not plan.fits:
        return cells
    limits = {name: f"{value:.3f}" for name, value in plan.limits.items()}
    limits[plan.bound] = f"**{limits[plan.bound]}**"
    pace, printed = plan.batch_size / plan.seconds, PRINTED.get(plan.recipe, "-")
    cells |= {
        "limits, s": " / ".join(limits.values()),
        "images/s (paper)": f"{pace:,.0f} ({printed})",
        "days": f"{plan.days:.1f}",
        "chip-hours": f"{plan.chip_hours:,.0f}",
    }
    rules = rules_of(plan) if any("rules" in title for title in titles) else {}
    for kind, size in exchanged(plan).items():
        title = {"gradients": "gradients, GB", "parameters": "gathered, GB"}[kind]
        cells[title] = f"{size / 1e9:.2f}"
        if rules:
            cells[f"{title} (rules)"] = f"{size / 1e9:.2f} ({rules[kind] / 1e9:.2f})"
    return cells


def main(arguments: list[str] | None = None) -> int:
    """Plan the rows that are not there yet, then write or print their tables."""
    parser = argparse.ArgumentParser(prog="python -m minivim_lab.plan.paper")
    parser.add_argument("--out", type=Path, default=Path("runs/plan"))
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--limit", type=int, default=600, help="seconds a row")
    parser.add_argument("--page", type=Path, help="write a page of the book here")
    chosen = parser.parse_args(arguments)
    found, code = {}, 0
    for row in (row for row in ROWS if chosen.only in row.name):
        print(row.name, file=sys.stderr, flush=True)
        try:
            found[row.name] = planned(row, out=chosen.out, limit=chosen.limit)
        except UserError as error:
            print(f"minivim: error: {error}", file=sys.stderr)
            code = 2
    if chosen.page and found:
        chosen.page.mkdir(parents=True, exist_ok=True)
        kept = {name: plan.as_dict() for name, plan in found.items()}
        write_json(chosen.page / "plan.json", kept)
        write(chosen.page / "plan.md", markdown(found) + "\n")
    print(markdown(found))
    return code


if __name__ == "__main__":
    sys.exit(main())
