"""Options, stored figures and pages: what all studies share.

A run is named by a hash of everything that makes its weights: its recipe, seed and
data, the weights of a perceptual network, and for a prior the hash of its tokenizer.
Figures lie beside the weights they describe, together with the networks and sizes they
depend on; where those have changed, they are measured again.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from minivim import data, files, show, weights
from minivim.config import PaletteRecipe, PriorRecipe, ProbeRecipe, TokenizerRecipe
from minivim.data import Source
from minivim.errors import UserError
from minivim.probe import ProbeResult
from minivim.trainer import probe, train
from minivim_lab.igpt import train_palette

FIGURES = "figures.json"
PICTURES = 12  # images in a strip of a picture
StageRecipe = TokenizerRecipe | PaletteRecipe | PriorRecipe


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line beside the study's name; an empty value means its default."""

    family: str = ""  # of the shipped weights; a study knows its own
    data: str = ""
    out: Path = Path("runs/reproduce")  # the folder of all runs
    only: tuple[str, ...] = ()  # names of rows, or text that names contain
    seeds: tuple[int, ...] = ()
    speed: bool = False  # also measure how many images per second each tokenizer trains
    judge: str = ""
    classifier: str = ""
    page: Path | None = None  # the folder of a page of the book
    quiet: bool = False

    def of(self, family: str) -> "Options":
        """What is empty filled in for a study on this family's data."""
        refs = {n: getattr(self, n) or f"{family}/{n}" for n in ("judge", "classifier")}
        where = self.data or weights.DATA[family]
        return replace(self, family=family, data=where, **refs)

    def chosen(self, rows: tuple[Any, ...]) -> list[Any]:
        """The rows that `only` names; other text means all names that contain it."""
        names = {row.name for row in rows}
        wanted = set() if self.only else names
        for text in self.only:
            found = {text} & names or {name for name in names if text in name}
            if not found:
                known = ", ".join(row.name for row in rows)
                raise UserError(f"no row holds {text!r}; there are {known}")
            wanted |= found
        return [row for row in rows if row.name in wanted]

    def source(self, split: str, **shape: int) -> Source:
        """A split of the data, opened once in a process."""
        return _source(self.data, split, **shape)


@cache
def _source(spec: str, split: str, **shape: int) -> Source:
    return data.open_source(spec, split=split, **shape)


@cache
def network_hash(ref: str) -> str:
    """The hash of a network's weights, wherever they lie."""
    return weights.weights_hash(weights.load(ref))


def recipe_hash(recipe: StageRecipe, *, data: str, below: str = "") -> str:
    """Twelve hex digits of what makes a run's weights: recipe, data, tokenizer.

    Names and places do not count, nor does a setting at its default: a setting that a
    later version adds changes no hash. A perceptual network counts by its weights.
    """
    plain = _changed(recipe)
    for name in ("name", "tokenizer"):
        plain.pop(name, None)
    if isinstance(recipe, TokenizerRecipe) and recipe.perceptual_net:
        plain["perceptual_net"] = network_hash(recipe.perceptual_net)
    whole = {"stage": recipe.stage, "data": data, "tokenizer": below, **plain}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]


def _changed(config: Any) -> dict[str, Any]:
    """The fields that differ from their defaults, in nested configs likewise."""
    found: dict[str, Any] = {"": type(config).__name__}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            found[item.name] = _changed(value)
        elif value != item.default:
            found[item.name] = value
    return found


def measured(file: Path, of: dict[str, Any], measure: Callable[[], Any]) -> Any:
    """The figures of a file, measured first unless it has them for the same `of`."""
    if read(file, of) is None:
        seconds = file.with_suffix(".seconds")
        if file.exists():
            file.unlink()
            seconds.unlink(missing_ok=True)
        with metered(seconds):
            found = measure()
        files.write_json(file, {"of": of, "figures": found})
    return read(file, of)


def read(file: Path, of: dict[str, Any]) -> Any:
    """The figures of a file; None without one, or if they depend on something else."""
    if not file.exists():
        return None
    whole = json.loads(file.read_text())
    return whole["figures"] if whole.get("of") == of else None


def trained(recipe: StageRecipe, folder: Path, options: Options) -> None:
    """Train a recipe in a folder unless that is finished; its seconds are beside it."""
    if (folder / weights.CARD).exists():
        return
    with metered(folder / "train.seconds"):
        if isinstance(recipe, PaletteRecipe):
            train_palette(recipe, options.data, folder)
        else:
            train(recipe, options.data, folder, quiet=options.quiet)


def probed(ref: str | Path, sizes: tuple[int, int], options: Options) -> ProbeResult:
    """The probe of a prior on so many training and test images."""
    tokenizer, prior = weights.load_pair(ref)
    size = {"train_size": sizes[0], "test_size": sizes[1]}
    recipe = ProbeRecipe(name="study", prior=str(ref), tokenizer="", **size)
    shape = tokenizer.config.image_shape
    train, test = (options.source(split, **shape) for split in ("train", "test"))
    return probe(recipe, prior, tokenizer, train=train, test=test)


@contextmanager
def metered(file: Path) -> Iterator[None]:
    """Add the processor seconds of the block to a file, also when it is interrupted."""
    began = time.process_time()
    try:
        yield
    finally:
        before = float(file.read_text()) if file.exists() else 0.0
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{before + time.process_time() - began:.1f}\n")


def write_page(folder: Path, name: str, figures: Any, text: str, plots: dict) -> None:
    """Write `NAME.json`, `NAME.md` and plots by name; delete a picture that is None."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / f"{name}.json", figures)
    files.write(folder / f"{name}.md", text)
    for title, plot in plots.items():
        file = folder / f"{title}.png"
        if plot is None:
            file.unlink(missing_ok=True)
        else:
            files.write(file, show.to_png(plot))


def strips(images: Mapping[str, np.ndarray]) -> show.Plot:
    """A line of at most `PICTURES` images for each title."""
    lengths = [len(strip) for strip in images.values()]
    labels = np.repeat(np.arange(len(images)), lengths)
    stacked = np.concatenate([*images.values()])
    return show.samples_by_class(stacked, labels, [*images], columns=PICTURES)
