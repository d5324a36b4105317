"""Runs beside each other: dots and bands for several seeds, curves of single runs."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from minivim.show import plots
from minivim.show.plots import BLUE, COLOURS, GREY, INK, ORANGE, Plot


def dots(rows: Mapping[str, tuple], *, x: str, limit: float, colours: Mapping) -> Plot:
    """A line for every row: a dot for each seed, a tick for their mean.

    `rows` maps a name to the values `x` of the seeds and to the kind of row, which has
    a colour. Values beyond `limit` are arrows at the edge. ValueError without a row.
    """
    if not rows:
        raise ValueError("there is no row to draw")
    kinds = dict.fromkeys(kind for _, kind in rows.values())
    words = (f"{name}: {np.mean(v):.2g} ({kind})" for name, (v, kind) in rows.items())
    plot = plots._plot("; ".join(words), width=8.4, height=0.6 + 0.27 * len(rows))
    axes = plots._axes(plot, "", x=x, y="")
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.8)
    axes.axvline(0, color=INK, linewidth=1)
    for at, (values, kind) in enumerate(rows.values()):
        _line(axes, at, values, colour=colours[kind], limit=limit)
    for kind in kinds:
        axes.plot([], [], "o", color=colours[kind], markersize=5.5, label=kind)
    _named(axes, rows)
    axes.set_xlim(-1.05 * limit, 1.05 * limit)
    axes.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1),
                ncols=len(kinds))  # fmt: skip
    return plots._fit(plot)


def seeds(
    ours: Mapping, paper: Mapping = {}, *, title: str, paper_title: str = "the paper"
) -> Plot:
    """One line for each row: a dot for each seed, a stroke at their mean.

    Beside it, on a scale of its own, the paper's figure of the rows that have one: only
    the order compares, not what they measure. Raises ValueError without a value.
    """
    found = {name: np.ravel(values) for name, values in ours.items()}
    if not any(map(len, found.values())):
        raise ValueError("there is no value to draw")
    printed = {name: value for name, value in paper.items() if name in ours}
    alt = f"{title}: {'; '.join(f'{n} {_spread(v)}' for n, v in found.items())}"
    words = ", ".join(f"{name} {value:g}" for name, value in printed.items())
    alt += f". {paper_title}: {words}" if words else ""
    plot = plots._plot(alt, width=6.8, height=1.0 + 0.28 * len(found))
    left = plots._axes(plot, title, x="", y="", at=(1, 2, 1))
    right = plots._axes(plot, paper_title, x="", y="", at=(1, 2, 2))
    for axes in (left, right):
        _named(axes, found)
        axes.margins(x=0.15)
    right.set_yticklabels([])
    for y, (name, values) in enumerate(found.items()):
        if len(values):
            _line(left, y, values, colour=BLUE)
        if name in printed:
            right.plot([printed[name]], [y], "D", color=ORANGE)
        else:
            style = {"ha": "center", "va": "center", "fontsize": 8, "color": GREY}
            wide = right.get_yaxis_transform()
            right.text(0.5, y, "not given", transform=wide, **style)
    if not printed:
        right.set_xticks([])
    return plots._fit(plot)


def _spread(values: np.ndarray) -> str:
    if not len(values):
        return "-"
    return f"{values.mean():.4g} ({values.min():.4g} to {values.max():.4g})"


def _line(axes: Axes, at: int, values: ArrayLike, colour: str, limit: float = np.inf):
    """A dot for each seed, an arrow at the edge for one beyond, a tick for the mean."""
    values = np.ravel(values)
    middle = np.clip(values.mean(), -limit, limit)
    axes.plot([middle], [at], "|", color=INK, markersize=13)
    shapes = np.where(np.abs(values) <= limit, "o", np.where(values < 0, "<", ">"))
    for shape in dict.fromkeys(shapes.tolist()):
        mine = np.clip(values[shapes == shape], -limit, limit)
        style = {"color": colour, "markersize": 5.5, "alpha": 0.75, "clip_on": False}
        axes.plot(mine, [at] * len(mine), shape, **style)


def _named(axes: Axes, rows: Sequence[str] | Mapping[str, object]) -> None:
    """Names on the left, the first on top."""
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)


def bands(curves: Mapping[str, ArrayLike], *, x: str, y: str) -> Plot:
    """Curves [seeds, points] by name: the mean, and a band from least to most."""
    if not curves:
        raise ValueError("there is no curve to draw")
    found = {name: np.atleast_2d(curve) for name, curve in curves.items()}
    means = {n: ", ".join(f"{v:.3g}" for v in c.mean(0)) for n, c in found.items()}
    words = "; ".join(f"{name}: {values}" for name, values in means.items())
    plot = plots._plot(f"{y} by {x}, {words}", width=5.6, height=3.0)
    axes = plots._axes(plot, "", x=x, y=y)
    for (name, curve), colour in zip(found.items(), cycle(COLOURS), strict=False):
        at, band = np.arange(1, curve.shape[1] + 1), (curve.min(0), curve.max(0))
        axes.fill_between(at, *band, color=colour, alpha=0.2, linewidth=0)
        axes.plot(at, curve.mean(0), "o-", color=colour, label=name, markersize=4)
    axes.set_xticks(np.arange(1, 1 + max(curve.shape[1] for curve in found.values())))
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return plots._fit(plot)


def curves(panels: Mapping[str, Mapping[str, tuple]], along="step", log=False) -> Plot:
    """Steps and values of named runs, by the title of a panel; `log` spreads the steps.

    A run has one colour in all panels. Every second run is dashed, the first on top, so
    equal ones can be told apart. The legend is in the first panel with most. ValueError
    without a run.
    """
    names = list(dict.fromkeys(name for runs in panels.values() for name in runs))
    if not names:
        raise ValueError("there is no run to draw")
    ends = "; ".join(
        f"{title}: "
        + ", ".join(f"{name} {np.ravel(y)[-1]:.3g}" for name, (_, y) in runs.items())
        for title, runs in panels.items()
    )
    plot = plots._plot(f"at the end, {ends}", width=3.4 * len(panels), height=3.0)
    fullest = max(panels, key=lambda title: len(panels[title]))
    for i, (title, runs) in enumerate(panels.items()):
        axes = plots._axes(plot, title, x=along, y="", at=(1, len(panels), i + 1))
        axes.set_xscale("log" if log else "linear")
        for name, (x, y) in runs.items():
            at = names.index(name)
            axes.plot(
                x, y, label=name, color=COLOURS[at % len(COLOURS)], linewidth=1.4,
                linestyle=("-", "--")[at % 2], zorder=3 - at / len(names),
            )  # fmt: skip
        if title == fullest:
            axes.legend(frameon=False, fontsize=8)
        else:
            axes.set_ylim(bottom=0)
    return plots._fit(plot)
