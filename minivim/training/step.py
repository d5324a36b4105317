"""One training step as a pure function over split state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray

from minivim.sharding import make_mesh, place, repeated, shardings_of
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


def new_state(
    model: nnx.Module, config: Optim, *, steps: int, mesh: Mesh | None = None
) -> TrainState:
    """Step 0: the model's parameters and an empty optimiser, laid out over a mesh.

    By default the mesh of one device. The optimiser's arrays are made where they lie.
    """
    mesh = mesh or make_mesh(devices=jax.local_devices()[:1])
    shardings = shardings_of(abstract_state(model, config, steps=steps), mesh)
    # Copied, since a step donates its buffers and would take the model's with it.
    params, stats = (
        place(jax.tree.map(jnp.copy, nnx.state(model, kind)), where)
        for kind, where in (
            (nnx.Param, shardings.params),
            (nnx.BatchStat, shardings.stats),
        )
    )
    init = optimizer(config, steps=steps).init
    start = jax.jit(init, out_shardings=shardings.optimizer)(params)
    return TrainState(place(jnp.int32(0), shardings.step), params, start, stats)


def abstract_state(model: nnx.Module, config: Optim, *, steps: int) -> TrainState:
    """Shapes and types of `new_state`, of a model that may be abstract itself."""

    def shapes(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)

    params = shapes(nnx.state(model, nnx.Param))
    start = jax.eval_shape(optimizer(config, steps=steps).init, params)
    stats = shapes(nnx.state(model, nnx.BatchStat))
    now: Any = jax.ShapeDtypeStruct((), jnp.int32)
    return TrainState(now, params, start, stats)


class Pass(NamedTuple):
    """What one forward and backward pass leaves."""

    grads: Any
    # Gradients at the taps, by name.
    slopes: dict[str, Array]
    metrics: dict[str, Array]
    params: Any
    stats: Any


class CompiledStep:
    """A step as XLA's program, or two: with the lazy terms due, and without."""

    def __init__(self, program: Any, lazy_every: int):
        self._program, self._lazy_every = program, lazy_every

    def __call__(
        self, state: TrainState, batch: Batch, *, at: int | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        due = False
        if self._lazy_every:
            due = (int(state.step) if at is None else at) % self._lazy_every == 0
        return self._program(state, batch, due=due)

    def trace(self, state: TrainState, batch: Batch, *, due: bool = False) -> Any:
        """The program for shapes alone, to read or compile without running it."""
        return self._program.trace(state, batch, due=due)


def make_step(
    model: nnx.Module,
    loss: Loss,
    config: Optim,
    *,
    steps: int,
    key: PRNGKeyArray,
    taps: Taps | None = None,
    lazy_every: int = 0,
    accumulate: int = 1,
    mesh: Mesh | None = None,
) -> CompiledStep:
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
    `accumulate` parts of the batch pass one after another and their gradients are
    averaged: the same update, unless samples of a batch see each other. With a `mesh`
    (that of `new_state`) the state stays laid out as it was; the numbers are those of
    one device but for the order of sums. The model may be abstract.
    """
    update = optimizer(config, steps=steps)
    parts = config if isinstance(config, dict) else {"": config}
    rate = learning_rate(next(iter(parts.values())), steps=steps)
    one_pass = _one_pass(nnx.graphdef(model), loss, taps)

    def program(state: TrainState, batch: Batch, *, due: bool) -> tuple:
        moment = {"step": state.step, "due": due}
        found = _in_parts(
            lambda p, s, b, k: one_pass(p, s, b | moment, k),
            state,
            batch,
            jax.random.fold_in(key, state.step),
            accumulate,
        )
        updates, opt_state = update.update(found.grads, state.optimizer, found.params)
        norms = {**found.slopes, **{name: found.grads[name] for name in parts if name}}
        metrics = found.metrics | {
            "grad_norm": optax.global_norm(found.grads),
            "lr": rate(state.step),
            **{f"grad_norm_{n}": optax.global_norm(g) for n, g in norms.items()},
        }
        params = optax.apply_updates(found.params, updates)
        return TrainState(state.step + 1, params, opt_state, found.stats), metrics

    compiled = partial(jax.jit, donate_argnums=0, static_argnames="due")
    if mesh is None:
        return CompiledStep(compiled(program), lazy_every)
    shardings = shardings_of(abstract_state(model, config, steps=steps), mesh)

    def over_mesh(state: TrainState, batch: Batch, *, due: bool) -> tuple:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return program(state, batch, due=due)

    whole = compiled(over_mesh, out_shardings=(shardings, repeated(mesh)))
    return CompiledStep(whole, lazy_every)


def _one_pass(graph: Any, loss: Loss, taps: Taps | None) -> Callable[..., Pass]:
    """The gradient of `loss` at parameters, statistics, batch and key."""

    def one_pass(params: Any, stats: Any, batch: Batch, key: PRNGKeyArray) -> Pass:
        zeros = taps(batch) if taps else {}

        def objective(params: Any, zeros: dict[str, Array]) -> tuple[Array, Any]:
            # A copy, for Flax does not write into variables from outside of `grad`.
            merged = nnx.merge(graph, params, stats, copy=True)
            value, metrics = loss(merged, {**batch, "taps": zeros}, key=key)
            written = nnx.state(merged, nnx.Param), nnx.state(merged, nnx.BatchStat)
            return value, (metrics | {"loss": value}, *written)

        gradient = jax.grad(objective, argnums=(0, 1), has_aux=True)
        (grads, slopes), (metrics, *written) = gradient(params, zeros)
        return Pass(grads, slopes, metrics, *written)

    return one_pass


def _in_parts(
    one_pass: Callable[..., Pass],
    state: TrainState,
    batch: Batch,
    key: PRNGKeyArray,
    count: int,
) -> Pass:
    """The pass over the batch, or the mean over `count` passes over its parts.

    Part `i` has rows `i, i + count, ...` of every array of the batch, so that all
    devices have a share of each part. What is nested in the batch, such as frozen
    weights, is the same for all. Integers (counts) are summed.
    """
    if count == 1:
        return one_pass(state.params, state.stats, batch, key)
    rows = {k: v for k, v in batch.items() if hasattr(v, "shape") and v.shape}
    rest = {k: v for k, v in batch.items() if k not in rows}
    split = {
        k: jnp.swapaxes(v.reshape(-1, count, *v.shape[1:]), 0, 1)
        for k, v in rows.items()
    }

    def body(carry: tuple, part: tuple) -> tuple:
        params, stats, total = carry
        number, rows = part
        found = one_pass(params, stats, rows | rest, jax.random.fold_in(key, number))
        # Added up on the way: `count` gradients side by side may be too large.
        total = jax.tree.map(jnp.add, total, found.grads)
        return (found.params, found.stats, total), (found.slopes, found.metrics)

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    start = (state.params, state.stats, zeros)
    (params, stats, total), stacked = jax.lax.scan(
        body, start, (jnp.arange(count), split)
    )
    slopes, metrics = stacked
    mean = jax.tree.map(lambda g: g / count, total)
    metrics = {
        name: value.sum(0) if value.dtype.kind == "i" else value.mean(0)
        for name, value in metrics.items()
    }
    whole = jax.tree.map(lambda s: s / count, slopes)
    return Pass(mean, whole, metrics, params, stats)
