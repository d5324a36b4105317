"""Tokenizers compared, as data: `losses`, `terms` and `cifar10`.

A study is a list of rows, a row is a recipe with settings. Every run has a folder of
its own, continues where it stopped, and leaves its figures beside its weights.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from minivim import data, evaluate, recipes, show, weights
from minivim.config import TokenizerRecipe, with_overrides
from minivim.data import Source
from minivim.describe import count_parameters
from minivim.trainer import frozen_network, setup
from minivim.training import make_step, new_state, read_metrics, train_seconds
from minivim_lab.health import gan_health
from minivim_lab.reproduce import stored, verdicts
from minivim_lab.reproduce.grid import PATCHGAN, Row
from minivim_lab.reproduce.stored import PICTURES, Options
from minivim_lab.reproduce.verdicts import Found

IMAGES = 2048  # test images that a row is measured on
TURNS = 6
Timer = Callable[[], float]


@dataclass(frozen=True)
class Study:
    """Rows compared after as many steps, on the same data, from the same seeds."""

    title: str
    family: str
    steps: int
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]


L2, FULL = Row(name="L2", recipe="shapes"), Row(name="full loss", recipe="shapes-gan")
WITHOUT = tuple(
    replace(FULL, name=f"without {t.replace('_', '-')}", settings=(f"loss.{t}=0",))
    for t in ("vq", "l2", "logit_laplace", "perceptual", "adversarial")
)
# What the study's figures were measured with; the recipe has grown since.
CODES = ("model.quantizer.num_codes=512",)
VIT = Row(name="ViT, StyleGAN2, full loss", recipe="cifar10-gan", settings=CODES)
CIFAR10 = (
    VIT,
    replace(VIT, name="CNN, StyleGAN2, full loss", recipe="cifar10-gan-cnn"),
    replace(VIT, name="ViT, PatchGAN, full loss", settings=CODES + PATCHGAN),
    replace(VIT, name="ViT, L2 alone", recipe="cifar10"),
)

STUDIES: dict[str, Study] = {
    "losses": Study(
        "All five terms against L2 alone", "shapes", 500, (0, 1, 2), (L2, FULL)
    ),
    "terms": Study(
        "Each term removed in turn", "shapes", 200, (0,), (FULL, *WITHOUT, L2)
    ),
    "cifar10": Study(
        "CIFAR-10: architecture, discriminator, losses", "cifar10", 300, (0,), CIFAR10
    ),
}
# Columns of the table: title, digits, factor, and whether more is better.
COLUMNS = {
    "psnr": ("PSNR, dB", 2, 1, True),
    "judge_distance": ("judge distance", 3, 1, False),
    "usage_256": ("codes in 256 images, %", 1, 100, True),
    "perplexity": ("perplexity", 1, 1, True),
    "images_per_second": ("images/s", 0, 1, True),
}


def main(name: str, options: Options) -> str:
    """Run a study of `STUDIES`; returns its title and table."""
    study = STUDIES[name]
    options, rows = options.of(study.family), options.chosen(study.rows)
    found = [
        run_row(row, study, seed, options)
        for seed in options.seeds or study.seeds
        for row in rows
    ]
    if options.speed:
        recipes = {row.name: recipe_of(row, study, 0) for row in study.rows}
        shape = recipes[study.rows[0].name].model.image_shape
        source, timer = options.source("test", **shape), time.perf_counter
        pace = in_turns(recipes, source, timer=timer, quiet=options.quiet)
        found = [f | {"images_per_second": pace[f["row"]]} for f in found]
    if options.page:
        text, pictures = markdown(name, found), drawn(name, found, options)
        stored.write_page(options.page, name, found, text, pictures)
    return f"{study.title}, {study.steps} steps\n\n{table(found)}"


def recipe_of(row: Row, study: Study, seed: int) -> TokenizerRecipe:
    """The row's recipe at the study's length."""
    steps = [f"steps={study.steps}", f"eval_every={study.steps}", f"seed={seed}"]
    found = recipes.recipe("tokenizer", row.recipe)
    return with_overrides(found, ["decay_end=0", *steps, *row.settings])


def folder_of(row: Row, study: Study, seed: int, options: Options) -> Path:
    """Where a run lives: rows of several studies with one recipe share it."""
    recipe = recipe_of(row, study, seed)
    source = options.source("train", **recipe.model.image_shape)
    key = stored.recipe_hash(recipe, data=source.fingerprint)
    plain = "".join(c if c.isalnum() else "-" for c in row.name).lower()
    return options.out / f"{study.family}-{study.steps}" / f"{plain}-{seed}-{key}"


def run_row(row: Row, study: Study, seed: int, options: Options) -> dict[str, Any]:
    """Train and measure one row, or read what an earlier call left."""
    folder = folder_of(row, study, seed, options)
    recipe = recipe_of(row, study, seed)
    stored.trained(recipe, folder, options)
    test, judge = options.source("test", **recipe.model.image_shape), options.judge
    of = {"test": test.fingerprint, "images": IMAGES}
    of["judge"] = stored.network_hash(judge)
    file = folder / stored.FIGURES
    figures = stored.measured(file, of, lambda: measured(folder, test, judge))
    return {"row": row.name, "seed": seed, **figures}


def measured(folder: Path, test: Source, judge: str) -> dict[str, Any]:
    """Figures of a finished run on the test split."""
    tokenizer = weights.load(folder)
    how = evaluate.Options(count=IMAGES, judge=weights.load(judge))
    found = evaluate.tokenizer_figures(tokenizer, test, how)
    rows = read_metrics(folder)
    if "right_on_fake" in rows[-1]:
        found["health"] = gan_health(rows).alt
    seconds = round(train_seconds(rows), 1)
    return found | {"parameters": count_parameters(tokenizer), "train_seconds": seconds}


def in_turns(
    recipes: Mapping[str, TokenizerRecipe], source: Source, *, timer: Timer, quiet: bool
) -> dict[str, float]:
    """Images per second that each recipe trains: medians of `TURNS` steps in turns."""
    clocks = [step_clock(recipe, source, timer=timer) for recipe in recipes.values()]
    turns = tqdm(range(TURNS), desc="speed", unit="turn", disable=quiet)
    medians = np.median([[clock() for clock in clocks] for _ in turns], axis=0)
    return {
        name: recipe.run.batch_size / float(seconds)
        for (name, recipe), seconds in zip(recipes.items(), medians, strict=True)
    }


def step_clock(recipe: TokenizerRecipe, source: Source, *, timer: Timer) -> Timer:
    """Seconds of the next step, R1 by how often it occurs; both kinds are compiled."""
    parts, run = setup(recipe, frozen=frozen_network(recipe)), recipe.run
    batches = data.batches(source, batch_size=run.batch_size, seed=run.seed)
    options = {"steps": run.steps, "key": jax.random.key(0), **parts.options}
    step = make_step(parts.model, parts.loss, parts.optim, **options)
    state = new_state(parts.model, parts.optim, steps=run.steps)

    def timed(at: int) -> float:
        nonlocal state
        batch, began = next(batches), timer()
        state, _ = step(state, batch, at=at)
        jax.block_until_ready(state)
        return timer() - began

    def clock() -> float:
        plain, every = timed(1), parts.lazy_every
        return plain + (timed(0) - plain) / every if every else plain

    clock()
    return clock


def table(found: Found) -> str:
    """A Markdown table: mean of the seeds, and their spread from least to most."""
    records = [{"name": f["row"], "seed": f["seed"], "figures": f} for f in found]
    return verdicts.table(records, COLUMNS, size="M")


def verdict(found: Found, one: Row, other: Row) -> str:
    """For every figure the better row, if no seeds overlap; empty without two seeds."""
    lines = []
    for name, (title, _, _, more) in COLUMNS.items():
        if name == "images_per_second":
            continue
        a, b = ([f[name] for f in found if f["row"] == r.name] for r in (one, other))
        if min(len(a), len(b)) < 2:
            return ""
        said = "not decided, the seeds overlap"
        if min(a) > max(b) or min(b) > max(a):
            said = (one if (min(a) > max(b)) == more else other).name
        lines.append(f"{title}: {said}")
    return f"Better in every seed, by figure. {'; '.join(lines)}."


def drawn(name: str, found: Found, options: Options) -> dict[str, show.Plot]:
    """The page's pictures by name: reconstructions from the first seed, one game."""
    study, seed = STUDIES[name], found[0]["seed"]
    ran = [f["row"] for f in found if f["seed"] == seed]
    folders = {r.name: folder_of(r, study, seed, options) for r in study.rows}
    shape = recipe_of(study.rows[0], study, seed).model.image_shape
    source = options.source("test", **shape)
    test = data.stack(source, PICTURES)["image"].astype(np.float32) / 255
    strips = {"original": test}
    for row in ran:
        strips[row] = np.asarray(weights.load(folders[row]).reconstruct(test))
    pictures = {name: stored.strips(strips)}
    for run in [f for f in found if "health" in f][:1]:
        rows = read_metrics(folders[run["row"]])
        pictures[f"{name}-health"] = gan_health(rows)
    return pictures


def markdown(name: str, found: Found) -> str:
    """The section of the results page."""
    study, rows = STUDIES[name], {f["row"] for f in found}
    seeds = sorted({f["seed"] for f in found})
    command = f"minivim reproduce {name}" + " --speed" * (
        "images_per_second" in found[0]
    )
    parts = [
        f"## {study.title}",
        f"{study.steps} steps of {study.family} from "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}, "
        f"measured on {found[0]['images']:,} test images: `{command}`.",
        table(found),
    ]
    if len(study.rows) == 2 and (said := verdict(found, *study.rows)):
        parts.append(said)
    names = ", ".join(row.name for row in study.rows if row.name in rows)
    parts.append(f"![test images and the reconstructions of: {names}](./{name}.png)")
    for run in [f for f in found if "health" in f][:1]:
        parts.append(f"The game of the run *{run['row']}*, seed {run['seed']}:")
        parts.append(f"![{run['health']}](./{name}-health.png)")
    return "\n\n".join(parts) + "\n"
