"""A number for the bits of every array, the same on every mesh."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32


@jax.jit
def digest(x: Array) -> UInt32[Array, ""]:
    """sum_i (2i + 1) bits_i modulo 2^32, over all numbers of `x` in order.

    An odd weight hides no change of a single number of up to 32 bits. The order of a
    sum of integers does not matter: it is the same however `x` is split over devices.
    """
    if x.dtype != jnp.bool_:
        words = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}
        x = jax.lax.bitcast_convert_type(x, words[x.dtype.itemsize])
    bits, position = x.astype(jnp.uint32), jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(bits.shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        position = position * jnp.uint32(size) + along
    return jnp.sum(bits * (2 * position + 1), dtype=jnp.uint32)


def digests(tree: Any) -> dict[str, int]:
    """`digest` of every array by its path; all processes of a run must call it."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.tree.map(digest, tree))
    return {jax.tree_util.keystr(path): int(value) for path, value in leaves}
