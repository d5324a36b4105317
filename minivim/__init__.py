"""ViT-VQGAN and Vector-quantized Image Modeling, small enough to read."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import minivim.start  # first of all
from minivim import data, metrics, recipes
from minivim.errors import UserError
from minivim.plugins import register
from minivim.prior import Prior, complete, reject, sample
from minivim.recipes import recipe
from minivim.tokenizer import Tokenizer
from minivim.weights import load, load_pair

if TYPE_CHECKING:
    from minivim.portable import export
    from minivim.trainer import train
    from minivim.weights.hub import push

__all__ = [
    "Prior", "Tokenizer", "UserError", "complete", "data", "export", "load",
    "load_pair", "metrics", "push", "recipe", "recipes", "register", "reject",
    "sample", "train",
]  # fmt: skip
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`train`, which is slow to import, `export` and `push`."""
    places = {"train": "trainer", "export": "portable", "push": "weights.hub"}
    if name not in places:
        raise AttributeError(f"module 'minivim' has no attribute {name!r}")
    return getattr(import_module(f"minivim.{places[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
