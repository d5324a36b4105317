"""What a loss may need besides the model and the batch."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from minivim.config.checks import require

# `term(outputs, batch) -> scalar` by name; `minivim.register` adds to them.
LOSSES: dict[str, Callable[[dict, dict], Array]] = {}


class Context(NamedTuple):
    """The third argument of `loss(model, batch, context, *, key)`, from `make_step`."""

    step: Int[Array, ""] | int = 0  # updates so far
    # Not trained: the tokenizer of a prior "on the fly", or a perceptual distance.
    frozen: Any = None
    due: bool = False  # whether this step has the lazy terms (R1)
    # Added to activations; the gradient's norm there is the metric `grad_norm_NAME`.
    zeros: dict[str, Array] = {}
    own: Mapping[str, float] = {}  # weights of terms in `LOSSES`
    ramps: Mapping[str, int] = {}  # steps over which the weight of a term grows from 0

    def share(self, name: str, since: Mapping[str, int] = {}) -> Any:  # noqa: B006
        """How much of a term's weight counts: `min(t / N, 1)` over a ramp, else all."""
        if name not in self.ramps:
            return 1.0
        return jnp.clip((self.step - since.get(name, 0)) / self.ramps[name], 0, 1)

    def with_own(
        self, loss: Array, metrics: dict, outputs: dict, batch: dict
    ) -> tuple[Array, dict[str, Any]]:
        """Loss and metrics with the terms of one's own, each as `loss_NAME`."""
        for name, weight in self.own.items():
            value = jnp.asarray(LOSSES[name](outputs, batch))
            told = f"the loss {name!r} has shape {value.shape}; return a single number"
            require(value.shape == (), f"{told}, such as a mean")
            loss = loss + self.share(name) * weight * value
            metrics = metrics | {f"loss_{name}": value}
        return loss, metrics


NO_CONTEXT = Context()
