"""One training step as a pure function over split state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int, PRNGKeyArray

from minivim.config import OptimConfig
from minivim.training.optim import learning_rate, optimizer

Batch = dict[str, Array]
# loss(model, batch, key=...) -> (scalar, metrics)
Loss = Callable[..., tuple[Array, dict[str, Any]]]


class TrainState(NamedTuple):
    """All that changes in training; with seed and data position, all of a run."""

    step: Int[Array, ""]
    params: Any
    optimizer: Any


Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]


def new_state(model: nnx.Module, config: OptimConfig, *, steps: int) -> TrainState:
    """Step 0: the model's parameters and an empty optimiser."""
    # Copied, since a step donates its buffers and would take the model's with it.
    params = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    return TrainState(jnp.int32(0), params, optimizer(config, steps=steps).init(params))


def make_step(
    model: nnx.Module,
    loss: Loss,
    config: OptimConfig,
    *,
    steps: int,
    key: PRNGKeyArray,
) -> Step:
    """Compile `state, batch -> state, metrics`: one update of the whole loss.

    Randomness of step `t` is `fold_in(key, t)`, so that a resumed run repeats it.
    Metrics hold the loss, the global gradient norm and the learning rate just used.
    """
    graph = nnx.graphdef(model)
    update = optimizer(config, steps=steps)
    rate = learning_rate(config, steps=steps)

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        step_key = jax.random.fold_in(key, state.step)

        def objective(params: Any) -> tuple[Array, dict[str, Any]]:
            return loss(nnx.merge(graph, params), batch, key=step_key)

        gradient = jax.value_and_grad(objective, has_aux=True)
        (value, metrics), grads = gradient(state.params)
        updates, opt_state = update.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = metrics | {
            "loss": value,
            "grad_norm": optax.global_norm(grads),
            "lr": rate(state.step),
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    return step
