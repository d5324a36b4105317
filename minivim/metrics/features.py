"""What a network sees in images: pooled features and logits, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from minivim.data import padded
from minivim.sharding import fetch

Seen = tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N K"]]


def features_and_logits(
    network: Callable[..., Any], images: ArrayLike, *, batch_size: int = 256
) -> Seen:
    """`aux["features"][-1]` averaged over positions, and the logits, of all images.

    images: uint8, or float in [0, 1], [N, H, W, C].
    """
    array = np.asarray(images)
    size = min(batch_size, len(array))
    parts = [_seen(network, part, size) for part in chunks(array, batch_size)]
    features, logits = zip(*parts, strict=True)
    return np.concatenate(features), np.concatenate(logits)


def chunks(images: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Parts of one size, the last one shorter; one empty part of no images."""
    for first in range(0, max(len(images), 1), batch_size):
        yield images[first : first + batch_size]


def _seen(network: Callable[..., Any], images: np.ndarray, size: int) -> Seen:
    scaled = images.astype(np.float32) / 255 if images.dtype == np.uint8 else images
    rows = jnp.asarray(padded(scaled, size), jnp.float32)
    found = jax.tree.map(fetch, _pooled(network, rows))
    return jax.tree.map(lambda x: x[: len(images)], found)


@nnx.jit
def _pooled(
    network: Callable[..., Any], images: Float[Array, "B H W C"]
) -> tuple[Float[Array, "B D"], Float[Array, "B K"]]:
    logits, aux = network(images)
    return aux["features"][-1].mean(axis=(1, 2)), logits
