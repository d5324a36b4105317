"""Figures of several seeds, beside what a paper prints for the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from minivim.show.plots import BLUE, GREY, INK, ORANGE, Plot, _axes, _fit, _plot


def seeds(
    ours: Mapping[str, ArrayLike],
    paper: Mapping[str, float | int] | None = None,
    *,
    title: str,
    paper_title: str = "the paper",
) -> Plot:
    """One line for each row: a dot for each seed, a stroke at their mean.

    Beside it, on a scale of its own, the paper's figure of the rows that have one: the
    two measure different things, so only their order compares. Raises ValueError
    without a value.
    """
    found = {name: np.ravel(values) for name, values in ours.items()}
    if not any(len(values) for values in found.values()):
        raise ValueError("there is no value to draw")
    printed = {name: value for name, value in (paper or {}).items() if name in ours}
    alt = f"{title}: {'; '.join(f'{n} {_spread(v)}' for n, v in found.items())}"
    if printed:
        words = ", ".join(f"{name} {value:g}" for name, value in printed.items())
        alt += f". {paper_title}: {words}"
    plot = _plot(alt, width=6.8, height=1.0 + 0.28 * len(found))
    left = _lines(plot, title, list(found), position=(1, 2, 1))
    right = _lines(plot, paper_title, list(found), position=(1, 2, 2))
    left.set_yticklabels(list(found), fontsize=8)
    right.set_yticklabels([])
    for y, (name, values) in enumerate(found.items()):
        if len(values):
            left.plot([values.mean()], [y], "|", color=INK, markersize=15)
            left.plot(values, [y] * len(values), "o", color=BLUE, alpha=0.75)
        if name in printed:
            right.plot([printed[name]], [y], "D", color=ORANGE)
        else:
            right.text(
                0.5, y, "not given", transform=right.get_yaxis_transform(),
                ha="center", va="center", fontsize=8, color=GREY,
            )  # fmt: skip
    if not printed:
        right.set_xticks([])
    return _fit(plot)


def _spread(values: np.ndarray) -> str:
    if not len(values):
        return "-"
    return f"{values.mean():.4g} ({values.min():.4g} to {values.max():.4g})"


def _lines(
    plot: Plot, title: str, names: Sequence[str], *, position: tuple[int, int, int]
) -> Axes:
    axes = _axes(plot, title, x="", y="", position=position)
    axes.set_yticks(range(len(names)))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.15)
    return axes
