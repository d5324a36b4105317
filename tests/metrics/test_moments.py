"""Running moments: the same as of all rows at once, whatever the batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivim.errors import UserError
from minivim.metrics import Moments, frechet_distance, gaussian


def split(rows: np.ndarray, batch: int) -> list[np.ndarray]:
    return [rows[i : i + batch] for i in range(0, len(rows), batch)]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(2, 60),
    size=st.integers(1, 6),
    batch=st.integers(1, 70),
    cut=st.integers(0, 60),
    far=st.sampled_from([0.0, 1e4]),
)
def test_batches_and_merging_change_nothing(seed, count, size, batch, cut, far):
    rows = far + np.random.default_rng(seed).standard_normal((count, size))
    want = rows.mean(0), np.atleast_2d(np.cov(rows, rowvar=False))
    parts = [Moments(), Moments()]
    for moments, some in zip(parts, (rows[:cut], rows[cut:]), strict=True):
        for part in split(some, batch):
            moments.update(part)
    for moments in (
        Moments().merge(parts[0]).merge(parts[1]),
        parts[1].merge(parts[0]),
    ):
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


def test_merging_leaves_the_other_as_it_was():
    rows = np.random.default_rng(0).standard_normal((9, 3))
    one, other = Moments().update(rows[:4]), Moments().update(rows[4:])
    before = other.gaussian()
    Moments().merge(other).update(rows)
    one.merge(other).update(rows)
    np.testing.assert_array_equal(other.gaussian()[1], before[1])
    assert frechet_distance(*other.gaussian(), *before) == pytest.approx(0, abs=1e-9)


def test_errors():
    with pytest.raises(UserError, match="two images or more, got 1; give more"):
        Moments().update(np.ones((1, 3))).gaussian()
    with pytest.raises(UserError, match="got 0"):
        Moments().update(np.ones((0, 3))).gaussian()
    for bad in (np.ones((2, 4)), np.ones(3)):
        with pytest.raises(ValueError, match=r"rows \[n, 3\]"):
            Moments().update(np.ones((1, 3))).update(bad)
