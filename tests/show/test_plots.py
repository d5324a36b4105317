"""Plots: deterministic PNGs, exact pixels, numbers in words, no pyplot."""

import io
import subprocess
import sys
from base64 import b64decode

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from minivim import show
from minivim_lab import widgets

RNG = np.random.default_rng(0)
IMAGES = RNG.random((6, 8, 8, 3)).astype(np.float32)
ROWS = [{"step": s, "loss": 1 / (s + 1), "usage": s / 10} for s in range(10)]

PLOTS = {
    "grid": lambda: show.image_grid(IMAGES, columns=4, titles=range(6)),
    "pairs": lambda: show.reconstructions(IMAGES, IMAGES[::-1], columns=4, error=True),
    "usage": lambda: show.usage_histogram([5, 0, 3, 1]),
    "samples": lambda: show.samples_by_class(IMAGES, [0, 2, 0, 2, 2, 0], "abc"),
    "probe": lambda: show.probe_curve([0.5, 0.75], {"pixels": 0.4, "codes": 0.3}, 1),
    "loss": lambda: show.loss_curves(ROWS, keys=("loss", "usage")),
    "curves": lambda: widgets.curves(
        {"loss": {"a": ([1, 2], [3.0, 1.0]), "b": ([1, 2], [2.0, 0.5])}}
    ),
    "seeds": lambda: widgets.seeds({"a": [1, 2, 4], "b": [3]}, {"a": 5}, title="FID"),
    "codes": lambda: show.code_map(np.arange(16)),
    "attention": lambda: show.attention_map(np.eye(4)[2], query=1, image=IMAGES[0]),
    "patches": lambda: show.codebook_patches(IMAGES, columns=3, counts=range(6)),
}


def _pixels(plot):
    return np.asarray(Image.open(io.BytesIO(show.to_png(plot))))


@pytest.mark.parametrize("name", PLOTS)
def test_png_is_small_full_colour_and_the_same_each_time(name):
    plot = PLOTS[name]()
    png = show.to_png(plot)
    assert png == show.to_png(plot) == show.to_png(PLOTS[name]())
    assert len(png) < 60_000
    picture = Image.open(io.BytesIO(png))
    assert picture.mode == "RGB" and not picture.info


@pytest.mark.parametrize("name", PLOTS)
def test_plot_shows_itself_in_a_notebook(name):
    bundle = PLOTS[name]()._repr_mimebundle_()
    assert b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert len(bundle["text/plain"]) > len("<Plot: >")


def test_importing_and_drawing_leaves_pyplot_alone():
    code = (
        "import sys; from minivim import show; "
        "show.to_png(show.usage_histogram([1, 2])); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pixels_are_shown_exactly_and_unsmoothed():
    pixels = _pixels(show.image_grid(IMAGES[:2], columns=2, scale=3))
    assert pixels.shape == (24, 2 * 24 + 4, 3)
    expected = np.round(IMAGES[1] * 255).astype(np.uint8).repeat(3, 0).repeat(3, 1)
    np.testing.assert_array_equal(pixels[:, 28:], expected)
    np.testing.assert_array_equal(pixels[:, 24:28], 255)


def test_usage_and_perplexity_are_in_words():
    assert "2 of 4 codes used (50.0%), perplexity 2.0" in repr(
        show.usage_histogram([0, 7, 7, 0])
    )


def test_probe_numbers_are_in_words():
    alt = PLOTS["probe"]().alt
    assert "50.0%, 75.0%; chosen block 2; pixels 40.0%" in alt


def test_seeds_say_mean_and_range_and_what_the_paper_prints():
    plot = widgets.seeds(
        {"a": [1, 3, 2], "b": []}, {"b": 1.5, "c": 9}, title="distance"
    )
    assert plot.alt == "distance: a 2 (1 to 3); b -. the paper: b 1.5"
    assert "paper" not in widgets.seeds({"a": [1.0]}, title="x").alt


def test_seeds_are_dots_at_their_values():
    left, right = widgets.seeds({"a": [1, 3], "b": [2]}, {"b": 7}, title="x").axes
    drawn = [(*line.get_xdata(), line.get_ydata()[0]) for line in left.lines]
    assert drawn == [(2, 0), (1, 3, 0), (2, 1), (2, 1)]
    assert [tuple(line.get_xdata()) for line in right.lines] == [(7,)]
    assert [text.get_text() for text in right.texts] == ["not given"]


def test_patches_are_sorted_by_use():
    pixels = _pixels(show.codebook_patches(IMAGES, columns=1, counts=range(6), scale=1))
    np.testing.assert_array_equal(pixels[:8], np.round(IMAGES[5] * 255))


def test_error_row_is_four_times_the_difference():
    black = np.zeros((1, 8, 8, 3))
    plot = show.reconstructions(black, black + 0.1, error=True, scale=1)
    assert abs(int(_pixels(plot)[-1, -1, 0]) - 4 * 26) <= 2


def test_jax_arrays_and_values_out_of_range_are_fine():
    png = show.to_png(jnp.full((4, 4, 1), 1.5), width=4)
    assert (np.asarray(Image.open(io.BytesIO(png))) == 255).all()


def test_small_arrays_are_enlarged_by_whole_numbers():
    assert Image.open(io.BytesIO(show.to_png(IMAGES[0]))).size == (256, 256)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: show.image_grid(IMAGES, columns=2, titles=["a"]), "1 titles"),
        (lambda: show.reconstructions(IMAGES, IMAGES[:2]), "differ in shape"),
        (lambda: show.usage_histogram([0, 0]), "at least one token"),
        (lambda: show.code_map(np.arange(15)), "do not fill"),
        (lambda: show.loss_curves(ROWS, keys=("lpips",)), "'lpips'"),
        (lambda: widgets.curves({"loss": {}}), "no run to draw"),
        (lambda: widgets.seeds({"a": []}, title="x"), "no value to draw"),
        (lambda: show.to_png(np.zeros((4, 4, 2))), "a picture is"),
        (lambda: show.to_png(np.zeros((4, 4), np.int64)), "uint8 or floats"),
    ],
)
def test_refuses(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


AWKWARD = [
    "price $x^$", "$", "$$", "$a$", r"\$5 or $6", r"$\frac$", "a\\$b$c", "a_b_ $^$"
]  # fmt: skip
NAMED = {
    "samples": lambda name: show.samples_by_class(IMAGES, [0, 1] * 3, [name, "b"]),
    "grid": lambda name: show.image_grid(IMAGES, columns=3, titles=[name] * 6),
    "usage": lambda name: show.usage_histogram([5, 0, 3, 1], title=name),
    "probe": lambda name: show.probe_curve([0.5, 0.75], {name: 0.4}, 1),
    "loss": lambda name: show.loss_curves([{"step": 1, name: 2.0}], keys=[name]),
    "attention": lambda name: show.attention_map(np.eye(4)[2], title=name),
}


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("kind", NAMED)
def test_dollars_in_a_name_are_no_formula(kind, name):
    plot = NAMED[kind](name)
    show.to_png(plot)
    assert name in plot.alt or kind in ("grid", "loss")
    found = [text._preprocess_math(text.get_text()) for text in plot.findobj(Text)]
    assert any(name in shown and formula is False for shown, formula in found)
