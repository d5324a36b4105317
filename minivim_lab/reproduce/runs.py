"""Trains and measures the rows of the grid, each stage once.

A stage lives in a folder that is named by a hash of all that makes its weights (see
`stored`). Rows that begin alike so share their first stage. Runs go on where they
stopped. A seed is part of every hash, so that processes with different seeds may work
on one folder at once, without locks.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from minivim import prior, weights
from minivim.config import PaletteRecipe, PriorRecipe, ProbeRecipe
from minivim.data import Source
from minivim.describe import count_parameters
from minivim.encode import encode_folder
from minivim.evaluate import (
    check_fits,
    draw,
    judged_figures,
    load_network,
    prior_figures,
    tokenizer_figures,
)
from minivim.train import probe, train
from minivim_lab.igpt import train_palette
from minivim_lab.reproduce import stored
from minivim_lab.reproduce.grid import ROWS, Family, Row, prior_recipe, tokenizer_recipe
from minivim_lab.reproduce.tokenizers import in_turns, network_of

# How images per second are measured, as the page says it.
PACE = "in turns within one process"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Data, networks that grade and the folder of all runs."""

    family: Family
    spec: str
    out: Path
    judge: str
    classifier: str
    quiet: bool = False

    def source(self, split: str) -> Source:
        """A split at the family's image size."""
        return stored.source(self.spec, split, image_size=self.family.image_size)


def check_networks(place: Place) -> None:
    """Raises `UserError` for a judge or a classifier that cannot grade or choose."""
    classes = place.source("test").num_classes
    shape = {"image_size": place.family.image_size, "channels": 3}
    for option, ref in (("judge", place.judge), ("classifier", place.classifier)):
        check_fits(option, load_network(option, ref), shape, classes=classes)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A run of stage 1 or 2 and its folder."""

    recipe: stored.StageRecipe
    key: str
    folder: Path


def stages(row: Row, seed: int, place: Place) -> list[Stage]:
    """The row's tokenizer, and its prior if it has one."""
    print_of = place.source("train").fingerprint
    first = tokenizer_recipe(row, place.family, seed, classifier=place.classifier)
    key = stored.recipe_hash(first, data=print_of)
    folder = place.out.resolve() / f"tokenizer-{key}"
    found = [Stage(recipe=first, key=key, folder=folder)]
    if row.prior is None:
        return found
    second = prior_recipe(
        row, place.family, seed, tokenizer=first, folder=str(folder)
    )  # fmt: skip
    key = stored.recipe_hash(second, data=print_of, below=key)
    folder = place.out.resolve() / f"prior-{key}"
    return [*found, Stage(recipe=second, key=key, folder=folder)]


def run_row(row: Row, seed: int, place: Place) -> dict[str, Any]:
    """Train and measure what is not there yet; returns the row's record.

    Images per second are not measured here but by `measure_pace`.
    """
    for stage in stages(row, seed, place):
        if not (stage.folder / weights.CARD).exists():
            with stored.metered(stage.folder / "train.seconds"):
                _train(stage, place)
    for file, of, measure in _measures(row, seed, place):
        stored.measured(file, of, measure)
    record = read_row(row, seed, place)
    assert record is not None
    return record


def _train(stage: Stage, place: Place) -> None:
    recipe, folder = stage.recipe, stage.folder
    if isinstance(recipe, PaletteRecipe):
        train_palette(recipe, spec=place.spec, workdir=folder)
        return
    spec = place.spec
    if isinstance(recipe, PriorRecipe) and recipe.codes == "cache":
        spec = str(_codes(Path(recipe.tokenizer), place))
    train(recipe, spec=spec, workdir=folder, quiet=place.quiet)


def _codes(tokenizer: Path, place: Place) -> Path:
    """The codes of both splits beside their tokenizer, written for the first prior."""
    folder = tokenizer / "codes"
    if not folder.exists():
        encode_folder(
            weights.load(tokenizer),
            folder,
            {split: place.source(split) for split in ("train", "test")},
            name=str(tokenizer),
            quiet=place.quiet,
        )
    return folder


def read_row(row: Row, seed: int, place: Place) -> dict[str, Any] | None:
    """The record of a finished row, or None."""
    files, figures = [], {}
    for file, of, _ in _measures(row, seed, place):
        part = stored.read(file, of)
        if part is None:
            return None
        files.append(file)
        figures |= part
    last = stages(row, seed, place)[-1]
    if row.timed and (pace := stored.read(*_pace_file(seed, place))):
        figures["images_per_second"] = pace["images_per_second"][row.name]
        figures["pace"] = pace["pace"]
    spent = [last.folder / "train.seconds", *(f.with_suffix(".seconds") for f in files)]
    return {
        "name": row.name,
        "kind": kind_of(row),
        "seed": seed,
        "hash": last.key,
        "command": command(row, seed, place),
        "figures": figures,
        "machine": weights.read_card(last.folder)["machine"],
        "seconds": round(sum(float(f.read_text()) for f in spent if f.exists())),
    }


def kind_of(row: Row) -> str:
    """What a row is about: its tokenizer, its prior or its way to sample."""
    if row.prior is None:
        return "tokenizer"
    return "prior" if row.acceptance == 1 else "rejection"


def command(row: Row, seed: int, place: Place) -> str:
    """What computes this row again."""
    words = ["minivim", "reproduce", "grid", "--only", row.name, "--seeds", str(seed)]
    if place.spec != "shapes":
        words += ["--data", place.spec]
    for option, ref in (("judge", place.judge), ("classifier", place.classifier)):
        if ref != network_of(place.family.name, option):
            words += [f"--{option}", ref]
    return shlex.join(words)


Measure = tuple[Path, dict[str, Any], Callable[[], dict[str, Any]]]


def _measures(row: Row, seed: int, place: Place) -> list[Measure]:
    """Files of a row's figures, what these depend on, and what fills each."""
    folder, family = stages(row, seed, place)[-1].folder, place.family
    figures, images = folder / stored.FIGURES, {"images": family.images}
    judge = {"judge": stored.network_hash(place.judge)}
    if row.prior is None:
        return [(figures, images | judge, lambda: _tokenizer_figures(folder, place))]
    of = judge | {"samples": family.samples}
    if row.acceptance < 1:
        of["classifier"] = stored.network_hash(place.classifier)
    samples = folder / f"samples-{row.acceptance:g}.json"
    all_of: list[Measure] = [
        (figures, images, lambda: _prior_figures(folder, place)),
        (samples, of, lambda: _sample_figures(folder, place, seed, row.acceptance)),
    ]
    if not row.prior.labels:
        probe, of = folder / "probe.json", {"probe": list(family.probe)}
        all_of.append((probe, of, lambda: _probe_figures(folder, place)))
    return all_of


def _tokenizer_figures(folder: Path, place: Place) -> dict[str, Any]:
    tokenizer, judge = weights.load(folder), weights.load(place.judge)
    found = tokenizer_figures(
        tokenizer, place.source("test"), count=place.family.images, judge=judge
    )
    count = tokenizer.config.parameters or count_parameters(tokenizer)
    return found | {"parameters": count}


def _pace_file(seed: int, place: Place) -> tuple[Path, dict[str, Any]]:
    """Where the speeds of all timed rows of a seed are, and what they depend on."""
    of = {row.name: stages(row, seed, place)[0].key for row in ROWS if row.timed}
    return place.out / f"pace-{seed}.json", of


def measure_pace(seed: int, place: Place) -> None:
    """Images that one second of processor time trains, of every timed row.

    All of them together, whichever rows are wanted, since only ratios of figures that
    were measured in turns compare.
    """
    recipes: Any = {
        row.name: stages(row, seed, place)[0].recipe for row in ROWS if row.timed
    }

    def measure() -> dict[str, Any]:
        found = in_turns(
            recipes, place.source("test"), timer=time.process_time, quiet=place.quiet
        )
        return {"pace": PACE, "images_per_second": found}

    stored.measured(*_pace_file(seed, place), measure)


def _prior_figures(folder: Path, place: Place) -> dict[str, Any]:
    tokenizer, model = weights.load_pair(folder)
    found = prior_figures(
        model, tokenizer, place.source("test"), count=place.family.images
    )
    # Per image, so that grids of other lengths compare.
    nats = found["nll"] * model.config.num_tokens
    return {
        "nll": found["nll"],
        "nll_per_image": nats,
        "parameters": model.config.parameters,
    }


def _sample_figures(
    folder: Path, place: Place, seed: int, acceptance: float
) -> dict[str, Any]:
    """Samples beside as many test images, by the judge; at temperature 1."""
    tokenizer, model = weights.load_pair(folder)
    count = place.family.samples
    found = judged_figures(
        model, tokenizer, weights.load(place.judge), place.source("test"),
        samples=count, count=count, seed=seed, quiet=place.quiet,
        drawn=drawn(model, tokenizer, place, seed, acceptance=acceptance, count=count),
    )  # fmt: skip
    names = {
        "samples": "samples",
        "judge_distance_samples": "sample_distance",
        "judge_agrees": "judge_agrees",
    }
    return {ours: found[name] for name, ours in names.items() if name in found}


def drawn(
    model: Any,
    tokenizer: Any,
    place: Place,
    seed: int,
    *,
    acceptance: float,
    count: int,
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Images and labels, with or without rejection, in parts."""
    if acceptance == 1:
        return draw(model, tokenizer, samples=count, seed=seed)
    labels = np.arange(count, dtype=np.int32) % model.config.num_classes
    found = prior.reject(
        model, tokenizer, weights.load(place.classifier), key=jax.random.key(seed),
        labels=labels, acceptance=acceptance, quiet=True,
    )  # fmt: skip
    return [(found.images[found.chosen], labels)]


def _probe_figures(folder: Path, place: Place) -> dict[str, Any]:
    """Accuracy of every block and baseline; the block is chosen on training images."""
    tokenizer, model = weights.load_pair(folder)
    train_size, test_size = place.family.probe
    recipe = ProbeRecipe(
        name="grid", prior=str(folder), tokenizer="", train_size=train_size,
        test_size=test_size,
    )  # fmt: skip
    found = probe(
        recipe, model, tokenizer, train=place.source("train"), test=place.source("test")
    )
    blocks = list(found.block_accuracy)
    return {
        "probe": found.accuracy,
        "probe_blocks": blocks,
        "probe_first": blocks[0],
        "probe_middle": blocks[(len(blocks) - 1) // 2],
        "probe_last": blocks[-1],
        **{f"probe_{name}": pair[1] for name, pair in found.baselines.items()},
    }


def run_rows(
    rows: Sequence[Row], seeds: Sequence[int], place: Place
) -> list[dict[str, Any]]:
    """The records of all rows, trained as far as need be; then the speeds.

    Row by row, so that what is there when it is stopped has all its seeds.
    """
    for row in rows:
        for seed in seeds:
            seconds = run_row(row, seed, place)["seconds"]
            if not place.quiet:
                print(f"{row.name}, seed {seed}: {seconds} s", flush=True)
    if any(row.timed for row in rows):
        for seed in seeds:
            measure_pace(seed, place)
    found = (read_row(row, seed, place) for row in rows for seed in seeds)
    return [record for record in found if record]
