"""Runs of several seeds beside each other: dots for figures, bands for curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from minivim.show.plots import BLUE, COLOURS, GREY, INK, RED, Plot, _axes, _fit, _plot


def dots(
    rows: Mapping[str, tuple[Sequence[float], str]],
    *,
    x: str,
    limit: float,
    colours: Mapping[str, str] | None = None,
) -> Plot:
    """A line for every row: a dot for each seed, a tick for their mean.

    Args:
        rows: name -> (values of the seeds, the kind of row).
        x: what the values are.
        limit: values beyond it are drawn at the edge, as arrows.
        colours: kind -> colour; by default in turn. The legend names the kinds.

    Raises:
        ValueError: without a row.
    """
    if not rows:
        raise ValueError("there is no row to draw")
    kinds = list(dict.fromkeys(kind for _, kind in rows.values()))
    colours = colours or dict(zip(kinds, (BLUE, RED, GREY) * len(kinds), strict=False))
    words = (f"{name}: {np.mean(v):.2g} ({kind})" for name, (v, kind) in rows.items())
    plot = _plot("; ".join(words), width=8.4, height=0.6 + 0.27 * len(rows))
    axes = _axes(plot, "", x=x, y="")
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.8)
    axes.axvline(0, color=INK, linewidth=1)
    named = set()
    for at, (values, kind) in enumerate(rows.values()):
        for value in values:
            shape = "o" if abs(value) <= limit else "<" if value < 0 else ">"
            axes.plot(
                np.clip(value, -limit, limit), at, shape, color=colours[kind],
                markersize=5, alpha=0.75, clip_on=False,
                label=None if kind in named else kind,
            )  # fmt: skip
            named.add(kind)
        middle = np.clip(np.mean(values), -limit, limit)
        axes.plot(middle, at, "|", color=INK, markersize=11)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-1.05 * limit, 1.05 * limit)
    axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1),
                ncols=len(kinds))  # fmt: skip
    return _fit(plot)


def bands(curves: Mapping[str, ArrayLike], *, x: str, y: str) -> Plot:
    """Curves of several seeds: their mean, and from least to most as a band.

    Args:
        curves: name -> [seeds, points]; points count from 1.

    Raises:
        ValueError: without a curve.
    """
    if not curves:
        raise ValueError("there is no curve to draw")
    means = {name: np.mean(np.atleast_2d(c), axis=0) for name, c in curves.items()}
    words = (
        f"{name}: {', '.join(f'{value:.3g}' for value in mean)}"
        for name, mean in means.items()
    )
    plot = _plot(f"{y} by {x}, " + "; ".join(words), width=5.6, height=3.0)
    axes = _axes(plot, "", x=x, y=y)
    for (name, curve), colour in zip(
        curves.items(), COLOURS * len(curves), strict=False
    ):
        low, high = np.min(np.atleast_2d(curve), 0), np.max(np.atleast_2d(curve), 0)
        at = np.arange(1, len(low) + 1)
        axes.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(at, means[name], "o-", color=colour, label=name, markersize=4)
    axes.set_xticks(np.arange(1, 1 + max(map(len, means.values()))))
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return _fit(plot)
