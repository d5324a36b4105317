"""VQGAN's convolutional encoder and decoder, the baseline of the paper's Table 4.

After Esser et al. 2021 (arXiv 2012.09841, appendix), with the interface of `vit`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx
from jaxtyping import Array, Float

from minivim.config import CNNConfig, TokenizerConfig
from minivim.tokenizer.vit import reconstruction
from minivim.transformer import Tokens, attention

Maps = Float[Array, "B _H _W _C"]


def conv(inputs: int, outputs: int, rngs: nnx.Rngs, size: int = 3) -> nnx.Conv:
    """A convolution that keeps the size: N(0, 1/fan_in) weights and zero bias."""
    return nnx.Conv(inputs, outputs, (size, size), rngs=rngs)


def group_norm(size: CNNConfig, width: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """GroupNorm with the two-pass variance, over a group's channels and positions."""
    return nnx.GroupNorm(
        width, size.groups, epsilon=size.norm_eps, use_fast_variance=False, rngs=rngs
    )


class ResidualBlock(nnx.Module):
    """`skip(x) + conv(swish(norm(conv(swish(norm(x))))))`; `skip` if widths differ."""

    def __init__(self, config: CNNConfig, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.first_norm = group_norm(config, inputs, rngs)
        self.first = conv(inputs, outputs, rngs)
        self.second_norm = group_norm(config, outputs, rngs)
        self.second = conv(outputs, outputs, rngs)
        self.skip = nnx.data(None)
        if inputs != outputs:
            self.skip = conv(inputs, outputs, rngs, size=1)

    def __call__(self, x: Maps) -> Maps:
        y = self.first(jax.nn.silu(self.first_norm(x)))
        y = self.second(jax.nn.silu(self.second_norm(y)))
        return y + (x if self.skip is None else self.skip(x))


class SpatialAttention(nnx.Module):
    """`x + W_o softmax(q k^T / sqrt(C)) v` between all positions, with one head."""

    def __init__(self, config: CNNConfig, width: int, *, rngs: nnx.Rngs):
        self.norm = group_norm(config, width, rngs)
        self.qkv = conv(width, 3 * width, rngs, size=1)
        self.out = conv(width, width, rngs, size=1)

    def __call__(self, x: Maps) -> Maps:
        rows = rearrange(self.qkv(self.norm(x)), "b h w c -> b 1 (h w) c")
        return x + self.out(attention(*jnp.split(rows, 3, axis=-1)).reshape(x.shape))


class Halve(nnx.Module):
    """A 3 x 3 convolution with stride 2, one row and column of zeros at the far end."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        ends = ((0, 1), (0, 1))
        self.conv = nnx.Conv(width, width, (3, 3), strides=2, padding=ends, rngs=rngs)

    def __call__(self, x: Maps) -> Maps:
        return self.conv(x)


class Double(nnx.Module):
    """Every position four times, then a 3 x 3 convolution."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.conv = conv(width, width, rngs)

    def __call__(self, x: Maps) -> Maps:
        return self.conv(repeat(x, "b h w c -> b (h p) (w q) c", p=2, q=2))


class Output(nnx.Module):
    """`conv(swish(norm(x)))`."""

    def __init__(self, config: CNNConfig, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.norm = group_norm(config, inputs, rngs)
        self.conv = conv(inputs, outputs, rngs)

    def __call__(self, x: Maps) -> Maps:
        return self.conv(jax.nn.silu(self.norm(x)))


def blocks(
    config: CNNConfig, widths: Sequence[int], *, attend: bool, rngs: nnx.Rngs
) -> list[nnx.Module]:
    """Residual blocks from each width to the next, with attention after each or not."""
    layers: list[nnx.Module] = []
    for inputs, outputs in pairwise(widths):
        layers.append(ResidualBlock(config, inputs, outputs, rngs=rngs))
        if attend:
            layers.append(SpatialAttention(config, outputs, rngs=rngs))
    return layers


def middle(config: CNNConfig, *, rngs: nnx.Rngs) -> list[nnx.Module]:
    """Residual block, attention, residual block, at the smallest size."""
    widths = config.widths[-1:] * 2
    first = blocks(config, widths, attend=True, rngs=rngs)
    return first + blocks(config, widths, attend=False, rngs=rngs)


# Paper, Table 1: VQGAN's convolutional networks as rivals
class CNNEncoder(nnx.Module):
    """Images to features: residual blocks at every size, halving in between."""

    def __init__(self, config: TokenizerConfig, *, rngs: nnx.Rngs):
        size: Any = config.encoder
        width, last = size.channels, len(size.widths) - 1
        layers: list[nnx.Module] = []
        self.stem = conv(config.channels, width, rngs)
        for i, outputs in enumerate(size.widths):
            widths = [width] + [outputs] * size.res_blocks
            layers += blocks(size, widths, attend=last - i in size.attention, rngs=rngs)
            if i < last:
                layers.append(Halve(outputs, rngs=rngs))
            width = outputs
        self.layers = nnx.List(layers + middle(size, rngs=rngs))
        self.out = Output(size, width, size.width, rngs=rngs)

    def __call__(self, images: Maps) -> Tokens:
        x = self.stem(2 * images - 1)
        for layer in self.layers:
            x = layer(x)
        return rearrange(self.out(x), "b h w d -> b (h w) d")


class CNNDecoder(nnx.Module):
    """The encoder mirrored, with one more block at every size; see `reconstruction`."""

    def __init__(self, config: TokenizerConfig, *, rngs: nnx.Rngs):
        size: Any = config.decoder
        self.config = config
        width, last = size.widths[-1], len(size.widths) - 1
        self.stem = conv(size.width, width, rngs)
        layers = middle(size, rngs=rngs)
        for i, outputs in reversed(list(enumerate(size.widths))):
            widths = [width] + [outputs] * (size.res_blocks + 1)
            layers += blocks(size, widths, attend=last - i in size.attention, rngs=rngs)
            if i > 0:
                layers.append(Double(outputs, rngs=rngs))
            width = outputs
        self.layers = nnx.List(layers)
        self.out = Output(size, width, config.output_channels, rngs=rngs)

    def __call__(self, x: Tokens) -> tuple[Maps, dict[str, Any]]:
        x = self.stem(rearrange(x, "b (h w) d -> b h w d", h=self.config.grid))
        for layer in self.layers:
            x = layer(x)
        return reconstruction(self.out(x), self.config)
