"""Stage 1, ViT-VQGAN: images to codes and back."""

from minivim.tokenizer.model import Tokenizer
from minivim.tokenizer.objective import random_flip, tokenizer_loss
from minivim.tokenizer.quantizer import (
    Quantizer,
    l2_normalise,
    nearest_code,
    straight_through,
    vq_terms,
)

__all__ = [
    "Quantizer",
    "Tokenizer",
    "l2_normalise",
    "nearest_code",
    "random_flip",
    "straight_through",
    "tokenizer_loss",
    "vq_terms",
]
