"""The loss of stage 1 as a sum of named terms (paper section 3.3)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from minivim.config import LossConfig


def l2_loss(
    *, recon: Float[Array, "B H W C"], target: Float[Array, "B H W C"]
) -> Float[Array, ""]:
    """`mean (x_hat - x)^2` over pixels and channels, pixels in [0, 1]."""
    return jnp.mean(jnp.square(recon - target))


def l1_loss(
    *, recon: Float[Array, "B H W C"], target: Float[Array, "B H W C"]
) -> Float[Array, ""]:
    """`mean |x_hat - x|` over pixels and channels, pixels in [0, 1]."""
    return jnp.mean(jnp.abs(recon - target))


def total_loss(
    weights: LossConfig, terms: dict[str, Float[Array, ""]]
) -> Float[Array, ""]:
    """`sum_t w_t L_t` over the terms whose weight is not zero."""
    return sum(
        (
            getattr(weights, name) * value
            for name, value in terms.items()
            if getattr(weights, name)
        ),
        start=jnp.zeros(()),
    )
