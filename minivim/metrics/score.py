"""How sure of one class a network is of each image, and how many classes it sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from minivim.errors import UserError
from minivim.metrics.features import features_and_logits

SPLITS = 10  # of the first implementation of the Inception Score


class ClassScore:
    """The formula of the Inception Score, from sums: constant memory.

        mean_s exp( mean_{i in s} KL(p_i || mean_{j in s} p_j) )

    Over `splits` equal parts, each with its own marginal (Salimans et al. 2016, arXiv
    1606.03498, section 4, and its code). Between 1 and the number of classes. Small
    parts lie: of n images it cannot exceed n, so compare equal numbers only.
    """

    def __init__(self, *, splits: int = SPLITS):
        self.counts = np.zeros(splits, np.int64)
        self._sums: np.ndarray | None = None
        self._certainty = np.zeros(splits)

    def update(
        self, probabilities: ArrayLike, parts: Int[np.ndarray, " n"] | int
    ) -> ClassScore:
        """Take in rows [n, K] that sum to 1, and the number of each one's part."""
        rows = np.asarray(probabilities, np.float64)
        parts = np.broadcast_to(parts, len(rows))
        if self._sums is None:
            self._sums = np.zeros((len(self.counts), rows.shape[1]))
        np.add.at(self._sums, parts, rows)
        np.add.at(self._certainty, parts, -_entropy(rows))
        np.add.at(self.counts, parts, 1)
        return self

    def result(self) -> float:
        """The score. Raises `UserError` where a part is empty."""
        if self._sums is None or not self.counts.all():
            raise UserError(
                f"a score over {len(self.counts)} parts needs as many images, got "
                f"{self.counts.sum()}; give more images"
            )
        marginal = self._sums / self.counts[:, None]
        apart = self._certainty / self.counts + _entropy(marginal)
        return float(np.exp(apart).mean())


def inception_score(
    probabilities: Float[ArrayLike, "N K"], *, splits: int = SPLITS
) -> float:
    """exp(mean KL(p(y|x) || p(y))) over consecutive parts of the rows, then averaged.

    Rows in the order they were drawn: sorted by class, each part would hold few
    classes. Ten parts by default, as in the first implementation. Raises `UserError`
    for fewer rows than parts.
    """
    rows = np.asarray(probabilities)
    ends = np.arange(1, splits) * len(rows) // splits
    parts = np.searchsorted(ends, np.arange(len(rows)), side="right")
    return ClassScore(splits=splits).update(rows, parts).result()


# Paper silent, section 5.2: the formula of the Inception Score over our own judge
def judge_score(
    judge: Callable[..., Any],
    images: ArrayLike,
    *,
    splits: int = SPLITS,
    batch_size: int = 256,
) -> float:
    """The formula of the Inception Score on the judge's own classes.

    Not an Inception Score: between 1 and the judge's number of classes, and its values
    mean nothing beside those of another network. images: uint8, or float in [0, 1],
    [N, H, W, C], not sorted by class. Raises `UserError` for fewer images than parts.
    """
    _, logits = features_and_logits(judge, images, batch_size=batch_size)
    return inception_score(probabilities(logits), splits=splits)


def probabilities(logits: Float[ArrayLike, "N K"]) -> Float[np.ndarray, "N K"]:
    """Softmax in float64."""
    rows = np.asarray(logits, np.float64)
    rows = np.exp(rows - rows.max(axis=1, keepdims=True, initial=-np.inf))
    return rows / rows.sum(axis=1, keepdims=True)


def _entropy(rows: np.ndarray) -> np.ndarray:
    """- sum_k p_k ln p_k of each row, in nats."""
    return -(rows * np.log(rows, where=rows > 0, out=np.zeros_like(rows))).sum(axis=1)
