"""InceptionV3 as FID and the Inception Score use it, with weights that the user has.

The network of 2015 that defined both metrics, in the layout of its PyTorch port
(pytorch-fid): its average pools leave padding out of the mean, its last block pools by
the maximum, and it has 1008 classes. Torchvision's Inception gives other figures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx
from jaxtyping import Array, Float

from minivim.card import Carded
from minivim.config.checks import Config, Count, Rule, require
from minivim_lab.convert import Weights, take

SIDE = 299
HIGHEST = jax.lax.Precision.HIGHEST
NORM_EPS = 1e-3  # of the batch norms, which are folded into the kernels here
REMEDY = "give pt_inception-2015-12-05-6726825d.pth of pytorch-fid"


POOLS = {
    "average": partial(
        nnx.avg_pool, window_shape=(3, 3), padding="SAME", count_include_pad=False
    ),
    "largest": partial(nnx.max_pool, window_shape=(3, 3), padding="SAME"),
    "halved": partial(nnx.max_pool, window_shape=(3, 3), strides=(2, 2)),
}


def network(x: Any, conv: Callable, pool: Callable, join: Callable) -> Any:
    """All layers but the head, by three functions: once of widths, once of maps.

    conv(name, x, width, kernel, ...) names a convolution as the file does; pool(kind,
    x) is one of `POOLS`; join(x, ...) concatenates channels.
    """

    def row(name: str, x: Any, *steps: tuple[int, int, int]) -> Any:
        """Convolutions (channels, kernel height, kernel width), numbered from 1."""
        for i, (width, *kernel) in enumerate(steps, 1):
            x = conv(f"{name}_{i}", x, width, tuple(kernel))
        return x

    halving = partial(conv, kernel=(3, 3), strides=2, padding="VALID")
    x = halving("Conv2d_1a_3x3", x, 32)
    x = conv("Conv2d_2a_3x3", x, 32, (3, 3), padding="VALID")
    x = pool("halved", conv("Conv2d_2b_3x3", x, 64, (3, 3)))
    x = conv("Conv2d_3b_1x1", x, 80)
    x = pool("halved", conv("Conv2d_4a_3x3", x, 192, (3, 3), padding="VALID"))
    for letter, pooled in zip("bcd", (32, 64, 64), strict=True):
        branch = f"Mixed_5{letter}.branch"
        x = join(
            conv(f"{branch}1x1", x, 64),
            row(f"{branch}5x5", x, (48, 1, 1), (64, 5, 5)),
            row(f"{branch}3x3dbl", x, (64, 1, 1), (96, 3, 3), (96, 3, 3)),
            conv(f"{branch}_pool", pool("average", x), pooled),
        )
    double = row("Mixed_6a.branch3x3dbl", x, (64, 1, 1), (96, 3, 3))
    x = join(
        halving("Mixed_6a.branch3x3", x, 384),
        halving("Mixed_6a.branch3x3dbl_3", double, 96),
        pool("halved", x),
    )
    for letter, c in zip("bcde", (128, 160, 160, 192), strict=True):
        branch = f"Mixed_6{letter}.branch"
        high = (c, 7, 1), (c, 1, 7), (c, 7, 1), (192, 1, 7)
        x = join(
            conv(f"{branch}1x1", x, 192),
            row(f"{branch}7x7", x, (c, 1, 1), (c, 1, 7), (192, 7, 1)),
            row(f"{branch}7x7dbl", x, (c, 1, 1), *high),
            conv(f"{branch}_pool", pool("average", x), 192),
        )
    three = conv("Mixed_7a.branch3x3_1", x, 192)
    seven = row("Mixed_7a.branch7x7x3", x, (192, 1, 1), (192, 1, 7), (192, 7, 1))
    x = join(
        halving("Mixed_7a.branch3x3_2", three, 320),
        halving("Mixed_7a.branch7x7x3_4", seven, 192),
        pool("halved", x),
    )
    for letter, kind in (("b", "average"), ("c", "largest")):
        branch = f"Mixed_7{letter}.branch"
        three = conv(f"{branch}3x3_1", x, 384)
        double = row(f"{branch}3x3dbl", x, (448, 1, 1), (384, 3, 3))
        x = join(
            conv(f"{branch}1x1", x, 320),
            conv(f"{branch}3x3_2a", three, 384, (1, 3)),
            conv(f"{branch}3x3_2b", three, 384, (3, 1)),
            conv(f"{branch}3x3dbl_3a", double, 384, (1, 3)),
            conv(f"{branch}3x3dbl_3b", double, 384, (3, 1)),
            conv(f"{branch}_pool", pool(kind, x), 192),
        )
    return x


@dataclass(frozen=True, kw_only=True)
class InceptionConfig(Config):
    """The number of classes; tests divide all widths by `divisor`."""

    classes: Count = 1008
    divisor: Annotated[int, Rule(lambda x: x in (1, 2, 4, 8, 16), "must divide 16")] = 1


class Inception(Carded):
    """Logits without bias, and the map whose mean FID reads.

    `aux["features"]` is the last map, [B, 8, 8, 2048]. The head is as the Inception
    Score was first computed, and all products are in full float32.
    """

    def __init__(self, config: InceptionConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.convs = nnx.Dict({})

        def conv(
            name: str, inputs: int, width: int, kernel: Any = (1, 1), **how
        ) -> int:
            how |= {"precision": HIGHEST, "rngs": rngs}
            outputs = width // config.divisor
            self.convs[name] = nnx.Conv(inputs, outputs, kernel, **how)
            return outputs

        width = network(3, conv, lambda kind, x: x, lambda *widths: sum(widths))
        self.head = nnx.Linear(width, config.classes, use_bias=False, rngs=rngs)

    def __call__(
        self, images: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, "B classes"], dict[str, Any]]:
        """images: float in [0, 1], of any size, with 1 or 3 channels."""

        def conv(name: str, x: Array, *_, **__) -> Array:
            return jax.nn.relu(self.convs[name](x))

        def join(*maps: Array) -> Array:
            return jnp.concatenate(maps, axis=-1)

        x = network(prepared(images), conv, lambda kind, x: POOLS[kind](x), join)
        pooled = x.mean(axis=(1, 2))
        logits = jnp.dot(pooled, self.head.kernel[...], precision=HIGHEST)
        return logits, {"features": [x]}


def prepared(images: Float[Array, "B H W C"]) -> Float[Array, "B 299 299 3"]:
    """299 x 299 pixels in [-1, 1] as pytorch-fid has them, bilinear, not smoothed."""
    if images.shape[-1] == 1:
        images = repeat(images, "b h w 1 -> b h w c", c=3)
    shape = (images.shape[0], SIDE, SIDE, 3)
    return 2 * jax.image.resize(images, shape, "bilinear", antialias=False) - 1


def inception_from_torch(state: Weights) -> Inception:
    """The network of pytorch-fid's file, each batch norm folded into its convolution.

        W' = W s, b' = b - m s,   s = g / sqrt(v + eps)

    state: `NAME.conv.weight` [O, I, h, w], `NAME.bn.{weight,bias,running_mean,
    running_var}` [O] and `fc.weight` [1008, 2048]; other keys are ignored. Raises
    `UserError` where one is missing or of another shape.
    """
    model = nnx.eval_shape(lambda: Inception(InceptionConfig(), rngs=nnx.Rngs(0)))
    found = partial(take, dict(state), remedy=REMEDY)
    for name, conv in model.convs.items():
        h, w, inputs, outputs = conv.kernel.shape
        kernel = found(f"{name}.conv.weight", outputs, inputs, h, w)
        gain, bias, mean, variance = (
            found(f"{name}.bn.{part}", outputs).astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        below = f"{name}.bn.running_var is negative somewhere; {REMEDY}"
        require(bool(variance.min() >= 0), below)
        scale = gain / np.sqrt(variance + NORM_EPS)
        kernel = rearrange(kernel, "o i h w -> h w i o") * scale
        conv.kernel = nnx.Param(jnp.asarray(kernel, jnp.float32))
        conv.bias = nnx.Param(jnp.asarray(bias - mean * scale, jnp.float32))
    inputs, outputs = model.head.kernel.shape
    head = found("fc.weight", outputs, inputs).T
    model.head.kernel = nnx.Param(jnp.asarray(head, jnp.float32))
    return model
