"""Any picture to uint8 pixels of one size."""

from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from minivim.errors import UserError, brief


def pixel_rule(*, image_size: int, channels: int) -> str:
    """What `to_pixels` does to pictures of another size or kind, in words."""
    size = f"{image_size} x {image_size} x {channels}"
    return f"the largest centred square, bicubic with antialiasing to {size}"


def to_pixels(
    image: Image.Image, *, image_size: int, channels: int = 3
) -> UInt8[np.ndarray, "size size channels"]:
    """Turn a picture of any kind into pixels, never stretching it.

    The largest centred square is cut out and scaled to `image_size`, with antialiasing
    where it shrinks (the same as scaling the shorter side and cropping the centre).
    Transparent pictures lie on white; 16-bit grey keeps its upper 8 bits; pixels
    without a known range (32-bit floats) raise `UserError`.
    """
    square = _opaque(ImageOps.exif_transpose(image))
    square = square.convert("RGB" if channels == 3 else "L")
    (width, height), side = square.size, min(square.size)
    if width != height:
        left, top = (width - side) // 2, (height - side) // 2
        square = square.crop((left, top, left + side, top + side))
    if side != image_size:
        square = square.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(square).reshape(image_size, image_size, channels)


def _opaque(image: Image.Image) -> Image.Image:
    """An opaque picture with 8 bits a channel."""
    if image.mode.startswith("I"):
        # Pillow clips 16-bit values when it converts them: scale them instead.
        values = np.asarray(image).astype(np.float32)
        return Image.fromarray(np.clip(values / 257, 0, 255).round().astype(np.uint8))
    if image.mode == "F":
        raise UserError("its pixels are 32-bit floats: save it with 8 or 16 bits")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image


def decode(file: Any, where: str, **shape: int) -> UInt8[np.ndarray, "size size c"]:
    """`to_pixels` of a path or an open file; errors name it as `where`."""
    try:
        with Image.open(file) as image:
            return to_pixels(image, **shape)
    except FileNotFoundError as error:
        raise UserError(f"{where} is missing: restore it or start anew") from error
    except UserError as error:
        raise UserError(f"{where} cannot be used: {error}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        problem = f"{where} is not a readable image ({brief(error)})"
        raise UserError(f"{problem}: repair or remove it") from error
