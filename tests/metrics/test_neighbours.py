"""Nearest training images: brute force, batches, and copies that are found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivim.data import ArraySource
from minivim.metrics.neighbours import nearest, pixels, share_nearer
from tests import tiny


def source(images: np.ndarray) -> ArraySource:
    return ArraySource({"image": images, "label": np.zeros(len(images), np.int32)})


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(1, 40), batch=st.integers(1, 50))
def test_as_all_pairs(seed, count, batch):
    train, some = tiny.images(count, 8, seed), tiny.images(5, 8, seed + 100)
    rows = pixels(some.astype(np.float32) / 255)
    found = nearest(rows, source(train), pixels, batch_size=batch)
    there = pixels(train.astype(np.float64) / 255)
    apart = np.linalg.norm(rows[:, None] - there[None], axis=-1)
    np.testing.assert_array_equal(found.indices, apart.argmin(1))
    np.testing.assert_allclose(found.distances, apart.min(1), rtol=1e-6)


def test_copies_are_at_zero():
    train = tiny.images(30)
    rows = pixels(train[[7, 20]].astype(np.float32) / 255)
    found = nearest(rows, source(train), pixels, batch_size=8)
    assert found.indices.tolist() == [7, 20]
    assert found.distances.max() < 1e-5


def test_rows_are_what_look_says():
    train = tiny.images(9)
    found = nearest(
        np.array([[0.5]]),
        source(train),
        lambda images: images.mean(axis=(1, 2, 3))[:, None],
        batch_size=4,
    )
    grey = train.mean(axis=(1, 2, 3)) / 255
    assert found.indices[0] == np.abs(grey - 0.5).argmin()


def test_share_nearer():
    assert share_nearer(np.zeros(3), np.ones(4)) == 1
    assert share_nearer(np.ones(3), np.zeros(4)) == 0
    same = np.random.default_rng(0).random(50)
    assert share_nearer(same, same) == pytest.approx(0.5)
    assert share_nearer(np.array([1.0, 3.0]), np.array([2.0, 3.0])) == 0.625
