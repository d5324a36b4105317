"""Stage 2, VIM: an autoregressive prior over codes."""

from minivim.prior.completion import Completion, complete
from minivim.prior.decoding import generate, sample
from minivim.prior.filters import filter_logits, guide, keep_top_k, keep_top_p
from minivim.prior.rejection import Rejection, reject
from minivim.prior.transformer import (
    Prior,
    check_labels,
    drop_labels,
    knows_null,
    prior_loss,
)

__all__ = [
    "Completion",
    "Prior",
    "Rejection",
    "check_labels",
    "complete",
    "drop_labels",
    "filter_logits",
    "generate",
    "guide",
    "keep_top_k",
    "keep_top_p",
    "knows_null",
    "prior_loss",
    "reject",
    "sample",
]
