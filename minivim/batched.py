"""A function over many rows, one batch at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float

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


def features_and_logits(
    network: Any, images: Any, *, batch_size: int = 256
) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N K"]]:
    """`aux["features"][-1]` averaged over positions, and logits, of [N, H, W, C]."""
    images = data.unit_images(images, keep_bytes=True)
    return in_batches(partial(_pooled, network), images, batch_size=batch_size)


@nnx.jit
def _pooled(network: Any, images: ArrayLike) -> tuple[Array, Array]:
    logits, aux = network(jnp.asarray(images))
    return aux["features"][-1].mean(axis=(1, 2)), logits
