"""What may be done to the logits before a code is drawn.

The paper does none of it: temperature 1, the whole vocabulary (section 5.2). The order
is guidance, temperature, top-k, top-p.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

REFUSED = -jnp.inf


# Paper silent, section 4.1: classifier-free guidance
def guide(
    *,
    conditional: Float[Array, "*b K"],
    null: Float[Array, "*b K"],
    scale: float | Array,
) -> Float[Array, "*b K"]:
    """Classifier-free guidance `l_0 + s (l_c - l_0)`; 1 is no guidance."""
    return null + scale * (conditional - null)


def keep_top_k(logits: Float[Array, "*b K"], k: int) -> Float[Array, "*b K"]:
    """Keep the `k` largest logits, and those equal to the smallest of them."""
    smallest = jax.lax.top_k(logits, k)[0][..., -1:]
    return jnp.where(logits >= smallest, logits, REFUSED)


def keep_top_p(logits: Float[Array, "*b K"], p: float | Array) -> Float[Array, "*b K"]:
    """Keep the fewest most likely codes whose probabilities add up to `p` or more.

    All of them from `p = 1` on.
    """
    order = jnp.argsort(-logits, axis=-1, stable=True)
    probability = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    kept = jnp.put_along_axis(
        jnp.zeros(logits.shape, bool), order, before < p, axis=-1, inplace=False
    )
    # Sums in float32 reach 1 before the last codes do.
    return jnp.where(kept | (jnp.asarray(p) >= 1), logits, REFUSED)


# Paper silent, section 5.2: temperature, top-k and top-p
def filter_logits(
    logits: Float[Array, "*b K"],
    *,
    temperature: float | Array = 1.0,
    top_k: int | None = None,
    top_p: float | Array | None = None,
) -> Float[Array, "*b K"]:
    """Temperature, then top-k, then top-p; refused codes get minus infinity."""
    logits = logits / temperature
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    return logits
