"""FLOPs of a step from its trace: what all chips together have to multiply.

The second count beside `hlo`, which reads one chip's share off the compiled text. The
two share only the arithmetic of a convolution's window.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex


def window_pairs(axes: Iterable[tuple[int, int, int]], *window: Sequence[int]) -> int:
    """Pairs of result and kernel position of a convolution that meet a number.

    axes: the sizes of data, kernel and result along each axis. window: strides, padding
    before, dilations of data and of kernel, each empty where it is the usual one.
    """
    total, usual = 1, [*zip(window, (1, 0, 1, 1), strict=True)]
    for axis, (base, kernel, results) in enumerate(axes):
        step, pad, hole, spread = (given[axis] if given else n for given, n in usual)
        place = np.arange(results)[:, None] * step - pad + np.arange(kernel) * spread
        inside = (place >= 0) & (place <= (base - 1) * hole) & (place % hole == 0)
        total *= int(inside.sum())
    return total


def product_flops(jaxpr: Any) -> int:
    """Two for each pair of numbers that a product or a convolution multiplies.

    Loops in full, through `jit`, `checkpoint` and derivatives of custom functions; of a
    condition the largest branch. `ValueError` for products in a loop of unknown length.
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
    if name == "pallas_call":
        # Its parts at their most, where a part of the grid may be left out.
        return math.prod(params["grid_mapping"].grid) * product_flops(params["jaxpr"])
    if name == "cond":
        return max(map(product_flops, params["branches"]))
    kinds = jex.Jaxpr | jex.ClosedJaxpr
    inner = [part for part in jax.tree.leaves(params) if isinstance(part, kinds)]
    within = sum(map(product_flops, inner))
    if name == "while" and within:
        raise ValueError("a loop of unknown length holds products; use lax.scan")
    return within


def _convolution(equation: Any) -> int:
    params, (left, right) = equation.params, (v.aval.shape for v in equation.invars)
    data, kernel, out = params["dimension_numbers"]
    result = equation.outvars[0].aval.shape
    axes = zip(data[2:], kernel[2:], out[2:], strict=True)
    pairs = window_pairs(
        [(left[d], right[k], result[o]) for d, k, o in axes],
        params["window_strides"],
        [low for low, _ in params["padding"]],
        params["lhs_dilation"],
        params["rhs_dilation"],
    )
    batch = left[data[0]] // params["batch_group_count"]
    inputs = left[data[1]] // params["feature_group_count"]
    return 2 * batch * inputs * right[kernel[0]] * pairs
