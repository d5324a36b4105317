"""Any picture to uint8 pixels of one size."""

from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from minivim.errors import UserError

MAX_IMAGE_SIZE = 4_096


def check_shape(*, image_size: int, channels: int) -> None:
    """Raise UserError unless images of this shape can be made."""
    if not 1 <= image_size <= MAX_IMAGE_SIZE:
        raise UserError(
            f"image_size {image_size} is impossible: "
            f"choose a whole number from 1 to {MAX_IMAGE_SIZE}"
        )
    if channels not in (1, 3):
        raise UserError(
            f"channels {channels} is impossible: choose 3 (RGB) or 1 (grey)"
        )


def pixel_rule(*, image_size: int, channels: int) -> str:
    """What `to_pixels` does to pictures of another size or kind, in words."""
    return (
        f"the largest centred square, bicubic with antialiasing to {image_size} x "
        f"{image_size} x {channels}"
    )


def to_pixels(
    image: Image.Image, *, image_size: int, channels: int = 3
) -> UInt8[np.ndarray, "size size channels"]:
    """Turn a picture of any kind into pixels, never stretching it.

    The largest centred square is cut out and scaled to `image_size`, with antialiasing
    where it shrinks (the same as scaling the shorter side and cropping the centre).
    Transparent pictures lie on white; 16-bit grey keeps its upper 8 bits.

    Raises:
        UserError: impossible image_size or channels, or a kind of pixels without a
            known range (32-bit floats).
    """
    check_shape(image_size=image_size, channels=channels)
    flat = _flatten(ImageOps.exif_transpose(image))
    flat = flat.convert("RGB" if channels == 3 else "L")
    side = min(flat.size)
    left, top = (flat.width - side) // 2, (flat.height - side) // 2
    square = flat
    if flat.width != flat.height:
        square = flat.crop((left, top, left + side, top + side))
    if side != image_size:
        square = square.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(square).reshape(image_size, image_size, channels)


def _flatten(image: Image.Image) -> Image.Image:
    """An opaque 8-bit picture."""
    if image.mode.startswith("I"):
        # Pillow clips 16-bit values when it converts them: scale them instead.
        values = np.asarray(image).astype(np.float32)
        scaled = np.clip(values / 257, 0, 255).round().astype(np.uint8)
        return Image.fromarray(scaled)
    if image.mode == "F":
        raise UserError("its pixels are 32-bit floats: save it with 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image


def decode(
    file: Any, where: str, *, image_size: int, channels: int
) -> UInt8[np.ndarray, "size size channels"]:
    """Read a picture from a path or an open file; errors name it as `where`."""
    try:
        with Image.open(file) as image:
            return to_pixels(image, image_size=image_size, channels=channels)
    except FileNotFoundError as error:
        raise UserError(f"{where} is missing: restore it or start anew") from error
    except UserError as error:
        raise UserError(f"{where} cannot be used: {error}") from error
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        SyntaxError,
        ValueError,
    ) as error:
        raise UserError(
            f"{where} is not a readable image ({brief(error)}): repair or remove it"
        ) from error


def brief(error: BaseException) -> str:
    """The first line of an error's message, cut to a readable length."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 120 else lines[0][:117] + "..."
