"""FLOPs of a step from its trace: what all chips together have to multiply.

The second count beside `hlo`, which reads one chip's share off the compiled text. The
two share only the arithmetic of a convolution's window.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.extend import core as jex


@dataclass(frozen=True)
class Window:
    """How a convolution's kernel moves, one number for each axis."""

    stride: Sequence[int] = ()
    low: Sequence[int] = ()
    lhs_dilate: Sequence[int] = ()
    rhs_dilate: Sequence[int] = ()

    @classmethod
    def parse(cls, text: str) -> Window:
        """From `{size=3x3 stride=2x2 pad=1_1x1_1 lhs_dilate=1x2}`; less is possible."""
        numbers = {
            name: [int(part.split("_")[0]) for part in values.split("x")]
            for name, values in re.findall(r"(\w+)=([\w\-]+)", text)
        }
        names = ("stride", "pad", "lhs_dilate", "rhs_dilate")
        return cls(*(numbers.get(name, ()) for name in names))

    def pairs(self, axes: Sequence[tuple[int, int, int]]) -> int:
        """Pairs of result and kernel position that meet a number of the data.

        axes: the sizes of data, kernel and result along each axis.
        """
        total = 1
        for axis, (base, kernel, results) in enumerate(axes):

            def at(values: Sequence[int], default: int, axis: int = axis) -> int:
                return values[axis] if values else default

            hole = at(self.lhs_dilate, 1)
            start = np.arange(results)[:, None] * at(self.stride, 1) - at(self.low, 0)
            place = start + np.arange(kernel)[None] * at(self.rhs_dilate, 1)
            inside = (place >= 0) & (place <= (base - 1) * hole) & (place % hole == 0)
            total *= int(inside.sum())
        return total


def product_flops(jaxpr: Any) -> int:
    """Two for each pair of numbers that a product or a convolution multiplies.

    Loops in full, through `jit`, `checkpoint` and derivatives of custom functions; of a
    condition the largest branch. Raises `ValueError` for a loop of unknown length that
    holds a product.
    """
    return sum(map(_equation, getattr(jaxpr, "jaxpr", jaxpr).eqns))


def _equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shared = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return 2 * math.prod(equation.outvars[0].aval.shape) * shared
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name == "scan":
        return params["length"] * product_flops(params["jaxpr"])
    if name == "cond":
        return max(map(product_flops, params["branches"]))
    parts = (p if isinstance(p, tuple | list) else [p] for p in params.values())
    inner = [part for several in parts for part in several]
    within = sum(
        product_flops(part)
        for part in inner
        if isinstance(part, jex.Jaxpr | jex.ClosedJaxpr)
    )
    if name == "while" and within:
        raise ValueError("a loop of unknown length holds products; use lax.scan")
    return within


def _convolution(equation: Any) -> int:
    params, (left, right) = equation.params, (v.aval.shape for v in equation.invars)
    data, kernel, out = params["dimension_numbers"]
    result = equation.outvars[0].aval.shape
    window = Window(
        stride=params["window_strides"],
        low=[low for low, _ in params["padding"]],
        lhs_dilate=params["lhs_dilation"],
        rhs_dilate=params["rhs_dilation"],
    )
    axes = zip(data[2:], kernel[2:], out[2:], strict=True)
    pairs = window.pairs([(left[d], right[k], result[o]) for d, k, o in axes])
    batch = left[data[0]] // params["batch_group_count"]
    inputs = left[data[1]] // params["feature_group_count"]
    return 2 * batch * inputs * right[kernel[0]] * pairs
