"""Pictures for notebooks and reports: plots and tables."""

from minivim.show.picture import to_png
from minivim.show.plots import (
    Plot,
    attention_map,
    code_map,
    codebook_patches,
    completions,
    image_grid,
    loss_curves,
    probe_curve,
    reconstructions,
    samples_by_class,
    usage_histogram,
)
