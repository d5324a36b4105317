"""ViT-VQGAN as one module: encode, decode, reconstruct."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from minivim.config import CNNConfig, StackConfig, TokenizerConfig
from minivim.errors import UserError
from minivim.tokenizer.cnn import CNNDecoder, CNNEncoder
from minivim.tokenizer.quantizer import QUANTIZERS
from minivim.tokenizer.vit import Decoder, Encoder


def _with_tanh(config: TokenizerConfig) -> TokenizerConfig:
    """The other reading of section 3.1: tanh inside every FFN."""
    if config.tanh == "head":
        return config

    def tanh(size: StackConfig | CNNConfig) -> StackConfig | CNNConfig:
        if isinstance(size, CNNConfig):
            return size
        return dataclasses.replace(size, activation="tanh")

    return dataclasses.replace(
        config, encoder=tanh(config.encoder), decoder=tanh(config.decoder)
    )


class Tokenizer(nnx.Module):
    """Stage 1: images `[B, H, W, C]` in [0, 1] to codes `[B, N]` and back."""

    def __init__(self, config: TokenizerConfig, *, rngs: nnx.Rngs):
        config = _with_tanh(config)
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
        """Reconstruction; `aux` of quantiser and decoder, the encoder's `features`.

        With a key the call is one of training (see `Quantizer`).
        """
        features = self.encoder(images)
        embedded, aux = self.quantizer(features, key=key)
        recon, maps = self.decoder(embedded)
        return recon, aux | maps | {"features": features}

    def encode(self, images: Shaped[ArrayLike, "*shape"]) -> Int[Array, "B N"]:
        """Codes of images `[B, H, W, C]`, float in [0, 1] or uint8, in raster order.

        Raises `UserError` for another shape and for other whole numbers.
        """
        self.check_images(np.shape(images))
        # From the host as NumPy, which every process of a mesh may pass to a program.
        host = not isinstance(images, jax.Array)
        images = np.asarray(images) if host else images
        if images.dtype == np.uint8:
            images = images.astype(np.float32) / 255
        elif not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(
                f"pixels of type {images.dtype} have no known range; divide them by "
                "their largest value (255), or give uint8"
            )
        return _encode(self, images.astype(np.float32) if host else images)

    def decode(self, codes: Shaped[ArrayLike, "*shape"]) -> Float[Array, "B H W C"]:
        """Images in [0, 1] of codes `[B, N]`.

        Raises `UserError` for another shape and, outside of `jit`, for codes that this
        tokenizer does not have.
        """
        shape = np.shape(codes)
        if len(shape) != 2 or shape[1] != self.config.num_tokens:
            raise UserError(
                f"codes of shape {shape} do not fit this tokenizer; "
                f"give [B, {self.config.num_tokens}] in raster order"
            )
        if not isinstance(codes, jax.Array):
            codes = np.asarray(codes)
        self._check_codes(codes)
        return _decode(self, codes)

    def reconstruct(
        self, images: Shaped[ArrayLike, "*shape"]
    ) -> Float[Array, "B H W C"]:
        """`decode(encode(images))`."""
        return self.decode(self.encode(images))

    def _check_codes(self, codes: np.ndarray | jax.Array) -> None:
        """`UserError` for values that are no codes, as far as they can be seen."""
        count = self.config.quantizer.num_codes
        if not jnp.issubdtype(codes.dtype, jnp.integer):
            raise UserError(
                f"codes of type {codes.dtype} are no codes; give whole numbers from 0 "
                f"to {count - 1}"
            )
        traced = isinstance(codes, Tracer)
        if traced or not getattr(codes, "is_fully_addressable", True):
            return
        values = np.asarray(codes)
        wrong = values[(values < 0) | (values >= count)]
        if wrong.size:
            raise UserError(
                f"code {int(wrong[0])} is out of range; this tokenizer has 0 to "
                f"{count - 1}"
            )

    def check_images(self, shape: tuple[int, ...]) -> None:
        """`UserError` for a shape that is not `[B, H, W, C]` of this tokenizer."""
        size, channels = self.config.image_size, self.config.channels
        if len(shape) != 4 or shape[1:] != (size, size, channels):
            raise UserError(
                f"images of shape {shape} do not fit this tokenizer; "
                f"resize them to [B, {size}, {size}, {channels}] in [0, 1]"
            )


@jax.jit
def _encode(tokenizer: Tokenizer, images: ArrayLike) -> Array:
    _, aux = tokenizer.quantizer(tokenizer.encoder(jnp.asarray(images)))
    return aux["codes"]


@jax.jit
def _decode(tokenizer: Tokenizer, codes: ArrayLike) -> Array:
    images, _ = tokenizer.decoder(tokenizer.quantizer.embed(jnp.asarray(codes)))
    return jnp.clip(images, 0, 1)
