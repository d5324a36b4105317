"""Is the game of tokenizer and discriminator a fair one? Four curves and a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minivim.show.plots import BLUE, COLOURS, GREY, ORANGE, Plot, _axes, _fit, _plot
from minivim.tokenizer.objective import AT_PIXELS, LOGIT_BINS, LOGIT_RANGE

# Shares of images that the discriminator gets right, mean of real and fake.
WINS, SLEEPS = 0.95, 0.55
Row = dict[str, Any]


def gan_verdict(rows: Sequence[Row]) -> str:
    """One word and its reason, from the last fifth of a run's rows.

    `winning`: it is right on more than 95 % of all images, so that its gradient tells
    the tokenizer little; `sleeping`: no better than a coin (below 55 %), so that there
    is nothing to learn from it; `healthy` in between. Raises ValueError without rows of
    an adversarial run.
    """
    rows = _adversarial(rows)
    last = rows[-max(1, len(rows) // 5) :]
    real = float(np.mean([row["right_on_real"] for row in last]))
    fake = float(np.mean([row["right_on_fake"] for row in last]))
    word = "healthy"
    if (real + fake) / 2 > WINS:
        word = "winning"
    elif (real + fake) / 2 < SLEEPS:
        word = "sleeping"
    return f"{word}: right on {real:.0%} of real and {fake:.0%} of fake images"


def gan_health(rows: Sequence[Row]) -> Plot:
    """Logits, hits, R1 and the gradient of every term over the steps of a run.

    Logits as median and the band of 80 % of the images; gradient norms at the decoder's
    mean, so that terms compare. `rows` are those of `read_metrics`. Raises ValueError
    without rows of an adversarial run.
    """
    rows = _adversarial(rows)
    steps = [row["step"] for row in rows]
    plot = _plot("", width=8.4, height=5.2)
    _logits(plot, steps, rows)
    _shares(plot, steps, rows)
    axes = _axes(
        plot,
        "R1 at real images",
        x="step",
        y=r"$\Vert\nabla D\Vert^2$",
        position=(2, 2, 3),
    )
    lazy = [(row["step"], row["r1"]) for row in rows if "r1" in row]
    if lazy:
        axes.plot(*zip(*lazy, strict=True), color=COLOURS[4], linewidth=1.4)
        axes.set_ylim(bottom=0)
    norms = _gradients(plot, steps, rows)
    lines = ", ".join(f"{name} {value:.2g}" for name, value in norms.items())
    plot.alt = (
        f"discriminator after {steps[-1]} steps {gan_verdict(rows)}; gradient norms at "
        f"the reconstruction: {lines}"
    )
    return _fit(plot)


def _adversarial(rows: Sequence[Row]) -> list[Row]:
    found = [row for row in rows if "right_on_fake" in row]
    if not found:
        raise ValueError("these rows are of no run with loss.adversarial above zero")
    return found


def _logits(plot: Plot, steps: list[int], rows: list[Row]) -> None:
    axes = _axes(
        plot, "What the discriminator says", x="step", y="logit", position=(2, 2, 1)
    )
    for kind, colour in (("real", BLUE), ("fake", ORANGE)):
        low, middle, high = np.transpose(
            [quantiles(row[f"logits_{kind}"], (0.1, 0.5, 0.9)) for row in rows]
        )
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        style = "--" if kind == "fake" else "-"
        axes.plot(steps, middle, style, color=colour, linewidth=1.6, label=kind)
    axes.axhline(0, color=GREY, linewidth=0.8)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.25 * (high - low))  # room for the legend
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")


def _shares(plot: Plot, steps: list[int], rows: list[Row]) -> None:
    axes = _axes(plot, "How often it is right", x="step", y="share", position=(2, 2, 2))
    for kind, colour in (("real", BLUE), ("fake", ORANGE)):
        values = [row[f"right_on_{kind}"] for row in rows]
        style = "--" if kind == "fake" else "-"
        axes.plot(steps, values, style, color=colour, linewidth=1.4, label=kind)
    axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_ylim(0, 1.25)
    axes.set_yticks([0, 0.5, 1])
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")


def _gradients(plot: Plot, steps: list[int], rows: list[Row]) -> dict[str, float]:
    """Draws the panel and returns the last norm of each term."""
    axes = _axes(
        plot, "Pull of each term on the pixels", x="step", y="norm", position=(2, 2, 4)
    )
    axes.set_yscale("log")
    last: dict[str, float] = {}
    for name, colour in zip(AT_PIXELS, COLOURS, strict=False):
        key = f"grad_norm_{name}"
        if key in rows[-1]:
            values = [row[key] for row in rows]
            label = name.replace("_", "-")
            axes.plot(steps, values, color=colour, linewidth=1.4, label=label)
            last[label] = values[-1]
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.4)  # room for the legend
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center")
    return last


def quantiles(counts: Sequence[int], shares: Sequence[float]) -> list[float]:
    """Logits below which these shares of a histogram lie, linear within a bin."""
    edges = np.linspace(-LOGIT_RANGE, LOGIT_RANGE, LOGIT_BINS + 1)
    below = np.concatenate([[0], np.cumsum(counts)]) / max(sum(counts), 1)
    return [float(np.interp(share, below, edges)) for share in shares]
