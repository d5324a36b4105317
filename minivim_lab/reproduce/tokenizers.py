"""Tokenizers compared, as data.

A study is a list of rows, a row is a recipe with settings. Every run has a folder of
its own, goes on where it stopped, and leaves its figures beside its weights; what is
there already, of the same recipe and data (see `stored`), is not computed again.
Figures come from the judge (see `evaluate`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from minivim import data, recipes, show, weights
from minivim.config import TokenizerRecipe, as_dict, with_overrides
from minivim.data import Source
from minivim.describe import count_parameters
from minivim.evaluate import tokenizer_figures
from minivim.train import replaced, tokenizer_experiment, train
from minivim.training import make_step, new_state, read_metrics, train_seconds
from minivim_lab.reproduce import stored

# Test images that a row is measured on.
IMAGES = 2048


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
# What the study's figures were measured with; the recipe has grown since.
CODES = ("model.quantizer.num_codes=512",)
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
                    name=f"without {term.replace('_', '-')}",
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
            Row(name="ViT, StyleGAN2, full loss", recipe="cifar10-gan", settings=CODES),
            Row(
                name="CNN, StyleGAN2, full loss",
                recipe="cifar10-gan-cnn",
                settings=CODES,
            ),
            Row(
                name="ViT, PatchGAN, full loss",
                recipe="cifar10-gan",
                settings=(*CODES, *PATCHGAN),
            ),
            Row(name="ViT, L2 alone", recipe="cifar10", settings=CODES),
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


def folder_of(row: Row, study: Study, seed: int, *, spec: str, out: Path) -> Path:
    """Where a run lives: rows of several studies with one recipe share it."""
    recipe = recipe_of(row, study, seed)
    source = stored.source(spec, "train", **recipe.model.image_shape)
    key = stored.recipe_hash(recipe, data=source.fingerprint)
    plain = "".join(c if c.isalnum() else "-" for c in row.name).lower()
    return out / f"{study.family}-{study.steps}" / f"{plain}-{seed}-{key}"


def run_row(
    row: Row, study: Study, seed: int, *, spec: str, out: Path, quiet: bool = False
) -> dict[str, Any]:
    """Train and measure one row, or read what an earlier call left."""
    folder = folder_of(row, study, seed, spec=spec, out=out)
    recipe = recipe_of(row, study, seed)
    if not (folder / weights.CARD).exists():
        train(recipe, spec=spec, workdir=folder, quiet=quiet)
    test = stored.source(spec, "test", **recipe.model.image_shape)
    judge = network_of(study.family, "judge")
    of = {
        "judge": stored.network_hash(judge), "test": test.fingerprint, "images": IMAGES
    }  # fmt: skip
    figures = stored.measured(
        folder / stored.FIGURES, of, lambda: measured(folder, test, judge=judge)
    )
    return {"row": row.name, "seed": seed, "recipe": as_dict(recipe), **figures}


def measured(folder: Path, test: Source, *, judge: str) -> dict[str, Any]:
    """Figures of a finished run on the test split."""
    tokenizer, network = weights.load(folder), weights.load(judge)
    found = tokenizer_figures(tokenizer, test, count=IMAGES, judge=network)
    rows = read_metrics(folder)
    if "right_on_fake" in rows[-1]:
        found["health"] = show.gan_health(rows).alt
    return found | {
        "parameters": tokenizer.config.parameters or count_parameters(tokenizer),
        "train_seconds": round(train_seconds(rows), 1),
    }


def speeds(study: Study, *, spec: str) -> dict[str, float]:
    """Images per second that each row trains."""
    found = {row.name: recipe_of(row, study, 0) for row in study.rows}
    shape = found[study.rows[0].name].model.image_shape
    source = stored.source(spec, "test", **shape)
    return in_turns(found, source)


def in_turns(
    recipes: Mapping[str, TokenizerRecipe],
    source: Source,
    *,
    timer: Callable[[], float] = time.perf_counter,
    quiet: bool = False,
) -> dict[str, float]:
    """Images per second that each recipe trains, measured in turns in this process.

    The median of some steps. The steps with R1 count as often as they occur.
    """
    clocks = {
        name: step_clock(recipe, source, timer=timer)
        for name, recipe in recipes.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in clocks}
    for _ in tqdm(range(TURNS), desc="speed", unit="turn", disable=quiet):
        for name, clock in clocks.items():
            seconds[name].append(clock())
    return {
        name: recipes[name].run.batch_size / float(np.median(times))
        for name, times in seconds.items()
    }


def step_clock(
    recipe: TokenizerRecipe,
    source: Source,
    *,
    timer: Callable[[], float] = time.perf_counter,
) -> Callable[[], float]:
    """Seconds of the next step, with its share of the lazy one; both are compiled."""
    parts = tokenizer_experiment(recipe, source, source)
    step = make_step(
        parts.model,
        parts.loss,
        parts.optim,
        steps=recipe.run.steps,
        key=jax.random.key(0),
        taps=parts.taps,
        lazy_every=parts.lazy_every,
    )
    state = [new_state(parts.model, parts.optim, steps=recipe.run.steps)]

    def timed(at: int) -> float:
        batch, began = next(parts.batches), timer()
        state[0], _ = step(state[0], batch, at=at)
        jax.block_until_ready(state[0])
        return timer() - began

    def clock() -> float:
        plain = timed(1)
        if not parts.lazy_every:
            return plain
        return plain + (timed(0) - plain) / parts.lazy_every

    clock()
    return clock


def network_of(family: str, kind: str) -> str:
    """The shipped judge or classifier of a data set."""
    return f"{family}/{kind}"


# Figures of a table: title, digits, and whether more is better.
COLUMNS: dict[str, tuple[str, int, bool]] = {
    "psnr": ("PSNR, dB", 2, True),
    "judge_distance": ("judge distance", 3, False),
    "usage_256": ("codes in 256 images, %", 1, True),
    "perplexity": ("perplexity", 1, True),
    "images_per_second": ("images/s", 0, True),
}
TURNS = 6
PICTURES = 12


def _values(found: Sequence[dict[str, Any]], row: Row, name: str) -> list[float]:
    scale = 100 if "%" in COLUMNS[name][0] else 1
    return [scale * f[name] for f in found if f["row"] == row.name and name in f]


def table(study: Study, found: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: mean of the seeds, and their spread from least to most."""
    there = {k: v for k, v in COLUMNS.items() if any(k in f for f in found)}
    titles = [title for title, _, _ in there.values()]
    lines = [
        "| row | seeds | parameters | " + " | ".join(titles) + " |",
        "|---" * (3 + len(there)) + "|",
    ]
    for row in study.rows:
        mine = [f for f in found if f["row"] == row.name]
        if not mine:
            continue
        cells = [
            spread(_values(found, row, name), digits)
            for name, (_, digits, _) in there.items()
        ]
        size = f"{mine[0]['parameters'] / 1e6:.2f} M"
        lines.append(f"| {row.name} | {len(mine)} | {size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int) -> str:
    """Mean of the seeds, and from least to most."""
    if not values:
        return "-"
    middle = f"{np.mean(values):.{digits}f}"
    if min(values) == max(values):
        return middle
    return f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def verdict(found: Sequence[dict[str, Any]], one: Row, other: Row) -> str:
    """For every figure which row is better, if no seed of the two overlaps.

    Empty where a row has but one seed, which decides nothing, or none.
    """
    if min(sum(f["row"] == row.name for f in found) for row in (one, other)) < 2:
        return ""
    lines = []
    for name, (title, _, more) in COLUMNS.items():
        if name == "images_per_second":
            continue
        a, b = (_values(found, row, name) for row in (one, other))
        if min(a) > max(b) or min(b) > max(a):
            better = one if (min(a) > max(b)) == more else other
            lines.append(f"{title}: {better.name}")
        else:
            lines.append(f"{title}: not decided, the seeds overlap")
    return "Better in every seed, by figure. " + "; ".join(lines) + "."


def picture(
    study: Study, found: Sequence[dict[str, Any]], *, spec: str, out: Path
) -> show.Plot:
    """Test images, and under them what each row of the first seed makes of them."""
    rows, test = [], None
    seed = found[0]["seed"]
    there = {f["row"] for f in found if f["seed"] == seed}
    for row in study.rows:
        if row.name not in there:
            continue
        folder = folder_of(row, study, seed, spec=spec, out=out)
        tokenizer = weights.load(folder)
        if test is None:
            source = stored.source(spec, "test", **tokenizer.config.image_shape)
            test = data.stack(source, PICTURES)["image"].astype(np.float32) / 255
            rows.append(("original", test))
        rows.append((row.name, np.asarray(tokenizer.reconstruct(test))))
    names = [name for name, _ in rows]
    images = np.concatenate([images for _, images in rows])
    labels = np.repeat(np.arange(len(rows)), PICTURES)
    return show.samples_by_class(images, labels, names, columns=PICTURES)


def write_page(
    name: str, found: Sequence[dict[str, Any]], *, spec: str, out: Path, page: Path
) -> None:
    """The study as `NAME.json`, `NAME.md` and `NAME.png` in the folder `page`."""
    study = STUDIES[name]
    page.mkdir(parents=True, exist_ok=True)
    kept = [{k: v for k, v in f.items() if k != "recipe"} for f in found]
    (page / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    (page / f"{name}.md").write_text(markdown(name, kept))
    drawn = picture(study, found, spec=spec, out=out)
    (page / f"{name}.png").write_bytes(show.to_png(drawn))
    if played := _first_played(found):
        row = next(row for row in study.rows if row.name == played["row"])
        folder = folder_of(row, study, played["seed"], spec=spec, out=out)
        drawn = show.gan_health(read_metrics(folder))
        (page / f"{name}-health.png").write_bytes(show.to_png(drawn))


def markdown(name: str, found: Sequence[dict[str, Any]]) -> str:
    """The section of the results page."""
    study = STUDIES[name]
    images = found[0]["images"]
    parts = [
        f"## {study.title}",
        f"{study.steps} steps of {study.family} from {_seeds(found)}, measured on "
        f"{images:,} test images: `minivim reproduce {name}`.",
        table(study, found),
    ]
    if len(study.rows) == 2 and (said := verdict(found, *study.rows)):
        parts.append(said)
    alt = f"test images and the reconstructions of: {', '.join(_names(study, found))}"
    parts.append(f"![{alt}](./{name}.png)")
    if played := _first_played(found):
        parts.append(f"The game of the run *{played['row']}*, seed {played['seed']}:")
        parts.append(f"![{played['health']}](./{name}-health.png)")
    return "\n\n".join(parts) + "\n"


def _first_played(found: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The first run with a discriminator."""
    return next((f for f in found if "health" in f), None)


def _seeds(found: Sequence[dict[str, Any]]) -> str:
    seeds = sorted({f["seed"] for f in found})
    word = "seed" if len(seeds) == 1 else "seeds"
    return f"{word} {', '.join(map(str, seeds))}"


def _names(study: Study, found: Sequence[dict[str, Any]]) -> list[str]:
    there = {f["row"] for f in found}
    return [row.name for row in study.rows if row.name in there]
