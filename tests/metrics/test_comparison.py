"""Real images against others: equal numbers, even over labels, whatever the batches."""

import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from minivim.errors import UserError
from minivim.metrics import frechet_distance, gaussian, inception_score
from minivim.metrics.comparison import Comparison, Extractor, Places, evenly
from minivim.metrics.score import probabilities

RNG = np.random.default_rng(0)
CENTRES = 5 * RNG.standard_normal((4, 3))


def seen(labels: np.ndarray, seed: int = 0):
    """Features that are their class's centre with noise, and logits."""
    rng = np.random.default_rng(seed)
    features = CENTRES[labels] + rng.standard_normal((len(labels), 3))
    return features, 2 * rng.standard_normal((len(labels), 5)) + 3 * np.eye(5)[labels]


def compared(real, others, *, batch=10**6, seed=0):
    """Of (seen, labels) each, in batches."""
    counts = {"real": len(real[1]), "others": len(others[1])}
    comparison = Comparison(**counts, seed=seed)
    for kind, ((features, logits), labels) in (("real", real), ("others", others)):
        for i in range(0, len(labels), batch):
            part = slice(i, i + batch)
            comparison.add(kind, (features[part], logits[part]), labels[part])
    return comparison.result()


def rows(labels, seed=0):
    return seen(labels, seed), labels


CYCLE = np.arange(200) % 4


def test_all_against_all():
    """Of equal numbers nothing is left out."""
    real, others = rows(CYCLE), rows(CYCLE, seed=1)
    found, beside = compared(real, others)
    want = frechet_distance(*gaussian(real[0][0]), *gaussian(others[0][0]))
    assert found["distance"] == pytest.approx(want, rel=1e-9)
    whole = inception_score(probabilities(others[0][1]), splits=1)
    assert 0.8 * whole < found["score"] < whole
    assert beside["images"] == 200 == sum(beside["halves"])
    assert abs(beside["halves"][0] - 100) <= 4
    assert 0 < beside["distance"] < found["distance"] * 3


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    real=st.integers(20, 90),
    others=st.integers(20, 90),
    batch=st.integers(1, 100),
)
def test_invariant_to_batching(seed, real, others, batch):
    rng = np.random.default_rng(seed)
    two = [rows(rng.integers(0, 4, n), seed) for n in (real, others)]
    whole, parts = compared(*two), compared(*two, batch=batch)
    for one, other in zip(whole, parts, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert other[name] == pytest.approx(value, rel=1e-9, abs=1e-9)


def test_the_numbers_are_equal_and_the_halves_disjoint():
    for real, others in ((200, 60), (60, 200), (200, 150)):
        _, beside = compared(rows(np.arange(real) % 4), rows(np.arange(others) % 4))
        assert abs(beside["images"] - min(real, others)) <= 2
        half = min(others, real // 2)
        assert all(abs(n - half) <= 2 for n in beside["halves"])
        assert sum(beside["halves"]) <= real


def test_classes_that_are_sorted_do_no_harm():
    """The first half of such a data set would be other classes than the second."""
    sorted_ = rows(np.sort(CYCLE))
    _, beside = compared(sorted_, sorted_)
    first, second = np.split(sorted_[0][0], 2)
    assert frechet_distance(*gaussian(first), *gaussian(second)) > 20
    assert beside["distance"] < 1
    assert beside["score"] > 2


@pytest.mark.parametrize("share", [1.0, 0.5, 0.3])
def test_every_label_gives_its_share(share):
    labels = np.random.default_rng(0).permutation(np.repeat([-1, 0, 7], 80))
    numbers = evenly(Places(0)(labels), labels, share)
    for label in (-1, 0, 7):
        mine = np.sort(numbers[(labels == label) & (numbers >= 0)])
        assert abs(len(mine) - 80 * share) <= 1
        np.testing.assert_array_equal(np.diff(mine), 1)


def test_places_are_shuffled_by_the_seed_within_blocks():
    one, other = (Places(seed)(np.zeros(24, int)) for seed in (0, 1))
    assert (one != other).any()
    for place in (one, other):
        for block in range(3):
            here = place[8 * block : 8 * block + 8]
            assert sorted(here) == list(range(8 * block, 8 * block + 8))


def test_what_few_images_cannot_give_is_left_out():
    found, beside = compared(rows(CYCLE[:3]), rows(CYCLE[:3], seed=1))
    assert set(found) == {"distance"}
    assert set(beside) == {"images", "halves"}
    with pytest.raises(UserError, match="two images or more, got 1; give more images"):
        compared(rows(CYCLE[:5]), rows(CYCLE[:1]))


def test_inception_reads_eight_bits_and_batches_are_padded():
    shapes, images = [], RNG.random((3, 4, 4, 3), np.float32)

    class Mean(nnx.Module):
        def __call__(self, x):
            shapes.append(x.shape)
            return x.mean((1, 2)), {"features": [x]}

    network = Mean()
    plain = Extractor("judge", network, batch_size=5)(images)
    np.testing.assert_allclose(plain[0], images.mean((1, 2)), atol=1e-6)
    rounded = Extractor("inception", network, batch_size=5)(images)
    want = (np.round(images * 255) / 255).mean((1, 2))
    np.testing.assert_allclose(rounded[0], want, atol=1e-6)
    assert np.abs(rounded[0] - plain[0]).max() > 1e-5
    assert set(shapes) == {(5, 4, 4, 3)}
