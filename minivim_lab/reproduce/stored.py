"""Which run is which, and what is kept of it: hashes, and files of figures.

A run is named by a hash of all that makes its weights: its recipe, seed and data, the
weights of a perceptual network, and of a prior also the hash of its tokenizer. Figures
lie beside the weights they are of, with the networks and sizes they depend on; where
those are others now, they are measured again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from minivim import data, weights
from minivim.config import PaletteRecipe, PriorRecipe, TokenizerRecipe
from minivim.data import Source

FIGURES = "figures.json"
StageRecipe = TokenizerRecipe | PaletteRecipe | PriorRecipe


@cache
def source(spec: str, split: str, *, image_size: int, channels: int = 3) -> Source:
    """A split, opened once in a process."""
    return data.open_source(spec, split=split, image_size=image_size, channels=channels)


@cache
def network_hash(ref: str) -> str:
    """The hash of a network's weights, wherever they lie."""
    return weights.weights_hash(weights.load(ref))


def recipe_hash(recipe: StageRecipe, *, data: str, below: str = "") -> str:
    """Twelve hex digits of what makes a run's weights: recipe, data, tokenizer.

    Names and places do not count, nor does a setting at its default, so that a setting
    that a later version adds changes no hash. Of a perceptual network the weights do.
    """
    plain = _changed(recipe)
    for name in ("name", "tokenizer"):
        plain.pop(name, None)
    if isinstance(recipe, TokenizerRecipe) and recipe.perceptual_net:
        plain["perceptual_net"] = network_hash(recipe.perceptual_net)
    whole = {"stage": recipe.stage, "data": data, "tokenizer": below, **plain}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]


def _changed(config: Any) -> dict[str, Any]:
    """Fields that differ from their default, of nested configs the same."""
    found: dict[str, Any] = {"": type(config).__name__}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.default is not dataclasses.MISSING and value == item.default:
            continue
        nested = dataclasses.is_dataclass(value)
        found[item.name] = _changed(value) if nested else value
    return found


def measured(file: Path, of: dict[str, Any], measure: Callable[[], Any]) -> Any:
    """Figures of a file, which is filled unless those in it depend on the same."""
    if (known := read(file, of)) is not None:
        return known
    seconds = file.with_suffix(".seconds")
    if file.exists():
        file.unlink()
        seconds.unlink(missing_ok=True)
    with metered(seconds):
        found = measure()
    file.write_text(json.dumps({"of": of, "figures": found}, indent=1) + "\n")
    return read(file, of)


def read(file: Path, of: dict[str, Any]) -> Any:
    """Figures of a file; None without one or where they depend on something else."""
    if not file.exists():
        return None
    whole = json.loads(file.read_text())
    return whole["figures"] if whole.get("of") == of else None


@contextmanager
def metered(file: Path) -> Iterator[None]:
    """Add the processor seconds of what is inside to a file, also when it is stopped.

    Seconds of the clock would count whatever else the machine does.
    """
    began = time.process_time()
    try:
        yield
    finally:
        before = float(file.read_text()) if file.exists() else 0.0
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{before + time.process_time() - began:.1f}\n")
