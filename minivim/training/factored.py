"""Adam in less memory: a factored second moment and an int8 first moment.

Adam keeps two float32 numbers for every weight. Here a matrix `[D, H]` keeps one byte a
weight for the first moment, and `D + H` numbers for the second.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Int8
from optax.tree import bias_correction

# A field that a parameter does not need: a tree without leaves.
NONE = optax.MaskedNode()
LARGEST = 127  # of int8, without -128: symmetric


class Moments(NamedTuple):
    """Both moments of one parameter, or trees of them like the parameters.

    Every array has the axes of its parameter, of length one where it is a mean, so that
    the rules that shard a parameter shard its moments. What does not apply is `NONE`.
    """

    mu: Any  # first moment, or its int8 values
    bucket: Any  # what one int8 step is worth, [..., 1, H]
    nu: Any  # second moment in full
    nu_row: Any  # its mean over columns, [..., D, 1]
    nu_column: Any  # its mean over rows, [..., 1, H]


class FactoredAdamState(NamedTuple):
    """Updates so far, and the moments of all parameters."""

    count: Int[Array, ""]
    moments: Moments


def is_matrix(path: tuple, shape: tuple[int, ...]) -> bool:
    """Whether the last two axes of a parameter are a matrix, from its name and shape.

    They are in a `kernel` (`[D, H]`; of stacked blocks `[L, D, H]` and of convolutions
    `[k, k, C, O]` a matrix for each index before the last two) and in a table `[K, D]`.
    Two axes without the name `kernel` below `blocks` are a stack of vectors.
    """
    names = {getattr(part, "key", None) for part in path}
    table = len(shape) == 2 and "blocks" not in names
    return len(shape) >= 2 if "kernel" in names else table


# Paper silent, section 5.2: int8 with one scale a column, rounded to the nearest
def quantise(
    x: Float[Array, "*b D H"],
) -> tuple[Int8[Array, "*b D H"], Float[Array, "*b 1 H"]]:
    """`round(x / s)` as int8 and the bucket `s = max|x| / 127` of each column.

    An error of at most `s / 2`. As in praxis, which is by the paper's group.
    """
    bucket = jnp.max(jnp.abs(x), axis=-2, keepdims=True) / LARGEST
    steps = jnp.round(x / jnp.where(bucket == 0, 1, bucket))
    # Clipped for the smallest numbers there are, whose bucket is inexact.
    return jnp.clip(steps, -LARGEST, LARGEST).astype(jnp.int8), bucket


def restore(
    values: Int8[Array, "*b D H"], bucket: Float[Array, "*b 1 H"]
) -> Float[Array, "*b D H"]:
    """Inverse of `quantise`, up to its rounding."""
    return values.astype(bucket.dtype) * bucket


def unfactor(
    rows: Float[Array, "*b D 1"], columns: Float[Array, "*b 1 H"]
) -> Float[Array, "*b D H"]:
    """`v_ij = R_i C_j / mean(R)`: exact where v is a product of a row and a column."""
    mean = jnp.mean(rows, axis=-2, keepdims=True)
    # The ratio first: a product of two squared gradients can be too small for a float.
    return rows / jnp.where(mean == 0, 1, mean) * columns


# Paper, section 5.2: Adam with a factored second and an int8 first moment
def scale_by_factored_adam(
    b1: float,
    b2: float,
    eps: float,
    *,
    first_moment: Literal["float32", "bfloat16", "int8"] = "int8",
    second_moment: Literal["full", "factored"] = "factored",
) -> optax.GradientTransformation:
    """Adam's direction `m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)` (section 5.2).

    `m` is the moving average of the gradient and `v` that of its square. Of a matrix
    (see `is_matrix`) `m` is stored as `first_moment` and `v`, if factored, as its means
    over columns and over rows, which is Adafactor's form (Shazeer & Stern 2018): equal
    to Adam where the gradients are `c_t u v^T` with fixed u and v. All else keeps both
    in full. Each update uses the average before it is rounded. Adafactor averages the
    direction instead and limits the size of an update; the paper mentions neither.
    """

    def init(params: Any) -> Any:
        leaves, tree = jax.tree_util.tree_flatten_with_path(params)
        start = [_zeros(*found, first_moment, second_moment) for found in leaves]
        return FactoredAdamState(jnp.zeros([], jnp.int32), _transposed(start, tree))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count = jnp.asarray(optax.safe_increment(state.count))
        leaves, tree = jax.tree.flatten(updates)
        fields = [tree.flatten_up_to(field) for field in state.moments]
        directions, after = [], []
        for grad, *before in zip(leaves, *fields, strict=True):
            m, v, stored = _moved(grad, Moments(*before), b1, b2)
            m, v = bias_correction(m, b1, count), bias_correction(v, b2, count)
            directions.append(m / (jnp.sqrt(v) + eps))
            after.append(stored)
        state = FactoredAdamState(count, _transposed(after, tree))
        return tree.unflatten(directions), state

    return optax.GradientTransformation(init, update)


def _zeros(path: tuple, leaf: Any, first: str, second: str) -> Moments:
    """The moments of a parameter before the first update."""
    dtype, shape = jnp.promote_types(leaf.dtype, jnp.float32), leaf.shape
    rows, columns = (*shape[:-1], 1), (*shape[:-2], 1, *shape[-1:])
    matrix = is_matrix(path, shape)
    factored = matrix and second == "factored"
    return Moments(
        mu=jnp.zeros(shape, dtype if first == "float32" or not matrix else first),
        bucket=jnp.zeros(columns, dtype) if matrix and first == "int8" else NONE,
        nu=NONE if factored else jnp.zeros(shape, dtype),
        nu_row=jnp.zeros(rows, dtype) if factored else NONE,
        nu_column=jnp.zeros(columns, dtype) if factored else NONE,
    )


def _moved(grad: Array, before: Moments, b1: float, b2: float) -> tuple:
    """Both moments after a gradient, in full and as they are stored."""
    grad = grad.astype(jnp.promote_types(grad.dtype, jnp.float32))
    kind, square = before.mu.dtype, jnp.square(grad)
    eight = kind == jnp.int8
    mu = restore(before.mu, before.bucket) if eight else before.mu.astype(grad.dtype)
    mu = b1 * mu + (1 - b1) * grad
    kept, bucket = quantise(mu) if eight else (mu.astype(kind), NONE)
    if not isinstance(before.nu, optax.MaskedNode):
        nu = b2 * before.nu + (1 - b2) * square
        return mu, nu, Moments(kept, bucket, nu, NONE, NONE)
    rows, columns = (
        b2 * old + (1 - b2) * jnp.mean(square, axis=axis, keepdims=True)
        for old, axis in ((before.nu_row, -1), (before.nu_column, -2))
    )
    return mu, unfactor(rows, columns), Moments(kept, bucket, NONE, rows, columns)


def _transposed(moments: list[Moments], tree: Any) -> Moments:
    """One tree for each field, from the moments of each parameter."""
    return Moments(*map(tree.unflatten, zip(*moments, strict=True)))
