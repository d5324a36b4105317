"""What a loss may need besides the model and the batch."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Array, Int


class Context(NamedTuple):
    """The third argument of `loss(model, batch, context, *, key)`, from `make_step`.

    `step`: updates so far. `frozen`: a network that is not trained, the tokenizer of a
    prior that encodes on the fly or the distance of a perceptual loss. `due`: whether
    this step has the lazy terms (R1). `zeros`: arrays by name that the loss adds to
    activations; the norm of the gradient there is the metric `grad_norm_NAME`.
    """

    step: Int[Array, ""] | int = 0
    frozen: Any = None
    due: bool = False
    zeros: dict[str, Array] = {}


NO_CONTEXT = Context()
