"""Which numbers the window of a convolution meets."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """How a convolution's kernel moves, one number an axis."""

    stride: tuple[int, ...] = ()
    low: tuple[int, ...] = ()
    lhs_dilate: tuple[int, ...] = ()
    rhs_dilate: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Window:
        """From `{size=3x3 stride=2x2 pad=1_1x1_1 lhs_dilate=1x2}`; less is possible."""

        def numbers(name: str, read: Callable[[str], int] = int) -> tuple[int, ...]:
            match = re.search(rf"\b{name}=([\w\-]+)", text)
            return tuple(read(part) for part in match[1].split("x")) if match else ()

        return cls(
            stride=numbers("stride"),
            low=numbers("pad", lambda part: int(part.split("_")[0])),
            lhs_dilate=numbers("lhs_dilate"),
            rhs_dilate=numbers("rhs_dilate"),
        )

    def valid(self, axis: int, *, base: int, kernel: int, results: int) -> int:
        """Pairs of result and kernel position that meet a number of the data."""

        def at(values: tuple[int, ...], default: int) -> int:
            return values[axis] if values else default

        hole = at(self.lhs_dilate, 1)
        start = np.arange(results)[:, None] * at(self.stride, 1) - at(self.low, 0)
        place = start + np.arange(kernel)[None] * at(self.rhs_dilate, 1)
        inside = (place >= 0) & (place <= (base - 1) * hole) & (place % hole == 0)
        return int(inside.sum())
