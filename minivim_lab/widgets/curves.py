"""Several runs in one picture, a panel for each figure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from minivim.show.plots import COLOURS, Plot, _axes, _fit, _plot


def curves(
    panels: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]],
) -> Plot:
    """Steps and values of named runs, by the title of a panel.

    A run has one colour in all panels, every second run is dashed, and the first lies
    on top, so that curves which coincide can be seen. The legend is in the first panel
    that has the most runs. Raises ValueError without a run.
    """
    names = list(dict.fromkeys(name for runs in panels.values() for name in runs))
    if not names:
        raise ValueError("there is no run to draw")
    ends = "; ".join(
        f"{title}: "
        + ", ".join(f"{name} {np.ravel(y)[-1]:.3g}" for name, (_, y) in runs.items())
        for title, runs in panels.items()
    )
    plot = _plot(f"at the end, {ends}", width=3.4 * len(panels), height=3.0)
    fullest = max(panels, key=lambda title: len(panels[title]))
    for i, (title, runs) in enumerate(panels.items()):
        axes = _axes(plot, title, x="step", y="", position=(1, len(panels), i + 1))
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
    return _fit(plot)
