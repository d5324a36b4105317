"""The paper's comparisons in miniature, as data: `python -m minivim.reproduce NAME`.

A study is a list of rows, a row is a recipe with settings. Every run has a folder of
its own, goes on where it stopped, and leaves its figures beside its weights; what is
there already is not computed again. Figures come from the judge (see `evaluate`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from minivim import data, recipes, weights
from minivim.config import TokenizerRecipe, as_dict, with_overrides
from minivim.errors import UserError
from minivim.evaluate import tokenizer_figures
from minivim.experiments import replaced, train
from minivim.training import read_metrics, train_seconds

FIGURES = "figures.json"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: a tokenizer recipe, changed by settings."""

    name: str
    recipe: str
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Study:
    """Rows that are compared: as long, on the same data, from the same seeds."""

    title: str
    family: str
    steps: int
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]


L2, FULL = Row(name="L2", recipe="shapes"), Row(name="full loss", recipe="shapes-gan")
TERMS = ("vq", "l2", "logit_laplace", "perceptual", "adversarial")
# The convolutional twin of `cifar10`, as many parameters within 3 %.
CNN = ("channels=36", "multipliers=1,2,2", "res_blocks=1", "groups=4")
PATCHGAN = ("discriminator.kind=patchgan", "discriminator.loss=hinge", "r1_gamma=0")

STUDIES: dict[str, Study] = {
    "losses": Study(
        title="All five terms against L2 alone",
        family="shapes",
        steps=500,
        seeds=(0, 1, 2),
        rows=(L2, FULL),
    ),
    "terms": Study(
        title="Each term removed in turn",
        family="shapes",
        steps=200,
        seeds=(0,),
        rows=(
            FULL,
            *(
                Row(
                    name=f"without {term}",
                    recipe="shapes-gan",
                    settings=(f"loss.{term}=0",),
                )
                for term in TERMS
            ),
            L2,
        ),
    ),
    "cifar10": Study(
        title="CIFAR-10: architecture, discriminator, losses",
        family="cifar10",
        steps=300,
        seeds=(0,),
        rows=(
            Row(name="ViT, StyleGAN2, full loss", recipe="cifar10-gan"),
            Row(name="CNN, StyleGAN2, full loss", recipe="cifar10-gan-cnn"),
            Row(
                name="ViT, PatchGAN, full loss",
                recipe="cifar10-gan",
                settings=PATCHGAN,
            ),
            Row(name="ViT, L2 alone", recipe="cifar10"),
        ),
    ),
}


def recipe_of(row: Row, study: Study, seed: int) -> TokenizerRecipe:
    """The row's recipe at the study's length."""
    found = recipes.recipe("tokenizer", row.recipe)
    assert isinstance(found, TokenizerRecipe)
    short = replace(found, optim=replace(found.optim, decay_end=0))
    short = replaced(short, steps=study.steps, seed=seed, eval_every=study.steps)
    return with_overrides(short, list(row.settings))  # type: ignore[return-value]


def folder_of(row: Row, study: Study, seed: int, out: Path) -> Path:
    """Where a run lives: rows of several studies with one recipe share it."""
    plain = "".join(c if c.isalnum() else "-" for c in row.name).lower()
    return out / f"{study.family}-{study.steps}" / f"{plain}-{seed}"


def run_row(
    row: Row, study: Study, seed: int, *, spec: str, out: Path, quiet: bool = False
) -> dict[str, Any]:
    """Train and measure one row, or read what an earlier call left."""
    folder = folder_of(row, study, seed, out)
    if (folder / FIGURES).exists():
        return json.loads((folder / FIGURES).read_text())
    recipe = recipe_of(row, study, seed)
    if not (folder / weights.CARD).exists():
        train(recipe, spec=spec, workdir=folder, quiet=quiet)
    found = {
        "row": row.name,
        "seed": seed,
        "recipe": as_dict(recipe),
        **measured(folder, study, spec=spec),
    }
    (folder / FIGURES).write_text(json.dumps(found, indent=1) + "\n")
    return found


def measured(folder: Path, study: Study, *, spec: str) -> dict[str, Any]:
    """Figures of a finished run on the test split."""
    tokenizer = weights.load(folder)
    test = data.open_source(spec, split="test", **tokenizer.config.image_shape)
    judge = weights.load(judge_of(study.family))
    found = tokenizer_figures(tokenizer, test, count=2048, judge=judge)
    rows = read_metrics(folder)
    return found | {
        "parameters": tokenizer.config.parameters,
        "train_seconds": round(train_seconds(rows), 1),
    }


def judge_of(family: str) -> str:
    """The shipped judge of a data set, or the one that was trained in runs."""
    name = f"{family}/judge"
    return name if name in weights.shipped() else f"runs/{family}-judge"


COLUMNS = ("psnr", "judge_distance", "usage_256", "usage", "perplexity")


def table(study: Study, found: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: mean of the seeds, and their spread from least to most."""
    lines = ["| row | seeds | " + " | ".join(COLUMNS) + " |"]
    lines.append("|---" * (2 + len(COLUMNS)) + "|")
    for row in study.rows:
        mine = [f for f in found if f["row"] == row.name]
        cells = [_cell([f[name] for f in mine if name in f]) for name in COLUMNS]
        lines.append(f"| {row.name} | {len(mine)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    middle = f"{np.mean(values):.4g}"
    spread = f" ({min(values):.4g} to {max(values):.4g})" if len(values) > 1 else ""
    return middle + spread


def main(arguments: list[str] | None = None) -> None:
    """Run the rows of a study that are not there yet, then print its table."""
    parser = argparse.ArgumentParser(prog="python -m minivim.reproduce")
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--data", help="default: the name of the study's data set")
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--quiet", action="store_true")
    chosen = parser.parse_args(arguments)
    study = STUDIES[chosen.study]
    rows = [row for row in study.rows if chosen.only in row.name]
    if not rows:
        raise UserError(f"no row of {chosen.study} holds {chosen.only!r}; leave --only")
    spec = chosen.data or {"cifar10": "uoft-cs/cifar10"}.get(study.family, study.family)
    found = [
        run_row(row, study, seed, spec=spec, out=chosen.out, quiet=chosen.quiet)
        for seed in chosen.seeds or study.seeds
        for row in rows
    ]
    print(f"{study.title}, {study.steps} steps\n\n{table(study, found)}")


if __name__ == "__main__":
    from minivim.runtime import restart_with_environment

    restart_with_environment()
    main()
