"""Bugs that public code has had, in a few own lines, and the checks that catch them.

C15, C17 and C18; the others stand beside the tests of their module.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image, ImageDraw

from minivim.data.pixels import to_pixels
from minivim.evaluate import Options, tokenizer_figures
from minivim.show.picture import to_uint8
from minivim.training import learning_rate, make_step, new_state
from tests import tiny

# --- C15: evaluation ---------------------------------------------------------------


def squashes(resize) -> bool:
    """Whether a disc in a wide picture comes out as an ellipse."""
    image = Image.new("RGB", (96, 48), "white")
    ImageDraw.Draw(image).ellipse([30, 6, 65, 41], fill="black")
    dark = np.asarray(resize(image))[..., 0] < 128
    across, down = (np.ptp(np.flatnonzero(dark.any(axis))) for axis in (0, 1))
    return abs(int(across) - int(down)) > 2


def test_evaluation_images_keep_their_aspect():
    assert not squashes(lambda image: to_pixels(image, image_size=32))
    assert squashes(lambda image: image.resize((32, 32)))  # the bug


def bias(quantise) -> float:
    """Mean error in grey levels of turning even brightness into bytes."""
    grey = np.linspace(0, 1, 10001, dtype=np.float32)[None]
    return float(np.mean(quantise(grey)[..., 0] - 255 * grey))


def test_bytes_are_rounded_and_not_cut():
    assert abs(bias(to_uint8)) < 0.01
    cut = bias(lambda x: (255 * x).astype(np.uint8)[..., None])  # the bug
    assert cut == pytest.approx(-0.5, abs=0.01)


def test_figures_say_on_how_many_images():
    """A distance or a usage without its count compares with nothing."""
    source = tiny.source(24)
    for count in (None, 12):
        found = tokenizer_figures(tiny.tokenizer(), source, Options(count=count))
        assert found["images"] == (count or 24)
        assert "usage_256" not in found  # too few images for the paper's rule


# --- C17: the parts of a network that are easily left out ---------------------------

IMAGES = jnp.asarray(tiny.images(3), jnp.float32) / 255


def normalised(out) -> bool:
    """Whether tokens have mean 0 and variance 1."""
    spread = jnp.abs(out.std(axis=-1) - 1).max()
    return bool(jnp.abs(out.mean(axis=-1)).max() < 1e-3 and spread < 1e-2)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_stack_without_its_last_norm_is_caught(side):
    stack = nnx.clone(getattr(tiny.tokenizer(), side).stack)
    stack.norm.scale[...], stack.norm.bias[...] = jnp.ones(16), jnp.zeros(16)
    x = 9 * jax.random.normal(jax.random.key(0), (2, 4, 16))
    out, blocks = nnx.jit(lambda stack: stack(x, causal=False))(stack)
    assert normalised(out)
    assert not normalised(blocks[-1])  # the bug: the last block's output as it is


def tells_places_apart(model) -> bool:
    """Whether one code repeated gives patches that differ."""
    pixels = model.decode(jnp.full((1, 4), 7))
    return float(jnp.abs(pixels[:, :4, :4] - pixels[:, 4:, 4:]).max()) > 1e-4


def test_a_decoder_without_positions_is_caught():
    model = nnx.clone(tiny.tokenizer())
    assert tells_places_apart(model)
    model.decoder.positions.table[...] *= 0  # the bug
    assert not tells_places_apart(model)


@pytest.mark.parametrize(("output", "inside"), [("sigmoid", True), ("linear", False)])
def test_a_reconstruction_without_sigmoid_is_caught(output, inside):
    """The bug: other networks are shown images outside [0, 1]."""
    model = nnx.clone(tiny.tokenizer(output=output))
    model.decoder.head.out.kernel[...] *= 100
    recon = tiny.call(model, IMAGES)[0]
    assert bool(recon.min() >= 0 and recon.max() <= 1) == inside


# --- C18: the learning rate --------------------------------------------------------


class One(nnx.Module):
    def __init__(self):
        self.w = nnx.Param(jnp.zeros(()))


def slope_one(model, batch, context, *, key):
    return model.w[...], {}


def rates_that_moved(config, steps: int = 8) -> list[float]:
    """What Adam moves a weight of constant gradient by: the rate in use."""
    step = make_step(One(), slope_one, config, steps=steps, key=jax.random.key(0))
    state, found = new_state(One(), config, steps=steps), [0.0]
    for _ in range(steps):
        state, _ = step(state, {})
        found.append(float(jax.tree.leaves(state.params)[0]))
    return (-np.diff(found)).tolist()


def test_the_rate_of_the_recipe_is_the_rate_in_use(monkeypatch):
    config = replace(tiny.OPTIM, peak_lr=0.1, warmup_steps=3, weight_decay=0.0)
    schedule = learning_rate(config, steps=8)
    wanted = [float(schedule(step)) for step in range(8)]
    assert rates_that_moved(config) == pytest.approx(wanted, rel=1e-3, abs=1e-6)
    # The bug: warm-up, schedule and end stand in the settings and nobody reads them.
    monkeypatch.setattr(
        "minivim.training.step.optimizer",
        lambda config, *, steps: optax.adam(config.peak_lr),
    )
    assert rates_that_moved(config) != pytest.approx(wanted, rel=1e-3, abs=1e-6)
