"""Any picture to uint8 pixels of one size, or a refusal that says why."""

import io
import os
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms, UnidentifiedImageError

from minivim.errors import UserError, brief

PIXELS = 2  # what `decode` makes of a file; under another rule it is other data
# The last three have no signature. EPS and WMF start programs; BUFR, GRIB, HDF5 and
# MPEG are stubs; FITS, McIdas and SPIDER hold measurements, IPTC and IM Tools news.
FORMATS = (
    "PNG", "JPEG", "MPO", "GIF", "WEBP", "TIFF", "BMP", "DIB", "AVIF", "JPEG2000",
    "PPM", "ICO", "CUR", "ICNS", "QOI", "DDS", "PSD", "SGI", "SUN", "PCX", "DCX", "XBM",
    "XPM", "MSP", "PIXAR", "BLP", "FTEX", "FLI", "GBR", "XVTHUMB", "PCD", "IM", "TGA",
)  # fmt: skip
# Bits of a PNG's samples in the file, by what Pillow tells its decoder.
RAW_BITS = {"1": 1, "L;2": 2, "L;4": 4, "I;16B": 16, "RGB;16B": 16}
# Where a file says how many bits of its samples count.
DEPTH = {"PNG": rb"\0\0\0\x01sBIT(.)", "JPEG2000": rb"\xff\x4f\xff\x51.{38}(.)"}
EXIF_TYPES = "xBBHIIbBhiifd"  # for `struct`; of a fraction the numerator
XMP_ORIENTATION = rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])\b"""
TURNS = dict(zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2), strict=True))  # for transpose()


def pixel_rule(*, image_size: int, channels: int) -> str:
    """What `to_pixels` does to pictures of another size or kind, in words."""
    size = f"{image_size} x {image_size} x {channels}"
    return f"the largest centred square, bicubic with antialiasing to {size}"


def decode(file: Any, where: str, **shape: int) -> UInt8[np.ndarray, "size size c"]:
    """`to_pixels` of a path or an open file; every error is a `UserError` on `where`.

    Of frames and pages the first counts, and of the sizes of an icon the largest.
    """
    with _opened(file, where) as image:
        return to_pixels(image, **shape)


def header(file: Any, where: str) -> bool:
    """Whether a picture has several frames or pages; `UserError` as by `decode`."""
    with _opened(file, where) as image:
        _refuse(image)
        with suppress(Exception):  # The second frame is broken, the first may not be.
            return image.format != "PSD" and bool(getattr(image, "is_animated", False))
        return True


@lru_cache(maxsize=1)
def suffixes() -> frozenset[str]:
    """Suffixes of the files that `decode` reads, in lower case, such as ".png"."""
    known = Image.registered_extensions().items()
    return frozenset(suffix.lower() for suffix, kind in known if kind in FORMATS)


def to_pixels(
    image: Image.Image, *, image_size: int, channels: int = 3
) -> UInt8[np.ndarray, "size size channels"]:
    """Turn a picture of any kind into pixels, never stretching it.

    The largest centred square is scaled to `image_size`, with antialiasing. Greys are
    scaled from the range that the file declares, embedded profiles converted to sRGB,
    and transparent pictures lie on white. Integers and floats of 32 bits, whose range
    no file declares, raise `UserError`.
    """
    square, alpha, turn = _load(image)
    square = _to_srgb(square, image.info)
    if alpha is not None:
        white = Image.new("RGB", square.size, "white")
        square = Image.composite(square.convert("RGB"), white, alpha)
    square = square.convert("RGB" if channels == 3 else "L")
    square = square if turn is None else square.transpose(turn)
    (width, height), side = square.size, min(square.size)
    left, top = (width - side) // 2, (height - side) // 2
    square = square.crop((left, top, left + side, top + side))
    square = square.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(square).reshape(image_size, image_size, channels)


def _refuse(image: Any) -> None:
    bits = getattr(image, "tag_v2", {}).get(258)
    whole = image.mode == "I" and image.format != "PPM" and bits != (16,)
    if whole or image.mode == "F":
        kind = "integers" if whole else "floats"
        told = f"cannot be used: its pixels are 32-bit {kind}, whose range is unknown"
        raise UserError(f"{told}: save it with 8 or 16 bits")


def _load(image: Any) -> tuple[Image.Image, Image.Image | None, Any]:
    """Pixels of 8 bits without alpha, the alpha if any, and how to turn both."""
    _refuse(image)
    mode, tags, info = image.mode, getattr(image, "tag_v2", None), image.info
    tile: Any = image.tile[0] if getattr(image, "tile", None) else ("", (), 0, mode)
    box, raw = tile[1], str(tile[3])
    levels, low, alpha = _levels(image, tags), 0, None
    clear = info.get("transparency") if mode in ("1", "L", "I;16", "RGB") else None
    if clear is not None and raw == "RGB;16B":  # Pillow gives the upper bytes only.
        image.fp.seek(0)
        lower = type(image)(image.fp)
        lower.tile = [lower.tile[0]._replace(args="RGB;16L")]
        low = np.asarray(lower)
    if tags is not None:
        image.load_end = lambda: None  # It would turn, and fail if a tag is broken.
        if tile[0] == "libtiff" and tile[3][0] == "I;16BS":  # libtiff has swapped them.
            image.tile = [tile._replace(args=("I;16S", *tile[3][1:]))]
    image.load()
    turn = TURNS.get(_orientation(info, tags))
    image = image.copy() if tags is not None or clear is not None else image
    if clear is not None:  # The value is compared before it is scaled or loses bits.
        del image.info["transparency"]
        top = (1 << RAW_BITS.get(raw, 8)) - 1
        clear = (np.array(clear) & top) * max(1, 255 // top)
        values = np.asarray(image.convert("L") if mode == "1" else image).astype(int)
        values = values * 256 + low if raw == "RGB;16B" else values
        shown = (values != clear).reshape(*values.shape[:2], -1).any(-1)
        alpha = Image.fromarray(shown * np.uint8(255))
    elif mode in ("La", "LA"):
        image, alpha = image.convert("LA").split()
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image, alpha = image.convert("RGB"), image.getchannel("A")
    elif image.format == "GIF" and box != (0, 0, *image.size):  # The frame is smaller.
        alpha = Image.new("L", image.size)
        alpha.paste(255, box)
    if levels:
        values, (black, white) = np.asarray(image), levels
        # PNG's samples should fill 16 bits, but some programs leave them as they are.
        scaled = values.max() > white or not (values & 65535 // (white + 1)).any()
        white = 65535 if raw == "I;16B" and scaled else white
        values = values.view(np.int8) if white == 127 else values
        values = (values.astype(np.float32) - black) * (255 / (white - black))
        image = Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
    return image, alpha, turn


def _levels(image: Any, tags: Any) -> tuple[int, int] | None:
    """The values of black and white of greys, unless 0 and 255."""
    wide, pattern = image.mode[0] == "I", DEPTH.get(image.format or "")
    if tags is not None and (wide or image.mode == "L"):
        top = (1 << tags[258][0]) - 1
        if tags.get(339) == (2,):
            return -(top // 2) - 1, top // 2
        return ((0, top) if tags.get(262, 0) else (top, 0)) if wide else None
    if pattern and getattr(image, "fp", None) and image.mode in ("I;16", "L"):
        image.fp.seek(0)
        if found := re.search(pattern, image.fp.read(1 << 16), re.DOTALL):
            jpeg = image.format == "JPEG2000"  # Pillow moves its samples up.
            bits = (found[1][0] & 127) + jpeg
            return 0, ((1 << bits) - 1) << max(0, 8 + 8 * wide - bits) * jpeg
    return (0, 65535) if wide else None


def _orientation(info: dict, tags: Any) -> int:
    """1 to 8, by EXIF or else XMP, whatever is wrong with them."""
    value, text = 0, str(info.get("Raw profile type exif"))
    with suppress(Exception):
        if tags is None:
            exif = info.get("exif") or bytes.fromhex(text.split("\n", 3)[3])
            value = _from_exif(exif)
        else:
            first: Any = tags[274]
            value = int(first[0] if isinstance(first, (tuple, bytes, str)) else first)
    xmp = info.get("xmp")
    if value not in range(1, 9) and isinstance(xmp, bytes):
        found = re.search(XMP_ORIENTATION, xmp.replace(b"\0", b""))
        return int(found[1]) if found else 1
    return value


def _from_exif(exif: bytes) -> int:
    """The tag 274, whatever its type and its neighbours are."""
    data = re.sub(rb"^(Exif\0\0)+", b"", exif)
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    (first,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, first)
    for at in range(first + 2, first + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", data, at)
        if tag == 274:
            code, place = order + EXIF_TYPES[kind], at + 8
            if struct.calcsize(code) * length > 4 or kind in (5, 10):
                (place,) = struct.unpack_from(f"{order}I", data, place)
            return int(struct.unpack_from(code, data, place)[0]) - 48 * (kind == 2)
    return 0


def _to_srgb(pixels: Image.Image, info: dict) -> Image.Image:
    """The colours as sRGB has them, by an embedded profile or PNG's gamma."""
    if pixels.mode not in ("L", "RGB", "CMYK"):
        pixels = pixels.convert("L" if pixels.mode == "1" else "RGB")
    profile, gamma = info.get("icc_profile"), info.get("gamma")
    if isinstance(profile, bytes) and profile:
        transform = _transform(profile, pixels.mode)
        return transform.apply(pixels) if transform else pixels
    gamma = gamma if isinstance(gamma, float) and "srgb" not in info else 0.0
    if 0.1 < gamma < 10 and abs(2.2 * gamma - 1) > 0.05:  # Others mean 1 / 2.2.
        table = 255 * np.linspace(0, 1, 256) ** (1 / (2.2 * gamma))
        return pixels.point(table.round().astype(int).tolist() * len(pixels.mode))
    return pixels


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None if it is that, is broken, or of other colours."""
    with suppress(Exception):  # Some builds of Pillow lack ImageCms.
        source, srgb = io.BytesIO(profile), ImageCms.createProfile("sRGB")
        # Threads share it; a grey one would be of 33 points.
        flags = ImageCms.Flags.NOCACHE | ImageCms.Flags.NOOPTIMIZE * (mode == "L")
        made: Any = ImageCms.buildTransform(source, srgb, mode, "RGB", flags=flags)
        cube = np.indices((18, 18, 18), np.uint8).reshape(3, 1, -1).T * 15
        probe = Image.fromarray(np.ascontiguousarray(cube)).convert(mode)
        given, found = probe.convert("RGB"), made.apply(probe)
        difference = np.asarray(given, int) - np.asarray(found, int)
        return made if abs(difference).max() > 1 else None
    return None


# Warnings of Pillow while this thread decodes: `catch_warnings` is for all threads.
_LOCAL = threading.local()
_OURS = SimpleNamespace(match=lambda x: x[:4] == "PIL." and vars(_LOCAL).get("on"))
_FILTER: Any = ("ignore", None, Warning, _OURS, 0)


@contextmanager
def _opened(file: Any, where: str) -> Iterator[Image.Image]:
    """The picture in a file; what goes wrong inside becomes a `UserError`."""
    _LOCAL.on = True
    if warnings.filters[:1] != [_FILTER]:
        others = [one for one in warnings.filters if one != _FILTER]
        cast(list, warnings.filters)[:] = [_FILTER, *others]
    try:
        with _stream(file) as stream, _identified(stream) as image:
            yield image
    except Exception as error:
        raise UserError(f"{where} {_problem(error)}") from error
    finally:
        _LOCAL.on = False


def _stream(file: Any) -> Any:
    """Open a path if a file is there: opening a pipe would wait for its other end."""
    if not isinstance(file, (str, bytes, os.PathLike)):
        return nullcontext(file)
    if os.path.islink(file) and not os.path.exists(file):
        told = f"is a link to {os.readlink(os.fsdecode(file))}, which does not exist"
        raise UserError(f"{told}: restore or remove it")
    if os.path.exists(file) and not os.path.isfile(file):
        told = "a folder" if os.path.isdir(file) else "a pipe, a socket or a device"
        raise UserError(f"is {told}, not a file: remove it")
    return open(file, "rb")


def _identified(stream: Any) -> Image.Image:
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    with suppress(UnidentifiedImageError):
        return Image.open(stream, formats=known)
    stream.seek(0)
    if not (start := stream.read(16)):
        raise ValueError("it is empty")
    for make, accepts in (Image.OPEN[name] for name in known):
        if accepts and accepts(start.ljust(16, b"\0")) is True:
            stream.seek(0)
            make(stream, "")  # It says what is wrong with a file of its format.
    raise ValueError("its format is unknown")


def _problem(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "is missing: restore it or start anew"
    if isinstance(error, PermissionError):
        return "may not be read (permission denied): change its permissions"
    if isinstance(error, Image.DecompressionBombError):
        size, most = (int(n) // 10**6 for n in re.findall(r"\d+", str(error))[:2])
        return f"has {size} megapixels, more than {most}: scale it down"
    remedy = "repair or remove it, or --skip-unreadable"
    if "unknown pixel mode" in str(error):
        remedy = "save it with 8 or 16 bits"
    return f"is not a readable image ({brief(error)}): {remedy}"
