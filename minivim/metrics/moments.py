"""Mean and covariance of features that arrive in batches, in constant memory."""

from __future__ import annotations

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from minivim.errors import UserError

Gaussian = tuple[Float[np.ndarray, " D"], Float[np.ndarray, "D D"]]


class Moments:
    """Running mean and scatter of rows, in float64, whatever the batches.

        n = a + b,  m = m_a + d b / n,  S = S_a + S_b + d d^T a b / n,  d = m_b - m_a

    Every batch is centred on its own mean before it is squared, so that features far
    from zero lose no digits (Chan, Golub, LeVeque 1979). Memory: one [D, D].
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean, self._scatter = np.zeros(0), np.zeros((0, 0))

    def update(self, features: ArrayLike) -> Moments:
        """Take in rows [n, D], or none. Raises `ValueError` for other shapes."""
        rows = np.asarray(features, np.float64)
        if rows.ndim != 2 or (self.count and rows.shape[1] != len(self._mean)):
            raise ValueError(
                f"features must be rows [n, {len(self._mean) or 'D'}], got {rows.shape}"
            )
        if len(rows):
            mean = rows.mean(axis=0)
            self._add(len(rows), mean, (rows - mean).T @ (rows - mean))
        return self

    def gaussian(self) -> Gaussian:
        """Mean [D] and unbiased covariance [D, D].

        Raises `UserError` for fewer than two rows.
        """
        if self.count < 2:
            raise UserError(
                f"a covariance needs two images or more, got {self.count}; give more "
                "images"
            )
        return self._mean.copy(), self._scatter / (self.count - 1)

    def _add(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if not self.count:
            self.count, self._mean, self._scatter = count, mean.copy(), scatter.copy()
            return
        total, apart = self.count + count, mean - self._mean
        self._mean = self._mean + apart * (count / total)
        outer = np.outer(apart, apart) * (self.count * count / total)
        self._scatter = self._scatter + scatter + outer
        self.count = total


def gaussian(features: ArrayLike) -> Gaussian:
    """Mean and unbiased covariance of rows [N, D], in float64.

    Raises `UserError` for fewer than two rows.
    """
    return Moments().update(features).gaussian()
