"""What a loss may need besides the model and the batch."""

from typing import Any, NamedTuple

from jaxtyping import Array, Int


class Context(NamedTuple):
    """The third argument of `loss(model, batch, context, *, key)`, from `make_step`."""

    step: Int[Array, ""] | int = 0  # updates so far
    # Not trained: the tokenizer of a prior "on the fly", or a perceptual distance.
    frozen: Any = None
    due: bool = False  # whether this step has the lazy terms (R1)
    # Added to activations; the gradient's norm there is the metric `grad_norm_NAME`.
    zeros: dict[str, Array] = {}


NO_CONTEXT = Context()
