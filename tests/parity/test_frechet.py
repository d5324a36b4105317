"""The Frechet distance against pytorch-fid's, which takes another root."""

import numpy as np
import pytest

from minivim.metrics import frechet_distance, gaussian


@pytest.fixture(scope="module")
def theirs(torchvision):
    score = pytest.importorskip("pytorch_fid.fid_score")
    return score.calculate_frechet_distance


@pytest.mark.parametrize(("size", "count"), [(4, 50), (64, 2048), (200, 1000)])
def test_distance_of_random_features(theirs, size, count):
    rng = np.random.default_rng(size)
    mix = rng.standard_normal((2, size, size)) / size**0.5
    one, other = (
        gaussian(rng.standard_normal((count, size)) @ m + shift)
        for m, shift in zip(mix, (0.0, 0.1), strict=True)
    )
    want = theirs(*one, *other)
    assert frechet_distance(*one, *other) == pytest.approx(want, rel=1e-6)


def test_halves_of_one_sample(theirs):
    """A small distance, the difference of large traces."""
    rows = np.random.default_rng(0).standard_normal((4096, 64)) * 3 + 7
    one, other = gaussian(rows[:2048]), gaussian(rows[2048:])
    want = theirs(*one, *other)
    assert want < 0.05 * np.trace(one[1])
    assert frechet_distance(*one, *other) == pytest.approx(want, rel=1e-6)
