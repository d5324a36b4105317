"""Times of two rivals taken in turns, and the limit that matrix products set."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from tqdm.auto import tqdm


@dataclass(frozen=True)
class Times:
    """Seconds of every repetition; `ours[i]` and `twin[i]` were neighbours."""

    ours: np.ndarray
    twin: np.ndarray

    @property
    def ratio(self) -> np.ndarray:
        """First, second and third quartile of twin / ours; above 1 ours is faster."""
        return np.percentile(self.twin / self.ours, (25, 50, 75))


# OpenMP's threads spin for some milliseconds after their last work.
REST = 0.05
PATIENCE = 60  # seconds for the repetitions of a case


def _seconds(call: Callable[[], object]) -> float:
    """Time of one call, begun when the rival's threads have gone to sleep."""
    time.sleep(REST)
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def first_call(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a first call, which may compile, and MB that it adds at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (Linux)
    before, seconds = _memory("VmRSS"), _seconds(call)
    return seconds, _memory("VmHWM") - before


def _memory(kind: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024


def in_turns(
    ours: Callable[[], object],
    twin: Callable[[], object],
    *,
    repetitions: int,
    warm_up: int = 2,
    title: str = "",
) -> Times:
    """Call both alternately, the first of a pair changing, so that drift hits both.

    Fewer than `repetitions` where they would take too long, but five.
    """
    last = [_seconds(ours) + _seconds(twin) for _ in range(warm_up)][-1]
    fits = int(PATIENCE / last)
    repetitions = max(5, min(repetitions, fits))
    pairs = np.empty((repetitions, 2))
    for i in tqdm(range(repetitions), desc=title, leave=False, dynamic_ncols=True):
        for j in (i % 2, 1 - i % 2):
            pairs[i, j] = _seconds((ours, twin)[j])
    return Times(pairs[:, 0], pairs[:, 1])


def matmul_limit(*, size: int = 2048, repetitions: int = 5) -> float:
    """FLOP/s of a large float32 product: the best time of either framework."""
    a = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    x, y = jnp.asarray(a), torch.tensor(a)
    product = jax.jit(jnp.matmul)
    times = in_turns(
        lambda: product(x, x), lambda: y @ y, repetitions=repetitions, title="limit"
    )
    return 2 * size**3 / min(times.ours.min(), times.twin.min())
