"""The logit-laplace term: a density, with a floor, that agrees with L2 on the best."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import laplace

from minivim.config import LossConfig, TokenizerRecipe
from minivim.errors import UserError
from minivim.tokenizer import tokenizer_loss
from minivim.tokenizer.losses import (
    CLAMP,
    LOG_SCALE_FLOOR,
    floored_log_scale,
    l2_loss,
    logit_laplace_loss,
    map_pixels,
    unmap_pixels,
)
from tests import tiny

PIXELS = jnp.linspace(0, 1, 11)
KINDS = ("clamp", "affine")


def one(x, mean, log_scale, pixel_map="clamp"):
    """The loss of single pixels, one by one."""
    loss = partial(logit_laplace_loss, pixel_map=pixel_map)
    x, mean, log_scale = jnp.broadcast_arrays(*map(jnp.float32, (x, mean, log_scale)))
    return jnp.vectorize(lambda x, m, s: loss(mean=m, log_scale=s, target=x))(
        x, mean, log_scale
    )


def mass(log_density, *, low: float, high: float) -> float:
    """Integral of a density over (low, high), on a grid fine towards the ends."""
    x = jax.nn.sigmoid(jnp.linspace(jax.scipy.special.logit(low), 9.2, 20001))
    x = x[x <= high]
    return float(jnp.trapezoid(jnp.exp(log_density(x)), x))


@pytest.mark.parametrize("mean", [-2.0, 0.0, 1.5])
@pytest.mark.parametrize("scale", [0.05, 0.3, 0.7])
@pytest.mark.paper("the logit-laplace loss")
def test_it_is_a_density(mean, scale):
    """Within the clamp; the tails beyond it hold less than the tolerance."""
    found = mass(lambda x: -one(x, mean, math.log(scale)), low=CLAMP, high=1 - CLAMP)
    assert found == pytest.approx(1, abs=1e-3)


def test_without_the_volume_term_it_is_none():
    """The bug: a plain scaled distance of logits, as public code has it."""

    def no_volume(x):
        return -one(x, 0.0, math.log(0.3)) + jnp.log(x * (1 - x))

    assert abs(mass(no_volume, low=CLAMP, high=1 - CLAMP) - 1) > 0.5


@pytest.mark.parametrize("pixel_map", KINDS)
@pytest.mark.paper("the logit-laplace loss")
def test_it_is_the_laplace_density_of_the_logit(pixel_map):
    """Change of variables: `p(y) = Laplace(logit y) |d logit / dy|`."""
    mean, log_scale = jnp.float32(0.4), jnp.float32(-1.2)
    y = map_pixels(PIXELS, pixel_map)
    slope = jax.vmap(jax.grad(jax.scipy.special.logit))(y)
    want = laplace.logpdf(jax.scipy.special.logit(y), mean, jnp.exp(log_scale))
    found = -one(PIXELS, mean, log_scale, pixel_map)
    np.testing.assert_allclose(found, want + jnp.log(slope), rtol=2e-3)


@pytest.mark.parametrize("pixel_map", KINDS)
def test_l2_and_logit_laplace_have_the_same_minimiser(pixel_map):
    """The best mu for a pixel is the same for both, so they do not pull apart."""
    for x in (0.02, 0.3, 0.5, 0.97):
        best = jax.scipy.special.logit(map_pixels(jnp.float32(x), pixel_map))
        assert minimiser_of_l2(x, partial(unmap_pixels, pixel_map=pixel_map)) == (
            pytest.approx(float(best), abs=0.01)
        )
        nll = partial(one, x, log_scale=0.0, pixel_map=pixel_map)
        assert nll(best) < min(nll(best - 0.05), nll(best + 0.05))


def test_without_unmapping_they_would_pull_apart():
    x = 0.97
    best = float(jax.scipy.special.logit(map_pixels(jnp.float32(x), "affine")))
    assert abs(minimiser_of_l2(x, lambda y: y) - best) > 1


def minimiser_of_l2(x, unmap) -> float:
    """mu on a fine grid for which the reconstruction is nearest to the pixel."""
    grid = jnp.linspace(-6, 6, 2401)
    losses = jax.vmap(
        lambda mu: l2_loss(
            recon=unmap(jax.nn.sigmoid(mu)).reshape(1, 1, 1, 1),
            target=jnp.full((1, 1, 1, 1), x),
        )
    )(grid)
    return float(grid[jnp.argmin(losses)])


@pytest.mark.parametrize("pixel_map", KINDS)
@pytest.mark.paper("how pixels keep off 0 and 1")
def test_unmap_inverts_map(pixel_map):
    inner = PIXELS[1:-1]
    back = unmap_pixels(map_pixels(inner, pixel_map), pixel_map)
    np.testing.assert_allclose(back, inner, atol=1e-6)
    mapped = map_pixels(PIXELS, pixel_map)
    assert 0 < float(mapped.min()) < float(mapped.max()) < 1


@pytest.mark.paper("how pixels keep off 0 and 1")
def test_black_and_white_have_a_finite_loss_and_gradient():
    ends = jnp.array([0.0, 1.0])
    for pixel_map in KINDS:
        value = one(ends, 0.0, 0.0, pixel_map)
        slope = jax.grad(lambda m, k=pixel_map: one(ends, m, 0.0, k).sum())(0.5)
        assert np.isfinite([*value, slope]).all()


def descend(log_scale, steps: int = 400) -> float:
    """The loss on a flat colour that mu meets exactly, after following its scale."""
    flat = jnp.full((1, 4, 4, 3), 0.3)
    mean = jax.scipy.special.logit(flat)

    def loss(raw):
        return logit_laplace_loss(
            mean=mean, log_scale=log_scale(raw) * jnp.ones_like(flat), target=flat
        )

    raw = jax.lax.fori_loop(
        0, steps, lambda _, r: r - jax.grad(loss)(r), jnp.float32(0)
    )
    return float(loss(raw))


@pytest.mark.paper("a floor under the learnt scale")
def test_a_flat_colour_stops_at_the_floor():
    lowest = math.log(2) + LOG_SCALE_FLOOR + math.log(0.3 * 0.7)
    assert lowest < descend(floored_log_scale) < lowest + 0.1
    # The bug: without a floor only the rounding of float32 stops it.
    assert descend(lambda raw: raw) < lowest - 8


def test_below_the_floor_there_is_a_way_back():
    slopes = jax.vmap(jax.grad(floored_log_scale))(jnp.array([-9.0, -4.0, 3.0]))
    assert (slopes > 0).all()
    lowest = floored_log_scale(jnp.float32(-50))
    assert float(lowest) == pytest.approx(LOG_SCALE_FLOOR, rel=1e-6)
    assert float(floored_log_scale(jnp.float32(3))) == pytest.approx(3, abs=1e-3)


def loss_of(model, **weights):
    images = jnp.asarray(tiny.images(4), jnp.float32) / 255
    return tokenizer_loss(
        model,
        {"image": images},
        weights=LossConfig(**weights),
        key=jax.random.key(0),
    )


@pytest.mark.parametrize("pixel_map", KINDS)
def test_the_term_reaches_both_maps(pixel_map):
    model = tiny.tokenizer(output="laplace", pixel_map=pixel_map)
    width = model.config.patch_dim
    assert model.decoder.head.out.kernel[...].shape[1] == 2 * width
    _, terms = loss_of(model, logit_laplace=0.1)
    before = float(terms["logit_laplace"])
    model.decoder.head.out.bias[...] += 0.5
    assert abs(float(loss_of(model)[1]["logit_laplace"]) - before) > 1e-3


def test_the_scale_leaves_the_picture_alone():
    """Channels are split by map, not by colour: a bias on the second is no pixel."""
    model = tiny.tokenizer(output="laplace")
    codes = jnp.arange(8).reshape(2, 4)
    before = np.asarray(model.decode(codes))
    bias = model.decoder.head.out.bias
    patches = bias[...].reshape(4, 4, 6)
    bias[...] = patches.at[..., 3:].add(1.0).reshape(-1)
    np.testing.assert_array_equal(model.decode(codes), before)
    bias[...] = bias[...].reshape(4, 4, 6).at[..., :3].add(1.0).reshape(-1)
    assert float(np.abs(np.asarray(model.decode(codes)) - before).max()) > 0.01


def test_weight_without_a_scale_map_is_refused():
    with pytest.raises(UserError, match=r"set model\.output=laplace"):
        TokenizerRecipe(
            name="x",
            model=tiny.TOKENIZER,
            optim=tiny.OPTIM,
            run=tiny.RUN,
            loss=LossConfig(logit_laplace=0.1),
        )


def test_affine_without_the_density_is_refused():
    with pytest.raises(UserError, match="set output=laplace"):
        tiny.tokenizer(pixel_map="affine")
