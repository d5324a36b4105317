"""Pictures for notebooks and reports: explorers, plots and the static report."""

from minivim.show.compare import bands, dots, seeds
from minivim.show.completion import completions
from minivim.show.curves import curves
from minivim.show.editor import TokenEditor
from minivim.show.explorer import Explorer, Live, live
from minivim.show.health import gan_health, gan_verdict
from minivim.show.picture import to_png
from minivim.show.plots import (
    Plot,
    attention_map,
    code_map,
    codebook_patches,
    image_grid,
    loss_curves,
    probe_curve,
    reconstructions,
    samples_by_class,
    usage_histogram,
)
from minivim.show.report import Report

__all__ = [
    "Explorer",
    "Live",
    "Plot",
    "Report",
    "TokenEditor",
    "attention_map",
    "bands",
    "code_map",
    "codebook_patches",
    "completions",
    "curves",
    "dots",
    "gan_health",
    "gan_verdict",
    "image_grid",
    "live",
    "loss_curves",
    "probe_curve",
    "reconstructions",
    "samples_by_class",
    "seeds",
    "to_png",
    "usage_histogram",
]
