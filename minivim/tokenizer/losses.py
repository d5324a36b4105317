"""The loss of stage 1 as a sum of named terms (paper section 3.3)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minivim.config import LossConfig

Values = Float[Array, "*b"]
Images = Float[Array, "B H W C"]
Scalar = Float[Array, ""]

CLAMP = 1e-4  # pixels keep this distance from 0 and 1, where their logit is infinite
AFFINE_EPS = 0.1  # DALL-E's map is (1 - 2 eps) x + eps
# Lower bound on ln b: on flat colours the likelihood grows without limit as the scale
# shrinks. It is one grey level of 255 in mid-range, where d logit(x) = 4 dx.
LOG_SCALE_FLOOR = math.log(4 / 255)


# Paper, section 3.3: the squared error of pixels
def l2_loss(*, recon: Images, target: Images) -> Scalar:
    """`mean (x_hat - x)^2` over pixels and channels, pixels in [0, 1]."""
    return jnp.mean(jnp.square(recon - target))


def l1_loss(*, recon: Images, target: Images) -> Scalar:
    """`mean |x_hat - x|` over pixels and channels, pixels in [0, 1]."""
    return jnp.mean(jnp.abs(recon - target))


# Paper silent, section 3.3: how pixels keep off 0 and 1
def map_pixels(x: Values, pixel_map: str) -> Values:
    """Map pixels in [0, 1] into the open interval on which the density is defined."""
    if pixel_map == "clamp":
        return jnp.clip(x, CLAMP, 1 - CLAMP)
    return (1 - 2 * AFFINE_EPS) * x + AFFINE_EPS


def unmap_pixels(y: Values, pixel_map: str) -> Values:
    """Inverse of `map_pixels`, within the clamp; `affine` may leave [0, 1]."""
    if pixel_map == "clamp":
        return y
    return (y - AFFINE_EPS) / (1 - 2 * AFFINE_EPS)


# Paper, section 3.1: a sigmoid on the mean, no other last activation
def pixels_of(mean: Values, output: str, pixel_map: str = "clamp") -> Values:
    """The reconstruction `unmap(sigmoid(mu))`; mu itself if `output` is linear."""
    return mean if output == "linear" else unmap_pixels(jax.nn.sigmoid(mean), pixel_map)


# Paper silent, section 3.3: a floor under the learnt scale
def floored_log_scale(raw: Values) -> Values:
    """`ln b = floor + softplus(raw - floor)`: above the floor, differentiable."""
    return LOG_SCALE_FLOOR + jax.nn.softplus(raw - LOG_SCALE_FLOOR)


# Paper, section 3.3: the logit-laplace loss
def logit_laplace_loss(
    *, mean: Values, log_scale: Values, target: Values, pixel_map: str = "clamp"
) -> Scalar:
    """Mean of `|logit(y) - mu| / b + ln(2 b) + ln(y (1 - y))`, `y = map_pixels(x)`.

    A negative log-density, which may be negative; `mean` is mu, before the sigmoid, and
    `log_scale` is ln b (section 3.3; DALL-E, arXiv 2102.12092, appendix A.3).
    """
    y = map_pixels(target, pixel_map)
    distance = jnp.abs(jnp.log(y) - jnp.log1p(-y) - mean)
    volume = jnp.log(y) + jnp.log1p(-y)
    return jnp.mean(distance * jnp.exp(-log_scale) + math.log(2) + log_scale + volume)


def logistic_generator_loss(*, fake: Values) -> Scalar:
    """`mean softplus(-D(x_hat))`, the non-saturating form (section 3.3 names none)."""
    return jnp.mean(jax.nn.softplus(-fake))


# Paper silent, section 3.3: the form of the adversarial loss, logistic or hinge
def logistic_discriminator_loss(*, real: Values, fake: Values) -> Scalar:
    """`mean softplus(-D(x)) + mean softplus(D(x_hat))`, `real` and `fake` logits."""
    return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))


def hinge_generator_loss(*, fake: Values) -> Scalar:
    """`-mean D(x_hat)`."""
    return -jnp.mean(fake)


def hinge_discriminator_loss(*, real: Values, fake: Values) -> Scalar:
    """`(mean max(0, 1 - D(x)) + mean max(0, 1 + D(x_hat))) / 2`, with VQGAN's half."""
    return (jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake))) / 2


# Paper silent, section 3.3: R1 on real images, every 16 steps
def r1_penalty(discriminator: Callable[[Array], Array], images: Images) -> Scalar:
    """`mean_b |d/dx_b sum D(x)|^2` at real images; the loss is `gamma / 2` times it.

    Pixels are in [0, 1], StyleGAN2's in [-1, 1]: our `gamma` 2.5 is its 10. Evaluated
    only every `k`-th step, it is multiplied by `k` (Karras et al. 2020). The sum
    matters: with minibatch stddev the scores of a group depend on each other.
    """
    slopes = jax.grad(lambda x: jnp.sum(discriminator(x)))(images)
    return jnp.mean(jnp.sum(jnp.square(slopes), axis=(1, 2, 3)))


def lazy_r1(r1: Scalar, *, gamma: float, interval: int) -> Scalar:
    """`gamma / 2 k R1`, on every `k`-th step: as strong as `gamma / 2 R1` on each."""
    return gamma / 2 * interval * r1


# Paper, section 3.3: the loss of stage 1 as a weighted sum
def total_loss(
    weights: LossConfig, terms: dict[str, Scalar], share: Callable = lambda name: 1.0
) -> Scalar:
    """`sum_t s_t w_t L_t` over the terms whose weight is not zero; `share(t)` is s."""
    total = jnp.zeros(())
    for name, value in terms.items():
        if weight := getattr(weights, name):
            total = total + share(name) * weight * value
    return total
