"""The Frechet distance against closed forms, and over a network's features."""

import jax.numpy as jnp
import numpy as np
import pytest

from minivim import classifier, data, metrics, weights
from minivim.config import ClassifierConfig
from minivim.errors import UserError
from minivim.metrics import frechet_distance, gaussian, judge_distance
from minivim.metrics.judged import features_and_logits
from tests import tiny

RNG = np.random.default_rng(0)


def covariance(rank: int, size: int = 5) -> np.ndarray:
    root = RNG.standard_normal((size, rank))
    return root @ root.T


def test_of_one_dimension_it_is_means_and_deviations_apart():
    """(m1 - m2)^2 + (s1 - s2)^2."""
    one, four, large = np.ones(1), np.full((1, 1), 4.0), np.full((1, 1), 25.0)
    found = frechet_distance(one, four, 4 * one, large)
    assert found == pytest.approx(9 + 9)


@pytest.mark.paper("the Frechet distance on features of our own judge")
def test_of_covariances_that_commute_it_is_the_sum_over_axes():
    axes, _ = np.linalg.qr(RNG.standard_normal((5, 5)))
    a, b = RNG.random((2, 5))
    m1, m2 = RNG.random((2, 5))
    found = frechet_distance(m1, axes * a @ axes.T, m2, axes * b @ axes.T)
    want = ((m1 - m2) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert found == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("ranks", [(5, 5), (2, 5), (2, 1)])
def test_symmetric_and_zero_at_equality(ranks):
    """Singular covariances too, where a product's root may turn complex."""
    one, other = ((RNG.random(5), covariance(rank)) for rank in ranks)
    there, back = frechet_distance(*one, *other), frechet_distance(*other, *one)
    assert there == pytest.approx(back, rel=1e-6)
    assert there > ((one[0] - other[0]) ** 2).sum()
    assert frechet_distance(*one, *one) == pytest.approx(0, abs=1e-6)


def test_float32_would_lose_it():
    """Two covariances that differ in the sixth digit, of features far from 0."""
    rows = 100 + RNG.standard_normal((400, 5))
    apart = frechet_distance(*gaussian(rows), *gaussian(100 + (rows - 100) * 1.001))
    deviations = np.sqrt(np.linalg.eigvalsh(gaussian(rows)[1]))
    shift = (gaussian(rows)[0] - 100) * 1e-3
    want = (deviations**2).sum() * 1e-6 + (shift**2).sum()
    assert apart == pytest.approx(want, rel=1e-3)


def test_gaussian_is_mean_and_unbiased_covariance():
    rows = RNG.standard_normal((7, 3)).astype(np.float32)
    mean, cov = gaussian(rows)
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    np.testing.assert_allclose(cov, centred.T @ centred / 6, rtol=1e-12)
    np.testing.assert_allclose(mean, rows.mean(0, dtype=np.float64), rtol=1e-12)
    assert mean.dtype == cov.dtype == np.float64
    assert gaussian(rows[:, :1])[1].shape == (1, 1)


def test_sums_of_squares_would_lose_it():
    """The other formula, E x^2 - (E x)^2, of features far from zero."""
    rows = 1e8 + np.random.default_rng(0).standard_normal((500, 2))
    found = np.diag(gaussian(rows)[1])
    np.testing.assert_allclose(found, rows.var(0, ddof=1), rtol=1e-9)
    bad = (np.square(rows).mean(0) - np.square(rows.mean(0))) * 500 / 499
    assert np.abs(bad / found - 1).max() > 1e-2


@pytest.mark.parametrize("count", [0, 1])
def test_a_single_row_has_no_covariance(count):
    with pytest.raises(UserError, match=f"two images or more, got {count}; give more"):
        gaussian(np.zeros((count, 3)))


def test_unequal_sizes_are_refused():
    one, other = (gaussian(RNG.random((9, width))) for width in (3, 4))
    with pytest.raises(ValueError, match="two equal"):
        frechet_distance(*one, *other)


# --- by the judge ------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge():
    config = ClassifierConfig(kind="residual", num_classes=3, width=8)
    return tiny.build(classifier.build, config)


def test_features_are_the_last_block_whatever_the_batches(judge):
    images = tiny.images(11, 16)
    found, _ = features_and_logits(judge, images, batch_size=4)
    _, aux = tiny.call(judge, jnp.asarray(images, jnp.float32) / 255)
    want = np.mean(aux["features"][-1], axis=(1, 2))
    np.testing.assert_allclose(found, want, atol=1e-5)
    whole, _ = features_and_logits(judge, images.astype(np.float32) / 255)
    np.testing.assert_allclose(found, whole, atol=1e-5)


@pytest.mark.paper("the Frechet distance on features of our own judge")
def test_judge_distance_is_the_distance_of_its_features(judge):
    one, other = tiny.images(20, 16), tiny.images(30, 16, seed=1) // 2
    parts = (gaussian(features_and_logits(judge, images)[0]) for images in (one, other))
    (m1, s1), (m2, s2) = parts
    found = judge_distance(judge, one, other, batch_size=16)
    assert found == pytest.approx(frechet_distance(m1, s1, m2, s2), rel=1e-4)
    assert judge_distance(judge, one, one) == pytest.approx(0, abs=1e-6)
    with pytest.raises(UserError, match="give more images"):
        judge_distance(judge, one, other[:1])


def test_the_shipped_judge_tells_noise_from_sampling():
    judge = weights.load("shapes/judge")
    source = data.open_source("shapes", split="test", image_size=32, channels=3)
    images = data.stack(source, 1024)["image"].astype(np.float32) / 255
    one, other = images[:512], images[512:]
    noise = 0.1 * RNG.standard_normal(one.shape, np.float32)
    far = metrics.judge_distance(judge, one, np.clip(one + noise, 0, 1))
    assert far > 1.5 * metrics.judge_distance(judge, one, other) > 0
