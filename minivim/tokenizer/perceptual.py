"""Perceptual distances: LPIPS over VGG16, and the same over our own classifier.

Section 3.3 names a VGG and cites Johnson et al. 2016 and Zhang et al. 2018; we take the
latter's LPIPS (arXiv 1801.03924, equation 1). Without the files of its weights the
features of the small `Classifier` serve. Both are frozen and have no dropout.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import reduce
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from minivim import fast
from minivim.card import Carded
from minivim.classifier import require_classifier
from minivim.config.checks import Config, Counts, require
from minivim.data.arrays import unit_pair

Maps = Float[Array, "B _H _W _C"]
# LPIPS's constants for images in [-1, 1]: ImageNet's mean and deviation, rounded.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPS = 1e-10  # outside the root, as in LPIPS


@dataclass(frozen=True, kw_only=True)
class PerceptualConfig(Config):
    """Channels and number of convolutions at each size; by default those of VGG16."""

    widths: Counts = (64, 128, 256, 512, 512)
    convs: Counts = (2, 2, 3, 3, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        problem = f"{self}: widths and convs are not as many"
        require(len(self.widths) == len(self.convs), f"{problem}; use those of VGG16")

    @property
    def layers(self) -> int:
        return sum(self.convs)


# Paper, section 3.3: the perceptual loss, on features of a VGG
class LPIPS(Carded):
    """Distance between the VGG features of two images, weighted by linear heads.

        d = sum_l mean_hw sum_c w_lc (u_lc - v_lc)^2,   u_l = f_l / (|f_l| + eps)

    Features `f_l` are the last maps of each size before it is halved (relu1_2, 2_2,
    3_3, 4_3 and 5_3), `w_l >= 0` the heads (section 3.3; Zhang et al. 2018).
    """

    def __init__(self, config: PerceptualConfig, *, rngs: nnx.Rngs):
        self.config = config
        widths = np.repeat(config.widths, config.convs).tolist()
        self.convs = nnx.List(
            nnx.Conv(a, b, (3, 3), kernel_init=nnx.initializers.he_normal(), rngs=rngs)
            for a, b in pairwise([3, *widths])
        )
        self.heads = nnx.List(nnx.Param(jnp.ones(w)) for w in config.widths)

    def __call__(
        self, *, recon: ArrayLike, target: ArrayLike, precision: str = "float32"
    ) -> Float[Array, " B"]:
        """One distance per image, of floats [B, H, W, C] in [0, 1].

        A single channel counts as three equal ones. Gradients reach `recon` only.
        `precision` is that of the maps; "float32" means the type of the images.
        Raises `UserError` for images of unequal shape and those that cannot be read.
        """
        x, y = unit_pair(recon, target)
        _, height, width, channels = x.shape
        least = 2 ** (len(self.config.widths) - 1)
        fits = min(height, width) >= least and channels in (1, 3)
        problem = f"LPIPS cannot read {height} x {width} pixels of {channels} channels"
        remedy = f"use {least} x {least} or more of 1 or 3, or a classifier as"
        require(fits, f"{problem}; {remedy} perceptual_net")
        weights = [jax.lax.stop_gradient(head[...]) for head in self.heads]
        kind = x.dtype if precision == "float32" else precision
        x, y = x.astype(kind), y.astype(kind)
        return weighted_distance(self.features(x), self.features(y), weights)

    def features(self, images: Maps) -> list[Maps]:
        """The feature maps [B, h, w, width], from the image's size down."""
        x, convs, maps = normalised(images), iter(self.convs), []
        x = x.astype(images.dtype)
        for count in self.config.convs:
            x = halved(x) if maps else x
            for conv in islice(convs, count):
                bias: Any = conv.bias
                kernel, shift = (w[...].astype(x.dtype) for w in (conv.kernel, bias))
                x = jax.nn.relu(fast.conv(x, kernel, padding=(1, 1)) + shift)
            maps.append(x)
        return maps


# Paper silent, section 3.3: the same on features of our own classifier
class FeatureDistance(nnx.Module):
    """The same distance over a `Classifier`'s feature maps, with equal heads.

    The mean over layers and positions of `|u - v|^2 / 2 = 1 - cos`, in [0, 1], so that
    0.1 weighs about as much as for LPIPS. Raises `UserError` for any other network.
    """

    def __init__(self, network: Any):
        self.network = require_classifier(network)

    def __call__(self, *, recon: ArrayLike, target: ArrayLike) -> Float[Array, " B"]:
        """One distance per image; arguments and errors as for `LPIPS`."""
        x, y = unit_pair(recon, target)
        self.network.check_shape(x.shape[1:])
        a, b = (self.network(images)[1]["features"] for images in (x, y))
        share = 1 / (2 * len(a))
        return weighted_distance(a, b, [jnp.full(f.shape[-1], share) for f in a])


def perceptual_net(model: Any) -> LPIPS | FeatureDistance:
    """The distance that a loaded model gives; `UserError` for any but LPIPS and cnn."""
    return model if isinstance(model, LPIPS) else FeatureDistance(model)


def normalised(images: Maps) -> Maps:
    """`(2 x - 1 - shift) / scale` per channel, as VGG was trained."""
    return (2 * images - 1 - jnp.array(SHIFT)) / jnp.array(SCALE)


def halved(x: Maps) -> Maps:
    """Max-pooling over 2 x 2; an odd last row or column is left out."""
    even = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    return reduce(even, "b (h p) (w q) c -> b h w c", "max", p=2, q=2)


def unit(x: Maps) -> Maps:
    """`x / (|x| + eps)` over channels, in float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    # The slope of the root at 0, where no feature fires, is infinite.
    norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return x / (norm + EPS)


def weighted_distance(
    recon: Sequence[Maps], target: Sequence[Maps], heads: Sequence[Array]
) -> Float[Array, " B"]:
    """`sum_l mean_hw w_l . (u_l - v_l)^2`; no gradient reaches `target`."""
    total = jnp.zeros(recon[0].shape[0])
    for f, g, head in zip(recon, target, heads, strict=True):
        apart = jnp.square(unit(f) - jax.lax.stop_gradient(unit(g)))
        total += jnp.mean(apart @ head, axis=(1, 2))
    return total
