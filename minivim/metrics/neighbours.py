"""The nearest training image of each sample: has a model learnt images by heart?

It has if samples are much nearer to training images than new real images are.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from minivim.data import Source, in_order


class Neighbours(NamedTuple):
    """The nearest of each: its number in the source, and the distance, float64."""

    indices: Int[np.ndarray, " M"]
    distances: Float[np.ndarray, " M"]


def nearest(
    rows: Float[np.ndarray, "M D"],
    source: Source,
    look: Callable[[np.ndarray], np.ndarray],
    *,
    batch_size: int = 256,
    quiet: bool = True,
) -> Neighbours:
    """Nearest rows `look(images)` of a source, by Euclidean distance.

        |q - x|^2 = |q|^2 - 2 q . x + |x|^2, one product of matrices for each batch

    look: images float32 [n, H, W, C] in [0, 1] to rows [n, D], such as `pixels`. In
    float64: an image and its copy differ only by the rounding of large squares.
    """
    wanted = np.asarray(rows, np.float64)
    squares = np.square(wanted).sum(axis=1)
    best, indices = np.full(len(wanted), np.inf), np.zeros(len(wanted), np.int64)
    read = in_order(source, batch_size=batch_size, desc="neighbours", quiet=quiet)
    for number, batch in enumerate(read):
        others = np.asarray(look(batch["image"]), np.float64)
        apart = squares[:, None] - 2 * wanted @ others.T + np.square(others).sum(axis=1)
        least = apart.min(axis=1)
        indices[least < best] = number * batch_size + apart.argmin(axis=1)[least < best]
        best = np.minimum(best, least)
    return Neighbours(indices, np.sqrt(best.clip(0)))


def pixels(images: np.ndarray) -> Float[np.ndarray, "n D"]:
    """Images as rows of their values."""
    return images.reshape(len(images), -1)


def share_nearer(
    samples: Float[np.ndarray, " M"], held_out: Float[np.ndarray, " N"]
) -> float:
    """How often a sample is nearer to the training images than a held-out image is.

    P(d < h) + P(d = h) / 2 over all pairs: 1/2 where they are alike, 1 for copies
    """
    return float(np.heaviside(held_out - samples[:, None], 0.5).mean())
