"""Stage 1, ViT-VQGAN: images to codes and back."""

from minivim.tokenizer.model import Tokenizer
from minivim.tokenizer.objective import (
    Players,
    adversarial_loss,
    taps_of,
    tokenizer_loss,
)
from minivim.tokenizer.palette import Palette, fit_palette
from minivim.tokenizer.quantizer import (
    Quantizer,
    l2_normalise,
    nearest_code,
    straight_through,
    vq_terms,
)

__all__ = [
    "Palette",
    "Players",
    "Quantizer",
    "Tokenizer",
    "adversarial_loss",
    "fit_palette",
    "l2_normalise",
    "nearest_code",
    "straight_through",
    "taps_of",
    "tokenizer_loss",
    "vq_terms",
]
