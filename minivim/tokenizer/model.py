"""ViT-VQGAN as one module: encode, decode, reconstruct."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from minivim.config import CNNConfig, StackConfig, TokenizerConfig
from minivim.config.checks import require
from minivim.errors import UserError
from minivim.tokenizer.cnn import CNNDecoder, CNNEncoder
from minivim.tokenizer.quantizer import QUANTIZERS
from minivim.tokenizer.vit import Decoder, Encoder


class Tokenizer(nnx.Module):
    """Stage 1: images `[B, H, W, C]` in [0, 1] to codes `[B, N]` and back."""

    def __init__(self, config: TokenizerConfig, *, rngs: nnx.Rngs):
        if config.tanh == "blocks":
            # The other reading of section 3.1: tanh inside every FFN.
            sizes = {"encoder": config.encoder, "decoder": config.decoder}
            stacks = {k: v for k, v in sizes.items() if isinstance(v, StackConfig)}
            tanh = {k: replace(v, activation="tanh") for k, v in stacks.items()}
            config = replace(config, **tanh)
        self.config = config
        convolves = isinstance(config.encoder, CNNConfig)
        self.encoder = (CNNEncoder if convolves else Encoder)(config, rngs=rngs)
        self.quantizer = QUANTIZERS[type(config.quantizer)](
            config.quantizer,
            in_width=config.encoder.width,
            out_width=config.decoder.width,
            rngs=rngs,
        )
        convolves = isinstance(config.decoder, CNNConfig)
        self.decoder = (CNNDecoder if convolves else Decoder)(config, rngs=rngs)

    def __call__(
        self, images: Float[Array, "B H W C"], *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "B H W C"], dict[str, Any]]:
        """Reconstruction; `aux` of quantizer and decoder, the encoder's `features`.

        Passing `key` selects training mode (see `Quantizer`).
        """
        features = self.encoder(images)
        embedded, aux = self.quantizer(features, key=key)
        recon, maps = self.decoder(embedded)
        return recon, aux | maps | {"features": features}

    def encode(self, images: ArrayLike) -> Int[Array, "B N"]:
        """Codes of images `[B, H, W, C]`, float in [0, 1] or uint8, in raster order.

        Raises `UserError` for another shape and for other whole numbers.
        """
        self.check_images(np.shape(images))
        # NumPy arrays stay on the host: every process of a mesh may pass them on.
        host = not isinstance(images, jax.Array)
        images = np.asarray(images) if host else images
        if images.dtype == np.uint8:
            images = images.astype(np.float32) / 255
        require(
            jnp.issubdtype(images.dtype, jnp.floating),
            f"pixels of type {images.dtype} have no known range; divide them by their "
            "largest value (255), or give uint8",
        )
        return _encode(self, images.astype(np.float32) if host else images)

    def decode(self, codes: ArrayLike) -> Float[Array, "B H W C"]:
        """Images in [0, 1] of codes `[B, N]`.

        Raises `UserError` for another shape and, outside of `jit`, for codes that this
        tokenizer does not have.
        """
        shape, count = np.shape(codes), self.config.quantizer.num_codes
        require(
            len(shape) == 2 and shape[1] == self.config.num_tokens,
            f"codes of shape {shape} do not fit this tokenizer; give "
            f"[B, {self.config.num_tokens}] in raster order",
        )
        codes = codes if isinstance(codes, jax.Array) else np.asarray(codes)
        require(
            jnp.issubdtype(codes.dtype, jnp.integer),
            f"codes of type {codes.dtype} are invalid; give whole numbers from 0 to "
            f"{count - 1}",
        )
        # Values are unknown under `jit`, or if other processes hold a part of them.
        concrete = not isinstance(codes, Tracer)
        if concrete and getattr(codes, "is_fully_addressable", True):
            values = np.asarray(codes)
            for code in values[(values < 0) | (values >= count)][:1]:
                raise UserError(
                    f"code {code} is out of range; this tokenizer has 0 to {count - 1}"
                )
        return _decode(self, codes)

    def reconstruct(self, images: ArrayLike) -> Float[Array, "B H W C"]:
        """`decode(encode(images))`."""
        return self.decode(self.encode(images))

    def check_images(self, shape: tuple[int, ...]) -> None:
        """`UserError` for a shape that is not `[B, H, W, C]` of this tokenizer."""
        size, channels = self.config.image_size, self.config.channels
        require(
            len(shape) == 4 and shape[1:] == (size, size, channels),
            f"images of shape {shape} do not fit this tokenizer; resize them to "
            f"[B, {size}, {size}, {channels}] in [0, 1]",
        )


@jax.jit
def _encode(tokenizer: Tokenizer, images: ArrayLike) -> Array:
    _, aux = tokenizer.quantizer(tokenizer.encoder(jnp.asarray(images)))
    return aux["codes"]


@jax.jit
def _decode(tokenizer: Tokenizer, codes: ArrayLike) -> Array:
    images, _ = tokenizer.decoder(tokenizer.quantizer.embed(jnp.asarray(codes)))
    return jnp.clip(images, 0, 1)
