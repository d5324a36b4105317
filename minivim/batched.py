"""A function over many rows, one batch at a time."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from minivim import data
from minivim.sharding import fetch


def in_batches(apply: Callable[[np.ndarray], Any], rows: Any, *, batch_size=256) -> Any:
    """`apply(batch)` for all rows, joined: a tree of NumPy arrays, a row for each.

    uint8 images become floats in [0, 1]. The last batch is padded to the size of the
    others, so that one compiled program serves all.
    """
    rows, parts = np.asarray(rows), []
    size = max(1, min(batch_size, len(rows)))
    for first in range(0, max(1, len(rows)), size):
        part = rows[first : first + size]
        scaled = data.unit_images(part) if part.dtype == np.uint8 else part
        parts.append(fetch(apply(data.padded(scaled, size))))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(rows)], *parts)
