"""The loop of every stage: steps, metrics, evaluation, checkpoints, exact resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from minivim.config import RunConfig
from minivim.errors import UserError
from minivim.training.checkpoint import Row, Workdir
from minivim.training.step import Step, TrainState


@runtime_checkable
class Batches(Protocol):
    """An endless iterator whose position can be saved."""

    def __next__(self) -> Any: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...


def _unchanged(means: dict[str, np.ndarray]) -> Row:
    return {name: float(value) for name, value in means.items()}


@dataclass
class Window:
    """Metrics since the last log line, kept on the device until it is written."""

    checked: list[tuple[Any, Any]] = field(default_factory=list)
    total: dict[str, Any] | None = None
    began: float = field(default_factory=time.perf_counter)

    def add(self, metrics: dict[str, Any]) -> None:
        self.checked.append((metrics["loss"], metrics["grad_norm"]))
        if self.total is None:
            self.total = metrics
        else:
            self.total = jax.tree.map(jnp.add, self.total, metrics)

    def summary(self, last_step: int) -> dict[str, np.ndarray]:
        """Means, of integers (counts) the sum; `UserError` for a loss that is none."""
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
        assert self.total is not None
        totals = {name: np.asarray(value) for name, value in self.total.items()}
        return {
            name: total if total.dtype.kind == "i" else np.asarray(total / len(checked))
            for name, total in totals.items()
        }


def fit(
    state: TrainState,
    step: Step,
    batches: Batches,
    run: RunConfig,
    *,
    workdir: Workdir | None = None,
    describe: Callable[[dict[str, np.ndarray]], Row] = _unchanged,
    evaluate: Callable[[Any], dict[str, float]] | None = None,
    title: str = "",
    quiet: bool = False,
) -> tuple[TrainState, list[Row]]:
    """Train to `run.steps` and return the last state and the rows of metrics.

    A row is written every `log_every` steps and before every checkpoint: the means of
    the step's metrics since the last row (sums of integers), passed through `describe`,
    which may turn code counts into usage; the last learning rate; and on every
    `eval_every`-th step `evaluate(variables)` under `eval_...`. With a workdir the run
    goes on from its newest checkpoint, bit for bit on a CPU: state, data position and
    randomness are those of an undisturbed run. Raises `UserError` when the loss stops
    being a number.
    """
    rows: list[Row] = []
    if workdir is not None and (found := workdir.restore(state)) is not None:
        state, position = found
        batches.set_state(position)
    first = int(state.step)
    window = Window()
    bar = tqdm(
        total=run.steps, initial=first, desc=title, unit="step", disable=quiet,
        mininterval=0.5, dynamic_ncols=True,
    )  # fmt: skip
    with bar:
        for now in range(first + 1, run.steps + 1):
            state, metrics = step(state, next(batches), at=now - 1)
            window.add(metrics)
            bar.update()
            saves = now % run.checkpoint_every == 0 or now == run.steps
            if now % run.log_every == 0 or saves:
                row = _row(now, window, metrics, describe)
                if evaluate and (now % run.eval_every == 0 or now == run.steps):
                    scores = evaluate(state.variables)
                    row |= {f"eval_{name}": value for name, value in scores.items()}
                rows.append(row)
                bar.set_postfix_str(_brief(row))
                if workdir is not None:
                    workdir.log(row)
                window = Window()
            if saves and workdir is not None:
                workdir.save(state, batches.get_state())
    return state, rows


def _row(now: int, window: Window, metrics: dict[str, Any], describe: Callable) -> Row:
    row = {"step": now, **describe(window.summary(now)), "lr": float(metrics["lr"])}
    seconds = time.perf_counter() - window.began
    row["steps_per_second"] = round(len(window.checked) / seconds, 3)
    return row


def _brief(row: Row) -> str:
    shown = ("loss", "usage", "perplexity", "accuracy", "eval_psnr", "eval_nll")
    parts = [f"{k}={row[k]:.4g}" for k in shown if k in row and math.isfinite(row[k])]
    return " ".join(parts)
