"""The loop of every stage: steps, metrics, evaluation, checkpoints, exact resume."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from minivim.config import RunConfig
from minivim.errors import Stopped, UserError
from minivim.training.checkpoint import Row, Workdir
from minivim.training.processes import stop_signal
from minivim.training.step import TrainState

SHOWN = ("loss", "usage", "perplexity", "accuracy", "eval_psnr", "eval_nll")


@dataclass
class Window:
    """Metrics since the last row, kept on the device until it is written."""

    checked: list[tuple[Any, Any]] = field(default_factory=list)
    total: dict[str, Any] = field(default_factory=dict)
    count: int = 0
    began: float = field(default_factory=time.perf_counter)

    def add(self, metrics: dict[str, Any]) -> None:
        self.checked.append((metrics["loss"], metrics["grad_norm"]))
        self.count += 1
        so_far = self.total
        self.total = jax.tree.map(jnp.add, so_far, metrics) if so_far else metrics

    def check(self, last_step: int) -> None:
        """Raise `UserError` for a loss or gradient that is not finite.

        A loss may still be finite when its gradient, and so the next state, is not.
        """
        checked = np.array([[float(x) for x in pair] for pair in self.checked])
        for row, column in np.argwhere(~np.isfinite(checked))[:1]:
            what = "gradient" if column else "loss"
            told = f"the {what} became {checked[row, column]} at step"
            told += f" {last_step - len(checked) + row + 1}; the last good checkpoint"
            remedy = "lower optim.peak_lr or set optim.clip_norm=1 and start in another"
            raise UserError(f"{told} is kept: {remedy} --workdir")

    def summary(self) -> dict[str, np.ndarray]:
        """Means; of integers (counts) the sum."""
        totals, n = {k: np.asarray(x) for k, x in self.total.items()}, self.count
        whole = {k for k, x in totals.items() if x.dtype.kind == "i"}
        return {k: x if k in whole else np.asarray(x / n) for k, x in totals.items()}

    def pack(self) -> dict[str, Any]:
        """The window in JSON, so that the next process ends it as this one would."""
        totals = {name: np.asarray(x) for name, x in self.total.items()}
        seconds = time.perf_counter() - self.began if self.count else 0.0
        packed = {k: [x.dtype.name, x.tolist()] for k, x in totals.items()}
        return {"count": self.count, "seconds": seconds, "total": packed}

    @classmethod
    def unpack(cls, packed: dict[str, Any]) -> "Window":
        total = {k: np.array(x, kind) for k, (kind, x) in packed["total"].items()}
        began = time.perf_counter() - packed["seconds"]
        return cls(total=total, count=packed["count"], began=began)


def floats(summary: dict[str, np.ndarray]) -> Row:
    """The summary of a stage whose metrics are all numbers."""
    return {name: float(value) for name, value in summary.items()}


def fit(
    state: TrainState,
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
    batches: Any,
    run: RunConfig,
    *,
    workdir: Workdir,
    describe: Callable[[dict[str, np.ndarray]], Row] = floats,
    evaluate: Callable[[Any], dict[str, float]] | None = None,
    log: Callable[[Row], object] = lambda row: None,
    watch: Callable[[int, TrainState], object] = lambda step, state: None,
    title: str = "",
    quiet: bool = False,
) -> tuple[TrainState, list[Row]]:
    """Train to `run.steps` and return the last state and the rows of metrics.

    `batches` is an endless iterator whose position `get_state` and `set_state` save. A
    row is written every `log_every` steps, before every checkpoint and at evaluations:
    the metrics since the last row (means, of integers sums) through `describe`, the
    last learning rate, and on every `eval_every`-th step, and the last,
    `evaluate(variables)` under `eval_...`. `log` is called with each row, `watch` with
    step and state at checkpoints and evaluations, whose arrays the next step takes.
    The run goes on from the workdir's newest checkpoint, bit for bit on a CPU. On
    SIGTERM or Ctrl-C it saves after its step, writes no row and raises `Stopped`; a
    second Ctrl-C ends it. Raises `UserError` for a loss that is not finite.
    """
    rows: list[Row] = []
    window = Window()
    if (saved := workdir.restore(state)) is not None:
        state, position = saved
        batches.set_state(position["batches"])
        window = Window.unpack(position["window"])
    first = int(state.step)
    bar = tqdm(
        total=run.steps, initial=first, desc=title, unit="step", disable=quiet,
        mininterval=0.5, dynamic_ncols=True,
    )  # fmt: skip
    with bar, stop_signal() as asked_to_stop:
        for now in range(first + 1, run.steps + 1):
            state, metrics = step(state, next(batches), at=now - 1)
            window.add(metrics)
            bar.update()
            last = now == run.steps
            saves = now % run.checkpoint_every == 0 or last
            judges = evaluate and (now % run.eval_every == 0 or last)
            logs = now % run.log_every == 0 or saves or judges
            asked = asked_to_stop(now)
            stops = asked and not last
            if logs or stops:
                window.check(now)
            if logs:
                row = {"step": now, **describe(window.summary())}
                pace = window.count / (time.perf_counter() - window.began)
                row |= {"lr": float(metrics["lr"])} if "lr" in metrics else {}
                row["steps_per_second"] = round(pace, 3)
                if evaluate and judges:
                    scores = evaluate(state.variables)
                    row |= {f"eval_{name}": value for name, value in scores.items()}
                rows.append(row)
                told = [k for k in SHOWN if math.isfinite(row.get(k, math.nan))]
                bar.set_postfix_str(" ".join(f"{k}={row[k]:.4g}" for k in told))
                workdir.log(row)
                log(row)
                window = Window()
            if saves or stops:
                position = {"batches": batches.get_state(), "window": window.pack()}
                workdir.save(state, position)
                if stops or last:
                    workdir.wait()
            if saves or judges:
                watch(now, state)
            if stops:
                raise Stopped(now, asked)
    return state, rows
