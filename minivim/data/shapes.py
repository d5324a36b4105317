"""The embedded data: eight flat shapes on flat backgrounds, drawn from a seed.

An image is one silhouette in one of six colours on one of four backgrounds, at a
random place, size and angle, with edges smoothed over one pixel. Flat areas and few
colours let a codebook of 256 codes reproduce it almost perfectly; two light and two
dark backgrounds keep the class from being a linear function of the pixels.

Everything is drawn in blocks of 1,024 images from (seed, split, block), so the first
k images never depend on how many are asked for. Pixels come from correctly rounded
operations alone (no float32 sine), so that they are the same on every machine.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float32

from minivim.config.checks import require
from minivim.data.base import Batch

COLOURS = {
    "coral": (229, 86, 74),
    "amber": (240, 170, 40),
    "green": (88, 164, 86),
    "blue": (62, 124, 206),
    "violet": (146, 88, 190),
    "pink": (236, 134, 176),
}
BACKGROUNDS = {
    "cream": (246, 238, 220),
    "mist": (204, 222, 232),
    "ink": (30, 36, 62),
    "pine": (20, 62, 62),
}
SIZES = {"train": 16_384, "test": 2_048}
IMAGE_SIZE = 32
BLOCK = 1_024
MAX_ANGLE = 15.0
RADIUS = (8.5, 11.5)
JITTER = 3.5

Plane = Float32[np.ndarray, "n 32 32"]


def _length(x: Plane, y: Plane) -> Plane:
    return np.sqrt(x * x + y * y)


def _polygon(x: Plane, y: Plane, corners: np.ndarray) -> Plane:
    """Signed distance to a closed polygon, corners [k, 2] in order."""
    nearest, inside = np.full_like(x, np.inf), np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        wx, wy = x - ax, y - ay
        along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        dx, dy = wx - ex * along, wy - ey * along
        np.minimum(nearest, dx * dx + dy * dy, out=nearest)
        crosses = (y >= ay) != (y >= by)
        inside ^= crosses & ((ex * wy < ey * wx) == (by > ay))
    distance = np.sqrt(nearest)
    return np.where(inside, -distance, distance)


def _regular(*radii: float, points: int) -> np.ndarray:
    """Corners at equal angles from the top, radii taken in turn."""
    reach = np.tile(radii, points)
    turns = np.arange(len(reach)) / len(reach) * 2 * np.pi
    corners = np.stack([np.sin(turns) * reach, -np.cos(turns) * reach], axis=1)
    return corners.astype(np.float32)


_T = np.arange(40) / 40 * 2 * np.pi
_X = 16 * np.sin(_T) ** 3
_Y = 13 * np.cos(_T) - 5 * np.cos(2 * _T) - 2 * np.cos(3 * _T) - np.cos(4 * _T)
HEART = np.stack([_X / 17, (-_Y - 2) / 17], axis=1).astype(np.float32)
TRIANGLE = _regular(1.06, points=3) + np.array([0, 0.15], np.float32)
STAR = _regular(1.08, 0.45, points=5)


def _box(x: Plane, y: Plane, half_width: float, half_height: float) -> Plane:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


# Distance to the edge in units of the shape's size, negative inside; y points down.
DISTANCES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "circle": lambda x, y: _length(x, y) - 0.92,
    "square": lambda x, y: _box(x, y, 0.8, 0.8),
    "triangle": lambda x, y: _polygon(x, y, TRIANGLE),
    "star": lambda x, y: _polygon(x, y, STAR),
    "cross": lambda x, y: np.minimum(_box(x, y, 1.0, 0.32), _box(x, y, 0.32, 1.0)),
    "ring": lambda x, y: np.abs(_length(x, y) - 0.72) - 0.24,
    "heart": lambda x, y: _polygon(x, y, HEART),
    "crescent": lambda x, y: np.maximum(
        _length(x, y) - 1, 0.78 - _length(x - 0.46, y + 0.1)
    ),
}
CLASSES = tuple(DISTANCES)


def _draw_factors(seed: int, split: str, block: int) -> Batch:
    """Labels and factors of one block; every class equally often."""
    rng = np.random.default_rng([seed, list(SIZES).index(split), block])
    size = rng.uniform(*RADIUS, BLOCK)
    place = IMAGE_SIZE / 2 + rng.uniform(-JITTER, JITTER, (2, BLOCK))
    return {
        "label": rng.permutation(np.arange(BLOCK, dtype=np.int32) % len(CLASSES)),
        "colour": rng.integers(len(COLOURS), size=BLOCK, dtype=np.int32),
        "background": rng.integers(len(BACKGROUNDS), size=BLOCK, dtype=np.int32),
        "centre_x": place[0].astype(np.float32),
        "centre_y": place[1].astype(np.float32),
        "size": size.astype(np.float32),
        "angle": rng.uniform(-MAX_ANGLE, MAX_ANGLE, BLOCK).astype(np.float32),
    }


def _render(factors: Batch) -> np.ndarray:
    """Images uint8 [n, 32, 32, 3] of labels and factors."""
    turn = np.deg2rad(factors["angle"].astype(np.float64))
    cos, sin = (f(turn).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    column = np.arange(IMAGE_SIZE, dtype=np.float32) + 0.5
    x = column[None, None, :] - factors["centre_x"][:, None, None]
    y = column[None, :, None] - factors["centre_y"][:, None, None]
    size = factors["size"][:, None, None]
    across, down = (cos * x + sin * y) / size, (cos * y - sin * x) / size
    coverage = np.empty(across.shape, np.float32)
    for label, name in enumerate(CLASSES):
        rows = factors["label"] == label
        distance = DISTANCES[name](across[rows], down[rows]) * size[rows]  # in pixels
        coverage[rows] = np.clip(0.5 - distance, 0, 1)
    colour = np.array(list(COLOURS.values()), np.float32)[factors["colour"]]
    back = np.array(list(BACKGROUNDS.values()), np.float32)[factors["background"]]
    colour, back = colour[:, None, None, :], back[:, None, None, :]
    return np.rint(back + coverage[..., None] * (colour - back)).astype(np.uint8)


def arrays(split: str = "train", *, size: int | None = None, seed: int = 0) -> Batch:
    """The first `size` images of "train" (16,384 by default) or "test" (2,048).

    image: uint8 [n, 32, 32, 3]; label, colour, background: int32 [n], indices into
    CLASSES, COLOURS, BACKGROUNDS; centre_x, centre_y, size: float32 [n], pixels; angle:
    float32 [n], degrees clockwise. Raises `UserError` for impossible arguments.
    """
    require(split in SIZES, f"shapes has no split {split!r}: use 'train' or 'test'")
    size = SIZES[split] if size is None else size
    told = f"shapes cannot draw {size} images from seed {seed}"
    remedy = "ask for at least 1 image and a seed of at least 0"
    require(size > 0 and seed >= 0, f"{told}: {remedy}")
    blocks = []
    for block in range(-(-size // BLOCK)):
        factors = _draw_factors(seed, split, block)
        kept = {k: v[: size - block * BLOCK] for k, v in factors.items()}
        blocks.append({"image": _render(kept), **kept})
    return {k: np.concatenate([b[k] for b in blocks]) for k in blocks[0]}


def dataset(split: str = "train", *, size: int | None = None, seed: int = 0) -> Any:
    """`arrays` as a `datasets.Dataset`: Image (PNG), ClassLabel and float32 columns."""
    import datasets

    columns: dict = arrays(split, size=size, seed=seed)
    columns["image"] = list(columns["image"])
    kinds = {"label": CLASSES, "colour": COLOURS, "background": BACKGROUNDS}
    features = datasets.Features({k: datasets.Value("float32") for k in columns})
    features |= {k: datasets.ClassLabel(names=list(v)) for k, v in kinds.items()}
    features["image"] = datasets.Image()
    return datasets.Dataset.from_dict(columns, features=features)
