"""One training step as a pure function over split state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int, PRNGKeyArray

from minivim.training.optim import Optim, learning_rate, optimizer

Batch = dict[str, Any]
# loss(model, batch, key=...) -> (scalar, metrics). The batch holds also "step", the
# number of updates so far, "due", whether lazy terms are, and "taps".
Loss = Callable[..., tuple[Array, dict[str, Any]]]
Taps = Callable[[Batch], dict[str, Array]]


class TrainState(NamedTuple):
    """All that changes in training; with seed and data position, all of a run.

    `stats` are the model's `nnx.BatchStat`: what the forward pass changes, without a
    gradient, such as moving averages.
    """

    step: Int[Array, ""]
    params: Any
    optimizer: Any
    stats: Any = {}

    @property
    def variables(self) -> Any:
        """Parameters and statistics, to merge with the model's graph."""
        return nnx.merge_state(self.params, self.stats) if self.stats else self.params


@runtime_checkable
class Step(Protocol):
    """`state, batch -> state, metrics`; `at` is `int(state.step)` where it is known."""

    def __call__(
        self, state: TrainState, batch: Batch, *, at: int | None = None
    ) -> tuple[TrainState, dict[str, Array]]: ...


def new_state(model: nnx.Module, config: Optim, *, steps: int) -> TrainState:
    """Step 0: the model's parameters and an empty optimiser."""
    # Copied, since a step donates its buffers and would take the model's with it.
    params = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    stats = jax.tree.map(jnp.copy, nnx.state(model, nnx.BatchStat))
    start = optimizer(config, steps=steps).init(params)
    return TrainState(jnp.int32(0), params, start, stats)


def make_step(
    model: nnx.Module,
    loss: Loss,
    config: Optim,
    *,
    steps: int,
    key: PRNGKeyArray,
    taps: Taps | None = None,
    lazy_every: int = 0,
) -> Step:
    """Compile `state, batch -> state, metrics`: one update of the whole loss.

    Several settings of an optimiser by the name of a part (`{"tokenizer": ...,
    "discriminator": ...}`) give each part its own; still one gradient of one loss and
    one update of each. What the forward pass writes into the model stays.

    Randomness of step `t` is `fold_in(key, t)`, so that a resumed run repeats it.
    Metrics hold the loss, the global gradient norm, that of each part, and the learning
    rate just used. `taps(batch)` are zeros that the loss adds to what it wants to know
    the gradient of: `grad_norm_NAME` is the norm there, at no extra cost. On every
    `lazy_every`-th step, from the first on, the batch says "due": a program of its own,
    since XLA runs convolutions inside a condition many times slower on a CPU.
    """
    graph = nnx.graphdef(model)
    update = optimizer(config, steps=steps)
    parts = config if isinstance(config, dict) else {"": config}
    rate = learning_rate(next(iter(parts.values())), steps=steps)

    @partial(jax.jit, donate_argnums=0, static_argnames="due")
    def compiled(state: TrainState, batch: Batch, *, due: bool) -> tuple:
        step_key = jax.random.fold_in(key, state.step)
        zeros = taps(batch) if taps else {}

        def objective(params: Any, zeros: dict[str, Array]) -> tuple[Array, Any]:
            merged = nnx.merge(graph, params, state.stats)
            extended = {**batch, "step": state.step, "due": due, "taps": zeros}
            value, metrics = loss(merged, extended, key=step_key)
            written = nnx.state(merged, nnx.Param), nnx.state(merged, nnx.BatchStat)
            return value, (metrics, *written)

        gradient = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
        (value, aux), (grads, slopes) = gradient(state.params, zeros)
        metrics, params, stats = aux
        updates, opt_state = update.update(grads, state.optimizer, params)
        metrics = metrics | {
            "loss": value,
            "grad_norm": optax.global_norm(grads),
            "lr": rate(state.step),
        }
        norms = {**slopes, **{name: grads[name] for name in parts if name}}
        metrics |= {f"grad_norm_{n}": optax.global_norm(g) for n, g in norms.items()}
        params = optax.apply_updates(params, updates)
        return TrainState(state.step + 1, params, opt_state, stats), metrics

    def step(
        state: TrainState, batch: Batch, *, at: int | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        due = False
        if lazy_every:
            due = (int(state.step) if at is None else at) % lazy_every == 0
        return compiled(state, batch, due=due)

    return step
