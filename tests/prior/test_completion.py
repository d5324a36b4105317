"""Completion: the given codes stay, and nothing hidden reaches the result."""

import jax
import numpy as np
import pytest

import minivim
from minivim.errors import UserError
from minivim.show import completions
from tests import tiny

KEY = jax.random.key(1)
IMAGES = tiny.images(3)


@pytest.fixture(scope="module")
def parts():
    return tiny.prior(), tiny.tokenizer()


def complete(parts, images=IMAGES, **options):
    return minivim.complete(*parts, images, **({"key": KEY} | options))


@pytest.mark.parametrize("peek", [False, True])
def test_the_given_codes_stay_and_the_rest_varies(parts, peek):
    found = complete(parts, count=6, labels=[0, 1, 2], peek=peek)
    assert found.codes.shape == (3, 6, 4) and found.images.shape == (3, 6, 8, 8, 3)
    assert found.known == 2
    shown = np.asarray(parts[1].encode(found.given))
    np.testing.assert_array_equal(
        found.codes[..., :2], np.repeat(shown[:, None, :2], 6, axis=1)
    )
    assert all(len(np.unique(row[:, 2:], axis=0)) > 1 for row in found.codes)
    decoded = parts[1].decode(found.codes.reshape(18, 4))
    np.testing.assert_allclose(found.images.reshape(18, 8, 8, 3), decoded, atol=1e-6)


def test_hidden_pixels_change_nothing_unless_one_peeks(parts):
    changed = IMAGES.copy()
    changed[:, 4:] = 255 - changed[:, 4:]
    one, other = complete(parts), complete(parts, changed)
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(one.given, other.given)
    # With the whole image in view they do, even in the codes of the upper half.
    one, other = (complete(parts, x, peek=True) for x in (IMAGES, changed))
    assert (one.codes[..., :2] != other.codes[..., :2]).any()


def test_completion_is_sampling_with_a_prefix(parts):
    found = complete(parts, count=2, labels=[0, 1, 2], temperature=0.8)
    prefix = np.repeat(parts[1].encode(found.given)[:, :2], 2, axis=0)
    labels = [0, 0, 1, 1, 2, 2]
    plain = minivim.sample(
        parts[0], key=KEY, prefix=prefix, labels=labels, temperature=0.8
    )
    np.testing.assert_array_equal(found.codes.reshape(6, 4), plain)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_what_is_hidden_is_the_mean_of_the_rest(parts, kind):
    images = IMAGES if kind is np.uint8 else IMAGES.astype(np.float32) / 255
    before = images.copy()
    given = complete(parts, images).given
    upper = IMAGES[:, :4] / 255
    np.testing.assert_allclose(given[:, :4], upper, atol=1e-6)
    mean = upper.reshape(3, -1, 3).mean(1)[:, None, None]
    np.testing.assert_allclose(given[:, 4:], np.broadcast_to(mean, upper.shape), 1e-5)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "rows=0 of a picture that has 2 rows of codes; keep 1 to 1"),
        ({"rows": 2}, "keep 1 to 1"),
        ({"count": 0}, "use 1 or more"),
        ({"images": IMAGES[:, :6]}, "do not fit this model"),
        ({"labels": [0, 1, 9]}, "label 9 is out of range"),
    ],
)
def test_impossible_completions(parts, options, message):
    with pytest.raises(UserError, match=message):
        complete(parts, **options)


def test_the_figure_hides_what_was_not_given(parts):
    found = complete(parts, count=3)
    plot = completions(IMAGES, found, scale=1)
    assert plot.alt == "3 images, the part given, and 3 completions"
    pictures = [np.asarray(image.get_array()) for image in plot.images]
    assert len(pictures) == 3 * 5
    given = pictures[1][..., :3]
    np.testing.assert_array_equal(given[:4], IMAGES[0, :4])
    assert (given[4:] == 200).all()
    with pytest.raises(ValueError, match="3 completed images, but 2"):
        completions(IMAGES[:2], found)
