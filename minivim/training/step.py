"""One training step as a pure function over split state."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PRNGKeyArray

from minivim.config import OptimConfig
from minivim.config.checks import require
from minivim.context import Context
from minivim.sharding import by_rows, one_device, place, shardings_of
from minivim.training.optim import Optim, learning_rate, optimizer

Batch = dict[str, Any]
# loss(model, batch, context, key=...) -> (scalar, metrics)
Loss = Callable[..., tuple[Array, dict[str, Any]]]


class TrainState(NamedTuple):
    """All that changes in training; with seed and data position, all of a run."""

    step: Int[Array, ""]
    params: Any
    optimizer: Any
    # The model's `nnx.BatchStat`: EMA statistics, changed by the forward pass.
    stats: Any = {}
    average: Any = None  # of the parameters over the steps, where one is kept

    @property
    def variables(self) -> Any:
        """Parameters, or their average, and statistics: what is judged and kept."""
        params = self.params if self.average is None else self.average
        return nnx.merge_state(params, self.stats) if self.stats else params


def new_state(
    model: nnx.Module,
    config: Optim,
    *,
    steps: int,
    mesh: Mesh | None = None,
    average: float = 0.0,
) -> TrainState:
    """Step 0: the model's parameters and an empty optimizer, laid out over a mesh.

    By default that of one device; the optimizer's arrays are made where they lie.
    """
    shapes = abstract_state(model, config, steps=steps, average=average)
    where = shardings_of(shapes, mesh or one_device())
    # Copied, since a step donates its buffers and would take the model's with it.
    copies = jax.tree.map(jnp.copy, _variables(model))
    params, stats = place(copies, (where.params, where.stats))
    init = jax.jit(optimizer(config, steps=steps).init, out_shardings=where.optimizer)
    mean = place(jax.tree.map(jnp.copy, copies[0]), where.average) if average else None
    now = place(jnp.int32(0), where.step)
    return TrainState(now, params, init(params), stats, mean)


def abstract_state(
    model: nnx.Module, config: Optim, *, steps: int, average: float = 0.0
) -> TrainState:
    """Shapes and types of `new_state`, of a model that may be abstract itself."""
    init = optimizer(config, steps=steps).init
    return jax.eval_shape(
        lambda params, stats: TrainState(
            jnp.int32(0), params, init(params), stats, params if average else None
        ),
        *_variables(model),
    )


def _variables(model: nnx.Module) -> tuple[Any, Any]:
    return nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)


def _holder(model: nnx.Module, freeze: Sequence[str]) -> Callable[[Any, Any], Any]:
    """`hold(new, old)`: the old arrays of the parts to freeze, else the new ones."""

    def names(path: tuple) -> set[str]:
        keys = [str(getattr(p, "key", "")) for p in path[:2]]
        return set(keys if keys[0] in ("tokenizer", "discriminator") else keys[:1])

    paths = jax.tree.leaves_with_path(nnx.state(model, nnx.Param))
    known = sorted({name for path, _ in paths for name in names(path)})
    for part in freeze:
        told = f"there is no {part!r} to freeze"
        require(part in known, f"{told}; use {', '.join(known)}")

    def hold(new: Any, old: Any) -> Any:
        if not freeze:
            return new
        return jax.tree.map_with_path(
            lambda path, x, kept: kept if names(path) & {*freeze} else x, new, old
        )

    return hold


@dataclass(frozen=True)
class Step:
    """`step(state, batch) -> state, metrics`; a batch holds the rows of this process.

    XLA's program, or two: the second has the lazy terms of every `lazy_every`-th step.
    """

    program: Any
    mesh: Mesh
    lazy_every: int
    frozen: tuple = ()  # the network that is not trained, if any, laid over the mesh

    def __call__(
        self, state: TrainState, batch: Batch, *, at: int | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        """`at` is `int(state.step)` where that is known without waiting for it."""
        every = self.lazy_every
        due = every > 0 and (int(state.step) if at is None else at) % every == 0
        batch = jax.make_array_from_process_local_data(by_rows(self.mesh), batch)
        with jax.numpy_dtype_promotion("standard"):  # optax knows no other
            return self.program(state, batch, *self.frozen, due=due)

    def trace(self, state: TrainState, batch: Batch, *, due: bool = False) -> Any:
        """The program for abstract arguments, to read or compile it."""
        return self.program.trace(state, batch, *self.frozen, due=due)


def _in_parts(
    gradient: Any, accumulate: int, params: Any, stats: Any, batch: Batch,
    context: Context, key: Any,
) -> tuple:  # fmt: skip
    """What `gradient` gives: means over passes, of integers (counts) sums.

    Part `i` has rows `i, i + accumulate, ...`, so all devices share each part.
    """

    def body(carry: tuple, part: tuple) -> tuple:
        (params, stats, total), (number, rows) = carry, part
        now = jax.random.fold_in(key, number)
        grads, (metrics, params, stats) = gradient(params, stats, rows, context, now)
        # Summed on the way: all parts' gradients side by side may be too large.
        total = jax.tree.map(jnp.add, total, grads[0])
        return (params, stats, total), (grads[1], metrics)

    split = jax.tree.map(
        lambda x: rearrange(x, "(row part) ... -> part row ...", part=accumulate), batch
    )
    start = params, stats, jax.tree.map(jnp.zeros_like, params)
    rows = jnp.arange(accumulate), split
    (params, stats, total), (slopes, metrics) = jax.lax.scan(body, start, rows)
    metrics = jax.tree.map(
        lambda x: x.sum(0) if x.dtype.kind == "i" else x.mean(0), metrics
    )
    means = jax.tree.map(lambda x: x / accumulate, (total, slopes))
    return means, (metrics, params, stats)


def make_step(
    model: nnx.Module,
    loss: Loss,
    config: Optim,
    *,
    steps: int,
    key: PRNGKeyArray,
    frozen: nnx.Module | None = None,
    zeros: Callable[[Batch], dict[str, Array]] | None = None,
    lazy_every: int = 0,
    accumulate: int = 1,
    mesh: Mesh | None = None,
    freeze: Sequence[str] = (),
    average: float = 0.0,
) -> Step:
    """Compile `state, batch -> state, metrics`: one update of the whole loss.

    `loss(model, batch, context, *, key)` gives a scalar and metrics. Settings by the
    name of a part (`{"tokenizer": ..., "discriminator": ...}`) give each part its own
    optimizer; still one gradient of one loss. Statistics that the forward pass changes
    are kept. Randomness of step `t` is `fold_in(key, t)`. Models may be abstract.

    Metrics hold the loss, the gradient's norm, whole and of each part, and the learning
    rate just used, unless `config` is optax's. `frozen` and `zeros(batch)` go into the
    `Context`. Every `lazy_every`-th step is a program of its own, since on a CPU XLA
    runs convolutions inside a condition many times slower. `accumulate` parts of the
    batch pass one after another: the same update, unless samples see each other. A
    `mesh`, by default of one device, changes the order of sums alone. Parts that
    `freeze` names keep their values and have no gradient. With an `average` d in (0, 1)
    the state keeps the mean of the parameters after each step, those of step `i` of `t`
    with the weight `(1 - d) d^(t - i) / (1 - d^t)`.
    """
    mesh = mesh or one_device()
    graph, update = nnx.graphdef(model), optimizer(config, steps=steps)
    parts = config if isinstance(config, dict) else {"": config}
    first = next(iter(parts.values()))
    rate = learning_rate(first, steps=steps) if isinstance(first, OptimConfig) else None
    shapes = abstract_state(model, config, steps=steps, average=average)
    shardings = shardings_of(shapes, mesh)
    hold = _holder(model, freeze)

    def gradient(
        params: Any, stats: Any, batch: Batch, context: Context, key: Any
    ) -> tuple:
        def objective(params: Any, zeros: Any) -> tuple[Array, Any]:
            # A copy: Flax does not write into variables from outside of `grad`.
            params = hold(params, jax.lax.stop_gradient(params))
            merged = nnx.merge(graph, params, stats, copy=True)
            value, metrics = loss(merged, batch, context._replace(zeros=zeros), key=key)
            return value, (metrics | {"loss": value}, *_variables(merged))

        added = zeros(batch) if zeros else {}
        return jax.grad(objective, argnums=(0, 1), has_aux=True)(params, added)

    passes = partial(_in_parts, gradient, accumulate) if accumulate > 1 else gradient

    def program(
        state: TrainState, batch: Batch, frozen: Any = None, *, due: bool
    ) -> tuple[TrainState, dict[str, Array]]:
        now = jax.random.fold_in(key, state.step)
        context = Context(step=state.step, frozen=frozen, due=due)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            found = passes(state.params, state.stats, batch, context, now)
        (grads, slopes), (metrics, params, stats) = found
        updates, opt_state = update.update(grads, state.optimizer, params)
        norms = {**slopes, **{name: grads[name] for name in parts if name}}
        metrics = metrics | {"grad_norm": optax.global_norm(grads)}
        metrics |= {"lr": rate(state.step)} if rate else {}
        metrics |= {f"grad_norm_{n}": optax.global_norm(g) for n, g in norms.items()}
        params = hold(optax.apply_updates(params, updates), state.params)
        stats = hold(stats, state.stats)
        mean = state.average
        if average:
            told = "the state keeps no average; give new_state the same average"
            require(mean is not None, told)
            passed = (state.step + 1).astype(jnp.float32)
            share = (1 - average) / -jnp.expm1(passed * math.log(average))
            mean = jax.tree.map(lambda old, x: old + share * (x - old), mean, params)
        return TrainState(state.step + 1, params, opt_state, stats, mean), metrics

    laid = () if frozen is None else (place(frozen, shardings_of(frozen, mesh)),)
    out = shardings, NamedSharding(mesh, PartitionSpec())
    how: Any = {"donate_argnums": 0, "static_argnames": "due", "out_shardings": out}
    return Step(jax.jit(program, **how), mesh, lazy_every, laid)
