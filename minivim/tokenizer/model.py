"""ViT-VQGAN as one module: encode, decode, reconstruct."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from minivim.card import Carded
from minivim.config import CNNConfig, StackConfig, TokenizerConfig
from minivim.data.arrays import check_key, unit_images, whole_codes
from minivim.tokenizer import quantizer
from minivim.tokenizer.cnn import CNNDecoder, CNNEncoder
from minivim.tokenizer.vit import Decoder, Encoder

ENCODERS: dict[type, Any] = {StackConfig: Encoder, CNNConfig: CNNEncoder}
DECODERS: dict[type, Any] = {StackConfig: Decoder, CNNConfig: CNNDecoder}


class Tokenizer(Carded):
    """Stage 1: images `[B, H, W, C]` in [0, 1] to codes `[B, N]` and back."""

    def __init__(self, config: TokenizerConfig, *, rngs: nnx.Rngs):
        for name in ("encoder", "decoder"):
            size = getattr(config, name)
            # The other reading of section 3.1: tanh inside every FFN.
            if config.tanh == "blocks" and isinstance(size, StackConfig):
                config = replace(config, **{name: replace(size, activation="tanh")})
        self.config = config
        self.encoder = ENCODERS[type(config.encoder)](config, rngs=rngs)
        widths = {"in_width": config.encoder.width, "out_width": config.decoder.width}
        self.quantizer = quantizer.build(config.quantizer, **widths, rngs=rngs)
        self.decoder = DECODERS[type(config.decoder)](config, rngs=rngs)

    def __call__(
        self, images: Float[Array, "B H W C"], *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "B H W C"], dict[str, Any]]:
        """Reconstruction; `aux` of quantizer and decoder, the encoder's `features`.

        Passing `key` selects training mode (see `Quantizer`).
        """
        images = self.pixels(images)
        key = key if key is None else check_key(key)
        features = self.encoder(images)
        embedded, aux = self.quantizer(features, key=key)
        recon, maps = self.decoder(embedded)
        return recon, aux | maps | {"features": features}

    def encode(self, images: Any) -> Int[Array, "B N"]:
        """Codes, in raster order, of images [B, H, W, C] that `unit_images` takes."""
        return self._encode(self.pixels(images))

    def decode(self, codes: ArrayLike) -> Float[Array, "B H W C"]:
        """Images in [0, 1] of codes `[B, N]`; `UserError` for any other codes."""
        count = self.config.quantizer.num_codes
        return self._decode(whole_codes(codes, count, self.config.num_tokens))

    def reconstruct(self, images: Any) -> Float[Array, "B H W C"]:
        """`decode(encode(images))`."""
        return self.decode(self.encode(images))

    def pixels(self, images: Any) -> Any:
        """Images as floats in [0, 1]; `UserError` for those that `encode` refuses."""
        size, channels = self.config.image_size, self.config.channels
        return unit_images(images, shape=(size, size, channels))

    @jax.jit
    def _encode(self, images: ArrayLike) -> Array:
        _, aux = self.quantizer(self.encoder(jnp.asarray(images)))
        return aux["codes"]

    @jax.jit
    def _decode(self, codes: ArrayLike) -> Array:
        images, _ = self.decoder(self.quantizer.embed(jnp.asarray(codes)))
        return jnp.clip(images, 0, 1)
