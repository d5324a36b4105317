"""Stage 2, VIM: an autoregressive prior over codes."""

from minivim.prior.methods import Completion, Rejection, complete, reject
from minivim.prior.model import Prior, check_labels, drop_labels, knows_null, prior_loss
from minivim.prior.sampling import (
    filter_logits,
    generate,
    guide,
    keep_top_k,
    keep_top_p,
    sample,
)
