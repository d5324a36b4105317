"""VQGAN's convolutional encoder and decoder, the baseline of the paper's Table 4.

After Esser et al. 2021 (arXiv 2012.09841, appendix). Between image and features the
same interface as `vit`, so that the quantiser and all else stay as they are.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx
from jaxtyping import Array, Float

from minivim.config import CNNConfig, TokenizerConfig
from minivim.tokenizer.vit import reconstruction
from minivim.transformer import attention


def conv(inputs: int, outputs: int, rngs: nnx.Rngs, size: int = 3) -> nnx.Conv:
    """A convolution that keeps the size: N(0, 1/fan_in) weights and zero bias."""
    return nnx.Conv(inputs, outputs, (size, size), rngs=rngs)


def group_norm(config: CNNConfig, width: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """GroupNorm with the two-pass variance, over a group's channels and positions."""
    return nnx.GroupNorm(
        width,
        num_groups=config.groups,
        epsilon=config.norm_eps,
        use_fast_variance=False,
        rngs=rngs,
    )


class ResidualBlock(nnx.Module):
    """`skip(x) + conv(swish(norm(conv(swish(norm(x))))))`.

    The skip is a 1 x 1 convolution where the widths differ.
    """

    def __init__(self, config: CNNConfig, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.first_norm = group_norm(config, inputs, rngs)
        self.first = conv(inputs, outputs, rngs)
        self.second_norm = group_norm(config, outputs, rngs)
        self.second = conv(outputs, outputs, rngs)
        self.skip = nnx.data(
            conv(inputs, outputs, rngs, size=1) if inputs != outputs else None
        )

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W O"]:
        y = self.first(jax.nn.silu(self.first_norm(x)))
        y = self.second(jax.nn.silu(self.second_norm(y)))
        return y + (x if self.skip is None else self.skip(x))


class SpatialAttention(nnx.Module):
    """`x + W_o softmax(q k^T / sqrt(C)) v` between all positions, with one head."""

    def __init__(self, config: CNNConfig, width: int, *, rngs: nnx.Rngs):
        self.norm = group_norm(config, width, rngs)
        self.qkv = conv(width, 3 * width, rngs, size=1)
        self.out = conv(width, width, rngs, size=1)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        _, height, width, _ = x.shape
        rows = rearrange(self.qkv(self.norm(x)), "b h w c -> b 1 (h w) c")
        mixed = attention(*jnp.split(rows, 3, axis=-1))
        mixed = rearrange(mixed, "b 1 (h w) c -> b h w c", h=height, w=width)
        return x + self.out(mixed)


class Halve(nnx.Module):
    """A 3 x 3 convolution with stride 2, one row and column of zeros at the far end."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        ends = ((0, 1), (0, 1))
        self.conv = nnx.Conv(width, width, (3, 3), strides=2, padding=ends, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C"]:
        return self.conv(x)


class Double(nnx.Module):
    """Every position four times, then a 3 x 3 convolution."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.conv = conv(width, width, rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C"]:
        return self.conv(repeat(x, "b h w c -> b (h p) (w q) c", p=2, q=2))


class Output(nnx.Module):
    """`conv(swish(norm(x)))`."""

    def __init__(self, config: CNNConfig, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.norm = group_norm(config, inputs, rngs)
        self.conv = conv(inputs, outputs, rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W O"]:
        return self.conv(jax.nn.silu(self.norm(x)))


def blocks(
    config: CNNConfig,
    *,
    inputs: int,
    outputs: int,
    count: int,
    attend: bool,
    rngs: nnx.Rngs,
) -> list[nnx.Module]:
    """The residual blocks of one size, with an attention after each if asked."""
    found: list[nnx.Module] = []
    for _ in range(count):
        found.append(ResidualBlock(config, inputs, outputs, rngs=rngs))
        if attend:
            found.append(SpatialAttention(config, outputs, rngs=rngs))
        inputs = outputs
    return found


def middle(config: CNNConfig, *, rngs: nnx.Rngs) -> list[nnx.Module]:
    """Residual block, attention, residual block, at the smallest size."""
    width = config.width
    return [
        ResidualBlock(config, width, width, rngs=rngs),
        SpatialAttention(config, width, rngs=rngs),
        ResidualBlock(config, width, width, rngs=rngs),
    ]


# Paper, Table 1: VQGAN's convolutional networks as rivals
class CNNEncoder(nnx.Module):
    """Images to features: residual blocks at every size, halving in between."""

    def __init__(self, config: TokenizerConfig, *, rngs: nnx.Rngs):
        size = config.encoder
        assert isinstance(size, CNNConfig)
        inputs, smallest = size.channels, len(size.widths) - 1
        layers: list[nnx.Module] = []
        self.stem = conv(config.channels, inputs, rngs)
        for i, outputs in enumerate(size.widths):
            layers += blocks(
                size,
                inputs=inputs,
                outputs=outputs,
                count=size.res_blocks,
                attend=i == smallest,
                rngs=rngs,
            )
            if i < smallest:
                layers.append(Halve(outputs, rngs=rngs))
            inputs = outputs
        self.layers = nnx.List(layers + middle(size, rngs=rngs))
        self.out = Output(size, size.width, size.width, rngs=rngs)

    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B N D"]:
        x = self.stem(2 * images - 1)
        for layer in self.layers:
            x = layer(x)
        return rearrange(self.out(x), "b h w d -> b (h w) d")


class CNNDecoder(nnx.Module):
    """Features to pixels: the encoder mirrored, with one more block at every size.

    `aux` as of `vit.Decoder`.
    """

    def __init__(self, config: TokenizerConfig, *, rngs: nnx.Rngs):
        size = config.decoder
        assert isinstance(size, CNNConfig)
        self.config = config
        inputs, smallest = size.width, len(size.widths) - 1
        self.stem = conv(inputs, inputs, rngs)
        layers = middle(size, rngs=rngs)
        for i in range(smallest, -1, -1):
            layers += blocks(
                size,
                inputs=inputs,
                outputs=size.widths[i],
                count=size.res_blocks + 1,
                attend=i == smallest,
                rngs=rngs,
            )
            inputs = size.widths[i]
            if i > 0:
                layers.append(Double(inputs, rngs=rngs))
        self.layers = nnx.List(layers)
        self.out = Output(size, inputs, config.output_channels, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B N D"]
    ) -> tuple[Float[Array, "B H W C"], dict[str, Any]]:
        grid = self.config.grid
        x = self.stem(rearrange(x, "b (h w) d -> b h w d", h=grid))
        for layer in self.layers:
            x = layer(x)
        return reconstruction(self.out(x), self.config)
