"""Draws the picture at the top of README.md from the shipped weights."""

from pathlib import Path

import jax
import numpy as np

import minivim
from minivim import show
from minivim.data import shapes

COLUMNS = 12


def main() -> None:
    """Originals, reconstructions and samples, one row each."""
    tokenizer = minivim.load("shapes/tokenizer")
    prior = minivim.load("shapes/prior")
    images = shapes.arrays("test", size=COLUMNS)["image"].astype(np.float32) / 255
    labels = np.arange(COLUMNS) % len(shapes.CLASSES)
    codes = minivim.sample(prior, key=jax.random.key(0), labels=labels)
    recon = tokenizer.reconstruct(images)
    rows = np.concatenate(
        [images, np.asarray(recon), np.asarray(tokenizer.decode(codes))]
    )
    figure = show.image_grid(rows, columns=COLUMNS, scale=2)
    Path(__file__).with_name("_static").joinpath("front.png").write_bytes(
        show.to_png(figure)
    )


if __name__ == "__main__":
    main()
