"""FLOPs of a step from its trace: what all chips together have to multiply.

The second formulation beside `hlo`, which reads one chip's share off the compiled text.
"""

from __future__ import annotations

import math
from typing import Any

from jax.extend import core as jex

from minivim_lab.plan.window import Window


def product_flops(jaxpr: Any) -> int:
    """Two for each pair of numbers that a product or a convolution multiplies.

    Loops in full, through `jit`, `checkpoint` and derivatives of custom functions; of a
    condition the largest branch. Raises `ValueError` for a loop of unknown length that
    holds a product.
    """
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    return sum(_equation(equation) for equation in inner.eqns)


def _equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name == "scan":
        return params["length"] * product_flops(params["jaxpr"])
    if name == "cond":
        return max(map(product_flops, params["branches"]))
    within = sum(product_flops(part) for part in _inner(params))
    if name == "while" and within:
        raise ValueError("a loop of unknown length holds products; use lax.scan")
    return within


def _inner(params: dict[str, Any]) -> list[Any]:
    """Every jaxpr among the parameters of an equation."""
    values = [v for value in params.values() for v in _each(value)]
    return [v for v in values if isinstance(v, jex.Jaxpr | jex.ClosedJaxpr)]


def _each(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    shared = math.prod(left[axis] for axis in contracted)
    return 2 * math.prod(equation.outvars[0].aval.shape) * shared


def _convolution(equation: Any) -> int:
    params, (left, right) = equation.params, (v.aval.shape for v in equation.invars)
    data, kernel, out = params["dimension_numbers"]
    window = Window(
        stride=params["window_strides"],
        low=tuple(low for low, _ in params["padding"]),
        lhs_dilate=params["lhs_dilation"],
        rhs_dilate=params["rhs_dilation"],
    )
    pairs = math.prod(
        window.valid(
            axis,
            base=left[data[axis + 2]],
            kernel=right[kernel[axis + 2]],
            results=equation.outvars[0].aval.shape[out[axis + 2]],
        )
        for axis in range(len(data) - 2)
    )
    batch = left[data[0]] // params["batch_group_count"]
    inputs = left[data[1]] // params["feature_group_count"]
    return 2 * batch * inputs * right[kernel[0]] * pairs
