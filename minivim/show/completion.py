"""Completions beside what was given, for the terminal and the notebooks."""

import numpy as np

from minivim.prior import Completion
from minivim.show.picture import to_uint8
from minivim.show.plots import Plot, _mosaic

HIDDEN = 200  # the grey of what was not given


def completions(originals, found: Completion, *, scale: int = 3) -> Plot:
    """In each row an original, the part of it that was given, and completions.

    Args:
        originals: [B, H, W, C], uint8 or floats in [0, 1].
        found: their completions.
        scale: pixels on screen per pixel, a whole number.

    Raises:
        ValueError: if there are not as many originals as completed images.
    """
    if len(originals) != len(found.images):
        raise ValueError(f"{len(found.images)} completed images, but {len(originals)}")
    pictures = np.stack([to_uint8(image) for image in originals])
    halves = pictures.copy()
    share = found.known / found.codes.shape[-1]
    halves[:, round(share * halves.shape[1]) :] = HIDDEN
    rows = [list(row) for row in zip(pictures, halves, strict=True)]
    for row, drawn in zip(rows, found.images, strict=True):
        row += [to_uint8(image) for image in drawn]
    columns = len(rows[0])
    words = ["original", "given", "completed", *[""] * (columns - 3)]
    return _mosaic(
        rows,
        alt=f"{len(rows)} images, the part given, and {columns - 2} completions",
        scale=scale,
        titles={0: words},
    )
