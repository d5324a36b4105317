"""The discriminators of stage 1: StyleGAN2's, and PatchGAN of the paper's ablation.

Section 3.3 names the first in place of the second and gives no detail; ours follow
Karras et al. 2020 (arXiv 1912.04958, appendix B) and Isola et al. 2017.
"""

import math
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from flax import nnx
from jaxtyping import Array, Float

from minivim import fast
from minivim.config import DiscriminatorConfig

Maps = Float[Array, "B _H _W _C"]
SLOPE = 0.2  # of the leaky rectifier
GAIN = math.sqrt(2)  # keeps the variance after it
BLUR = (1, 3, 3, 1)  # binomial, against aliasing before a map is halved


def leaky_relu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """`sqrt(2) max(x, 0.2 x)`."""
    return GAIN * jax.nn.leaky_relu(x, SLOPE)


def wide(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """In float32, if the maps are in bfloat16."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def as_maps(arrays: Any, **_: Any) -> Any:
    """For Flax: parameters in the type of the maps, which come first."""
    return tuple(a if a is None else a.astype(arrays[0].dtype) for a in arrays)


class EqualisedConv(nnx.Module):
    """A convolution whose N(0, 1) weights are scaled by `1 / sqrt(fan_in)` in use.

    So one learning rate suits every layer. With `down` the map is blurred and halved.
    """

    def __init__(
        self, c_in: int, c_out: int, size: int, *, down=False, bias=True, rngs: nnx.Rngs
    ):
        self.size, self.down = size, down
        shape = (size, size, c_in, c_out)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape))
        self.bias = nnx.data(nnx.Param(jnp.zeros(c_out)) if bias else None)

    def __call__(self, x: Maps) -> Maps:
        kernel = self.kernel[...] / math.sqrt(math.prod(self.kernel.shape[:-1]))
        kernel = kernel.astype(x.dtype)
        if self.down:
            margin = len(BLUR) - 2 + self.size - 1
            x = fast.blur(x, BLUR, ((margin + 1) // 2, margin // 2))
            y = fast.conv(x, kernel, stride=2)
        else:
            y = fast.conv(x, kernel, padding=(self.size // 2, self.size // 2))
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class EqualisedLinear(nnx.Module):
    """`x W / sqrt(fan_in) + b` with N(0, 1) weights."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B O"]:
        return x @ (self.kernel[...] / math.sqrt(x.shape[1])) + self.bias[...]


class ResidualBlock(nnx.Module):
    """`(conv(conv(x)) + skip(x)) / sqrt(2)` at half the size."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.first = EqualisedConv(inputs, inputs, 3, rngs=rngs)
        self.second = EqualisedConv(inputs, outputs, 3, down=True, rngs=rngs)
        self.skip = EqualisedConv(inputs, outputs, 1, down=True, bias=False, rngs=rngs)

    def __call__(self, x: Maps) -> Maps:
        y = leaky_relu(self.second(leaky_relu(self.first(x))))
        return (y + self.skip(x)) / GAIN


# Paper silent, section 3.3: the spread within groups of a batch
def minibatch_stddev(x: Maps, group: int) -> Maps:
    """Append `mean_{h,w,c} sqrt(var_g x + 1e-8)` of each sample's group as a channel.

    Group `m` of `M` is m, m + M, ...; its size the largest divisor of B up to `group`.
    """
    batch, height, width, _ = x.shape
    size = max(n for n in range(1, group + 1) if batch % n == 0)
    groups = rearrange(x, "(g m) h w c -> g m h w c", g=size)
    variance = jnp.mean(jnp.square(groups - groups.mean(axis=0)), axis=0)
    spread = reduce(jnp.sqrt(variance + 1e-8), "m h w c -> m", "mean")
    extra = repeat(spread, "m -> (g m) h w 1", g=size, h=height, w=width)
    return jnp.concatenate([x, extra], axis=-1)


# Paper, section 3.3: the discriminator of StyleGAN2
class StyleGAN2Discriminator(nnx.Module):
    """Residual blocks down to 4 x 4, minibatch stddev, one logit per image.

    `width` channels at the image's size, twice as many at each half up to `max_width`.
    """

    def __init__(
        self, how: DiscriminatorConfig, *, image_size: int, channels=3, rngs: nnx.Rngs
    ):
        widths, self.group = how.widths(image_size), how.stddev_group
        self.from_rgb = EqualisedConv(channels, widths[0], 1, rngs=rngs)
        blocks = [ResidualBlock(*pair, rngs=rngs) for pair in pairwise(widths)]
        self.blocks, last = nnx.List(blocks), widths[-1]
        self.conv = EqualisedConv(last + bool(self.group), last, 3, rngs=rngs)
        self.hidden = EqualisedLinear(16 * last, last, rngs=rngs)
        self.out = EqualisedLinear(last, 1, rngs=rngs)

    def __call__(self, images: Maps) -> Float[Array, " B"]:
        x = leaky_relu(self.from_rgb(2 * images - 1))
        for block in self.blocks:
            x = block(x)
        x = wide(x)  # the last maps have 4 x 4 pixels
        x = minibatch_stddev(x, self.group) if self.group else x
        x = leaky_relu(self.conv(x))
        x = leaky_relu(self.hidden(rearrange(x, "b h w c -> b (h w c)")))
        return self.out(x)[:, 0]


# Paper, Table 4: PatchGAN as the other discriminator
class PatchGAN(nnx.Module):
    """4 x 4 convolutions; one logit for each overlapping patch, `[B, h w]`.

    Padded by 1 as in the original: 30 x 30 logits at 256 x 256 pixels. GroupNorm, where
    the original has BatchNorm: a fake must not depend on its batch.
    """

    def __init__(
        self, how: DiscriminatorConfig, *, image_size: int, channels=3, rngs: nnx.Rngs
    ):
        common: Any = {"promote_dtype": as_maps, "rngs": rngs}
        conv = partial(nnx.Conv, kernel_size=(4, 4), padding=1, **common)
        widths = [channels, *(min(how.width << i, how.max_width) for i in range(4))]
        self.convs = nnx.List(
            conv(a, b, strides=2 if i < 3 else 1, use_bias=i < 1)
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.norms = nnx.List(nnx.GroupNorm(b, 4, **common) for b in widths[2:])
        self.out = conv(widths[-1], 1)

    def __call__(self, images: Maps) -> Float[Array, "B P"]:
        first, *rest = self.convs
        x = jax.nn.leaky_relu(first(2 * images - 1), SLOPE)
        for conv, norm in zip(rest, self.norms, strict=True):
            x = jax.nn.leaky_relu(norm(conv(x)), SLOPE)
        return wide(rearrange(self.out(x), "b h w 1 -> b (h w)"))


def build(config: DiscriminatorConfig, **how: Any) -> StyleGAN2Discriminator | PatchGAN:
    """The network that `config.kind` names, with the arguments of both."""
    kinds = {"stylegan2": StyleGAN2Discriminator, "patchgan": PatchGAN}
    return kinds[config.kind](config, **how)
