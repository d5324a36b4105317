"""Is the game of tokenizer and discriminator a fair one? Four curves and a word."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from minivim.show.plots import BLUE, COLOURS, GREY, ORANGE, Plot, _axes, _fit, _plot
from minivim.tokenizer.objective import AT_PIXELS, LOGIT_BINS, LOGIT_RANGE

# Shares of images that the discriminator gets right, mean of real and fake.
WINS, SLEEPS = 0.95, 0.55
Row = dict[str, Any]


def gan_verdict(rows: Sequence[Row]) -> str:
    """One word and its reason, from the last fifth of a run's rows.

    `winning`: right on more than 95 % of all images, its gradient tells the tokenizer
    little; `sleeping`: below 55 %, no better than a coin, it has nothing to teach;
    `healthy` in between. Raises ValueError without rows of an adversarial run.
    """
    rows = _adversarial(rows)
    last = rows[-max(1, len(rows) // 5) :]
    real = float(np.mean([row["right_on_real"] for row in last]))
    fake = float(np.mean([row["right_on_fake"] for row in last]))
    both = (real + fake) / 2
    word = "winning" if both > WINS else "sleeping" if both < SLEEPS else "healthy"
    return f"{word}: right on {real:.0%} of real and {fake:.0%} of fake images"


def gan_health(rows: Sequence[Row]) -> Plot:
    """Logits, hits, R1 and the gradient of every term over the rows of `read_metrics`.

    Logits as median and the band of 80 % of the images; gradient norms at the decoder's
    mean, so that terms compare. Raises ValueError without rows of an adversarial run.
    """
    rows = _adversarial(rows)
    steps = [row["step"] for row in rows]
    plot = _plot("", width=8.4, height=5.2)
    panel = partial(_axes, plot, x="step")
    says = panel("What the discriminator says", y="logit", at=(2, 2, 1))
    right = panel("How often it is right", y="share", at=(2, 2, 2))
    r1 = panel("R1 at real images", y=r"$\Vert\nabla D\Vert^2$", at=(2, 2, 3))
    pull = panel("Pull of each term on the pixels", y="norm", at=(2, 2, 4))
    for kind, colour, line in (("real", BLUE, "-"), ("fake", ORANGE, "--")):
        style: Any = {"color": colour, "linestyle": line, "label": kind}
        bands = [quantiles(row[f"logits_{kind}"], (0.1, 0.5, 0.9)) for row in rows]
        low, middle, high = np.transpose(bands)
        says.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        says.plot(steps, middle, linewidth=1.6, **style)
        right.plot(steps, [r[f"right_on_{kind}"] for r in rows], linewidth=1.4, **style)
    says.axhline(0, color=GREY, linewidth=0.8)
    least, most = says.get_ylim()
    says.set_ylim(least, most + 0.25 * (most - least))  # room for the legend
    right.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    right.set(ylim=(0, 1.25), yticks=[0, 0.5, 1])
    lazy = [(row["step"], row["r1"]) for row in rows if "r1" in row]
    if lazy:
        r1.plot(*zip(*lazy, strict=True), color=COLOURS[4], linewidth=1.4)
        r1.set_ylim(bottom=0)
    pull.set_yscale("log")
    ends = []
    for name, colour in zip(AT_PIXELS, COLOURS, strict=False):
        key, label = f"grad_norm_{name}", name.replace("_", "-")
        if key in rows[-1]:
            values = [row[key] for row in rows]
            pull.plot(steps, values, color=colour, linewidth=1.4, label=label)
            ends.append(f"{label} {values[-1]:.2g}")
    least, most = pull.get_ylim()
    pull.set_ylim(least, most * (most / least) ** 0.4)  # room for the legend
    legends: Any = {says: "upper right", right: "upper right", pull: "upper center"}
    for axes, place in legends.items():
        axes.legend(loc=place, frameon=False, fontsize=8, ncols=2)
    plot.alt = f"discriminator after {steps[-1]} steps {gan_verdict(rows)}; "
    plot.alt += f"gradient norms at the reconstruction: {', '.join(ends)}"
    return _fit(plot)


def _adversarial(rows: Sequence[Row]) -> list[Row]:
    found = [row for row in rows if "right_on_fake" in row]
    if not found:
        raise ValueError("these rows are of no run with loss.adversarial above zero")
    return found


def quantiles(counts: Sequence[int], shares: Sequence[float]) -> list[float]:
    """Logits below which these shares of a histogram lie, linear within a bin."""
    edges = np.linspace(-LOGIT_RANGE, LOGIT_RANGE, LOGIT_BINS + 1)
    below = np.concatenate([[0], np.cumsum(counts)]) / max(sum(counts), 1)
    return [float(np.interp(share, below, edges)) for share in shares]
