"""Any kind of picture gives the pixels that its author sees, or is refused by name."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from minivim.data import open_source, stack
from minivim.data.pixels import to_pixels


def picture(seed: int, size=(20, 14), mode="RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


@settings(max_examples=25, deadline=None)
@given(
    width=st.integers(24, 150), height=st.integers(24, 150), size=st.integers(16, 80)
)
def test_resize_keeps_the_aspect(width, height, size):
    """A centred disc stays a centred disc, and fills what the crop leaves it."""
    image = Image.new("RGB", (width, height), "white")
    reach = 0.4 * min(width, height)
    ImageDraw.Draw(image).ellipse(
        [
            width / 2 - reach,
            height / 2 - reach,
            width / 2 + reach - 1,
            height / 2 + reach - 1,
        ],
        fill="black",
    )
    dark = to_pixels(image, image_size=size)[..., 0] < 128
    across = np.ptp(np.flatnonzero(dark.any(0))) + 1
    down = np.ptp(np.flatnonzero(dark.any(1))) + 1
    slack = 2 + 2 * size / min(width, height)
    assert abs(int(across) - int(down)) <= slack
    assert abs(int(across) - 0.8 * size) <= slack
    for axis in (0, 1):
        middle = np.flatnonzero(dark.any(axis)).mean() + 0.5
        assert abs(middle - size / 2) <= slack


def test_an_image_of_the_right_size_is_untouched_and_others_are_cropped():
    pixels = np.asarray(picture(0, (32, 32)))
    np.testing.assert_array_equal(
        to_pixels(Image.fromarray(pixels), image_size=32), pixels
    )
    wide = np.asarray(picture(0, (40, 32)))
    np.testing.assert_array_equal(
        to_pixels(Image.fromarray(wide), image_size=32), wide[:, 4:36]
    )


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    small = to_pixels(Image.fromarray(stripes), image_size=16)
    assert np.abs(small.astype(int) - 128).max() < 16


def test_every_kind_of_pixel_becomes_8_bits():
    def value(image, channels=3):
        return to_pixels(image, image_size=4, channels=channels)[2, 2].tolist()

    size = (4, 4)
    assert value(Image.new("1", size, 1)) == [255] * 3
    assert value(Image.new("L", size, 90)) == [90] * 3
    assert value(Image.new("RGB", size, (9, 8, 7)).quantize(4)) == [9, 8, 7]
    assert value(Image.new("RGBA", size, (0, 0, 0, 0))) == [255] * 3
    assert value(Image.new("RGBA", size, (255, 0, 0, 128))) == [255, 127, 127]
    assert value(Image.new("LA", size, (0, 255))) == [0] * 3
    assert value(Image.new("CMYK", size, (0, 0, 0, 255))) == [0] * 3
    deep = Image.fromarray(np.full(size, 128 * 257, np.uint16))
    assert value(deep) == [128] * 3
    assert value(deep, channels=1) == [128]
    assert value(Image.new("I", size, 65_535)) == [255] * 3


def test_a_16_bit_png_keeps_its_shades(tmp_path):
    shades = np.linspace(0, 65_535, 16).astype(np.uint16).reshape(4, 4)
    Image.fromarray(shades).save(tmp_path / "deep.png")
    image = stack(open_source(tmp_path, image_size=4, channels=1))["image"]
    np.testing.assert_array_equal(image[0, ..., 0], np.rint(shades / 257))


def test_a_palette_with_transparency_lies_on_white(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(1, (0, 0, 2, 4))
    image.save(tmp_path / "p.png", transparency=0)
    pixels = stack(open_source(tmp_path, image_size=4))["image"][0]
    assert pixels[0, 0].tolist() == [40, 50, 60]
    assert pixels[0, 3].tolist() == [255] * 3
