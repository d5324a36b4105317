"""The figures of trained models, each with what it was measured on.

Figures are a dictionary by name. Two entries are dictionaries themselves: `real`, what
some of the figures are for real images in place of the model's, and `provenance`, on
which images, by which networks and from which seed they were measured. Reported figures
come from `judge`, which no method may use. Images are read in batches, so memory does
not grow with their number.
"""

from minivim.evaluate.priors import draw, judged_figures, prior_figures
from minivim.evaluate.shipped import (
    Evaluation,
    check_fits,
    classifier_figures,
    load_network,
    shipped_figures,
)
from minivim.evaluate.tokenizers import tokenizer_figures

__all__ = [
    "Evaluation",
    "check_fits",
    "classifier_figures",
    "draw",
    "judged_figures",
    "load_network",
    "prior_figures",
    "shipped_figures",
    "tokenizer_figures",
]
