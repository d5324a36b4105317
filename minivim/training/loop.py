"""The loop of every stage: steps, metrics, evaluation, checkpoints, exact resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from minivim.config import RunConfig
from minivim.errors import Stopped, UserError
from minivim.training.checkpoint import Row, Workdir
from minivim.training.step import TrainState
from minivim.training.stop import Asked, stop_signal


@runtime_checkable
class Batches(Protocol):
    """An endless iterator whose position can be saved."""

    def __next__(self) -> Any: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...


def floats(summary: dict[str, np.ndarray]) -> Row:
    """The summary of a stage whose metrics are all numbers."""
    return {name: float(value) for name, value in summary.items()}


@dataclass
class Window:
    """Metrics since the last log line, kept on the device until it is written."""

    checked: list[tuple[Any, Any]] = field(default_factory=list)
    total: dict[str, Any] | None = None
    count: int = 0
    began: float = field(default_factory=time.perf_counter)

    def add(self, metrics: dict[str, Any]) -> None:
        self.checked.append((metrics["loss"], metrics["grad_norm"]))
        self.count += 1
        if self.total is None:
            self.total = metrics
        else:
            self.total = jax.tree.map(jnp.add, self.total, metrics)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def check(self, last_step: int) -> None:
        """Raise `UserError` for a loss or gradient that is no number."""
        checked = np.array([[float(x) for x in pair] for pair in self.checked])
        if not np.isfinite(checked).all():
            # A loss may still be a number when its gradient, and so the next
            # checkpoint, is none.
            row, column = np.argwhere(~np.isfinite(checked))[0]
            step = last_step - len(checked) + row + 1
            raise UserError(
                f"the {('loss', 'gradient')[column]} became {checked[row, column]} at "
                f"step {step}; the last good "
                "checkpoint is kept: lower optim.peak_lr or set optim.clip_norm=1 and "
                "start in another --workdir"
            )

    def summary(self) -> dict[str, np.ndarray]:
        """Means, of integers (counts) the sum."""
        assert self.total is not None
        totals = {name: np.asarray(value) for name, value in self.total.items()}
        return {
            name: total if total.dtype.kind == "i" else np.asarray(total / self.count)
            for name, total in totals.items()
        }

    def pack(self) -> dict[str, Any]:
        """The window in JSON, so that the next process ends it as this one would."""
        totals = {name: np.asarray(x) for name, x in (self.total or {}).items()}
        packed = {k: [x.dtype.name, x.tolist()] for k, x in totals.items()}
        seconds = self.seconds if self.count else 0.0
        return {"count": self.count, "seconds": seconds, "total": packed}

    @classmethod
    def unpack(cls, packed: dict[str, Any]) -> Window:
        total = {k: np.array(x, kind) for k, (kind, x) in packed["total"].items()}
        began = time.perf_counter() - packed["seconds"]
        return cls(total=total or None, count=packed["count"], began=began)


def fit(
    state: TrainState,
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
    batches: Batches,
    run: RunConfig,
    *,
    workdir: Workdir | None = None,
    describe: Callable[[dict[str, np.ndarray]], Row] = floats,
    evaluate: Callable[[Any], dict[str, float]] | None = None,
    title: str = "",
    quiet: bool = False,
) -> tuple[TrainState, list[Row]]:
    """Train to `run.steps` and return the last state and the rows of metrics.

    A row is written every `log_every` steps, before every checkpoint and on every
    `eval_every`-th step: the means of the step's metrics since the last row (sums of
    integers), passed through `describe`, which may turn code counts into usage; the
    last learning rate; and on every `eval_every`-th step, and the last,
    `evaluate(variables)` under `eval_...`. With a workdir the run
    goes on from its newest checkpoint, bit for bit on a CPU: state, data position and
    randomness are those of an undisturbed run. On SIGTERM or Ctrl-C a run with a
    workdir saves after the step it is in and raises `Stopped`; the rows that come after
    are those of an undisturbed run too, so none is written then. A second Ctrl-C ends
    it at once. Raises `UserError` when the loss stops being a number.
    """
    rows: list[Row] = []
    window = Window()
    if workdir is not None:
        state, window = _resumed(workdir, state, batches)
    first = int(state.step)
    bar = tqdm(
        total=run.steps, initial=first, desc=title, unit="step", disable=quiet,
        mininterval=0.5, dynamic_ncols=True,
    )  # fmt: skip
    with bar, _saving(workdir) as asked_to_stop:
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
                row = _row(now, window, metrics, describe)
                if evaluate and judges:
                    scores = evaluate(state.variables)
                    row |= {f"eval_{name}": value for name, value in scores.items()}
                rows.append(row)
                bar.set_postfix_str(_brief(row))
                if workdir is not None:
                    workdir.log(row)
                window = Window()
            if workdir is not None and (saves or stops):
                position = {"batches": batches.get_state(), "window": window.pack()}
                workdir.save(state, position)
                if stops or last:
                    workdir.wait()
            if stops:
                raise Stopped(now, asked)
    return state, rows


def _resumed(
    workdir: Workdir, state: TrainState, batches: Batches
) -> tuple[TrainState, Window]:
    found = workdir.restore(state)
    if found is None:
        return state, Window()
    state, position = found
    batches.set_state(position["batches"])
    return state, Window.unpack(position["window"])


@contextmanager
def _saving(workdir: Workdir | None) -> Iterator[Asked]:
    """Signals ask to stop where there is a place to save; what is begun is written."""
    if workdir is None:
        yield lambda step: 0
        return
    try:
        with stop_signal() as asked:
            yield asked
    finally:
        # Also where an error ends the run.
        workdir.settle()


def _row(now: int, window: Window, metrics: dict[str, Any], describe: Callable) -> Row:
    row = {"step": now, **describe(window.summary()), "lr": float(metrics["lr"])}
    row["steps_per_second"] = round(window.count / window.seconds, 3)
    return row


def _brief(row: Row) -> str:
    shown = ("loss", "usage", "perplexity", "accuracy", "eval_psnr", "eval_nll")
    parts = [f"{k}={row[k]:.4g}" for k in shown if k in row and math.isfinite(row[k])]
    return " ".join(parts)
