"""Plots of both stages as matplotlib figures, drawn without pyplot or any global state.

Every function returns a `Plot`: a matplotlib `Figure` that shows itself in a notebook,
as a PNG that is the same on every run, and says its numbers in words (`.alt`).

Images are [n, H, W, C], uint8 or floats in [0, 1], `scale` the pixels on screen per
pixel. Arguments that do not fit each other raise ValueError.
"""

import itertools
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from matplotlib.transforms import IdentityTransform

from minivim.metrics import CodebookUsage
from minivim.show.picture import enlarge, to_png, to_uint8

# Okabe and Ito's colours, told apart by people with any common colour blindness.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY, INK = "#CC79A7", "#56B4E9", "#767676", "#222222"
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)

_DPI = 100
_GAP = 4  # pixels between pictures
_HEAD = 16  # pixels for a line of text above a picture
_HIDDEN = 200  # the grey of what a completion was not given


class Plot(Figure):
    """A figure with a description, displayed as PNG and text in any notebook."""

    alt: str = ""

    def __repr__(self) -> str:
        return f"<Plot: {self.alt}>"

    def _repr_mimebundle_(self, **_) -> dict[str, str]:
        png = b64encode(to_png(self)).decode("ascii")
        return {"image/png": png, "text/plain": repr(self)}


def _plot(alt: str, *, width: float, height: float) -> Plot:
    plot = Plot(figsize=(width, height), dpi=_DPI, facecolor="white")
    plot.alt = alt
    return plot


def _fit(plot: Plot) -> Plot:
    # Once: a layout engine would move things a little at every drawing.
    plot.tight_layout(pad=0.6)
    return plot


def plain(text: str) -> str:
    """Text as matplotlib shows it: between dollars it would see a formula."""
    return text.replace("$", r"\$")


def _axes(plot: Plot, title: str, *, x: str, y: str, at: tuple = (1, 1, 1)) -> Axes:
    axes = plot.add_subplot(*at, axisbelow=True)
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _mosaic(
    rows: Sequence, *, alt: str, scale: int, titles: Sequence = (), names: Sequence = ()
) -> Plot:
    """Pictures in rows, the first of which have titles above their pictures."""
    height, width = (side * scale for side in rows[0][0].shape[:2])
    names, titles = [*map(plain, names)], [[*map(plain, line)] for line in titles]
    drawn = [TextPath((0, 0), name, size=9).get_extents().width for name in names]
    left = 18 + max(drawn) * _DPI / 72 if names else 0
    wide = left + (width + _GAP) * max(map(len, rows)) - _GAP
    bottom = (height + _GAP) * len(rows) + _HEAD * len(titles)
    plot = _plot(alt, width=wide / _DPI, height=(bottom - _GAP) / _DPI)
    write = partial(plot.text, transform=IdentityTransform())
    for r, row in enumerate(rows):
        bottom -= _GAP + height + (_HEAD if r < len(titles) else 0)
        if names:
            middle = bottom + height / 2
            write(left - 7, middle, names[r], fontsize=9, ha="right", va="center")
        for c, picture in enumerate(row):
            x = left + c * (width + _GAP)
            plot.figimage(enlarge(to_uint8(picture), scale), xo=x, yo=bottom)
            if r < len(titles):
                middle, top = x + width / 2, bottom + height + 3
                write(middle, top, titles[r][c], fontsize=8, ha="center")
    return plot


def _rows(items, columns: int) -> list[list]:
    return [list(items[i : i + columns]) for i in range(0, len(items), columns)]


def image_grid(images, *, columns: int, titles: Iterable = (), scale: int = 3) -> Plot:
    """Images in reading order, enlarged without smoothing; a title above each."""
    lines = [str(title) for title in titles]
    if lines and len(lines) != len(images):
        raise ValueError(f"{len(images)} images, but {len(lines)} titles")
    alt = f"{len(images)} images in rows of {columns}"
    rows, words = _rows(images, columns), _rows(lines, columns)
    return _mosaic(rows, alt=alt, scale=scale, titles=words)


def reconstructions(
    originals, recons, *, columns: int = 8, error: bool = False, scale: int = 3
) -> Plot:
    """Originals above their reconstructions, `columns` pairs in a row.

    With `error`, the mean over channels of |original - reconstruction| below, four
    times as bright: white is a difference of a quarter or more.
    """
    if np.shape(originals) != np.shape(recons):
        shapes = f"{np.shape(originals)} and {np.shape(recons)}"
        raise ValueError(f"originals and reconstructions differ in shape: {shapes}")
    before = np.stack([to_uint8(image) for image in originals]) / 255
    after = np.stack([to_uint8(image) for image in recons]) / 255
    kinds = {"original": before, "reconstruction": after}
    if error:
        difference = np.abs(before - after).mean(-1, keepdims=True)
        kinds["error x 4"] = np.clip(4 * difference, 0, 1)
    firsts = range(0, len(before), columns)
    rows = [list(kind[i : i + columns]) for i in firsts for kind in kinds.values()]
    names = [*kinds] * len(firsts)
    alt = f"{len(before)} originals above their reconstructions"
    return _mosaic(rows, alt=alt, scale=scale, names=names)


def samples_by_class(
    images, labels, class_names: Sequence[str], *, columns: int = 8, scale: int = 2,
    wrap: bool = False,
) -> Plot:  # fmt: skip
    """Images, one row per class that occurs in labels [n], of `columns` at most.

    With `wrap` a class has as many rows as it needs.
    """
    labels = np.asarray(labels)
    rows, names = [], []
    for number, name in enumerate(class_names):
        mine = _rows([images[i] for i in np.flatnonzero(labels == number)], columns)
        mine = mine if wrap else mine[:1]
        rows, names = rows + mine, names + [name] * len(mine)
    classes = [*dict.fromkeys(names)]
    alt = f"samples of {len(classes)} classes: {', '.join(classes)}"
    return _mosaic(rows, alt=alt, scale=scale, names=names)


def completions(originals, found: Any, *, scale: int = 3) -> Plot:
    """In each row an original, the part that was given, and those of a `Completion`."""
    if len(originals) != len(found.images):
        raise ValueError(f"{len(found.images)} completed images, but {len(originals)}")
    whole = np.stack([to_uint8(image) for image in originals])
    given = whole.copy()
    given[:, round(found.known / found.codes.shape[-1] * given.shape[1]) :] = _HIDDEN
    rows = [[a, b, *c] for a, b, c in zip(whole, given, found.images, strict=True)]
    count = found.images.shape[1]
    alt = f"{len(rows)} images, the part given, and {count} completions"
    words = ["original", "given", "completed", *[""] * (count - 1)]
    return _mosaic(rows, alt=alt, scale=scale, titles=[words])


def usage_histogram(counts, *, title: str = "Codebook") -> Plot:
    """Shares of tokens by code, most used first; counts [K], not all of them zero."""
    counts = np.sort(np.ravel(counts))[::-1]
    usage = CodebookUsage.from_counts(counts)
    used = int((counts > 0).sum())
    words = f"{title}: {used} of {len(counts)} codes used ({usage.usage:.1%})"
    words += f", perplexity {usage.perplexity:.1f}"
    plot = _plot(words, width=6.4, height=2.6)
    axes = _axes(plot, plain(words), x="code, most used first", y="share of tokens")
    axes.bar(np.arange(used), counts[:used] / counts.sum(), width=1.0, color=BLUE)
    if used < len(counts):
        axes.axvspan(used - 0.5, len(counts) - 0.5, color="#EEEEEE", zorder=0)
        axes.text(
            (used + len(counts) - 1) / 2, 0.5, "never used", fontsize=8, color=GREY,
            ha="center", va="center", rotation=90, transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    axes.axhline(1 / len(counts), color=ORANGE, linewidth=1.2, label="all codes alike")
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    axes.set(yscale="log", xlim=(-0.5, len(counts) - 0.5))
    return _fit(plot)


def probe_curve(block_accuracies, baselines: Mapping[str, float], chosen: int) -> Plot:
    """Accuracies [L] of the blocks' probes; `chosen`, from 0, has a ring."""
    accuracies = np.asarray(block_accuracies, np.float64)
    blocks = np.arange(1, len(accuracies) + 1)
    alt = f"probe accuracy per block: {', '.join(f'{x:.1%}' for x in accuracies)}"
    alt += f"; chosen block {chosen + 1}"
    alt += "".join(f"; {name} {value:.1%}" for name, value in baselines.items())
    plot = _plot(alt, width=6.4, height=3.0)
    axes = _axes(plot, "Linear probe, one per block", x="block", y="test accuracy (%)")
    axes.plot(blocks, 100 * accuracies, "o-", color=BLUE, label="prior's features")
    circle: Any = {"mfc": "none", "mec": RED, "mew": 1.8, "markersize": 13}
    best = accuracies[chosen]
    axes.plot(blocks[chosen], 100 * best, "o", label=f"chosen: {best:.1%}", **circle)
    colours = itertools.cycle((ORANGE, GREEN, PURPLE, GREY))
    for (name, value), colour in zip(baselines.items(), colours, strict=False):
        label = plain(f"{name}: {value:.1%}")
        axes.axhline(100 * value, label=label, color=colour, linestyle="--")
    low = min([*accuracies, *baselines.values()])
    axes.set(xticks=blocks, ylim=(max(0, 100 * low - 8), 102))
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return _fit(plot)


def loss_curves(rows: Sequence[Mapping], *, keys: Sequence[str] = ("loss",)) -> Plot:
    """Metrics over training steps, one panel per key of the rows of `read_metrics`."""
    series = {}
    for key in keys:
        series[key] = [(r["step"], r[key]) for r in rows if r.get(key) is not None]
        if not series[key]:
            raise ValueError(f"no row has the key {key!r}")
    ends = [f"{key} {points[-1][1]:.4g}" for key, points in series.items()]
    alt = f"training to step {rows[-1]['step']}: {', '.join(ends)}"
    plot = _plot(alt, width=max(4.4, 3.3 * len(keys)), height=2.6)
    for i, (key, points) in enumerate(series.items()):
        title, name = plain(f"{key}: {points[-1][1]:.4g}"), plain(key)
        axes = _axes(plot, title, x="step", y=name, at=(1, len(keys), i + 1))
        axes.plot(*zip(*points, strict=True), color=COLOURS[i % len(COLOURS)])
    return _fit(plot)


def code_map(codes, *, cell: int = 34) -> Plot:
    """Codes [N] of a square or [h, w] as numbers in cells of so many pixels.

    Neighbouring numbers get unlike colours on purpose: codes have no order.
    """
    codes = _on_grid(codes)
    height, width = codes.shape
    alt = f"{height} x {width} codes, {len(np.unique(codes))} different"
    plot = _plot(alt, width=width * cell / _DPI, height=height * cell / _DPI)
    axes = plot.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    colours = _code_colours(codes)
    axes.imshow(colours, interpolation="nearest", aspect="auto")
    style: Any = {"ha": "center", "va": "center", "fontsize": cell / 4.6}
    for (row, column), code in np.ndenumerate(codes):
        light = colours[row, column, :3] @ (0.299, 0.587, 0.114) > 0.5
        axes.text(column, row, str(code), color="black" if light else "white", **style)
    return plot


def _code_colours(codes: np.ndarray) -> np.ndarray:
    """A colour [..., 4] per code, unlike for neighbouring numbers."""
    golden = (codes * 0.61803398875) % 1.0
    return colormaps["viridis"](0.08 + 0.92 * golden)


def _on_grid(values) -> np.ndarray:
    values = np.asarray(values)
    side = round(values.size**0.5)
    if values.ndim != 2 and values.size != side**2:
        raise ValueError(f"{values.size} values do not fill a square; give [h, w]")
    return values if values.ndim == 2 else values.reshape(side, side)


def attention_map(
    weights, *, query: int | None = None, image=None, title: str = "Attention"
) -> Plot:
    """How much one position attends to each: [N] of a square without class, or [h, w].

    `query`, the raster index that attends, is outlined; the image [H, W, C] is beside.
    """
    weights = _on_grid(weights)
    most = np.unravel_index(weights.argmax(), weights.shape)
    alt = f"{title}: most, {weights.max():.3f}, to row {most[0]}, column {most[1]}"
    count = 1 if image is None else 2
    plot = _plot(alt, width=3.3 * count, height=2.8)
    panels = [_axes(plot, plain(title), x="column", y="row", at=(1, count, count))]
    panels[0].grid(False)
    panels[0].spines[:].set_visible(True)
    drawn = panels[0].imshow(weights, cmap="viridis", vmin=0, interpolation="nearest")
    plot.colorbar(drawn, ax=panels[0], fraction=0.046).ax.tick_params(labelsize=8)
    if image is not None:
        panels.append(plot.add_subplot(1, 2, 1))
        place = drawn.get_extent()
        panels[1].imshow(to_uint8(image), interpolation="nearest", extent=place)
        panels[1].set_axis_off()
    if query is not None:
        row, column = divmod(query, weights.shape[1])
        for panel in panels:
            corner = (column - 0.5, row - 0.5)
            box = Rectangle(corner, 1, 1, fill=False, edgecolor=RED, linewidth=2)
            panel.add_patch(box)
    return _fit(plot)


def codebook_patches(patches, *, columns: int = 32, counts=None, scale=4) -> Plot:
    """The picture patch [K, h, w, C] of every code; by counts [K], most used first."""
    patches, how = np.asarray(patches), "in order"
    if counts is not None:
        order, how = np.argsort(-np.asarray(counts), kind="stable"), "most used first"
        patches = patches[order]
    alt = f"patches of {len(patches)} codes, {how}"
    return _mosaic(_rows(patches, columns), alt=alt, scale=scale)
