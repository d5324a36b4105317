"""Plots of both stages as matplotlib figures, drawn without pyplot or any global state.

Every function returns a `Plot`: a matplotlib `Figure` that shows itself in a notebook,
as a PNG that is the same on every run, and that describes itself in words (`.alt`), so
that the strict notebook test and people who cannot see it get the numbers as well.
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from matplotlib.transforms import IdentityTransform

from minivim.show.picture import enlarge, to_png, to_uint8

# Okabe and Ito's colours, told apart by people with any common colour blindness.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY, INK = "#CC79A7", "#56B4E9", "#767676", "#222222"
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)

_DPI = 100
_GAP = 4  # pixels between pictures
_HEAD = 16  # pixels for a line of text above a picture


class Plot(Figure):
    """A figure with a description, displayed as PNG and text in any notebook."""

    alt: str = ""

    def __repr__(self) -> str:
        return f"<Plot: {self.alt}>"

    def _repr_mimebundle_(self, **_) -> dict[str, str]:
        return {
            "image/png": b64encode(to_png(self)).decode("ascii"),
            "text/plain": repr(self),
        }


def _plot(alt: str, *, width: float, height: float) -> Plot:
    plot = Plot(figsize=(width, height), dpi=_DPI, facecolor="white")
    plot.alt = alt
    return plot


def _fit(plot: Plot) -> Plot:
    # Once: a layout engine would move things a little at every drawing.
    plot.tight_layout(pad=0.6)
    return plot


def _axes(
    plot: Plot, title: str, *, x: str, y: str, position: tuple = (1, 1, 1)
) -> Axes:
    axes = plot.add_subplot(*position)
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _name_width(name: str) -> float:
    return TextPath((0, 0), name, size=9).get_extents().width * _DPI / 72


def _mosaic(
    rows: Sequence[Sequence[np.ndarray]],
    *,
    alt: str,
    scale: int,
    titles: Mapping[int, Sequence[str]] | None = None,
    names: Sequence[str] = (),
) -> Plot:
    """Pictures in rows; one pixel of a picture is scale x scale on screen.

    `titles` maps a row to the lines above its pictures; `names` stand left of rows.
    """
    titles = titles or {}
    height, width = (side * scale for side in rows[0][0].shape[:2])
    left = 18 + max(map(_name_width, names)) if names else 0
    wide = left + (width + _GAP) * max(map(len, rows)) - _GAP
    tall = (height + _GAP) * len(rows) - _GAP + _HEAD * len(titles)
    plot = Plot(figsize=(wide / _DPI, tall / _DPI), dpi=_DPI, facecolor="white")
    plot.alt = alt
    pixels = IdentityTransform()
    bottom = tall + _GAP
    for r, row in enumerate(rows):
        bottom -= _GAP + height + (_HEAD if r in titles else 0)
        if names:
            at = (left - 7, bottom + height / 2)
            words = plot.text(*at, names[r], fontsize=9, ha="right", va="center")
            words.set_transform(pixels)
        for c, picture in enumerate(row):
            x = left + c * (width + _GAP)
            plot.figimage(enlarge(to_uint8(picture), scale), xo=x, yo=bottom)
            if r in titles:
                at = (x + width / 2, bottom + height + 3)
                words = plot.text(*at, titles[r][c], fontsize=8, ha="center")
                words.set_transform(pixels)
    return plot


def _rows(items, columns: int) -> list[list]:
    return [list(items[i : i + columns]) for i in range(0, len(items), columns)]


def image_grid(
    images, *, columns: int, titles: Iterable[object] | None = None, scale: int = 3
) -> Plot:
    """Images in reading order, enlarged without smoothing.

    Args:
        images: [n, H, W, C], uint8 or floats in [0, 1].
        columns: images per row.
        titles: one line above each image.
        scale: pixels on screen per pixel, a whole number.

    Raises:
        ValueError: if there is not one title per image.
    """
    lines = [str(title) for title in titles or ()]
    if titles is not None and len(lines) != len(images):
        raise ValueError(f"{len(images)} images, but {len(lines)} titles")
    return _mosaic(
        _rows(images, columns),
        alt=f"{len(images)} images in rows of {columns}",
        scale=scale,
        titles=dict(enumerate(_rows(lines, columns))),
    )


def reconstructions(
    originals,
    recons,
    *,
    columns: int = 8,
    error: bool = False,
    titles: Iterable[object] | None = None,
    scale: int = 3,
) -> Plot:
    """Originals above their reconstructions and, if asked, the error between them.

    The error row shows the mean over channels of |original - reconstruction|, four
    times as bright: white is a difference of a quarter or more.

    Args:
        originals: [n, H, W, C], uint8 or floats in [0, 1].
        recons: the same shape.
        columns: pairs per row.
        error: adds a row of error pictures.
        titles: one line above each original.
        scale: pixels on screen per pixel, a whole number.

    Raises:
        ValueError: if the two shapes differ.
    """
    if np.shape(originals) != np.shape(recons):
        raise ValueError(
            f"originals {np.shape(originals)} and reconstructions "
            f"{np.shape(recons)} differ in shape"
        )
    before = np.stack([to_uint8(image) for image in originals]) / 255
    after = np.stack([to_uint8(image) for image in recons]) / 255
    kinds = {"original": list(before), "reconstruction": list(after)}
    if error:
        difference = np.abs(before - after).mean(-1, keepdims=True)
        kinds["error x 4"] = list(np.clip(4 * difference, 0, 1))
    lines = [str(title) for title in titles or ()]
    rows, names, texts = [], [], {}
    for i in range(0, len(before), columns):
        if lines:
            texts[len(rows)] = lines[i : i + columns]
        for kind, pictures in kinds.items():
            rows.append(pictures[i : i + columns])
            names.append(kind)
    return _mosaic(
        rows,
        alt=f"{len(before)} originals above their reconstructions",
        scale=scale,
        names=names,
        titles=texts,
    )


def samples_by_class(
    images, labels, class_names: Sequence[str], *, columns: int = 8, scale: int = 2
) -> Plot:
    """Generated images, one row per class that occurs.

    Args:
        images: [n, H, W, C], uint8 or floats in [0, 1].
        labels: int [n], indices into `class_names`.
        class_names: the name of every class.
        columns: at most so many images per class.
        scale: pixels on screen per pixel, a whole number.
    """
    labels = np.asarray(labels)
    classes = [c for c in range(len(class_names)) if (labels == c).any()]
    rows = [[images[i] for i in np.flatnonzero(labels == c)[:columns]] for c in classes]
    names = [class_names[c] for c in classes]
    alt = f"samples of {len(names)} classes: {', '.join(names)}"
    return _mosaic(rows, alt=alt, scale=scale, names=names)


def usage_histogram(counts, *, title: str = "Codebook") -> Plot:
    """How often each code is used, most used first, on a logarithmic axis.

    usage = share of codes with a count above 0;
    perplexity = exp(-sum p log p), p = counts / sum(counts): the number of codes that
    would be as even a choice.

    Args:
        counts: [K], how often each of the K codes occurred.
        title: what was counted.

    Raises:
        ValueError: if nothing was counted.
    """
    counts = np.sort(np.asarray(counts, np.float64).ravel())[::-1]
    total, used = counts.sum(), int((counts > 0).sum())
    if not total:
        raise ValueError("no code was counted: all counts are 0")
    share = counts[:used] / total
    perplexity = np.exp(-(share * np.log(share)).sum())
    numbers = (
        f"{used} of {len(counts)} codes used ({used / len(counts):.1%}), "
        f"perplexity {perplexity:.1f}"
    )
    plot = _plot(f"{title}: {numbers}", width=6.4, height=2.6)
    axes = _axes(
        plot, f"{title}: {numbers}", x="code, most used first", y="share of tokens"
    )
    axes.bar(np.arange(used), share, width=1.0, color=BLUE)
    if used < len(counts):
        axes.axvspan(used - 0.5, len(counts) - 0.5, color="#EEEEEE", zorder=0)
        axes.text(
            (used + len(counts) - 1) / 2, 0.5, "never used", fontsize=8, color=GREY,
            ha="center", va="center", rotation=90, transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    axes.axhline(1 / len(counts), color=ORANGE, linewidth=1.2, label="all codes alike")
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    axes.set_yscale("log")
    axes.set_xlim(-0.5, len(counts) - 0.5)
    return _fit(plot)


def probe_curve(
    block_accuracies, baselines: Mapping[str, float], chosen: int | None = None
) -> Plot:
    """Accuracy of a linear probe on the features of each block of the prior.

    Args:
        block_accuracies: [L] in [0, 1]; block 1 is the first.
        baselines: name -> accuracy in [0, 1], drawn as dashed lines.
        chosen: index (from 0) of the block chosen on held-out training data.
    """
    accuracies = np.asarray(block_accuracies, np.float64)
    blocks = np.arange(1, len(accuracies) + 1)
    parts = [f"{accuracy:.1%}" for accuracy in accuracies]
    alt = f"probe accuracy per block: {', '.join(parts)}"
    alt += "" if chosen is None else f"; chosen block {chosen + 1}"
    alt += "".join(f"; {name} {value:.1%}" for name, value in baselines.items())
    plot = _plot(alt, width=6.4, height=3.0)
    axes = _axes(plot, "Linear probe, one per block", x="block", y="test accuracy (%)")
    axes.plot(blocks, 100 * accuracies, "o-", color=BLUE, label="prior's features")
    if chosen is not None:
        axes.plot(
            blocks[chosen], 100 * accuracies[chosen], "o", markersize=13,
            markerfacecolor="none", markeredgecolor=RED, markeredgewidth=1.8,
            label=f"chosen: {accuracies[chosen]:.1%}",
        )  # fmt: skip
    for (name, value), colour in zip(
        baselines.items(), (ORANGE, GREEN, PURPLE, GREY) * len(baselines), strict=False
    ):
        label = f"{name}: {value:.1%}"
        axes.axhline(100 * value, color=colour, linestyle="--", label=label)
    axes.set_xticks(blocks)
    low = min([*accuracies, *baselines.values()])
    axes.set_ylim(max(0, 100 * low - 8), 102)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return _fit(plot)


def loss_curves(rows: Sequence[Mapping], *, keys: Sequence[str] = ("loss",)) -> Plot:
    """Metrics over training steps, one panel per key.

    Args:
        rows: the lines of metrics.jsonl, each with "step" and some of `keys`.
        keys: what to draw; rows without a key are left out of its panel.

    Raises:
        ValueError: if no row has one of the keys.
    """
    series = {
        key: [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        for key in keys
    }
    for key, points in series.items():
        if not points:
            raise ValueError(f"no row has the key {key!r}")
    ends = [f"{key} {points[-1][1]:.4g}" for key, points in series.items()]
    alt = f"training to step {rows[-1]['step']}: {', '.join(ends)}"
    plot = _plot(alt, width=max(4.4, 3.3 * len(keys)), height=2.6)
    for i, (key, points) in enumerate(series.items()):
        title = f"{key}: {points[-1][1]:.4g}"
        axes = _axes(plot, title, x="step", y=key, position=(1, len(keys), i + 1))
        axes.plot(*zip(*points, strict=True), color=COLOURS[i % len(COLOURS)])
    return _fit(plot)


def code_map(
    codes, grid: tuple[int, int] | None = None, *, numbers: bool = True, cell: int = 34
) -> Plot:
    """The raster of an image's codes: a colour and a number per code.

    Neighbouring code numbers get unlike colours on purpose: codes have no order.

    Args:
        codes: int [N] in raster order, or [h, w].
        grid: (h, w); a square if left out.
        numbers: writes each code into its cell.
        cell: width of a cell in pixels.

    Raises:
        ValueError: if the codes do not fill the grid.
    """
    codes = _on_grid(np.asarray(codes), grid)
    height, width = codes.shape
    plot = Plot(figsize=(width * cell / _DPI, height * cell / _DPI), dpi=_DPI)
    plot.alt = f"{height} x {width} codes, {len(np.unique(codes))} different"
    axes = plot.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    colours = _code_colours(codes)
    axes.imshow(colours, interpolation="nearest", aspect="auto")
    if numbers:
        for (row, column), code in np.ndenumerate(codes):
            light = colours[row, column, :3] @ (0.299, 0.587, 0.114) > 0.5
            axes.text(
                column, row, str(code), ha="center", va="center", fontsize=cell / 4.6,
                color="black" if light else "white",
            )  # fmt: skip
    return plot


def _code_colours(codes: np.ndarray) -> np.ndarray:
    """A colour [..., 4] per code, unlike for neighbouring numbers."""
    golden = (codes * 0.61803398875) % 1.0
    return colormaps["viridis"](0.08 + 0.92 * golden)


def _on_grid(values: np.ndarray, grid: tuple[int, int] | None) -> np.ndarray:
    if grid is None:
        side = round(values.size**0.5)
        grid = values.shape if values.ndim == 2 else (side, side)
    if values.size != grid[0] * grid[1]:
        raise ValueError(f"{values.size} values do not fill a grid of {grid}")
    return values.reshape(grid)


def attention_map(
    weights,
    *,
    grid: tuple[int, int] | None = None,
    query: int | None = None,
    image=None,
    title: str = "Attention",
) -> Plot:
    """How much one position attends to each position of the grid.

    Args:
        weights: [N] in raster order (without the class token), or [h, w].
        grid: (h, w); a square if left out.
        query: raster index of the attending position, outlined.
        image: [H, W, C], shown beside the map.
        title: above the map.
    """
    weights = _on_grid(np.asarray(weights, np.float64), grid)
    height, width = weights.shape
    most = np.unravel_index(weights.argmax(), weights.shape)
    alt = f"{title}: most, {weights.max():.3f}, to row {most[0]}, column {most[1]}"
    panels = 1 if image is None else 2
    plot = _plot(alt, width=3.3 * panels, height=2.8)
    axes = plot.add_subplot(1, panels, panels)
    drawn = axes.imshow(weights, cmap="viridis", vmin=0, interpolation="nearest")
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    axes.set_xlabel("column", fontsize=9)
    axes.set_ylabel("row", fontsize=9)
    axes.tick_params(labelsize=8)
    bar = plot.colorbar(drawn, ax=axes, fraction=0.046)
    bar.ax.tick_params(labelsize=8)
    boxes = [(axes, 1.0, 1.0)]
    if image is not None:
        pixels = to_uint8(image)
        left = plot.add_subplot(1, panels, 1)
        left.imshow(pixels, interpolation="nearest")
        left.set_axis_off()
        boxes.append((left, pixels.shape[1] / width, pixels.shape[0] / height))
    if query is not None:
        row, column = divmod(query, width)
        for where, wide, tall in boxes:
            corner = (column * wide - 0.5, row * tall - 0.5)
            box = Rectangle(corner, wide, tall, fill=False, edgecolor=RED, linewidth=2)
            where.add_patch(box)
    return _fit(plot)


def codebook_patches(
    patches, *, columns: int = 32, counts=None, scale: int = 4
) -> Plot:
    """The picture patch of every code, in the given order or most used first.

    Args:
        patches: [K, h, w, C], the patch that each code decodes to.
        columns: patches per row.
        counts: [K]; sorts by use, most used first.
        scale: pixels on screen per pixel, a whole number.
    """
    patches = np.asarray(patches)
    order = np.arange(len(patches))
    if counts is not None:
        order = np.argsort(-np.asarray(counts), kind="stable")
    how = "in order" if counts is None else "most used first"
    alt = f"patches of {len(patches)} codes, {how}"
    return _mosaic(_rows(patches[order], columns), alt=alt, scale=scale)
