"""Quantizers, recipes and losses of one's own, known by name to every command."""

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from minivim.config import AnyQuantizerConfig, LossConfig, Recipe
from minivim.config.checks import require
from minivim.config.settings import REGISTERED
from minivim.context import LOSSES
from minivim.errors import UserError
from minivim.recipes import RECIPES
from minivim.tokenizer.quantizer import QUANTIZERS


def register(
    name: str,
    made: type[AnyQuantizerConfig] | Callable[[], Recipe] | None = None,
    module: type | None = None,
    *,
    loss: Callable[[dict, dict], Any] | None = None,
) -> None:
    """Make a quantizer, a recipe or a loss known by a name; a second call replaces it.

    `register("fsq", FSQConfig, FSQ)`: settings and module as `AnyQuantizerConfig` says.
    The name is written on cards and into runs, and `load` finds the classes by it.
    `register("mine", make)`: `make()` returns a recipe of that name.
    `register("edges", loss=f)`: `f(outputs, batch)` returns a scalar, a term that
    `train(..., losses={"edges": 0.1})` adds. `outputs` has what the model returns and
    "recon" or "logits", `batch` "image", "codes" and "label" as the model sees them.
    """
    if loss is not None:
        told = f"the loss {name!r} is one of minivim's own or no function"
        own = name in vars(LossConfig()) or not name.isidentifier()
        require(callable(loss) and not own, f"{told}; register(NAME, loss=FUNCTION)")
        LOSSES[name] = loss
        return
    if isinstance(made, type):
        if module is None or not issubclass(made, AnyQuantizerConfig):
            remedy = "give settings that inherit from AnyQuantizerConfig and a module"
            raise UserError(f"{made.__name__} is not registered; {remedy}")
        REGISTERED[name], QUANTIZERS[made] = made, module
        return
    told = f"{name!r} is not registered; give a function that returns a recipe"
    require(callable(made), f"{told}, or loss=FUNCTION")
    make: Any = made
    recipe = make()
    told = f"the recipe {recipe.name!r} is registered as {name!r}"
    require(recipe.name == name, f"{told}; use one name")
    RECIPES[recipe.stage, name] = make


def import_modules(names: list[str]) -> None:
    """Import what `--import` names, and the entry points `minivim.plugins`."""
    # Modules of the current folder, last: it may be of data that hold a datasets.py.
    sys.path += [""] if names and "" not in sys.path else []
    points = entry_points(group="minivim.plugins")
    steps: Any = [(f"the plugin {point.name}", point.load) for point in points]
    steps += [(f"--import {name}", partial(import_module, name)) for name in names]
    for told, step in steps:
        try:
            step()
        except UserError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{told}: {reason}; mend or remove that module") from error
