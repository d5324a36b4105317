"""A number for the bits of every array, the same on every mesh."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


@jax.jit
def digest(x: Array) -> UInt32[Array, ""]:
    """sum_i (2i + 1) bits_i modulo 2^32, over all numbers of `x` in order.

    An odd weight hides no change of a single number of up to 32 bits. The order of a
    sum of integers does not matter: it is the same however `x` is split over devices.
    """
    if x.dtype == jnp.bool_:
        words = x.astype(jnp.uint32)
    else:
        word = _WORDS[x.dtype.itemsize]
        words = jax.lax.bitcast_convert_type(x, word).astype(jnp.uint32)
    place = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(words.shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        place = place * jnp.uint32(size) + along
    return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)


def digests(tree: Any) -> dict[str, int]:
    """`digest` of every array by its path; all processes of a run must call it."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    # Started one after the other, then waited for.
    found = {jax.tree_util.keystr(path): digest(leaf) for path, leaf in leaves}
    return {name: int(value) for name, value in found.items()}
