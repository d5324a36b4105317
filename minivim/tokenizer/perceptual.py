"""Perceptual distances: LPIPS over VGG16, and the same over our own classifier.

Section 3.3 names a VGG and cites Johnson et al. 2016 and Zhang et al. 2018; we take the
latter's LPIPS (arXiv 1801.03924, equation 1). Its weights come from files that the user
has; without them the features of the small `Classifier` serve. Both networks are frozen
and have no dropout, so that an image is at distance 0 from itself, but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from minivim.classifier import Classifier, require_no_judge
from minivim.config.checks import require
from minivim.transformer import at_least_float32

# LPIPS's own, for images in [-1, 1]: ImageNet's mean and deviation, rounded.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPS = 1e-10  # outside the root, as in LPIPS
TOLERANCE = 1e-3  # by which an image may leave [0, 1]
# Where torchvision's vgg16 has its convolutions.
VGG16_CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


@dataclass(frozen=True, kw_only=True)
class PerceptualConfig:
    """Channels and number of convolutions of each size; by default those of VGG16."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    convs: tuple[int, ...] = (2, 2, 3, 3, 3)

    def __post_init__(self) -> None:
        require(
            0 < len(self.widths) == len(self.convs)
            and min(*self.widths, *self.convs) > 0,
            f"widths={self.widths} and convs={self.convs} must be as many numbers "
            "above zero; use those of VGG16",
        )


# Paper, section 3.3: the perceptual loss, on features of a VGG
class LPIPS(nnx.Module):
    """Distance between the VGG features of two images, weighted by linear heads.

        d = sum_l mean_hw sum_c w_lc (u_lc - v_lc)^2,   u_l = f_l / (|f_l| + eps)

    Features `f_l` are the last of each size before it is halved (relu1_2, 2_2, 3_3, 4_3
    and 5_3), `w_l >= 0` the heads (section 3.3; Zhang et al. 2018).
    """

    def __init__(self, config: PerceptualConfig, *, rngs: nnx.Rngs):
        self.config = config
        widths = [
            w
            for w, n in zip(config.widths, config.convs, strict=True)
            for _ in range(n)
        ]
        self.convs = nnx.List(
            nnx.Conv(
                a,
                b,
                (3, 3),
                padding=1,
                kernel_init=nnx.initializers.he_normal(),
                rngs=rngs,
            )
            for a, b in zip([3, *widths], widths, strict=False)
        )
        self.heads = nnx.List(nnx.Param(jnp.ones(w)) for w in config.widths)

    def __call__(self, *, recon: ArrayLike, target: ArrayLike) -> Float[Array, " B"]:
        """One distance per image.

        recon, target: float [B, H, W, C] in [0, 1]; a single channel counts as three
        equal ones. Gradients reach `recon` only. Raises `ValueError` for images of
        unequal shape, of integers or, where they are known, out of range, and
        `UserError` for images that are too small or of other channels.
        """
        x, y = _checked(recon=recon, target=target)
        least = 2 ** (len(self.config.widths) - 1)
        require(
            min(x.shape[1:3]) >= least,
            f"images of {x.shape[1]} x {x.shape[2]} pixels are too small for LPIPS; "
            f"use {least} x {least} or more, or a classifier as perceptual_net",
        )
        require(
            x.shape[3] in (1, 3),
            f"LPIPS reads images of 1 or 3 channels, not {x.shape[3]}; use a "
            "classifier as perceptual_net",
        )
        weights = [jax.lax.stop_gradient(head[...]) for head in self.heads]
        return weighted_distance(self.features(x), self.features(y), weights)

    def features(self, images: Float[Array, "B H W C"]) -> list[Array]:
        """The tapped maps [B, h, w, width], from the image's size down."""
        x, convs, found = normalised(images), iter(self.convs), []
        for size, count in enumerate(self.config.convs):
            if size:
                x = halved(x)
            for conv in islice(convs, count):
                x = jax.nn.relu(convolved(x, conv))
            found.append(x)
        return found


# Paper silent, section 3.3: the same on features of our own classifier
class FeatureDistance(nnx.Module):
    """The same distance over a `Classifier`'s feature maps, all heads alike.

    The mean over layers and positions of `|u - v|^2 / 2 = 1 - cos`, between 0 and 1, so
    that the paper's weight 0.1 means about what it means for LPIPS. Raises `UserError`
    for a `Judge`, which alone grades and so may serve no method, and for any other
    network.
    """

    def __init__(self, network: Any):
        require_no_judge(network)
        require(
            isinstance(network, Classifier),
            f"a {type(network).__name__} is no classifier; take one of kind=cnn as "
            "perceptual_net, such as shapes/classifier",
        )
        self.network = network

    def __call__(self, *, recon: ArrayLike, target: ArrayLike) -> Float[Array, " B"]:
        """One distance per image; arguments and errors as of `LPIPS`."""
        x, y = _checked(recon=recon, target=target)
        channels, *size = self.network.config.channels, *x.shape[1:3]
        require(
            x.shape[3] == channels and not any(side % 8 for side in size),
            f"images of shape {x.shape[1:]} do not fit this classifier; use "
            f"{channels} channels and sides that are multiples of 8",
        )
        a, b = (self.network(images)[1]["features"] for images in (x, y))
        share = 1 / (2 * len(a))
        return weighted_distance(a, b, [jnp.full(f.shape[-1], share) for f in a])


def perceptual_net(model: Any) -> LPIPS | FeatureDistance:
    """What compares images by a loaded model: LPIPS itself, or a classifier's features.

    Raises `UserError` for anything else, the judge among them.
    """
    return model if isinstance(model, LPIPS) else FeatureDistance(model)


def normalised(images: Float[Array, "B H W C"]) -> Float[Array, "B H W 3"]:
    """`(2 x - 1 - shift) / scale` per channel, as VGG was trained."""
    return (2 * images - 1 - jnp.array(SHIFT)) / jnp.array(SCALE)


def convolved(x: Float[Array, "B H W C"], conv: nnx.Conv) -> Float[Array, "B H W O"]:
    """`conv(x)`, 3 x 3 with a margin of zeros.

    On maps smaller than its kernel the library's is eighty times slower on a CPU than
    one product of gathered rows, and VGG ends with such maps for images of 32 x 32.
    """
    height, width = x.shape[1:3]
    if min(height, width) >= 3:
        return conv(x)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [
        padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)
    ]
    kernel, bias = rearrange(conv.kernel[...], "i j c o -> (i j c) o"), conv.bias
    return jnp.concatenate(parts, axis=-1) @ kernel + bias[...]  # type: ignore[index]


def halved(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """The largest of 2 x 2; an odd last row or column is left out."""
    even = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    return reduce(even, "b (h p) (w q) c -> b h w c", "max", p=2, q=2)


def unit(x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
    """`x / (|x| + eps)` over channels."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    # The root's slope at 0 is infinite: without this the gradient is nan where no
    # feature fires, and only a rectifier below would stop it.
    alive = square > 0
    norm = jnp.where(alive, jnp.sqrt(jnp.where(alive, square, 1)), 0)
    return x / (norm + EPS)


def weighted_distance(
    recon: Sequence[Float[Array, "B _h _w _C"]],
    target: Sequence[Float[Array, "B _h _w _C"]],
    heads: Sequence[Float[Array, " _C"]],
) -> Float[Array, " B"]:
    """`sum_l mean_hw w_l . (u_l - v_l)^2` of feature maps; no slope at `target`."""
    total = jnp.zeros(recon[0].shape[0])
    for f, g, head in zip(recon, target, heads, strict=True):
        apart = jnp.square(unit(f) - jax.lax.stop_gradient(unit(g)))
        total += jnp.mean(apart @ head, axis=(1, 2))
    return total


def lpips_from_torch(vgg: dict[str, Any], heads: dict[str, Any]) -> LPIPS:
    """LPIPS from torchvision's `vgg16` and the heads of the `lpips` package.

    vgg: `features.N.weight` [O, I, 3, 3] and `.bias`; heads: `linN.model.1.weight`
    [1, C, 1, 1]; both as arrays by name, other keys are ignored. Raises `UserError`
    where one is missing or of another shape, or a head is negative.
    """
    model = nnx.eval_shape(lambda: LPIPS(PerceptualConfig(), rngs=nnx.Rngs(0)))
    for conv, index in zip(model.convs, VGG16_CONVS, strict=True):
        h, w, inputs, outputs = conv.kernel.shape
        name = f"features.{index}"
        kernel = _found(vgg, f"{name}.weight", (outputs, inputs, h, w), VGG_REMEDY)
        bias = _found(vgg, f"{name}.bias", (outputs,), VGG_REMEDY)
        conv.kernel = nnx.Param(jnp.asarray(kernel.transpose(2, 3, 1, 0)))
        conv.bias = nnx.Param(jnp.asarray(bias))
    for i, width in enumerate(model.config.widths):
        name = f"lin{i}.model.1.weight"
        head = _found(heads, name, (1, width, 1, 1), HEADS_REMEDY).ravel()
        require(bool(head.min() >= 0), f"{name} is negative somewhere; {HEADS_REMEDY}")
        model.heads[i] = nnx.Param(jnp.asarray(head))
    return model


VGG_REMEDY = "give the state dict of torchvision's vgg16 (not vgg16_bn)"
HEADS_REMEDY = "give weights/v0.1/vgg.pth of the lpips package"


def _found(
    tensors: dict[str, Any], name: str, shape: tuple[int, ...], remedy: str
) -> np.ndarray:
    require(name in tensors, f"there is no {name} among the weights; {remedy}")
    value = np.asarray(tensors[name], np.float32)
    require(
        value.shape == shape, f"{name} has shape {value.shape}, not {shape}; {remedy}"
    )
    return value


def _checked(*, recon: ArrayLike, target: ArrayLike) -> tuple[Array, Array]:
    """Both as float32; inside a compiled function values cannot be checked."""
    images = {"recon": jnp.asarray(recon), "target": jnp.asarray(target)}
    shapes = [x.shape for x in images.values()]
    if shapes[0] != shapes[1] or len(shapes[0]) != 4:
        raise ValueError(
            f"images must be two equal [B, H, W, C] arrays, got {shapes[0]} and "
            f"{shapes[1]}"
        )
    for name, x in images.items():
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"{name} must be floats in [0, 1], got {x.dtype}; divide by 255"
            )
        low, high = (x.min(), x.max()) if x.size else (0.0, 1.0)
        # Not of `x`: in a compiled function even a constant's least is a tracer.
        if isinstance(low, Tracer):
            continue
        low, high = float(low), float(high)
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
            raise ValueError(
                f"{name} must lie in [0, 1], got values from {low:.3g} to {high:.3g}; "
                "scale or clip it"
            )
    return at_least_float32(images["recon"]), at_least_float32(images["target"])
