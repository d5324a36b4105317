"""Trains and measures the rows of the grid, each stage once.

Rows that begin alike share their first stage. Interrupted runs continue where they
stopped.
"""

import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from minivim import data, evaluate, weights
from minivim.config import PriorRecipe
from minivim.describe import count_parameters
from minivim.encode import encode_folder
from minivim.prior import Prior, reject
from minivim.tokenizer import Tokenizer
from minivim_lab.reproduce import grid, stored
from minivim_lab.reproduce.grid import FAMILIES, ROWS, Family, Row
from minivim_lab.reproduce.stored import Options
from minivim_lab.reproduce.tokenizers import in_turns

# How images per second are measured, in the words of the page.
PACE = "in turns within one process"
# A file of figures, what these depend on, and what measures them.
Measure = tuple[Path, dict[str, Any], Callable[[], dict[str, Any]]]


class Stage(NamedTuple):
    """A run of stage 1 or 2 and its folder."""

    recipe: stored.StageRecipe
    key: str
    folder: Path


@dataclass(frozen=True)
class Run:
    """A row of the grid from one seed."""

    row: Row
    seed: int
    options: Options

    @property
    def family(self) -> Family:
        return FAMILIES[self.options.family]

    @property
    def folder(self) -> Path:
        return self.stages[-1].folder

    def source(self, split: str) -> data.Source:
        """A split at the family's image size."""
        return self.options.source(split, image_size=self.family.image_size)

    @cached_property
    def stages(self) -> list[Stage]:
        """The row's tokenizer, and its prior if it has one."""
        row, data = (self.row, self.family, self.seed), self.source("train").fingerprint
        out, network = self.options.out.resolve(), self.options.classifier
        first = grid.tokenizer_recipe(*row, classifier=network)
        key = stored.recipe_hash(first, data=data)
        found = [Stage(first, key, out / f"tokenizer-{key}")]
        if self.row.prior:
            folder = str(found[0].folder)
            second = grid.prior_recipe(*row, tokenizer=first, folder=folder)
            key = stored.recipe_hash(second, data=data, below=key)
            found.append(Stage(second, key, out / f"prior-{key}"))
        return found

    def finish(self) -> dict[str, Any]:
        """Train and measure what is missing but the speed; returns the row's record."""
        for recipe, _, folder in self.stages:
            options, done = self.options, (folder / weights.CARD).exists()
            if not done and isinstance(recipe, PriorRecipe) and recipe.codes == "cache":
                options = replace(options, data=str(self._codes()))
            stored.trained(recipe, folder, options)
        for measure in self.measures():
            stored.measured(*measure)
        return self.read() or {}

    def _codes(self) -> Path:
        """The codes of both splits, written beside their tokenizer once."""
        tokenizer = self.stages[0].folder
        folder = tokenizer / "codes"
        if not folder.exists():
            splits = {split: self.source(split) for split in ("train", "test")}
            said = {"name": str(tokenizer), "quiet": self.options.quiet}
            encode_folder(weights.load(tokenizer), folder, splits, **said)
        return folder

    def read(self) -> dict[str, Any] | None:
        spent, figures = [self.folder / "train.seconds"], {}
        for file, of, _ in self.measures():
            if (part := stored.read(file, of)) is None:
                return None
            spent.append(file.with_suffix(".seconds"))
            figures |= part
        file, of = _pace(self.seed, self.options)[:2] if self.row.timed else (None, {})
        if file and (pace := stored.read(file, of)):
            figures["images_per_second"] = pace["images_per_second"][self.row.name]
            figures["pace"] = pace["pace"]
        record = {"name": self.row.name, "kind": self.row.about, "seed": self.seed}
        record |= {"hash": self.stages[-1].key, "command": self.command()}
        machine = weights.read_card(self.folder)["machine"]
        seconds = round(sum(float(f.read_text()) for f in spent if f.exists()))
        return record | {"figures": figures, "machine": machine, "seconds": seconds}

    def command(self) -> str:
        options = self.options
        words = ["minivim", "reproduce", "grid"]
        words += ["--only", self.row.name, "--seeds", str(self.seed)]
        if options.data != "shapes":
            words += ["--data", options.data]
        for option in ("judge", "classifier"):
            if (ref := getattr(options, option)) != f"{options.family}/{option}":
                words += [f"--{option}", ref]
        return shlex.join(words)

    def measures(self) -> list[Measure]:
        """Files of the row's figures, what these depend on, and what fills each."""
        row, family, folder = self.row, self.family, self.folder
        figures, images = folder / stored.FIGURES, {"images": family.images}
        judge = {"judge": stored.network_hash(self.options.judge)}
        if row.prior is None:
            return [(figures, images | judge, self._tokenizer_figures)]
        of = judge | {"samples": family.samples}
        if row.acceptance < 1:
            of["classifier"] = stored.network_hash(self.options.classifier)
        samples = folder / f"samples-{row.acceptance:g}.json"
        found: list[Measure] = [(figures, images, self._prior_figures)]
        found.append((samples, of, self._sample_figures))
        if not row.labels:
            of = {"probe": list(family.probe)}
            found.append((folder / "probe.json", of, self._probe_figures))
        return found

    def _tokenizer_figures(self) -> dict[str, Any]:
        tokenizer, judge = weights.load(self.folder), weights.load(self.options.judge)
        how = evaluate.Options(count=self.family.images, judge=judge)
        found = evaluate.tokenizer_figures(tokenizer, self.source("test"), how)
        return found | {"parameters": count_parameters(tokenizer)}

    def _prior_figures(self) -> dict[str, Any]:
        tokenizer, model = weights.load_pair(self.folder)
        how = evaluate.Options(count=self.family.images)
        found = evaluate.prior_figures(model, tokenizer, self.source("test"), how)
        return {
            "nll": found["nll"],
            # Grids of different lengths compare by the image.
            "nll_per_image": found["nll"] * model.config.num_tokens,
            "parameters": model.config.parameters,
        }

    def _sample_figures(self) -> dict[str, Any]:
        """The judge on samples at temperature 1 and on as many test images."""
        tokenizer, model = weights.load_pair(self.folder)
        count, judge = self.family.samples, weights.load(self.options.judge)
        size = {"samples": count, "count": count, "quiet": self.options.quiet}
        how = evaluate.Options(judge=judge, seed=self.seed, **size)
        drawn, test = self.drawn(tokenizer, model, count=count), self.source("test")
        found = evaluate.judged_figures(model, tokenizer, test, how, drawn=drawn)
        found["sample_distance"] = found["judge_distance_samples"]
        names = ("samples", "sample_distance", "judge_agrees")
        return {name: found[name] for name in names if name in found}

    def drawn(
        self, tokenizer: Tokenizer, model: Prior, *, count: int
    ) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """Images and labels, with or without rejection, in parts."""
        if self.row.acceptance == 1:
            how = evaluate.Options(samples=count, seed=self.seed)
            return evaluate.draw(model, tokenizer, how)
        labels = np.arange(count, dtype=np.int32) % model.config.num_classes
        found = reject(
            model, tokenizer, weights.load(self.options.classifier),
            key=jax.random.key(self.seed), labels=labels,
            acceptance=self.row.acceptance, quiet=True,
        )  # fmt: skip
        return [(found.images[found.chosen], labels)]

    def _probe_figures(self) -> dict[str, Any]:
        """Accuracy of every block; the best is chosen on training images."""
        found = stored.probed(self.folder, self.family.probe, self.options)
        blocks = list(found.block_accuracy)
        probed = {"probe": found.accuracy, "probe_blocks": blocks}
        places = {"first": 0, "middle": (len(blocks) - 1) // 2, "last": -1}
        probed |= {f"probe_{name}": blocks[at] for name, at in places.items()}
        pairs = found.baselines.items()
        return probed | {f"probe_{name}": test for name, (_, test) in pairs}


def check_networks(options: Options) -> None:
    """Raises `UserError` for a judge or a classifier that cannot grade or choose."""
    size = FAMILIES[options.family].image_size
    classes = options.source("test", image_size=size).num_classes
    shape = {"image_size": size, "channels": 3}
    for option, ref in (("judge", options.judge), ("classifier", options.classifier)):
        network = evaluate.load_network(option, ref)
        evaluate.check_fits(f"the {option}", network, classes, shape)


def _pace(seed: int, options: Options) -> Measure:
    """Images that a second of processor time trains, of all timed rows in turns."""
    timed = {row.name: Run(row, seed, options).stages[0] for row in ROWS if row.timed}

    def measure() -> dict[str, Any]:
        recipes: Any = {name: stage.recipe for name, stage in timed.items()}
        source = options.source("test", image_size=FAMILIES[options.family].image_size)
        found = in_turns(recipes, source, timer=time.process_time, quiet=options.quiet)
        return {"pace": PACE, "images_per_second": found}

    of = {name: stage.key for name, stage in timed.items()}
    return options.out / f"pace-{seed}.json", of, measure


def run_rows(
    rows: Sequence[Row], seeds: Sequence[int], options: Options
) -> list[dict[str, Any]]:
    """The records of all rows, trained where necessary; then the speeds."""
    # Row by row: those that are finished at an interruption have all their seeds.
    found = [Run(row, seed, options) for row in rows for seed in seeds]
    for run in found:
        seconds = run.finish()["seconds"]
        if not options.quiet:
            print(f"{run.row.name}, seed {run.seed}: {seconds} s", flush=True)
    if any(row.timed for row in rows):
        for seed in seeds:
            stored.measured(*_pace(seed, options))
    return [record for run in found if (record := run.read())]
