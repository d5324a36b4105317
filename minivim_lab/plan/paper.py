"""`python -m minivim_lab.plan.paper --page book/results`: plans of the paper's recipes.

Every row is a `minivim plan` in a process of its own, whose figures are kept in a
folder; what is there already is not compiled again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from minivim.errors import UserError
from minivim.show.tables import markdown_table
from minivim_lab.plan.answer import Plan, gib
from minivim_lab.plan.predict import exchanged, rules_of

ADAMW = ("optim.first_moment=float32", "optim.second_moment=full")
BFLOAT16 = ("precision=bfloat16",)
SMALL, LARGE = "v4:4x4x4", "v4:4x4x8"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One call of `minivim plan`."""

    name: str
    recipe: str
    settings: tuple[str, ...] = ()
    mesh: str = "data=-1"
    topology: str = SMALL
    quick: bool = False

    @property
    def command(self) -> list[str]:
        """Without the file it writes to."""
        options = ["--topology", self.topology, "--mesh", self.mesh]
        chosen = ["--set", *self.settings] if self.settings else []
        effort = ["--quick"] if self.quick else []
        return ["plan", self.recipe, *options, *effort, *chosen]


def _large(mesh: str, optimiser: str, precision: str, *, chips: int = 64) -> Row:
    """VIM-Large; for 128 chips with twice the batch."""
    twice = chips == 128
    return Row(
        name=f"vim-large-{mesh}-{optimiser}-{precision}{'-128' if twice else ''}",
        recipe="vim-large",
        mesh=f"{mesh}=-1",
        settings=(
            *(ADAMW if optimiser == "adamw" else ()),
            *(BFLOAT16 if precision == "bfloat16" else ()),
            *(("batch_size=2048",) if twice else ()),
        ),
        topology=LARGE if twice else SMALL,
    )


TOKENIZERS = ("vit-vqgan-ss", "vit-vqgan-bb", "vit-vqgan-sl")
RECIPES = (
    # The convolutions of the discriminator take the compiler minutes otherwise.
    *(Row(name=name, recipe=name, quick=True) for name in TOKENIZERS),
    Row(name="vim-base", recipe="vim-base"),
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
    tuple(_large(mesh, "paper", "float32", chips=chips) for chips in (64, 128))
    for mesh in ("data", "fsdp")
)
_ALL = (*RECIPES, *GRID, *(row for pair in SCALING for row in pair))
ROWS = tuple({row.name: row for row in _ALL}.values())
# Images a second in training, as the paper's Table 4 has them, on "128 CloudTPUv4".
PRINTED = {"vit-vqgan-ss": 1520, "vit-vqgan-bb": 960, "vit-vqgan-sl": 384}


def planned(row: Row, *, out: Path, limit: int) -> Plan:
    """The row's plan: read from its file, or made by a process of its own.

    Raises `UserError` where it takes more than `limit` seconds, or is refused for
    another reason than memory.
    """
    file = out / f"{row.name}.json"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        # The command touches its file at once; only a whole one may be found later.
        fresh = file.with_name(f"new-{file.name}")
        command = [sys.executable, "-m", "minivim.cli", *row.command]
        try:
            done = subprocess.run(
                [*command, "--json", str(fresh)],
                capture_output=True, text=True, timeout=limit, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"{row.name} took more than {limit} s; use --limit {2 * limit}"
            ) from error
        if done.returncode not in (0, 3):
            lines = done.stderr.strip().splitlines() or ["no word"]
            raise UserError(f"{row.name}: {lines[-1].removeprefix('minivim: error: ')}")
        fresh.rename(file)
    return Plan.from_dict(json.loads(file.read_text()))


def markdown(found: dict[str, Plan]) -> str:
    """The section of the results page, of the rows that are there."""
    return "\n\n".join(
        (
            "## What the paper's recipes would cost, by the TPU's compiler",
            "Train steps as they are, compiled for slices of TPUv4 that are not there, "
            "at the paper's batch: `python -m minivim_lab.plan.paper`. Bytes and FLOPs "
            "are those of one chip and one step; GiB are 2^30 bytes. *Limits* are the "
            "seconds that arithmetic, memory traffic or links would take alone at the "
            "chip's published speed; *days* the recipe's steps at 50 % of the peak on "
            "the model's FLOPs, or at the slowest limit if that is longer; *compiled* "
            "the seconds of processors that each program took, those of the tokenizers "
            "with `--quick`. Nothing here was run.",
            _table(
                "recipe | parameters | frozen in the step | state | needed of 30.75 | "
                "TFLOP (of the model) | limits, s | images/s (paper) | days | "
                "chip-hours | compiled, s",
                {row: _recipe(row, found.get(row.name)) for row in RECIPES},
            ),
            "VIM-Large again, with and without the parameters split (`fsdp`):",
            _table(
                "mesh | optimiser | precision | state | needed of 30.75 | limits, s | "
                "gradients, GB | gathered, GB | compiled, s",
                {row: _variant(found.get(row.name)) for row in GRID},
            ),
            "Twice the chips and twice the batch. *Rules* is what the sharding rules "
            "predict without a compiler, gradients and gathered parameters:",
            _table(
                "mesh | chips | batch | needed of 30.75 | TFLOP | against 64 chips | "
                "gradients, GB (rules) | gathered, GB (rules)",
                {
                    row: _scaled(found.get(row.name), found.get(small.name))
                    for small, large in SCALING
                    for row in (small, large)
                },
            ),
        )
    )


def _table(titles: str, rows: dict[Row, list[str]]) -> str:
    """A Markdown table; a row without a plan says so."""
    names = titles.split(" | ")
    missing = ["not compiled", *["-"] * (len(names) - 2)]
    cells = [found or [row.name, *missing] for row, found in rows.items()]
    return markdown_table(names, cells)


def _needed(plan: Plan) -> str:
    return f"{gib(plan.needed_bytes)}, {'fits' if plan.fits else '**refused**'}"


def _limits(plan: Plan) -> str:
    """Arithmetic, memory and links in seconds, the binding one in bold."""
    if not plan.fits:
        return "-"
    return " / ".join(
        f"**{value:.3f}**" if name == plan.bound else f"{value:.3f}"
        for name, value in plan.limits.items()
    )


def _compiled(plan: Plan) -> str:
    return " + ".join(f"{program.processor_seconds:.0f}" for program in plan.programs)


def _recipe(row: Row, plan: Plan | None) -> list[str]:
    if plan is None:
        return []
    frozen = ", ".join(f"{k} {v / 1e6:.0f} M" for k, v in plan.frozen.items())
    times = ["-"] * 3
    if plan.fits:
        pace = f"{plan.batch_size / plan.seconds:,.0f} ({PRINTED.get(row.recipe, '-')})"
        times = [pace, f"{plan.days:.1f}", f"{plan.chip_hours:,.0f}"]
    lazy = any("R1" in program.name for program in plan.programs)
    return [
        row.recipe + (", without R1" if row.recipe in TOKENIZERS and not lazy else ""),
        f"{plan.parameters / 1e6:,.0f} M",
        frozen or "-",
        gib(plan.state_bytes),
        _needed(plan),
        f"{plan.flops / 1e12:.1f} ({plan.model_flops / 1e12:.1f})",
        _limits(plan),
        *times,
        _compiled(plan),
    ]


def _variant(plan: Plan | None) -> list[str]:
    if plan is None:
        return []
    moved = [f"{size / 1e9:.2f}" for size in exchanged(plan).values()]
    return [
        plan.mesh,
        plan.optimiser,
        plan.precision,
        gib(plan.state_bytes),
        _needed(plan),
        _limits(plan),
        *(moved if plan.fits else ["-", "-"]),
        _compiled(plan),
    ]


def _scaled(plan: Plan | None, base: Plan | None) -> list[str]:
    if plan is None or base is None:
        return []
    rules, moved = rules_of(plan), exchanged(plan)
    cells = [f"{moved[k] / 1e9:.2f} ({rules[k] / 1e9:.2f})" for k in rules]
    return [
        plan.mesh,
        str(plan.chips),
        f"{plan.batch_size:,}",
        _needed(plan),
        f"{plan.flops / 1e12:.2f}",
        f"{plan.flops / base.flops - 1:+.2%}",
        *(cells if plan.fits else ["-", "-"]),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Plan the rows that are not there yet, then write or print their tables."""
    parser = argparse.ArgumentParser(prog="python -m minivim_lab.plan.paper")
    parser.add_argument("--out", type=Path, default=Path("runs/plan"))
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--limit", type=int, default=600, help="seconds a row")
    parser.add_argument("--page", type=Path, help="write a page of the book here")
    chosen = parser.parse_args(arguments)
    found, code = {}, 0
    for row in ROWS:
        if chosen.only not in row.name:
            continue
        print(row.name, file=sys.stderr, flush=True)
        try:
            found[row.name] = planned(row, out=chosen.out, limit=chosen.limit)
        except UserError as error:
            print(f"minivim: error: {error}", file=sys.stderr)
            code = 2
    if chosen.page and found:
        chosen.page.mkdir(parents=True, exist_ok=True)
        kept = {name: plan.as_dict() for name, plan in found.items()}
        (chosen.page / "plan.json").write_text(json.dumps(kept, indent=1) + "\n")
        (chosen.page / "plan.md").write_text(markdown(found) + "\n")
    print(markdown(found))
    return code


if __name__ == "__main__":
    sys.exit(main())
