"""Pictures as bytes: the one place where pixels and figures become PNG files."""

import io

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

Picture = Figure | np.ndarray | jax.Array | bytes


def to_uint8(image) -> np.ndarray:
    """Pixels [H, W], [H, W, 1] or [H, W, 3] as uint8 [H, W, 3].

    Floats are clipped to [0, 1]. Raises ValueError for any other shape or type.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise ValueError(f"a picture is [H, W], [H, W, 1] or [H, W, 3]: {image.shape}")
    if image.dtype.kind == "f":
        image = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    elif image.dtype != np.uint8:
        raise ValueError(f"pixels are uint8 or floats in [0, 1], not {image.dtype}")
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Nearest-neighbour upscaling of [H, W, C] by a whole number."""
    return np.repeat(np.repeat(image, scale, axis=0), scale, axis=1)


def to_png(picture: Picture, *, width: int = 256) -> bytes:
    """A picture as the bytes of a full-colour PNG file, the same on every call.

    A figure, pixels as in `to_uint8` (enlarged by a whole number where narrower than
    `width`), or PNG bytes, which stay as they are. Nothing but pixels is written, and
    no palette, which would shift colours. Raises ValueError for what is no picture.
    """
    if isinstance(picture, bytes):
        if not picture.startswith(b"\x89PNG\r\n\x1a\n"):
            raise ValueError("these bytes are not a PNG file")
        return picture
    if isinstance(picture, Figure):
        canvas = FigureCanvasAgg(picture)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    else:
        pixels = to_uint8(picture)
        pixels = enlarge(pixels, max(1, width // pixels.shape[1]))
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", optimize=True)
    return file.getvalue()
