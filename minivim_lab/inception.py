"""InceptionV3 as FID and the Inception Score use it, with weights that the user has.

The network of 2015 that defined both metrics, in the layout of its PyTorch port
(pytorch-fid): its average pools leave padding out of the mean, its last block pools by
the maximum, and it has 1008 classes. Torchvision's Inception gives other figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx
from jaxtyping import Array, Float

from minivim.card import Carded
from minivim.config.checks import Config, Count, Rule
from minivim_lab.convert import Weights, take

SIDE = 299
HIGHEST = jax.lax.Precision.HIGHEST
NORM_EPS = 1e-3  # of the batch norms, which are folded into the kernels here
REMEDY = "give pt_inception-2015-12-05-6726825d.pth of pytorch-fid"


class Conv(NamedTuple):
    """A convolution, by its name in the file, and its ReLU."""

    name: str
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"


class Branches:
    """Paths from the same input, whose channels are concatenated."""

    def __init__(self, block: str, *paths: Path):
        # The name of the block precedes those of its convolutions.
        self.block, self.paths = block, paths


# A convolution, branches, or a pool of `POOLS` by its name.
Path = Sequence[Conv | Branches | str]


def _row(name: str, *steps: tuple[int, int, int]) -> list[Conv]:
    """Convolutions (channels, kernel height, kernel width), numbered from 1."""
    return [Conv(f"{name}_{i}", c, (h, w)) for i, (c, h, w) in enumerate(steps, 1)]


def _halving(name: str, width: int) -> Conv:
    return Conv(name, width, (3, 3), stride=2, padding="VALID")


def _a(block: str, pooled: int) -> Branches:
    return Branches(
        f"{block}.",
        [Conv("branch1x1", 64)],
        _row("branch5x5", (48, 1, 1), (64, 5, 5)),
        _row("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3)),
        ["average", Conv("branch_pool", pooled)],
    )


def _c(block: str, c: int) -> Branches:
    return Branches(
        f"{block}.",
        [Conv("branch1x1", 192)],
        _row("branch7x7", (c, 1, 1), (c, 1, 7), (192, 7, 1)),
        _row("branch7x7dbl", (c, 1, 1), (c, 7, 1), (c, 1, 7), (c, 7, 1), (192, 1, 7)),
        ["average", Conv("branch_pool", 192)],
    )


def _e(block: str, pool: str) -> Branches:
    def fork(name: str) -> Branches:
        one, other = Conv(f"{name}a", 384, (1, 3)), Conv(f"{name}b", 384, (3, 1))
        return Branches("", [one], [other])

    return Branches(
        f"{block}.",
        [Conv("branch1x1", 320)],
        [Conv("branch3x3_1", 384), fork("branch3x3_2")],
        [*_row("branch3x3dbl", (448, 1, 1), (384, 3, 3)), fork("branch3x3dbl_3")],
        [pool, Conv("branch_pool", 192)],
    )


NETWORK: Path = (
    Conv("Conv2d_1a_3x3", 32, (3, 3), stride=2, padding="VALID"),
    Conv("Conv2d_2a_3x3", 32, (3, 3), padding="VALID"),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    "halved",
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), padding="VALID"),
    "halved",
    _a("Mixed_5b", 32),
    _a("Mixed_5c", 64),
    _a("Mixed_5d", 64),
    Branches(
        "Mixed_6a.",
        [_halving("branch3x3", 384)],
        [*_row("branch3x3dbl", (64, 1, 1), (96, 3, 3)), _halving("branch3x3dbl_3", 96)],
        ["halved"],
    ),
    *map(_c, ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), (128, 160, 160, 192)),
    Branches(
        "Mixed_7a.",
        [Conv("branch3x3_1", 192), _halving("branch3x3_2", 320)],
        [
            *_row("branch7x7x3", (192, 1, 1), (192, 1, 7), (192, 7, 1)),
            _halving("branch7x7x3_4", 192),
        ],
        ["halved"],
    ),
    _e("Mixed_7b", "average"),
    _e("Mixed_7c", "largest"),
)
POOLS = {
    "average": partial(
        nnx.avg_pool, window_shape=(3, 3), padding="SAME", count_include_pad=False
    ),
    "largest": partial(nnx.max_pool, window_shape=(3, 3), padding="SAME"),
    "halved": partial(nnx.max_pool, window_shape=(3, 3), strides=(2, 2)),
}


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
        width = self._build(NETWORK, 3, rngs)
        self.head = nnx.Linear(width, config.classes, use_bias=False, rngs=rngs)

    def _build(self, path: Path, width: int, rngs: nnx.Rngs, block: str = "") -> int:
        """Add the convolutions of a path; returns the width of its output."""
        for step in path:
            if isinstance(step, Branches):
                name = block + step.block
                width = sum(self._build(p, width, rngs, name) for p in step.paths)
            elif isinstance(step, Conv):
                outputs = step.width // self.config.divisor
                self.convs[block + step.name] = nnx.Conv(
                    width, outputs, step.kernel, strides=step.stride,
                    padding=step.padding, precision=HIGHEST, rngs=rngs,
                )  # fmt: skip
                width = outputs
        return width

    def __call__(
        self, images: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, "B classes"], dict[str, Any]]:
        """images: float in [0, 1], of any size, with 1 or 3 channels."""
        x = self._run(NETWORK, prepared(images))
        pooled = x.mean(axis=(1, 2))
        logits = jnp.dot(pooled, self.head.kernel[...], precision=HIGHEST)
        return logits, {"features": [x]}

    def _run(self, path: Path, x: Float[Array, "B h w C"], block: str = "") -> Array:
        for step in path:
            if isinstance(step, Branches):
                parts = [self._run(p, x, block + step.block) for p in step.paths]
                x = jnp.concatenate(parts, axis=-1)
            elif isinstance(step, Conv):
                x = jax.nn.relu(self.convs[block + step.name](x))
            else:
                x = POOLS[step](x)
        return x


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
    double = {name: np.asarray(value, np.float64) for name, value in state.items()}
    found = partial(take, double, remedy=REMEDY)
    for name, conv in model.convs.items():
        h, w, inputs, outputs = conv.kernel.shape
        kernel = found(f"{name}.conv.weight", outputs, inputs, h, w)
        gain, bias, mean, variance = (
            found(f"{name}.bn.{part}", outputs)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gain / np.sqrt(variance + NORM_EPS)
        kernel = rearrange(kernel, "o i h w -> h w i o") * scale
        conv.kernel = nnx.Param(jnp.asarray(kernel, jnp.float32))
        conv.bias = nnx.Param(jnp.asarray(bias - mean * scale, jnp.float32))
    inputs, outputs = model.head.kernel.shape
    head = found("fc.weight", outputs, inputs).T
    model.head.kernel = nnx.Param(jnp.asarray(head, jnp.float32))
    return model
