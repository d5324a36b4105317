"""Random changes to images: what may change, how much, and what must stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivim.data.augment import augment

KEY = jax.random.key(0)
# Compiled once for each shape: operation by operation it takes seconds.
changed = jax.jit(augment, static_argnames=("flip", "crop"))


def ramps(count: int, size: int = 32) -> jax.Array:
    """Images whose two channels are the row and the column of each pixel's centre."""
    places = jnp.stack(jnp.mgrid[:size, :size], -1) + 0.5
    return jnp.broadcast_to(places, (count, *places.shape)).astype(jnp.float32)


def test_random_flip_mirrors_about_half_of_the_images():
    images = jnp.broadcast_to(jnp.arange(4.0), (400, 4, 4))[..., None]
    flipped = np.asarray(augment(images, flip=True, key=KEY))
    mirrored = (flipped[:, 0, 0, 0] == 3).mean()
    assert 0.4 < mirrored < 0.6
    rows = {tuple(row) for row in flipped[:, 0, :, 0]}
    assert rows == {(0, 1, 2, 3), (3, 2, 1, 0)}


def test_a_crop_is_the_part_it_says():
    """Read off ramps: squares inside the image, areas and places uniform."""
    low, size = 0.25, 32
    cut = np.asarray(changed(ramps(2_000, size), crop=low, key=KEY))
    # Away from the edges, where a bilinear sample leans inwards, a ramp stays one.
    inner = cut[:, 4:-4, 4:-4]
    down, across = np.diff(inner[..., 0], axis=1), np.diff(inner[..., 1], axis=2)
    np.testing.assert_allclose(down, down[:, :1, :1] * np.ones_like(down), atol=1e-4)
    step = down[:, 0, 0]
    np.testing.assert_allclose(across[:, 0, 0], step, atol=1e-4)
    area = step**2
    assert low - 1e-3 < area.min() and area.max() < 1 + 1e-3
    # Quartiles of a uniform share, five standard errors wide.
    expected = low + (1 - low) * np.array([0.25, 0.5, 0.75])
    np.testing.assert_allclose(
        np.quantile(area, [0.25, 0.5, 0.75]), expected, atol=0.05
    )
    side = step * size
    for axis in (0, 1):
        # The centre of pixel 4 lies 4.5 steps behind the start.
        start = inner[:, 0, 0, axis] - 4.5 * step
        free = side < size - 0.5
        place = start[free] / (size - side[free])
        assert place.min() > -1e-2 and place.max() < 1 + 1e-2
        assert abs(place.mean() - 0.5) < 0.04 and abs(place.std() - 12**-0.5) < 0.02


def test_each_image_has_a_crop_of_its_own_and_each_key_others():
    cut = np.asarray(changed(ramps(2_000), crop=0.5, key=KEY))
    assert len({image.tobytes() for image in cut}) == 2_000
    other = changed(ramps(2_000), crop=0.5, key=jax.random.key(1))
    assert not np.array_equal(cut, other)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), area=st.sampled_from([0.01, 0.3, 1.0]))
def test_a_crop_is_an_average_of_pixels(seed, area):
    """No value that the image has not, hence no dark rim; the whole is the identity."""
    images = jax.random.uniform(jax.random.key(seed), (4, 8, 8, 3), minval=0.25)
    cut = changed(images, crop=area, key=jax.random.key(seed))
    assert cut.shape == images.shape and cut.dtype == jnp.float32
    for image, part in zip(images, cut, strict=True):
        assert image.min() - 1e-5 <= part.min() and part.max() <= image.max() + 1e-5
    if area == 1:
        np.testing.assert_array_equal(cut, images)


@pytest.mark.parametrize("flip", [False, True])
def test_without_a_crop_nothing_else_is_drawn(flip):
    """Runs of recipes without one stay what they were, bit for bit."""
    images = ramps(16, 8)
    chosen = jax.random.bernoulli(KEY, 0.5, (16, 1, 1, 1)) & flip
    alone = jnp.where(chosen, images[:, :, ::-1], images)
    np.testing.assert_array_equal(augment(images, flip=flip, key=KEY), alone)
    both = changed(images, flip=flip, crop=0.5, key=KEY)
    assert not np.array_equal(both, alone)
    # The same images are mirrored: left of the middle lies what was right of it.
    mirrored = np.asarray(alone)[:, 0, 0, 1] > 4
    slope = np.asarray(both)[:, 4, 5, 1] - np.asarray(both)[:, 4, 2, 1]
    np.testing.assert_array_equal(slope < 0, mirrored)


def test_a_crop_is_the_same_however_it_is_compiled():
    """Inside of a compiled step as on its own."""
    images = ramps(16, 8) / 8
    cut = changed(images, flip=True, crop=0.5, key=KEY)
    np.testing.assert_allclose(
        cut, augment(images, flip=True, crop=0.5, key=KEY), atol=1e-5
    )
