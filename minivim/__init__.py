"""ViT-VQGAN and Vector-quantized Image Modeling, small enough to read."""

import minivim.start  # first of all
from minivim import data, metrics, recipes
from minivim.errors import UserError
from minivim.plugins import register
from minivim.prior import Prior, complete, reject, sample
from minivim.recipes import recipe
from minivim.tokenizer import Tokenizer
from minivim.weights import load, load_pair

__version__ = "0.1.0"
