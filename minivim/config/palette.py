"""Sizes of iGPT's tokens, which the paper's Table 7 compares with."""

from __future__ import annotations

from dataclasses import dataclass

from minivim.config.checks import require, require_positive
from minivim.config.models import Patches, QuantizerConfig


@dataclass(frozen=True, kw_only=True)
class PaletteConfig(Patches):
    """A tokenizer that learns colours alone: the mean of a patch, rounded to one.

    With patches of 2 an image of 32 x 32 becomes the 256 pixels of 16 x 16. iGPT has
    512 colours, and 32 x 32 to 64 x 64 pixels.
    """

    image_size: int
    patch_size: int
    num_codes: int = 512
    channels: int = 3

    def __post_init__(self) -> None:
        require_positive(self, "image_size", "patch_size", "channels")
        require(
            self.image_size % self.patch_size == 0,
            f"patch_size={self.patch_size} does not divide image_size="
            f"{self.image_size}; choose a patch_size that does",
        )
        require(
            self.num_codes >= 2, f"num_codes={self.num_codes} is too few; use 2 or more"
        )

    @property
    def quantizer(self) -> QuantizerConfig:
        """The nearest colour: a codebook as wide as a pixel, without projections."""
        return QuantizerConfig(
            num_codes=self.num_codes,
            code_dim=self.channels,
            factorised=False,
            l2_normalise=False,
        )

    @property
    def parameters(self) -> int:
        """`K C`: the colours."""
        return self.num_codes * self.channels
