"""Stage 1, ViT-VQGAN: images to codes and back."""

from minivim.tokenizer.model import Tokenizer
from minivim.tokenizer.objective import (
    Players,
    adversarial_loss,
    tokenizer_loss,
    zeros_of,
)
from minivim.tokenizer.quantizer import (
    Quantizer,
    l2_normalise,
    nearest_code,
    straight_through,
    vq_terms,
)

__all__ = [
    "Players",
    "Quantizer",
    "Tokenizer",
    "adversarial_loss",
    "l2_normalise",
    "nearest_code",
    "straight_through",
    "zeros_of",
    "tokenizer_loss",
    "vq_terms",
]
