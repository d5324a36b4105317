"""Any kind of picture gives the pixels that its author sees, or is refused by name."""

import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw
from PIL.PngImagePlugin import PngInfo

from benchmarks import pictures as damage
from minivim.data import open_source, stack
from minivim.data.pixels import decode, header, suffixes, to_pixels
from minivim.errors import UserError


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


# -- files by hand ------------------------------------------------------------------

RAMP = np.tile(np.linspace(0, 1, 4), (4, 1))  # of four greys: 0, 85, 170, 255
GREYS = [0, 85, 170, 255]


def packed(values, bits: int, order: str = ">") -> bytes:
    """Samples of any depth, each row filled up to a whole byte."""
    values = np.asarray(values).reshape(len(values), -1)
    if bits in (8, 16, 32):
        return values.astype(f"{order}{values.dtype.kind}{bits // 8}").tobytes()
    shifts = np.arange(bits - 1, -1, -1)
    rows = (values[..., None].astype(int) >> shifts & 1).reshape(len(values), -1)
    return np.packbits(rows.astype(np.uint8), axis=1).tobytes()


def tiff(values, bits=8, *, order="<", kind=1, photometric=1, extra=None, more=()):
    """Uncompressed, of one strip; `more` are entries (tag, type, count, 4 bytes)."""
    values = np.asarray(values)
    height, width, samples = (*values.shape, 1)[:3]
    data = packed(values, bits, order)
    numbers = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8}
    numbers |= {277: samples, 278: height, 279: len(data), 339: kind}
    numbers |= {} if extra is None else {338: extra}
    entries = [(t, 4, 1, struct.pack(order + "I", v)) for t, v in numbers.items()]
    entries = sorted([*entries, *more], key=lambda entry: entry[0])
    body = b"".join(struct.pack(order + "HHI", *e[:3]) + e[3] for e in entries)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(
        order + "HI", 42, 8 + len(data)
    )
    return head + data + struct.pack(order + "H", len(entries)) + body + bytes(4)


def png(values, bits=8, colour=0, *chunks) -> bytes:
    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    data, height = packed(values, bits), len(values)
    width, row = np.shape(values)[1], len(data) // height
    rows = b"".join(b"\0" + data[i * row :][:row] for i in range(height))
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(data: bytes, size: int = 4, channels: int = 3) -> np.ndarray:
    return decode(io.BytesIO(data), "this one", image_size=size, channels=channels)


def greys(data: bytes) -> list[int]:
    """The first row, which must be the same in colour and in grey, and in all rows."""
    found = pixels(data)
    assert (found == found[:1, :, :1]).all()
    np.testing.assert_array_equal(pixels(data, channels=1), found[..., :1])
    return found[0, :, 0].tolist()


def message(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def refusal(data: bytes) -> str:
    """What is said of data that cannot be used, by `decode` and by `header`."""
    text = message(pixels, data)
    assert text.startswith("this one ")
    assert message(header, io.BytesIO(data), "this one") == text
    return text


# -- depth, sign and polarity of greys ----------------------------------------------


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_greys_of_both_signs_and_byte_orders(order, bits):
    top = (1 << bits) - 1
    assert greys(tiff((RAMP * top).round().astype(int), bits, order=order)) == GREYS
    signed = (RAMP * top - (top + 1) // 2).round().astype(int)
    assert greys(tiff(signed, bits, order=order, kind=2)) == GREYS


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("order", "<>")
def test_white_may_be_zero(order, bits):
    top = (1 << bits) - 1
    values = (RAMP * top).round().astype(int)
    data = tiff(values, bits, order=order, photometric=0)
    if (order, bits) == (">", 16):  # Pillow does not know it.
        assert "(unknown pixel mode): save it with 8 or 16 bits" in refusal(data)
        return
    expected = 255 - (values * (255 / top)).round()
    assert greys(data) == expected[0].tolist()


def test_twelve_bits():
    values = (RAMP * 4095).round().astype(int)
    assert greys(tiff(values, 12)) == GREYS
    deep = Image.fromarray((values << 4).astype(np.uint16))
    assert greys(saved(deep, "JPEG2000", irreversible=False)) == GREYS


@pytest.mark.parametrize("code", [8, 32773])
@pytest.mark.parametrize(
    "bits, sign, photometric",
    [(8, 2, 1), (16, 2, 1), *product([1, 2, 4, 8, 16], [1], [0, 1])],
)
@pytest.mark.parametrize("order", "<>")
def test_compressed_tiff(code, bits, sign, photometric, order):
    """Deflated or packed, which libtiff decodes, and puts the bytes in order."""
    top = (1 << bits) - 1
    values = (RAMP * top).round().astype(int) - (sign - 1) * (top + 1) // 2
    data = packed(values, bits, order)
    strip = zlib.compress(data) if code == 8 else bytes([len(data) - 1]) + data
    options: dict = {"order": order, "kind": sign, "photometric": photometric}
    whole = tiff(np.frombuffer(strip, np.uint8)[None], 8, **options)
    for tag, value in {256: 4, 257: 4, 258: bits, 259: code, 278: 4}.items():
        at = whole.index(struct.pack(order + "HHI", tag, 4, 1)) + 8
        whole = whole[:at] + struct.pack(order + "I", value) + whole[at + 4 :]
    if (order, bits, photometric) == (">", 16, 0):
        assert "unknown pixel mode" in refusal(whole)
        return
    shades = GREYS if sign == 2 else (values * (255 / top)).round()[0].tolist()
    assert greys(whole) == (shades if photometric else [255 - s for s in shades])


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_png_greys(bits):
    top = (1 << bits) - 1
    values = (RAMP * top).round().astype(int)
    assert greys(png(values, bits)) == (values * (255 / top)).round()[0].tolist()


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_png_that_says_how_many_bits_count(bits):
    """Samples fill 16 bits, scaled or shifted; against the rule some do not."""
    values, tell = (
        (RAMP * ((1 << bits) - 1)).round().astype(int),
        (b"sBIT", bytes([bits])),
    )
    for stored in (values, values << 16 - bits, (RAMP * 65535).round().astype(int)):
        assert greys(png(stored, 16, 0, tell)) == GREYS
    nonsense = (RAMP * 65535).round().astype(int)
    for wrong in (b"\0", b"\x64"):
        assert greys(png(nonsense, 16, 0, (b"sBIT", wrong))) == GREYS
    dark = np.full((4, 4), 1 << 16 - bits)  # a shifted 1 stays dark
    assert greys(png(dark, 16, 0, tell)) == [round(255 / ((1 << bits) - 1))] * 4


@pytest.mark.parametrize("top", [1, 3, 100, 255, 300, 1023, 4095, 65535])
def test_pgm_of_any_largest_value(top):
    values = (RAMP * top).round().astype(int)
    text = f"P2 4 4 {top}\n" + " ".join(map(str, values.ravel()))
    raw = f"P5 4 4 {top}\n".encode() + packed(values, 8 if top < 256 else 16)
    expected = (values * (255 / top)).round()[0].tolist()
    assert greys(raw) == greys(text.encode()) == expected


def test_several_channels_of_16_bits_are_not_cut():
    colour = np.stack([RAMP, RAMP[:, ::-1], 0 * RAMP], -1)
    deep = (colour * 65535).round().astype(int)
    expected = (colour * 255).round()
    for data in (png(deep, 16, 2), tiff(deep, 16, photometric=2)):
        np.testing.assert_array_equal(pixels(data), expected)
    solid = np.stack([RAMP, 0 * RAMP + 1], -1) * 65535
    assert greys(png(solid.round().astype(int), 16, 4)) == GREYS


@pytest.mark.parametrize("bits, kind", [(32, 1), (32, 2), (32, 3)])
def test_pixels_without_a_range_are_refused(bits, kind):
    data = tiff((RAMP * 255).astype("f4" if kind == 3 else "i4"), bits, kind=kind)
    text = refusal(data)
    name = "floats" if kind == 3 else "integers"
    assert f"cannot be used: its pixels are 32-bit {name}, whose range" in text
    assert text.endswith("save it with 8 or 16 bits")
    with pytest.raises(UserError, match="32-bit integers"):
        to_pixels(Image.new("I", (4, 4), 65_535), image_size=4)


# -- transparency -------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("place", range(4))
def test_a_transparent_grey_is_white_before_all_else(bits, place):
    top = (1 << bits) - 1
    values = (RAMP * top).round().astype(int)
    expected = (values * (255 / top)).round()[0]
    expected[values[0] == values[0, place]] = 255
    key = (b"tRNS", struct.pack(">H", values[0, place]))
    assert greys(png(values, bits, 0, key)) == expected.tolist()


def test_of_16_bits_all_are_compared():
    near = np.array([[1000, 1001, 1002, 1003]] * 4)
    assert greys(png(near, 16, 0, (b"tRNS", struct.pack(">H", 1002)))) == [4, 4, 255, 4]
    colour = np.stack([near, near, near], -1)
    key = (b"tRNS", struct.pack(">3H", 1001, 1001, 1001))
    assert greys(png(colour, 16, 2, key)) == [3, 255, 3, 3]
    small = np.stack([RAMP * 255] * 3, -1).round().astype(int)
    key = (b"tRNS", struct.pack(">3H", 85, 85, 85))
    assert greys(png(small, 8, 2, key)) == [0, 255, 170, 255]


def test_alpha_of_every_mode_lies_on_white():
    size = (4, 4)
    for mode, colour in {
        "LA": (0, 0), "RGBA": (0, 0, 0, 0), "La": (0, 0), "RGBa": (0, 0, 0, 0)
    }.items():  # fmt: skip
        found = to_pixels(Image.new(mode, size, colour), image_size=4, channels=1)
        assert (found == 255).all(), mode
    half = Image.new("LA", size, (0, 128))
    assert (to_pixels(half, image_size=4) == 127).all()
    for mode in ("1", "L"):
        image = Image.new(mode, size, 0)
        image.info["transparency"] = 0
        assert (to_pixels(image, image_size=4, channels=1) == 255).all()
    flat = Image.new("P", size, 1)
    flat.putpalette([9, 9, 9, 0, 0, 0])
    for clear in (1, b"\xff\0"):
        flat.info["transparency"] = clear
        assert (to_pixels(flat, image_size=4, channels=1) == 255).all()
    both = Image.merge("PA", [flat, Image.new("L", size, 0)])
    both.putpalette([9, 9, 9, 0, 0, 0])
    assert (to_pixels(both, image_size=4) == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "ICO", "TGA", "AVIF"])
def test_alpha_of_every_format_lies_on_white(kind):
    size = (16, 16)
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 8, 16))
    options = {"lossless": True} if kind == "WEBP" else {}
    options |= {"quality": 100} if kind == "AVIF" else {}
    for channels in (1, 3):
        found = pixels(saved(image, kind, **options), 16, channels)
        assert (found[:, :7] <= 1).all() and (found[:, 9:] >= 254).all()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_alpha_of_both_kinds(order, bits):
    """Half transparent red: stored as it is, or multiplied by its alpha."""
    top = (1 << bits) - 1
    half = (top + 1) // 2
    for kind, red in ((2, top), (1, half)):
        values = np.tile([red, 0, 0, half], (4, 4, 1))
        data = tiff(values, bits, order=order, photometric=2, extra=kind)
        assert np.abs(pixels(data)[0, 0].astype(int) - [255, 127, 127]).max() <= 1
    if bits == 8:
        for kind in (1, 2):
            data = tiff(np.tile([0, 128], (4, 4, 1)), order=order, extra=kind)
            assert greys(data) == [127] * 4


# -- kinds of colour ----------------------------------------------------------------


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
    red = Image.new("RGB", size, (250, 10, 20))
    for mode in ("YCbCr", "HSV", "LAB", "RGBX", "CMYK"):
        other = red.convert(mode)
        assert np.abs(np.subtract(value(other), [250, 10, 20])).max() <= 4, mode
        assert abs(value(other, 1)[0] - value(red, 1)[0]) <= 3, mode


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "RGBX", "P", "1", "LA", "PA"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_tiff_of_every_mode(mode, compression):
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    image = red.convert("P").convert("PA") if mode == "PA" else red.convert(mode)
    found = pixels(saved(image, "TIFF", compression=compression), 8)
    expected = np.asarray(image.convert("RGB"))
    assert np.abs(found.astype(int) - expected).max() <= 3


def test_jpeg_in_cmyk_with_and_without_a_marker():
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    data = saved(image, "JPEG", quality=100)
    at = data.index(b"\xff\xee")
    bare = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]
    assert b"Adobe" in data and b"Adobe" not in bare
    for one in (data, bare):
        assert np.abs(pixels(one)[0, 0] - np.array([255, 0, 0])).max() <= 3


def test_a_palette_with_transparency_lies_on_white(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(1, (0, 0, 2, 4))
    image.save(tmp_path / "p.png", transparency=0)
    found = stack(open_source(tmp_path, image_size=4))["image"][0]
    assert found[0, 0].tolist() == [40, 50, 60]
    assert found[0, 3].tolist() == [255] * 3


def test_ordinary_pictures_are_what_pillow_reads():
    image = picture(3, (40, 40))
    for kind, mode in product(
        ["PNG", "BMP", "JPEG", "WEBP", "PPM", "TIFF"], ["RGB", "L"]
    ):
        data = saved(image.convert(mode), kind)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(pixels(data, 40), expected)


# -- orientation --------------------------------------------------------------------

ARROW = Image.new("RGB", (16, 16), "white")
ARROW.paste("black", (0, 0, 12, 4))
ARROW.paste("black", (0, 4, 4, 8))
TURNED = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1], 5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}  # fmt: skip


def entry(tag, kind, count, field, order="<") -> bytes:
    return struct.pack(order + "HHI", tag, kind, count) + field.ljust(4, b"\0")[:4]


def exif(*entries: bytes, order="<", more=b"") -> bytes:
    head = {"<": b"II*\0\x08\0\0\0", ">": b"MM\0*\0\0\0\x08"}[order]
    body = head + struct.pack(order + "H", len(entries)) + b"".join(entries)
    return b"Exif\0\0" + body + bytes(4) + more


def turned_by(data: bytes) -> list[int]:
    found = pixels(data, 16)[..., 0] > 128
    arrow = np.asarray(ARROW)[..., 0] > 128
    return [n for n, turn in TURNED.items() if (turn(arrow) == found).all()]


BROKEN = {
    "none": [],
    "ascii resolution": [entry(282, 2, 3, b"72\0")],
    "a value beyond the end": [entry(271, 2, 900, b"\xff\xff\0\0")],
    "no such type": [entry(271, 99, 1, b"")],
    "a huge count": [entry(272, 5, 0xFFFFFFFF, b"\x08")],
    "no fraction": [entry(283, 5, 1, b"\xff\xff\xff\x7f")],
    "text beyond the end": [entry(305, 2, 90, b"\xff\xff\0\0")],
    "no folder": [entry(40965, 4, 1, b"\x09")],
    "a folder that is none": [entry(34665, 4, 1, b"\xff\xff\xff\x7f")],
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
@pytest.mark.parametrize("neighbour", BROKEN)
def test_broken_neighbours_of_the_orientation(kind, neighbour):
    tags = sorted([*BROKEN[neighbour], entry(274, 3, 1, b"\x06\0")])
    if kind == "TIFF":
        if neighbour in ("a value beyond the end", "a huge count"):
            return  # It lies before the strips, so that Pillow finds no pixels.
        extra = [struct.unpack("<HHI4s", tag) for tag in tags]
        data = tiff(np.asarray(ARROW), photometric=2, more=extra)
    else:
        options = {"quality": 100} if kind != "PNG" else {}
        options |= {"lossless": True} if kind == "WEBP" else {}
        options |= {"save_all": True, "append_images": [ARROW]} if kind == "MPO" else {}
        data = saved(ARROW, kind, exif=exif(*tags), **options)
    assert turned_by(data) == [6]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("number", TURNED)
def test_orientations_of_any_type(order, number):
    short, long = (struct.pack(order + code, number) for code in "HI")
    fields = {
        "short": (3, 1, short), "long": (4, 1, long), "byte": (1, 1, bytes([number])),
        "two": (3, 2, 2 * short), "text": (2, 2, b"%d\0" % number),
        "signed": (8, 1, short), "undefined": (7, 1, bytes([number])),
    }  # fmt: skip
    for name, field in fields.items():
        data = saved(ARROW, "PNG", exif=exif(entry(274, *field, order), order=order))
        assert turned_by(data) == [number], name
        padded = (274, field[0], field[1], field[2].ljust(4, b"\0"))
        data = tiff(np.asarray(ARROW), photometric=2, order=order, more=[padded])
        assert turned_by(data) == [number], name


@pytest.mark.parametrize("cut", range(0, 32, 3))
def test_exif_that_ends_early(cut):
    """As long as the tag is there it counts, and otherwise nothing is turned."""
    whole = exif(entry(274, 3, 1, b"\x06\0"), entry(282, 5, 1, b"\x40"))
    found = turned_by(saved(ARROW, "PNG", exif=whole[: 6 + cut]))
    assert found == ([6] if cut >= 20 else [1])


@pytest.mark.parametrize("number", [0, 9, 77, 0xFFFF])
def test_orientations_that_do_not_exist(number):
    tag = entry(274, 3, 1, struct.pack("<H", number))
    for kind in ("PNG", "JPEG"):
        assert turned_by(saved(ARROW, kind, exif=exif(tag))) == [1]


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description %s</x:xmpmeta>'


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    "text",
    [b'tiff:Orientation="6"/>', b"tiff:Orientation = '6'/>",
     b"><tiff:Orientation>6</tiff:Orientation>"],
)  # fmt: skip
def test_orientation_from_xmp(kind, text):
    packet, options = XMP % text, {"quality": 100}
    if kind == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", packet.decode())
        options = {"pnginfo": info}
    elif kind == "TIFF":
        options = {"tiffinfo": {700: packet}}
    else:
        options |= (
            {"xmp": packet, "lossless": True} if kind == "WEBP" else {"xmp": packet}
        )
    assert turned_by(saved(ARROW, kind, **options)) == [6]
    if kind in ("JPEG", "WEBP"):  # EXIF comes first, unless it says nothing.
        for own, expected in ((3, 3), (0, 6)):
            both = exif(entry(274, 3, 1, bytes([own])))
            assert turned_by(saved(ARROW, kind, exif=both, **options)) == [expected]


def test_orientations_that_are_stored_elsewhere():
    """Two numbers or a fraction lie behind the tags, and those of PNG behind pixels."""
    for kind, more in ((4, struct.pack("<II", 6, 1)), (5, struct.pack("<II", 6, 1))):
        tag = entry(274, kind, 2 if kind == 4 else 1, struct.pack("<I", 26))
        assert turned_by(saved(ARROW, "PNG", exif=exif(tag, more=more))) == [6]
    whole = saved(ARROW, "PNG", exif=exif(entry(274, 3, 1, b"\x06\0")))
    at = whole.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(whole[at : at + 4])
    late = whole[:at] + whole[end:-12] + whole[at:end] + whole[-12:]
    assert turned_by(late) == [6]
    written = exif(entry(274, 3, 1, b"\x06\0")).hex()  # as ImageMagick writes it
    text = f"\nexif\n{len(written) // 2:8}\n{written[:40]}\n{written[40:]}\n"
    info = PngInfo()
    info.add_text("Raw profile type exif", text, zip=True)
    assert turned_by(saved(ARROW, "PNG", pnginfo=info)) == [6]


# -- profiles -----------------------------------------------------------------------

SRGB = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
P3 = [[0.4866, 0.2657, 0.1982], [0.2290, 0.6917, 0.0793], [0.0, 0.0451, 1.0439]]
ADOBE = [[0.5767, 0.1856, 0.1882], [0.2974, 0.6273, 0.0753], [0.0270, 0.0707, 0.9911]]
# From D65 to D50, by Bradford.
ADAPT = [
    [1.0478, 0.0229, -0.0501],
    [0.0295, 0.9905, -0.0170],
    [-0.0092, 0.0150, 0.7521],
]


def profile(primaries=None, gamma: float | None = None) -> bytes:
    """A matrix profile (a grey one without primaries); sRGB's curve without gamma."""

    def fixed(*numbers):
        return b"".join(struct.pack(">i", round(n * 65536)) for n in numbers)

    text = b"a test\0"
    desc = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)
    if gamma:
        curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    else:
        curve = b"para\0\0\0\0\0\3\0\0"
        curve += fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    white = b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)
    tags = {b"desc": desc, b"wtpt": white, b"cprt": b"text\0\0\0\0none\0"}
    if primaries is None:
        tags[b"kTRC"] = curve
    else:
        columns = (np.array(ADAPT) @ np.array(primaries)).T
        for name, column in zip("rgb", columns, strict=True):
            tags[f"{name}XYZ".encode()] = b"XYZ \0\0\0\0" + fixed(*column)
            tags[f"{name}TRC".encode()] = curve
    table, body, at = b"", b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", at + len(body), len(value))
        body += value
    kind = b"mntr" + (b"RGB " if primaries is not None else b"GRAY") + b"XYZ "
    head = bytes(8) + b"\4\0\0\0" + kind + bytes(12) + b"acsp" + bytes(28)
    head += fixed(0.9642, 1, 0.8249)
    head = head.ljust(128, b"\0") + struct.pack(">I", len(tags))
    return struct.pack(">I", len(head + table + body)) + (head + table + body)[4:]


def converted(colours, primaries, gamma=None):
    """What sRGB shows of colours, by matrices alone."""
    x = np.asarray(colours) / 255
    curve = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    linear = x**gamma if gamma else curve
    linear = linear @ (np.linalg.inv(SRGB) @ np.array(primaries)).T
    linear = linear.clip(0, 1)
    low = linear * 12.92
    return 255 * np.where(linear <= 0.0031308, low, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    "primaries, gamma", [(P3, None), (ADOBE, 2.2), (P3, 1.8), (SRGB, 1.0)]
)
def test_other_primaries_become_srgb(kind, primaries, gamma):
    image = picture(5, (16, 16))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(image, kind, icc_profile=profile(primaries, gamma), **options)
    expected = converted(np.asarray(image), primaries, gamma)
    assert np.abs(pixels(data, 16) - expected).max() <= 2
    clear = image.copy()
    clear.putalpha(Image.new("L", (16, 16), 0))
    solid = image.copy()
    solid.putalpha(255)
    options["icc_profile"] = profile(primaries, gamma)
    assert (pixels(saved(clear, kind, **options), 16) == 255).all()
    np.testing.assert_array_equal(
        pixels(saved(solid, kind, **options), 16), pixels(data, 16)
    )


def test_a_grey_profile():
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    linear = np.arange(256).reshape(16, 16, 1) / 255
    low, high = 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    expected = 255 * np.where(linear <= 0.0031308, low, high)
    for kind, channels in product(["PNG", "TIFF"], [1, 3]):
        data = saved(image, kind, icc_profile=profile(gamma=1.0))
        assert np.abs(pixels(data, 16, channels) - expected).max() <= 1
        both = image.copy()
        both.putalpha(255)
        data = saved(both, kind, icc_profile=profile(gamma=1.0))
        assert np.abs(pixels(data, 16, channels) - expected).max() <= 1


def cmyk_profile() -> bytes:
    """Made of a table: what prints nothing is white, and any ink at all is black."""
    lab = np.array([[255, 128, 128]] + [[0, 128, 128]] * 15, np.uint8)
    straight = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * np.eye(3, dtype=int).ravel()))
    table = b"mft1\0\0\0\0\4\3\2\0" + identity
    table += 4 * straight + lab.tobytes() + 3 * straight
    whole = bytearray(profile(P3))
    whole[12:24] = b"prtrCMYKLab "
    at = len(whole)
    place = whole.index(b"rXYZ")
    whole[place : place + 12] = b"A2B0" + struct.pack(">II", at, len(table))
    whole += table + bytes(-len(table) % 4)
    whole[8], whole[:4] = 2, struct.pack(">I", len(whole))
    return bytes(whole)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_a_profile_of_cmyk(kind):
    for ink, shade in (((0, 0, 0, 0), 255), ((255, 0, 0, 0), 0), ((0, 0, 0, 255), 0)):
        image = Image.new("CMYK", (8, 8), ink)
        found = pixels(saved(image, kind, icc_profile=cmyk_profile()))
        assert np.abs(found.astype(int) - shade).max() <= 2
        plain = pixels(saved(image, kind, icc_profile=profile(P3)))
        assert np.abs(plain - np.asarray(image.convert("RGB"))[:4, :4]).max() <= 2


def test_profiles_that_change_nothing():
    """sRGB by any name, another colour space than the picture's, and nonsense."""
    image = picture(5, (16, 16))
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    whole = profile(P3)
    for icc in (
        own,
        profile(SRGB),
        profile(gamma=1.0),
        whole[:200],
        b"nonsense",
        b"\0",
    ):
        for kind in ("PNG", "TIFF"):
            data = saved(image, kind, icc_profile=icc)
            np.testing.assert_array_equal(pixels(data, 16), np.asarray(image))
    grey = image.convert("L")
    for icc in (own, whole, profile(), b"nonsense"):
        data = saved(grey, "PNG", icc_profile=icc)
        np.testing.assert_array_equal(pixels(data, 16, 1)[..., 0], np.asarray(grey))


def test_threads_share_a_profile():
    files = [
        saved(picture(i, (16, 16)), "PNG", icc_profile=profile(P3)) for i in range(40)
    ]
    alone = [pixels(file, 16) for file in files]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            together = list(pool.map(lambda file: pixels(file, 16), files))
            np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("gamma", [1.0, 0.55, 0.45455, 0.0, 21474.0])
def test_gamma_of_png(gamma):
    values = (RAMP * 255).round().astype(int)
    told = (b"gAMA", struct.pack(">I", round(gamma * 100_000)))
    power = 1 / (2.2 * gamma) if gamma in (1.0, 0.55) else 1.0
    expected = (255 * RAMP[0] ** power).round().tolist()
    assert greys(png(values, 8, 0, told)) == expected
    assert greys(png(values, 8, 0, told, (b"sRGB", b"\0"))) == GREYS


# -- frames, formats, limits --------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO", "AVIF"])
def test_of_several_frames_the_first_counts(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(pixels(data)[1, 1] - np.array([255, 0, 0])).max() <= 3
    assert header(io.BytesIO(data), "x")
    single = saved(frames[0], "JPEG" if kind == "MPO" else kind)
    assert not header(io.BytesIO(single), "x")


@pytest.mark.parametrize("kind, sizes", [("ICO", (16, 48)), ("ICNS", (32, 128))])
def test_of_an_icon_the_largest_counts(kind, sizes):
    large = Image.new("RGBA", (sizes[1],) * 2, "red")
    small = Image.new("RGBA", (sizes[0],) * 2, "blue")
    options = {"append_images": [small]}
    options |= {"sizes": [(s, s) for s in sizes]} if kind == "ICO" else {}
    assert pixels(saved(large, kind, **options), 32)[9, 9].tolist() == [255, 0, 0]


def test_what_starts_programs_is_no_picture(tmp_path):
    ps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n"
    assert "its format is unknown" in refusal(ps)
    for data in (b"not an image", b"\0\0\1\xba" + bytes(40), b"%PDF-1.4\n", b"GRIB"):
        assert "its format is unknown" in refusal(data)
    names = suffixes()
    assert {".png", ".jpg", ".jfif", ".avif", ".jp2", ".tga", ".mpo", ".qoi"} <= names
    assert {".apng", ".webp", ".tif", ".gif", ".bmp", ".pgm", ".ico"} <= names
    assert not names & {".eps", ".ps", ".wmf", ".emf", ".pdf", ".mpg", ".h5", ".bufr"}


def test_too_many_megapixels(monkeypatch, capfd):
    for width, number in ((20_000, 400), (60_000, 1200)):
        head = struct.pack(">IIBBBBB", width, 20_000, 8, 0, 0, 0, 0)
        data = png(np.zeros((1, 1), int)).replace(
            struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0), head
        )
        at = data.index(b"IHDR")
        crc = struct.pack(">I", zlib.crc32(b"IHDR" + head))
        data = data[: at + 17] + crc + data[at + 21 :]
        assert refusal(data) == (
            f"this one has {number} megapixels, more than 178: scale it down"
        )
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(png(np.zeros((12, 12), int))).shape == (4, 4, 3)
        with pytest.raises(Image.DecompressionBombWarning):
            Image.open(io.BytesIO(png(np.zeros((12, 12), int))))
    assert capfd.readouterr().err == ""


def test_what_the_first_frame_of_a_gif_leaves_free_is_white():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0])
    data = bytearray(saved(image, "GIF"))
    data[6:10] = struct.pack("<HH", 8, 8)
    at = data.index(b"\x2c\0\0\0\0")
    data[at + 1 : at + 5] = struct.pack("<HH", 2, 3)
    expected = np.full((8, 8, 3), 255)
    expected[3:7, 2:6] = [255, 0, 0]
    np.testing.assert_array_equal(pixels(bytes(data), 8), expected)


# -- what is wrong with a file ------------------------------------------------------


def test_what_is_no_file_is_not_opened(tmp_path):
    def told(path):
        where = str(path)
        text = message(lambda: decode(path, where, image_size=4, channels=3))
        assert text == message(header, path, where) and text.startswith(f"{where} ")
        return text

    saved_to = tmp_path / "real.png"
    picture(0).save(saved_to)
    (tmp_path / "good.png").symlink_to(saved_to)
    assert decode(tmp_path / "good.png", "x", image_size=4, channels=3).shape == (
        4,
        4,
        3,
    )
    assert told(tmp_path / "gone.png").endswith("is missing: restore it or start anew")
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere.png")
    target = tmp_path / "nowhere.png"
    assert f"is a link to {target}, which does not exist" in told(tmp_path / "lost.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    told(tmp_path / "loop.png")
    (tmp_path / "folder.png").mkdir()
    assert "is a folder" in told(tmp_path / "folder.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert "is a pipe, a socket or a device" in told(tmp_path / "pipe.png")
    (tmp_path / "empty.png").write_bytes(b"")
    assert "(it is empty)" in told(tmp_path / "empty.png")
    (tmp_path / "text.png").write_bytes(b"<html>")
    assert "(its format is unknown)" in told(tmp_path / "text.png")
    told(saved_to / "below.png")
    told(tmp_path / ("n" * 300))


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def deny(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", deny)
    text = message(lambda: decode("a.png", "a.png", image_size=4, channels=3))
    assert "may not be read (permission denied): change its permissions" in text


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"])
def test_a_file_cut_anywhere_is_a_picture_or_named(kind):
    whole = saved(picture(0, (16, 16)), kind)
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        try:
            found = pixels(whole[:length])
            assert found.shape == (4, 4, 3)
        except UserError as error:
            assert str(error).startswith("this one is not a readable image (")
            assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize("error", [KeyError("x"), MemoryError(), ZeroDivisionError()])
def test_no_exception_of_a_decoder_passes_unnamed(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", fail)
    assert "not a readable image" in message(pixels, png(np.zeros((4, 4), int)))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pixels(png(np.zeros((4, 4), int)))


def interrupt(*_):
    raise KeyboardInterrupt


def test_damaged_pictures_are_pictures_or_named(capfd):
    """`python -m benchmarks.pictures` tries many more, in processes of their own."""
    files = damage.seeds()
    for number in range(400):
        kind, data = damage.damaged(number, files)
        found = damage.outcome(lambda data=data: pixels(data, 16), "this one")
        assert found in (damage.ARRAY, damage.NAMED), (kind, number)
    assert "Warning" not in capfd.readouterr().err
