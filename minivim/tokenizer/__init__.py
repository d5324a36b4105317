"""Stage 1, ViT-VQGAN: images to codes and back."""

from minivim.tokenizer.model import Tokenizer
from minivim.tokenizer.objective import Players, adversarial_loss, tokenizer_loss
from minivim.tokenizer.quantizer import (
    Quantizer,
    l2_normalise,
    nearest_code,
    straight_through,
    vq_terms,
)
