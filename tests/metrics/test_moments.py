"""Running moments: the same as of all rows at once, whatever the batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivim.errors import UserError
from minivim.metrics import Moments, gaussian


def split(rows: np.ndarray, batch: int) -> list[np.ndarray]:
    return [rows[i : i + batch] for i in range(0, len(rows), batch)]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(2, 60),
    size=st.integers(1, 6),
    batch=st.integers(1, 70),
    far=st.sampled_from([0.0, 1e4]),
)
def test_batches_change_nothing(seed, count, size, batch, far):
    rows = far + np.random.default_rng(seed).standard_normal((count, size))
    want = rows.mean(0), np.atleast_2d(np.cov(rows, rowvar=False))
    moments = Moments()
    for part in split(rows, batch):
        moments.update(part)
    assert moments.count == count
    mean, cov = moments.gaussian()
    np.testing.assert_allclose(mean, want[0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(cov, want[1], rtol=1e-9, atol=1e-9)


def test_sums_of_squares_would_lose_it():
    """The other formula, E x^2 - (E x)^2, of features far from zero."""
    rows = 1e8 + np.random.default_rng(0).standard_normal((500, 2))
    found = np.diag(gaussian(rows)[1])
    np.testing.assert_allclose(found, rows.var(0, ddof=1), rtol=1e-9)
    bad = (np.square(rows).mean(0) - np.square(rows.mean(0))) * 500 / 499
    assert np.abs(bad / found - 1).max() > 1e-2


def test_errors():
    with pytest.raises(UserError, match="two images or more, got 1; give more"):
        Moments().update(np.ones((1, 3))).gaussian()
    with pytest.raises(UserError, match="got 0"):
        Moments().update(np.ones((0, 3))).gaussian()
    for bad in (np.ones((2, 4)), np.ones(3)):
        with pytest.raises(ValueError, match=r"rows \[n, 3\]"):
            Moments().update(np.ones((1, 3))).update(bad)
