"""Pictures and figures as the bytes of PNG files."""

import io

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from minivim.pictures import to_uint8

Picture = Figure | np.ndarray | jax.Array


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Nearest-neighbour upscaling of [H, W, C] by a whole number."""
    return np.repeat(np.repeat(image, scale, axis=0), scale, axis=1)


def to_png(picture: Picture, *, width: int = 256) -> bytes:
    """A picture as the bytes of a full-colour PNG file, the same on every call.

    A figure, or pixels as in `to_uint8`, enlarged by a whole number where narrower than
    `width`. Nothing but pixels is written, and no palette, which would shift colours.
    Raises ValueError for what is no picture.
    """
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
