"""Images and labels of users: what is taken, and what is refused with the remedy."""

import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from PIL import Image

from minivim import classifier, metrics
from minivim.config import ClassifierConfig
from minivim.data import ArraySource, batches, stack, unit_images
from minivim.encode import encode_all, round_trip
from minivim.errors import UserError
from minivim.metrics.judged import features_and_logits
from minivim.prior import complete
from tests import tiny

BYTES = tiny.images(4)
UNIT = BYTES.astype(np.float32) / 255
TOKENIZER = tiny.tokenizer()

# Each kind by members of its own: what is given, and what the one line must say.
WRONG = {
    "from -1 to 1": (2 * UNIT - 1, "run from -1 to 1, .* halve and add 0.5"),
    "from -1 to 1, dark": (UNIT / 2 - 1, "halve and add 0.5: images / 2"),
    "from -1 to 1 on a device": (jnp.asarray(2 * UNIT - 1, jnp.bfloat16), "halve"),
    "from 0 to 255": (255 * UNIT, "run from 0 to 255, .*; divide by 255"),
    "from 0 to 255, dark": (3.0 * UNIT, "divide by 255"),
    "from 0 to 255, resized": (300 * UNIT - 20, "divide by 255"),
    "from 0 to 65535": (65535.0 * UNIT, "divide by the largest possible value"),
    "standardised": ((UNIT - 0.45) / 0.22, r"images \* std \+ mean"),
    "overshot": (1.2 * UNIT - 0.1, r"clip .*images.clip\(0, 1\)"),
    "NaN": (np.where(UNIT > 0.9, np.nan, UNIT), "NaN or infinity"),
    "infinity": (np.where(UNIT > 0.9, -np.inf, UNIT), "NaN or infinity"),
    "NaN in bfloat16": ((0 * BYTES + np.nan).astype(ml_dtypes.bfloat16), "NaN"),
    "too large for float32": (UNIT.astype(np.float64) * 1e300, "NaN or infinity"),
    "int64": (BYTES.astype(np.int64), "int64 .* 255 of 8 bits"),
    "numbers of Python": (BYTES.tolist(), "int64 have no known range"),
    "uint16": (BYTES.astype(np.uint16), "65535 of 16"),
    "int32 on a device": (jnp.asarray(BYTES, jnp.int32), "int32 have no known range"),
    "booleans": (BYTES > 99, "bool .* 1 of booleans"),
    "complex": (UNIT + 0j, "complex64 have no known range"),
    "names of files": (["a.png", "b.png"], "have no known range; give uint8"),
    "one name": ("a.png", "have no known range"),
    "nothing": (None, "object have no known range"),
    "random keys": (jax.random.key(0), "key<fry> have no known range"),
    "no channel axis": (BYTES[..., 0], r"no channel axis; use .*\[..., None\]"),
    "pictures in grey": ([Image.fromarray(BYTES[0, ..., 0])] * 2, "no channel axis"),
    "channels first": (UNIT.transpose(0, 3, 1, 2), r"first; use .*\(0, 2, 3, 1\)"),
    "PyTorch's order": (torch.zeros(2, 3, 8, 8), "have their channels first"),
    "one of them": (UNIT[0].transpose(2, 0, 1), r"transpose\(1, 2, 0\)\[None\]"),
    "one image": (BYTES[0], r"no batch axis; use np.asarray\(images\)\[None\]"),
    "one picture": (Image.fromarray(BYTES[0]), "no batch axis"),
    "one plane": (BYTES[0, ..., 0], "are no images; give one or more"),
    "a video": (BYTES[None], r"are no images; .*\[B, 8, 8, 3\]"),
    "none at all": (BYTES[:0], "are no images; give one or more"),
    "an empty list": ([], "are no images"),
    "another size": (np.zeros((2, 16, 16, 3)), r"convert them to \[B, 8, 8, 3\]"),
    "four channels": (np.zeros((2, 8, 8, 4), np.uint8), "do not fit this model"),
    "several sizes": ([UNIT[0], UNIT[0, :4]], "are they of one size?"),
    "pictures of several sizes": (
        [Image.new("RGB", (8, side)) for side in (8, 9)],
        "are they of one size?",
    ),
    "with a gradient": (torch.zeros(2, 8, 8, 3, requires_grad=True), "detach"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_what_is_no_image_is_refused_in_one_line(kind):
    images, message = WRONG[kind]
    with pytest.raises(UserError, match=message) as refused:
        TOKENIZER.encode(images)
    assert "\n" not in str(refused.value)


def entrances():
    """Where images come in, each as a function of them."""
    config = ClassifierConfig(kind="residual", num_classes=3, width=4)
    judge = tiny.build(classifier.build, config)
    prior, key = tiny.prior(), jax.random.key(0)
    return {
        "source": lambda x: ArraySource({"image": x}),
        "encode": TOKENIZER.encode,
        "reconstruct": TOKENIZER.reconstruct,
        "encode_all": lambda x: encode_all(TOKENIZER, x),
        "round_trip": lambda x: round_trip(TOKENIZER, x),
        "complete": lambda x: complete(prior, TOKENIZER, x, key=key),
        "predict": lambda x: classifier.predict(judge, x),
        "accuracy": lambda x: classifier.accuracy(judge, x, np.zeros(4, int)),
        "features": lambda x: features_and_logits(judge, x),
        "distance": lambda x: metrics.judge_distance(judge, BYTES, x),
        "psnr": lambda x: metrics.psnr(BYTES, x),
        "ssim": lambda x: metrics.ssim(x, BYTES),
    }


@pytest.mark.parametrize(
    "kind", ["from -1 to 1", "NaN", "int64", "PyTorch's order", "one image"]
)
def test_every_entrance_has_the_same_check(kind):
    images, message = WRONG[kind]
    for name, enter in entrances().items():
        with pytest.raises(UserError, match=message):
            pytest.fail(f"{name} took {enter(images)}")


def test_the_last_image_of_many_is_looked_at_first(monkeypatch):
    """It was found after all the others had been encoded."""
    many = np.concatenate([UNIT, np.full_like(UNIT[:1], 7)])
    monkeypatch.setattr(TOKENIZER, "_encode", lambda x: pytest.fail("encoded"))
    with pytest.raises(UserError, match="divide by 255"):
        encode_all(TOKENIZER, many, batch_size=2)


FORMS = {
    "floats": lambda x: x.astype(np.float32) / 255,
    "float64": lambda x: x / np.float32(255).astype(np.float64),
    "of the other byte order": lambda x: (x.astype(np.float32) / 255).astype(">f4"),
    "a list": list,
    "numbers of Python": lambda x: (x.astype(np.float32) / 255).tolist(),
    "pictures": lambda x: [Image.fromarray(image) for image in x],
    "bytes on a device": jnp.asarray,
    "floats on a device": lambda x: jnp.asarray(x.astype(np.float32) / 255),
    "a tensor": lambda x: torch.tensor(x),
    "not contiguous": lambda x: np.asfortranarray(x)[::-1][::-1],
    "read only": lambda x: np.frombuffer(x.tobytes(), np.uint8).reshape(x.shape),
}


@settings(max_examples=15, deadline=None)
@given(images=stn.arrays(np.uint8, (2, 8, 8, 3)), form=st.sampled_from([*FORMS]))
def test_every_form_gives_the_same_codes(images, form):
    want = np.asarray(TOKENIZER.encode(images))
    given = FORMS[form](images)
    np.testing.assert_array_equal(TOKENIZER.encode(given), want)
    np.testing.assert_array_equal(encode_all(TOKENIZER, given), want)


def test_bytes_are_divided_alike_by_numpy_and_on_a_device():
    """XLA's own division of every second value ends in another bit."""
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    want = every.astype(np.float32) / 255
    for form in (unit_images, jax.jit(unit_images)):
        np.testing.assert_array_equal(form(jnp.asarray(every)), want)
    np.testing.assert_array_equal(unit_images(every), want)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_other_floats_are_widened(kind):
    for images in (UNIT.astype(kind), jnp.asarray(UNIT.astype(np.float32), kind)):
        found = unit_images(images)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, UNIT, atol=4e-3)


def test_what_rounding_leaves_outside_is_clipped_and_nothing_is_written():
    over = np.where(UNIT > 0.5, 1.0078125, -0.005).astype(np.float32)
    before = over.copy()
    for images in (over, jnp.asarray(over, jnp.bfloat16)):
        found = np.asarray(unit_images(images))
        assert found.min() == 0 and found.max() == 1
    np.testing.assert_array_equal(over, before)
    with pytest.raises(UserError, match="clip what a resize has overshot"):
        unit_images(over + 0.01)


def test_unknown_values_are_not_looked_at():
    compiled = jax.jit(lambda x: unit_images(x) + unit_images(jnp.asarray(UNIT)))
    np.testing.assert_allclose(compiled(7 * UNIT), 8 * UNIT, rtol=1e-6)
    with pytest.raises(UserError, match="int32 have no known range"):
        jax.jit(unit_images)(BYTES.astype(np.int32))
    with pytest.raises(UserError, match="channels first"):
        jax.jit(unit_images)(UNIT.transpose(0, 3, 1, 2))


# --- the source over arrays ----------------------------------------------------------


def test_a_source_keeps_bytes_and_takes_floats_and_lists():
    assert stack(ArraySource({"image": jnp.asarray(BYTES)}))["image"].dtype == np.uint8
    source = ArraySource(
        {"image": list(UNIT.astype(np.float64)), "label": [2, 0, -1, 1]}
    )
    rows = stack(source)
    assert rows["image"].dtype == np.float32 and rows["label"].dtype == np.int32
    batch = next(batches(source, batch_size=4, shuffle=False))
    np.testing.assert_array_equal(batch["image"], UNIT)
    np.testing.assert_array_equal(
        encode_all(TOKENIZER, rows["image"]), TOKENIZER.encode(BYTES)
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2, 3], "label 3 is out of range; use -1 to 2"),
        ([0, 1, -2, 0], "label -2 is out of range"),
        (np.full(4, 255, np.uint8), "label 255 is out of range"),
        ([0.0, 1.5, 2, 0], "float64 .* one whole number for each image"),
        (np.array([0, np.nan, 1, 1], np.float16), "labels of type float16"),
        ([True, False, True, True], "labels of type bool"),
        (["cat", "dog", "cat", "cat"], "labels of type <U3"),
        ([None, 1, 1, 1], "labels of type object"),
        (np.eye(4, dtype=int), r"shape \(4, 4\) are invalid"),
        (3, r"shape \(\) are invalid"),
        ([0, 1, 2], "one length, at least 1: got {'image': 4, 'label': 3}"),
    ],
)
def test_labels_that_cannot_be_are_refused(labels, message):
    with pytest.raises(UserError, match=message):
        ArraySource({"image": BYTES, "label": labels}, class_names=["a", "b", "c"])


def test_without_names_any_number_may_be_a_class():
    source = ArraySource({"image": BYTES, "label": [7, 0, -1, 999]})
    assert source.num_classes == 0 and source[3]["label"] == 999
    with pytest.raises(UserError, match="label -2 is out of range"):
        ArraySource({"label": [-2]})


def test_opening_many_pictures_is_one_look():
    many = np.zeros((16_384, 32, 32, 3), np.float32)
    start = time.perf_counter()
    ArraySource({"image": many, "label": np.zeros(len(many), np.uint8)})
    assert time.perf_counter() - start < 2  # 0.05 s on an idle core
