"""The embedded shapes: reproducible, balanced, neither trivial nor hopeless."""

import hashlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivim.data import shapes
from minivim.errors import UserError

FACTORS = ("colour", "background", "centre_x", "centre_y", "size", "angle")


@settings(max_examples=8, deadline=None)
@given(
    size=st.integers(1, 1_100),
    more=st.integers(1, 1_100),
    seed=st.integers(0, 2**32),
    split=st.sampled_from(["train", "test"]),
)
def test_the_first_images_do_not_depend_on_the_size(size, more, seed, split):
    few = shapes.arrays(split, size=size, seed=seed)
    many = shapes.arrays(split, size=size + more, seed=seed)
    for name, values in few.items():
        np.testing.assert_array_equal(values, many[name][:size])


def test_arrays_have_the_stated_shapes_and_ranges():
    drawn = shapes.arrays("test", size=1_024)
    assert drawn["image"].shape == (1_024, 32, 32, 3)
    assert drawn["image"].dtype == np.uint8
    assert drawn["label"].dtype == np.int32
    np.testing.assert_array_equal(np.bincount(drawn["label"]), 128)
    for factor in FACTORS:
        assert drawn[factor].shape == (1_024,)
        assert len(np.unique(drawn[factor])) > 3
    assert np.abs(drawn["angle"]).max() <= shapes.MAX_ANGLE


def test_default_sizes():
    assert shapes.SIZES == {"train": 16_384, "test": 2_048}
    assert len(shapes.arrays("test")["label"]) == 2_048


def test_splits_and_seeds_share_no_image():
    groups = [
        {i.tobytes() for i in shapes.arrays(split, size=512, seed=seed)["image"]}
        for split in ("train", "test")
        for seed in (0, 1)
    ]
    assert all(len(group) == 512 for group in groups)
    assert all(not a & b for a, b in itertools.combinations(groups, 2))


def test_pixels_are_those_that_the_shipped_weights_saw():
    pixels = shapes.arrays("train", size=64)["image"]
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    assert digest[:16] == "7d9702962e906ab5"


def test_backgrounds_and_colours_contrast_and_differ_in_sign():
    colours = np.array(list(shapes.COLOURS.values()), float)
    grounds = np.array(list(shapes.BACKGROUNDS.values()), float)
    palette = np.concatenate([colours, grounds])
    assert palette.min() > 0 and palette.max() < 255
    lightness = colours.mean(1)[:, None] - grounds.mean(1)[None]
    assert (np.abs(lightness) > 25).all()
    assert (lightness > 0).any(0).sum() == 2


def test_the_picture_shows_its_factors():
    drawn = shapes.arrays("test", size=256)
    colours = np.array(list(shapes.COLOURS.values()))
    grounds = np.array(list(shapes.BACKGROUNDS.values()))
    pixels = drawn["image"].reshape(256, -1, 3)
    has_colour = (pixels == colours[drawn["colour"]][:, None]).all(-1)
    has_ground = (pixels == grounds[drawn["background"]][:, None]).all(-1)
    assert has_colour.any(1).all()
    flat = (has_colour | has_ground).mean()
    assert 0.85 < flat < 0.97  # the rest is the smoothed edge
    discs = drawn["label"] == shapes.CLASSES.index("circle")
    rows, columns = np.divmod(np.arange(1_024), 32)
    weight = has_colour[discs] / has_colour[discs].sum(1, keepdims=True)
    np.testing.assert_allclose(
        weight @ (columns + 0.5), drawn["centre_x"][discs], atol=0.5
    )
    np.testing.assert_allclose(
        weight @ (rows + 0.5), drawn["centre_y"][discs], atol=0.5
    )


def test_dataset_holds_the_same_pixels_and_typed_columns():
    table = shapes.dataset("test", size=12, seed=3)
    drawn = shapes.arrays("test", size=12, seed=3)
    assert table.column_names == ["image", "label", *FACTORS]
    assert table.features["label"].names == list(shapes.CLASSES)
    images = np.stack([np.asarray(image) for image in table["image"]])
    np.testing.assert_array_equal(images, drawn["image"])
    for name in ("label", *FACTORS):
        np.testing.assert_array_equal(table[name], drawn[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "no split 'dev': use 'train' or 'test'"),
        ({"size": 0}, "cannot draw 0 images"),
        ({"seed": -1}, "a seed of at least 0"),
    ],
)
def test_impossible_requests_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        shapes.arrays(**arguments)


def test_a_linear_probe_on_pixels_is_right_between_25_and_70_percent():
    train, test = shapes.arrays(size=3_072), shapes.arrays("test", size=1_024)

    def scaled(split):
        return jnp.asarray(split["image"].reshape(len(split["label"]), -1)) / 127.5 - 1

    x, y = scaled(train), jnp.asarray(train["label"])
    optimiser = optax.adam(optax.cosine_decay_schedule(3e-3, 30))

    def loss(weights):
        logits = x @ weights
        fit = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return fit + 0.005 * (weights**2).sum()

    def step(carry, _):
        weights, state = carry
        updates, state = optimiser.update(jax.grad(loss)(weights), state)
        return (optax.apply_updates(weights, updates), state), None

    weights = jnp.zeros((x.shape[1], len(shapes.CLASSES)))
    (weights, _), _ = jax.lax.scan(step, (weights, optimiser.init(weights)), length=30)
    right = (scaled(test) @ weights).argmax(1) == test["label"]
    assert 0.25 < float(right.mean()) < 0.70
