"""The two Vision Transformers of stage 1 (paper section 3.1)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from minivim import fast
from minivim.config import TokenizerConfig
from minivim.tokenizer.losses import Images, floored_log_scale, pixels_of
from minivim.transformer import Stack, Tokens, linear, patchify, unpatchify


def sincos_positions(grid: int, width: int) -> Float[np.ndarray, "N D"]:
    """Fixed 2-D table: `[sin x, cos x, sin y, cos y]`, frequencies `10000^(-4i/D)`."""
    frequencies = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    x, y = (axis[:, None] * frequencies for axis in (columns, rows))
    table = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)
    return table.astype(np.float32)


# Paper silent, section 3.1: positions in stage 1, learnt or fixed
class Positions(nnx.Module):
    """One vector per token, learnt or fixed, added to the tokens."""

    def __init__(self, config: TokenizerConfig, width: int, *, rngs: nnx.Rngs):
        self.kind, self.grid, self.width = config.positions, config.grid, width
        if self.kind == "learnt":
            shape = (config.num_tokens, width)
            self.table = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))

    def __call__(self, x: Tokens) -> Tokens:
        if self.kind == "learnt":
            return x + self.table[...]
        return x + jnp.asarray(sincos_positions(self.grid, self.width))


# Paper, section 3.1: a two-layer tanh network at the output of the blocks
class TanhHead(nnx.Module):
    """`W_2 tanh(W_1 x)`."""

    def __init__(self, width: int, hidden: int, outputs: int, *, rngs: nnx.Rngs):
        self.hidden = linear(width, hidden, rngs)
        self.out = linear(hidden, outputs, rngs)

    def __call__(self, x: Tokens) -> Tokens:
        return fast.tokens(self.out(jnp.tanh(self.hidden(fast.rows(x)))), x.shape[0])


def reconstruction(
    maps: Float[Array, "B H W M"], config: TokenizerConfig
) -> tuple[Images, dict[str, Any]]:
    """Images from a decoder's last maps: a mean, with `output="laplace"` also a scale.

    `aux` holds `mean`, the pixels before the sigmoid, and `log_scale`.
    """
    mean, *scale = jnp.split(maps, maps.shape[-1] // config.channels, axis=-1)
    aux = {"mean": mean}
    if scale:
        aux["log_scale"] = floored_log_scale(scale[0])
    return pixels_of(mean, config.output, config.pixel_map), aux


# Paper, section 3.1: the encoder, Transformer blocks over patches
class Encoder(nnx.Module):
    """Images to features: patches, positions, blocks, tanh head."""

    def __init__(self, config: TokenizerConfig, *, rngs: nnx.Rngs):
        size: Any = config.encoder
        self.patch_size = config.patch_size
        self.embed = linear(config.patch_dim, size.width, rngs)
        self.positions = Positions(config, size.width, rngs=rngs)
        self.stack = Stack(size, rngs=rngs)
        self.head = nnx.data(None)
        if config.tanh == "head":
            self.head = TanhHead(size.width, size.hidden, size.width, rngs=rngs)

    def __call__(self, images: Images) -> Tokens:
        x = self.positions(self.embed(patchify(2 * images - 1, self.patch_size)))
        x, _ = self.stack(x, causal=False)
        return x if self.head is None else self.head(x)


# Paper, section 3.1: the decoder, the same in reverse
class Decoder(nnx.Module):
    """Features to pixels: positions, blocks, tanh head; see `reconstruction`."""

    def __init__(self, config: TokenizerConfig, *, rngs: nnx.Rngs):
        size: Any = config.decoder
        self.config = config
        self.positions = Positions(config, size.width, rngs=rngs)
        self.stack = Stack(size, rngs=rngs)
        if config.tanh == "head":
            self.head = TanhHead(size.width, size.hidden, config.output_dim, rngs=rngs)
        else:
            self.head = linear(size.width, config.output_dim, rngs)

    def __call__(self, x: Tokens) -> tuple[Images, dict[str, Any]]:
        c = self.config
        x, _ = self.stack(self.positions(x), causal=False)
        maps = unpatchify(self.head(x), grid=c.grid, patch=c.patch_size)
        return reconstruction(maps, c)
