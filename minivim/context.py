"""What a loss may need besides the model and the batch."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Array, Int


class Context(NamedTuple):
    """The third argument of `loss(model, batch, context, *, key)`.

    `minivim.training.make_step` fills it; called directly, most losses do without.
    """

    # Updates so far.
    step: Int[Array, ""] | int = 0
    # A network that is not trained: the tokenizer of a prior that encodes on the fly,
    # or the distance of a tokenizer's perceptual loss.
    frozen: Any = None
    # Whether this step has the lazy terms (R1). Static: a program of its own.
    due: bool = False
    # Zeros that the loss adds at some place, by name; `make_step` reports the norm of
    # the gradient there as `grad_norm_NAME`.
    zeros: dict[str, Array] = {}


NO_CONTEXT = Context()
