"""The moving picture at the top of README.md is that of the shipped weights."""

import numpy as np
import pytest
from PIL import Image

import minivim
from book import front

PICTURE = front.Path(front.__file__).with_name("_static") / "front.png"


def test_it_moves_and_is_small():
    with Image.open(PICTURE) as image:
        assert getattr(image, "n_frames", 1) == 1 + 65 * len(front.PICTURES)
        assert image.size == front.SIZE
    assert PICTURE.stat().st_size < 1_500_000


@pytest.mark.slow
def test_it_shows_what_the_weights_draw():
    models = minivim.load("shapes/prior"), minivim.load("shapes/tokenizer")
    label, seed = next(iter(front.PICTURES.items()))
    drawn = front.draw(*models, label, seed)
    wanted = np.asarray(front.frame(label, 64, drawn), np.float32)
    with Image.open(PICTURE) as image:
        found = np.asarray(image.convert("RGB"), np.float32)
    assert np.abs(found - wanted).mean() < 3
