"""The Frechet distance between two sets of images, by the features of a network.

The distance alone: FID is this over Inception's features, with its own resizing, sample
count and reference set, and its values mean nothing beside those of another network.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from minivim.metrics.features import chunks, features_and_logits
from minivim.metrics.moments import Gaussian, Moments


def frechet_distance(
    mean1: ArrayLike, cov1: ArrayLike, mean2: ArrayLike, cov2: ArrayLike
) -> float:
    """Squared Frechet distance of two normal distributions, in float64.

        |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1^1/2 S2 S1^1/2)^1/2

    The symmetric form: its eigenvalues are those of S1 S2, but real and not negative
    even where a covariance is singular (Heusel et al. 2017, arXiv 1706.08500; the
    paper's metric over Inception, Table 3). Means [D], covariances [D, D]. Raises
    `ValueError` for unequal shapes.
    """
    m1, s1, m2, s2 = (np.asarray(x, np.float64) for x in (mean1, cov1, mean2, cov2))
    if m1.shape != m2.shape or s1.shape != s2.shape or s1.shape != m1.shape * 2:
        raise ValueError(
            f"means must be two equal [D], covariances two [D, D], got {m1.shape}, "
            f"{m2.shape}, {s1.shape}, {s2.shape}"
        )
    values, vectors = np.linalg.eigh(s1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ s2 @ root).clip(0)).sum()
    return float(np.square(m1 - m2).sum() + np.trace(s1) + np.trace(s2) - 2 * shared)


# Paper silent, Table 3: the Frechet distance on features of our own judge
def judge_distance(
    judge: Callable[..., Any],
    a_images: ArrayLike,
    b_images: ArrayLike,
    *,
    batch_size: int = 256,
) -> float:
    """Frechet distance between two sets of images by the features of the judge.

    The features are the output of its last block averaged over positions, `[N, 64]` of
    the shipped one: of its layers the one where reconstructions stand out most from
    real images of the same number: 0.12 against 0.03 for 2,048 in each set. A few
    images lie: two sets of real ones, the first large, are 0.02 apart with 2,048 in the
    second and 0.45 with 256. Compare equal numbers only.

    a_images, b_images: uint8, or float in [0, 1], [N, H, W, C]. Raises `UserError` for
    fewer than two images in a set.
    """

    def normal(images: ArrayLike) -> Gaussian:
        moments = Moments()
        for part in chunks(np.asarray(images), batch_size):
            seen = features_and_logits(judge, part, batch_size=batch_size)
            moments.update(seen[0])
        return moments.gaussian()

    return frechet_distance(*normal(a_images), *normal(b_images))
