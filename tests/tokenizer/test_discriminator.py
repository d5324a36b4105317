"""Discriminators and their losses, each test beside the bug that it catches."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import repeat
from flax import nnx

from minivim.config import DiscriminatorConfig, LossConfig
from minivim.errors import UserError
from minivim.tokenizer import discriminator as module
from minivim.tokenizer.discriminator import (
    EqualisedConv,
    EqualisedLinear,
    build,
    leaky_relu,
    minibatch_stddev,
)
from minivim.tokenizer.losses import (
    hinge_discriminator_loss,
    hinge_generator_loss,
    logistic_discriminator_loss,
    logistic_generator_loss,
    r1_penalty,
)
from tests import tiny

SMALL = DiscriminatorConfig(width=8, max_width=16)
X = jax.random.uniform(jax.random.key(1), (4, 32, 32, 3))


def made(**changes):
    return build(replace(SMALL, **changes), image_size=32, rngs=nnx.Rngs(0))


@nnx.jit
def logits(model, x):
    return model(x)


@pytest.mark.parametrize(
    ("size", "widths"),
    [(32, (64, 128, 256, 512)), (256, (64, 128, 256, 512, 512, 512, 512))],
)
@pytest.mark.paper("the discriminator of StyleGAN2")
def test_depth_and_width_follow_the_image(size, widths):
    config = DiscriminatorConfig()
    assert config.widths(size) == widths
    model = nnx.eval_shape(lambda: build(config, image_size=size, rngs=nnx.Rngs(0)))
    out = nnx.eval_shape(lambda m, x: m(x), model, jnp.zeros((2, size, size, 3)))
    assert out.shape == (2,)
    assert model.conv.kernel.shape[2:] == (widths[-1] + 1, widths[-1])


@pytest.mark.paper("PatchGAN as the other discriminator")
def test_patchgan_judges_patches():
    config = DiscriminatorConfig(kind="patchgan")
    model = nnx.eval_shape(lambda: build(config, image_size=256, rngs=nnx.Rngs(0)))
    out = nnx.eval_shape(lambda m, x: m(x), model, jnp.zeros((2, 256, 256, 3)))
    assert out.shape == (2, 30 * 30)


@pytest.mark.parametrize("kind, size", [("", 4), ("", 24), ("patchgan", 16)])
def test_a_size_that_cannot_be_halved_is_refused(kind, size):
    critic = DiscriminatorConfig(kind=kind or "stylegan2")
    changes = {"loss": LossConfig(adversarial=0.1), "discriminator": critic}
    model = replace(tiny.TOKENIZER, image_size=size)
    with pytest.raises(UserError, match=f"power of two from {32 if kind else 8}"):
        replace(tiny.TOKENIZER_RECIPE, model=model, **changes)


def test_a_width_without_groups_is_refused():
    with pytest.raises(UserError, match="multiple of 4"):
        DiscriminatorConfig(width=6)


def untrained(model, spoil=lambda model: None) -> list[str]:
    """Parameters whose gradient is zero on a random batch."""

    @nnx.jit
    def slopes(model):
        def loss(model):
            spoil(model)
            return logistic_discriminator_loss(real=model(X), fake=model(X**2))

        return nnx.grad(loss)(model)

    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(slopes(model)))
    return [jax.tree_util.keystr(path) for path, g in leaves if not jnp.abs(g).max()]


@pytest.mark.parametrize("kind", ["stylegan2", "patchgan"])
@pytest.mark.paper("the discriminator of StyleGAN2")
def test_every_parameter_is_trained(kind):
    """C8: each leaf of the gradient is non-zero on a random batch."""
    assert untrained(made(kind=kind)) == []


def test_a_head_from_outside_the_gradient_would_never_train():
    """The bug: the head's weights are read from the state, not from the argument."""

    def spoil(model):
        for part in (model.out.kernel, model.out.bias):
            part[...] = jax.lax.stop_gradient(part[...])

    assert untrained(made(), spoil) == ["['out']['bias']", "['out']['kernel']"]


@pytest.mark.parametrize("size", [1, 3])
def test_halving_keeps_the_pattern_in_place(size):
    """A ramp stays a ramp: blur and stride shift nothing but by half a pixel."""
    conv = EqualisedConv(1, 1, size, down=True, bias=False, rngs=nnx.Rngs(0))
    middle = jnp.zeros((size, size, 1, 1)).at[size // 2, size // 2].set(float(size))
    conv.kernel[...] = middle
    ramp = jnp.broadcast_to(jnp.arange(16.0)[None, :, None, None], (1, 16, 16, 1))
    found = conv(ramp)[0, 2:-2, 4, 0]
    assert conv(ramp).shape == (1, 8, 8, 1)
    np.testing.assert_allclose(jnp.diff(found), 2, atol=1e-4)
    np.testing.assert_allclose(found, jnp.arange(2, 6) * 2 + 0.5, atol=1e-4)


def test_equalised_layers_keep_the_variance():
    key = jax.random.key(0)
    x = jax.random.normal(key, (8, 12, 12, 64))
    y = EqualisedConv(64, 64, 3, rngs=nnx.Rngs(0))(x)[:, 2:-2, 2:-2]
    flat = jax.random.normal(key, (256, 128))
    z = EqualisedLinear(128, 128, rngs=nnx.Rngs(0))(flat)
    assert float(y.std()) == pytest.approx(1, abs=0.05)
    assert float(z.std()) == pytest.approx(1, abs=0.05)
    # And the rectifier nearly so: E lrelu(n)^2 = 2 (1 + 0.04) / 2.
    power = float(jnp.mean(jnp.square(leaky_relu(flat))))
    assert power == pytest.approx(1.04, abs=0.03)


def spread(x, group=2):
    """The appended map, one number per sample."""
    out = minibatch_stddev(jnp.asarray(x), group)
    assert out.shape == (*x.shape[:-1], x.shape[-1] + 1)
    np.testing.assert_array_equal(out[..., :-1], x)
    extra = np.asarray(out[..., -1])
    assert (extra == extra[:, :1, :1]).all()
    return extra[:, 0, 0]


BATCH = np.random.default_rng(0).standard_normal((6, 2, 2, 3)).astype(np.float32)
GROUPS = [[0, 3], [1, 4], [2, 5]]  # of two among six, as StyleGAN2 deals them


@pytest.mark.paper("the spread within groups of a batch")
def test_stddev_equals_a_loop():
    found = spread(BATCH)
    for members in GROUPS:
        want = BATCH[members].std(axis=0).mean()
        np.testing.assert_allclose(found[members], want, rtol=1e-4)


@pytest.mark.parametrize("batch, size", [(1, 1), (3, 3), (5, 1), (6, 3), (8, 4)])
def test_groups_of_a_batch_that_four_does_not_divide(batch, size):
    x = np.random.default_rng(1).standard_normal((batch, 2, 2, 3)).astype(np.float32)
    groups = x.reshape(size, batch // size, -1)
    want = np.tile(np.sqrt(groups.var(axis=0) + 1e-8).mean(axis=-1), size)
    np.testing.assert_allclose(spread(x, 4), want, rtol=1e-5)


def leaks(stddev) -> bool:
    """Whether another group's sample changes what this group sees."""
    changed = BATCH.copy()
    changed[1] += 5 * BATCH[2]
    move = np.abs(stddev(changed) - stddev(BATCH)) > 1e-6
    return move.tolist() != [False, True, False, False, True, False]


@pytest.mark.paper("the spread within groups of a batch")
def test_stddev_stays_within_its_group():
    assert not leaks(spread)
    swapped = BATCH[[3, 1, 2, 0, 4, 5]]
    np.testing.assert_allclose(spread(swapped), spread(BATCH), rtol=1e-5)


def test_tiled_groups_would_leak(monkeypatch):
    """The bug: the number of a group handed to members of another."""
    monkeypatch.setattr(
        module,
        "repeat",
        lambda x, _, **sizes: repeat(x, "m -> (m g) h w 1", **sizes),
    )
    assert leaks(spread)


def test_group_that_does_not_divide_the_batch_shrinks():
    np.testing.assert_allclose(spread(BATCH, 4), spread(BATCH, 3))
    assert spread(BATCH[:1], 4) == pytest.approx(0, abs=1e-3)


@pytest.mark.paper("the form of the adversarial loss, logistic or hinge")
def test_signs_and_limits_of_the_logistic_loss():
    """C9: non-saturating, so that a generator that fools nobody still learns."""
    generator = jax.grad(lambda f: logistic_generator_loss(fake=f))
    assert float(generator(jnp.float32(-20))) == pytest.approx(-1, abs=1e-4)
    assert float(generator(jnp.float32(20))) == pytest.approx(0, abs=1e-4)
    on_real, on_fake = jax.grad(
        lambda r, f: logistic_discriminator_loss(real=r, fake=f), argnums=(0, 1)
    )(jnp.float32(0), jnp.float32(0))
    assert (float(on_real), float(on_fake)) == (-0.5, 0.5)
    undecided = logistic_discriminator_loss(real=jnp.zeros(3), fake=jnp.zeros(3))
    assert float(undecided) == pytest.approx(2 * math.log(2))


def test_swapped_arguments_of_bce_would_teach_nothing():
    """The bug: labels where logits belong; the fake term's gradient is exactly 0."""

    def bce(logits, labels):
        return jnp.mean(jax.nn.softplus(logits) - labels * logits)

    right = jax.grad(lambda f: bce(f, jnp.zeros(3)).sum())(jnp.ones(3))
    swapped = jax.grad(lambda f: bce(jnp.zeros(3), f).sum())(jnp.ones(3))
    ours = jax.grad(lambda f: logistic_discriminator_loss(real=jnp.zeros(3), fake=f))
    np.testing.assert_allclose(ours(jnp.ones(3)), right, rtol=1e-6)
    assert (swapped == 0).all()


@pytest.mark.paper("the form of the adversarial loss, logistic or hinge")
def test_hinge_stops_at_its_margin():
    on_real, on_fake = jax.grad(
        lambda r, f: hinge_discriminator_loss(real=r, fake=f), argnums=(0, 1)
    )(jnp.array([0.0, 2.0]), jnp.array([0.0, -2.0]))
    np.testing.assert_allclose(on_real, [-0.25, 0])
    np.testing.assert_allclose(on_fake, [0.25, 0])
    slope = jax.grad(lambda f: hinge_generator_loss(fake=f))(jnp.zeros(2))
    np.testing.assert_allclose(slope, [-0.5, -0.5])


@pytest.mark.paper("R1 on real images, every 16 steps")
def test_r1_of_a_linear_critic_is_the_norm_of_its_weights():
    w = jax.random.normal(jax.random.key(2), X.shape[1:])
    found = r1_penalty(lambda x: jnp.einsum("bhwc,hwc->b", x, w), X)
    np.testing.assert_allclose(found, jnp.sum(w**2), rtol=1e-5)


def normalised_twice(critic, images):
    """The bug: the gradient of the mean score, squared, and then the mean again."""
    slopes = jax.grad(lambda x: jnp.mean(critic(x)))(images)
    return jnp.mean(jnp.sum(jnp.square(slopes), axis=(1, 2, 3)))


@pytest.mark.paper("R1 on real images, every 16 steps")
def test_r1_does_not_depend_on_the_batch_size():
    """C4: doubling the batch changes nothing, minibatch stddev off."""
    critic = made(stddev_group=0)
    twice = jnp.concatenate([X, X])

    def ratio(penalty):
        return float(penalty(critic, twice) / penalty(critic, X))

    assert ratio(r1_penalty) == pytest.approx(1, rel=1e-4)
    assert ratio(normalised_twice) == pytest.approx(0.25, rel=1e-4)
