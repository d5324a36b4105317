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


# --- the page ----------------------------------------------------------------------


def markdown(found: dict[str, Plan]) -> str:
    """The section of the results page, of the rows that are there."""
    return "\n\n".join(
        (
            "## What the paper's recipes would cost, by the TPU's compiler",
            "Train steps as they are, compiled for slices of TPUv4 that are not there, "
            "at the paper's batch: `python -m minivim_lab.plan.paper`. Bytes and FLOPs "
            "are "
            "those of one chip and one step; GiB are 2^30 bytes. *Limits* are the "
            "seconds that arithmetic, memory traffic or links would take alone at the "
            "chip's published speed; *days* the recipe's steps at 50 % of the peak on "
            "the model's FLOPs, or at the slowest limit if that is longer; *compiled* "
            "the seconds of processors that each program took, those of the tokenizers "
            "with `--quick`. Nothing here was run.",
            _recipes(found),
            "VIM-Large again, with and without the parameters split (`fsdp`):",
            _grid(found),
            "Twice the chips and twice the batch. *Rules* is what the sharding rules "
            "predict without a compiler, gradients and gathered parameters:",
            _scaling(found),
        )
    )


def _lines(header: str, rows: list[str]) -> str:
    return "\n".join([header, "|---" * (header.count("|") - 1) + "|", *rows])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def memory(found: Plan) -> str:
    """Needed and verdict in one cell."""
    return f"{gib(found.needed_bytes)}, {'fits' if found.fits else '**refused**'}"


def limits(found: Plan) -> str:
    """Arithmetic, memory and links in seconds, the binding one in bold."""
    if not found.fits:
        return "-"
    return " / ".join(
        f"**{value:.3f}**" if name == found.bound else f"{value:.3f}"
        for name, value in found.limits.items()
    )


def _recipes(found: dict[str, Plan]) -> str:
    header = _row(
        "recipe", "parameters", "frozen in the step", "state", "needed of 30.75",
        "TFLOP (of the model)", "limits, s", "images/s (paper)", "days", "chip-hours",
        "compiled, s",
    )  # fmt: skip
    rows = [
        _recipe(row, found[row.name]) if row.name in found else _missing(row, 11)
        for row in RECIPES
    ]
    return _lines(header, rows)


def _missing(row: Row, columns: int) -> str:
    return _row(row.name, "not compiled", *["-"] * (columns - 2))


def _recipe(row: Row, one: Plan) -> str:
    frozen = ", ".join(f"{k} {v / 1e6:.0f} M" for k, v in one.frozen.items())
    times = ["-"] * 3
    if one.fits:
        printed = PRINTED.get(row.recipe, "-")
        pace = f"{one.batch_size / one.seconds:,.0f} ({printed})"
        times = [pace, f"{one.days:.1f}", f"{one.chip_hours:,.0f}"]
    lazy = any("R1" in program.name for program in one.programs)
    return _row(
        row.recipe + (", without R1" if row.recipe in TOKENIZERS and not lazy else ""),
        f"{one.parameters / 1e6:,.0f} M",
        frozen or "-",
        gib(one.state_bytes),
        memory(one),
        f"{one.flops / 1e12:.1f} ({one.model_flops / 1e12:.1f})",
        limits(one),
        *times,
        compile_seconds(one),
    )


def compile_seconds(found: Plan) -> str:
    """Processor seconds of each program."""
    return " + ".join(f"{one.processor_seconds:.0f}" for one in found.programs)


def _grid(found: dict[str, Plan]) -> str:
    header = _row(
        "mesh", "optimiser", "precision", "state", "needed of 30.75", "limits, s",
        "gradients, GB", "gathered, GB", "compiled, s",
    )  # fmt: skip
    rows = []
    for row in GRID:
        if (one := found.get(row.name)) is None:
            rows.append(_missing(row, 9))
            continue
        moved = exchanged(one)
        cells = [f"{moved[k] / 1e9:.2f}" for k in ("gradients", "parameters")]
        rows.append(
            _row(
                one.mesh,
                one.optimiser,
                one.precision,
                gib(one.state_bytes),
                memory(one),
                limits(one),
                *(cells if one.fits else ["-", "-"]),
                compile_seconds(one),
            )
        )
    return _lines(header, rows)


def _scaling(found: dict[str, Plan]) -> str:
    header = _row(
        "mesh", "chips", "batch", "needed of 30.75", "TFLOP", "against 64 chips",
        "gradients, GB (rules)", "gathered, GB (rules)",
    )  # fmt: skip
    rows = []
    for small, large in SCALING:
        for row in (small, large):
            one, base = found.get(row.name), found.get(small.name)
            if one is None or base is None:
                rows.append(_missing(row, 8))
                continue
            rules, moved = rules_of(one), exchanged(one)
            cells = [
                f"{moved[k] / 1e9:.2f} ({rules[k] / 1e9:.2f})"
                for k in ("gradients", "parameters")
            ]
            rows.append(
                _row(
                    one.mesh,
                    str(one.chips),
                    f"{one.batch_size:,}",
                    memory(one),
                    f"{one.flops / 1e12:.2f}",
                    f"{one.flops / base.flops - 1:+.2%}",
                    *(cells if one.fits else ["-", "-"]),
                )
            )
    return _lines(header, rows)


def write_page(found: dict[str, Plan], page: Path) -> None:
    """`plan.json` and `plan.md` in the folder `page`."""
    page.mkdir(parents=True, exist_ok=True)
    kept = {name: one.as_dict() for name, one in found.items()}
    (page / "plan.json").write_text(json.dumps(kept, indent=1) + "\n")
    (page / "plan.md").write_text(markdown(found) + "\n")


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
        print(f"{row.name}", file=sys.stderr, flush=True)
        try:
            found[row.name] = planned(row, out=chosen.out, limit=chosen.limit)
        except UserError as error:
            print(f"minivim: error: {error}", file=sys.stderr)
            code = 2
    if chosen.page and found:
        write_page(found, chosen.page)
    print(markdown(found))
    return code


if __name__ == "__main__":
    sys.exit(main())
