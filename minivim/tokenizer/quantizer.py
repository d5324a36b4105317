"""The codebook: factorised, l2-normalised, learnt by gradient (paper section 3.2)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from minivim.config import QuantizerConfig
from minivim.transformer import argmax, linear


def l2_normalise(x: Float[Array, "*b d"], eps: float = 1e-12) -> Float[Array, "*b d"]:
    """`x / max(|x|, eps)`; the gradient at zero is finite."""
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, eps**2))


def nearest_code(
    z: Float[Array, "*b d"], codebook: Float[Array, "K d"]
) -> Int[Array, "*b"]:
    """`argmin_k |z - e_k|^2`, the lowest k on a tie.

    Expanded to `|e|^2 - 2 z.e`, so that on the unit sphere it is the largest cosine.
    """
    scores = 2 * z @ codebook.T - jnp.sum(jnp.square(codebook), axis=-1)
    return argmax(scores)


def straight_through(
    z: Float[Array, "*b d"], z_q: Float[Array, "*b d"]
) -> Float[Array, "*b d"]:
    """`z + sg[z_q - z]`: the value of `z_q`, the gradient of `z`."""
    return z + jax.lax.stop_gradient(z_q - z)


def vq_terms(
    *, z_e: Float[Array, "*b d"], z_q: Float[Array, "*b d"], reduction: str
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Both halves of `L_VQ = |sg[z_e] - e|^2 + beta |z_e - sg[e]|^2` (section 3.2).

    The first moves the codebook, the second, which `beta` multiplies, the encoder.
    Mean over tokens; over the `d` code dimensions the sum, as printed, or the mean,
    which is `d` times smaller.

    >>> z_e, z_q = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    >>> [float(t) for t in vq_terms(z_e=z_e, z_q=z_q, reduction="sum")]
    [2.0, 2.0]
    >>> [float(t) for t in vq_terms(z_e=z_e, z_q=z_q, reduction="mean")]
    [1.0, 1.0]
    """
    reduce = {"sum": jnp.sum, "mean": jnp.mean}[reduction]

    def distance(a: Array, b: Array) -> Array:
        return jnp.mean(reduce(jnp.square(a - b), axis=-1))

    stop = jax.lax.stop_gradient
    return distance(stop(z_e), z_q), distance(z_e, stop(z_q))


class Quantizer(nnx.Module):
    """Project to `d` dimensions, look up the nearest code, project back.

    The codebook starts from a normal distribution; no EMA, no restart of dead codes.
    """

    def __init__(
        self,
        config: QuantizerConfig,
        *,
        in_width: int,
        out_width: int,
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.down = linear(in_width, config.code_dim, rngs)
        self.up = linear(config.code_dim, out_width, rngs)
        shape = (config.num_codes, config.code_dim)
        self.codebook = nnx.Param(jax.random.normal(rngs.params(), shape))

    def embeddings(self) -> Float[Array, "K d"]:
        """The codes as the lookup sees them: on the unit sphere when normalised."""
        codebook = self.codebook[...]
        return l2_normalise(codebook) if self.config.l2_normalise else codebook

    def embed(self, codes: Int[Array, "B N"]) -> Float[Array, "B N out"]:
        """What the decoder receives for given codes."""
        return self.up(self.embeddings()[codes])

    def __call__(
        self, features: Float[Array, "B N in"], *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "B N out"], dict[str, Any]]:
        """Quantise; `aux` holds `codes`, `z_e`, `z_q` and both loss terms."""
        raw = self.down(features).astype(jnp.float32)
        z_e = l2_normalise(raw) if self.config.l2_normalise else raw
        embeddings = self.embeddings()
        codes = nearest_code(z_e, embeddings)
        z_q = embeddings[codes]
        codebook_loss, commitment_loss = vq_terms(
            z_e=z_e, z_q=z_q, reduction=self.config.reduction
        )
        carrier = z_e if self.config.straight_through == "project" else raw
        aux = {
            "codes": codes,
            "z_e": z_e,
            "z_q": z_q,
            "codebook_loss": codebook_loss,
            "commitment_loss": commitment_loss,
            "vq_loss": codebook_loss + self.config.beta * commitment_loss,
        }
        return self.up(straight_through(carrier, z_q)), aux
