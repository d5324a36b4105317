"""ViT-VQGAN and Vector-quantized Image Modeling, small enough to read."""

from typing import Any

import minivim.start  # first of all
from minivim import data, metrics, recipes
from minivim.errors import UserError
from minivim.plugins import register
from minivim.prior import Prior, complete, reject, sample
from minivim.recipes import recipe
from minivim.tokenizer import Tokenizer
from minivim.weights import load, load_pair

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`train`, which is slow to import."""
    if name != "train":
        raise AttributeError(f"module 'minivim' has no attribute {name!r}")
    from minivim.trainer import train

    return train
