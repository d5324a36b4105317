"""The formula of the Inception Score: limits, parts, batches, and over the judge."""

import jax.numpy as jnp
import numpy as np
import pytest

from minivim import classifier
from minivim.config import ClassifierConfig
from minivim.errors import UserError
from minivim.metrics import inception_score
from minivim.metrics.judged import features_and_logits, probabilities
from tests import tiny


def by_hand(rows: np.ndarray, splits: int) -> float:
    """As the first implementation writes it, with its consecutive parts."""
    n, found = len(rows), []
    for i in range(splits):
        part = rows[i * n // splits : (i + 1) * n // splits].astype(np.float64)
        kl = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
        found.append(np.exp(kl.sum(axis=1).mean()))
    return float(np.mean(found))


def random_rows(seed: int, count: int, classes: int = 7) -> np.ndarray:
    logits = 3 * np.random.default_rng(seed).standard_normal((count, classes))
    return probabilities(logits)


@pytest.mark.parametrize(("count", "splits"), [(40, 10), (43, 10), (7, 1), (9, 4)])
def test_as_the_first_implementation(count, splits):
    rows = random_rows(count, count)
    found = inception_score(rows, splits=splits)
    assert found == pytest.approx(by_hand(rows, splits), rel=1e-10)


def test_ten_parts_unless_told():
    rows = random_rows(0, 50)
    assert inception_score(rows) == pytest.approx(by_hand(rows, 10), rel=1e-10)
    assert inception_score(rows) < inception_score(rows, splits=1)


def test_limits():
    """Sure of each of K classes alike: K; the same for every image: 1."""
    assert inception_score(np.eye(5)[np.arange(20) % 5], splits=2) == pytest.approx(5)
    assert inception_score(np.full((20, 5), 0.2), splits=2) == pytest.approx(1)
    assert inception_score(np.eye(5)[[2] * 20], splits=2) == pytest.approx(1)
    # Sorted by class, each part sees one class only.
    assert inception_score(np.eye(2)[np.arange(20) // 10], splits=2) == 1


def test_parts_may_be_named():
    rows, parts = random_rows(3, 40), np.arange(40) % 4
    order = np.argsort(parts, kind="stable")
    found = inception_score(rows, splits=4, parts=parts)
    assert found == pytest.approx(by_hand(rows[order], 4), rel=1e-10)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_fewer_images_than_parts_are_refused(count):
    with pytest.raises(UserError, match=f"10 parts needs as many images, got {count}"):
        inception_score(random_rows(0, count))


@pytest.mark.paper("the formula of the Inception Score over our own judge")
def test_the_judges_score_is_that_of_its_probabilities():
    config = ClassifierConfig(kind="residual", num_classes=3, width=8)
    judge = tiny.build(classifier.build, config)
    images = tiny.images(24, 16)
    logits, _ = tiny.call(judge, jnp.asarray(images, jnp.float32) / 255)
    rows = np.asarray(jnp.exp(logits - logits.max(-1, keepdims=True)))
    want = by_hand(rows / rows.sum(-1, keepdims=True), 4)
    _, logits = features_and_logits(judge, images, batch_size=16)
    found = inception_score(probabilities(logits), splits=4)
    assert found == pytest.approx(want, rel=1e-5)
    assert 1 < found < 3
