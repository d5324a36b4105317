"""Real images against others: equal numbers, drawn evenly over labels."""

import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from minivim.metrics import frechet_distance, gaussian, inception_score
from minivim.metrics.judged import Views, compare, evenly, probabilities

RNG = np.random.default_rng(0)
CENTRES = 5 * RNG.standard_normal((4, 3))


def seen(labels: np.ndarray, seed: int = 0):
    """Features that are their class's centre with noise, and logits."""
    rng = np.random.default_rng(seed)
    features = CENTRES[labels] + rng.standard_normal((len(labels), 3))
    return features, 2 * rng.standard_normal((len(labels), 5)) + 3 * np.eye(5)[labels]


def compared(real, others, *, seed=0):
    return compare(real, others, names=["distance", "score"], seed=seed)


def rows(labels, seed=0):
    return *seen(labels, seed), labels


CYCLE, MORE = np.arange(200) % 4, np.arange(240) % 4


def test_all_against_all():
    """Of equal numbers nothing is left out."""
    real, others = rows(MORE), rows(MORE, seed=1)
    found, beside = compared(real, others)
    want = frechet_distance(*gaussian(real[0]), *gaussian(others[0]))
    assert found["distance"] == pytest.approx(want, rel=1e-9)
    whole = inception_score(probabilities(others[1]), splits=1)
    assert 0.8 * whole < found["score"] < whole
    assert beside["images"] == 240 == sum(beside["halves"])
    assert abs(beside["halves"][0] - 120) <= 4
    assert 0 < beside["distance"] < found["distance"] * 3


class Mean(nnx.Module):
    """Means of colours as features and as logits; notes the shapes that it saw."""

    def __call__(self, x):
        SHAPES.append(x.shape)
        return x.mean((1, 2)), {"features": [x]}


SHAPES = []


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 30), batch=st.integers(1, 40))
def test_what_is_seen_does_not_depend_on_batches(count, batch):
    images, labels = RNG.random((count, 4, 4, 3), np.float32), np.arange(count)
    views = Views({"judge": Mean(), "inception": None}, batch_size=8)
    for i in range(0, count, batch):
        views.add("real", images[i : i + batch], labels[i : i + batch])
    found = views.seen("judge", "real")
    for part, want in zip(found, (images.mean((1, 2)),) * 2 + (labels,), strict=True):
        np.testing.assert_allclose(part, want, atol=1e-6)
    assert list(views.networks) == ["judge"]


def test_the_numbers_are_equal_and_the_halves_disjoint():
    for real, others in ((200, 60), (60, 200), (200, 150)):
        _, beside = compared(rows(np.arange(real) % 4), rows(np.arange(others) % 4))
        assert abs(beside["images"] - min(real, others)) <= 2
        half = min(others, real // 2)
        assert all(abs(n - half) <= 2 for n in beside["halves"])
        assert sum(beside["halves"]) <= real


def test_classes_that_are_sorted_do_no_harm():
    """The first half of such a data set would be other classes than the second."""
    sorted_ = rows(np.sort(MORE))
    _, beside = compared(sorted_, sorted_)
    first, second = np.split(sorted_[0], 2)
    assert frechet_distance(*gaussian(first), *gaussian(second)) > 20
    assert beside["distance"] < 1
    assert beside["score"] > 2


@pytest.mark.parametrize("share", [1.0, 0.5, 0.3, 0.0])
def test_every_label_gives_its_share(share):
    labels = np.random.default_rng(0).permutation(np.repeat([-1, 0, 7], 80))
    numbers = evenly(labels, share, seed=0)
    for label in (-1, 0, 7):
        mine = np.sort(numbers[(labels == label) & (numbers >= 0)])
        assert abs(len(mine) - 80 * share) <= 1
        np.testing.assert_array_equal(np.diff(mine), 1)


def test_images_are_shuffled_by_the_seed_within_blocks():
    """Of every eight images of a label a half is drawn, others by another seed."""
    one, other = (evenly(np.zeros(24, int), 0.5, seed=seed) >= 0 for seed in (0, 1))
    assert (one != other).any()
    for drawn in (one, other):
        assert drawn.reshape(3, 8).sum(axis=1).tolist() == [4, 4, 4]
        assert (drawn.reshape(3, 8)[:, :4].sum(axis=1) != 4).any()


@pytest.mark.parametrize(
    ("real", "others", "given"),
    [(200, 100, 4), (200, 99, 0), (99, 200, 0), (198, 200, 3), (1, 1, 0)],
)
def test_of_too_few_images_there_is_no_figure(real, others, given):
    """Distances of halves of 10 were printed, and scores over parts of one image."""
    few = np.zeros(200, int)
    found, beside = compared(rows(few[:real]), rows(few[:others], seed=1))
    values = [found["distance"], found["score"], beside["score"], beside["distance"]]
    assert [value is not None for value in values] == [i < given for i in range(4)]


def test_no_part_of_a_score_is_empty():
    """Where each class has one image, a part may have no class."""
    many = *np.split(RNG.random((200, 3)), 2), np.arange(100) * 10
    found, _ = compared(many, many)
    assert found["score"] is None and found["distance"] is not None


def test_inception_reads_eight_bits_and_batches_are_padded():
    images, labels = RNG.random((3, 4, 4, 3), np.float32), np.arange(3)
    views = Views({"judge": Mean(), "inception": Mean()}, batch_size=5)
    SHAPES.clear()
    views.add("real", images, labels)
    plain, rounded = (views.seen(n, "real")[0] for n in ("judge", "inception"))
    np.testing.assert_allclose(plain, images.mean((1, 2)), atol=1e-6)
    want = (np.round(images * 255) / 255).mean((1, 2))
    np.testing.assert_allclose(rounded, want, atol=1e-6)
    assert np.abs(rounded - plain).max() > 1e-5
    assert set(SHAPES) == {(5, 4, 4, 3)}
