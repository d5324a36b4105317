"""What stage 1 descends: the named terms together (paper section 3.3)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from minivim.config import LossConfig
from minivim.tokenizer.losses import (
    l1_loss,
    l2_loss,
    logit_laplace_loss,
    total_loss,
)
from minivim.tokenizer.model import Tokenizer


def tokenizer_loss(
    tokenizer: Tokenizer,
    batch: dict[str, Array],
    *,
    weights: LossConfig,
    flip: bool = False,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """`sum_t w_t L_t` on a batch, with every term and the codes as metrics."""
    images = batch["image"]
    if flip:
        images = random_flip(images, key=key)
    recon, aux = tokenizer(images, key=key)
    terms = {
        "vq": aux["vq_loss"],
        "l2": l2_loss(recon=recon, target=images),
        "l1": l1_loss(recon=recon, target=images),
    }
    if "log_scale" in aux:
        terms["logit_laplace"] = logit_laplace_loss(
            mean=aux["mean"],
            log_scale=aux["log_scale"],
            target=images,
            pixel_map=tokenizer.config.pixel_map,
        )
    loss = total_loss(weights, terms)
    return loss, terms | {"codes": aux["codes"]}


def random_flip(
    images: Float[Array, "B H W C"], *, key: PRNGKeyArray
) -> Float[Array, "B H W C"]:
    """Mirror each image with probability one half."""
    mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)
