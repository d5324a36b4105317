"""One step, two networks: what the joint objective must and must not do."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from minivim import fast
from minivim.config import DiscriminatorConfig, LossConfig
from minivim.context import Context
from minivim.tokenizer import Players, adversarial_loss, tokenizer_loss
from minivim.tokenizer.losses import logistic_discriminator_loss, r1_penalty
from minivim.tokenizer.objective import LOGIT_BINS, logit_histogram, stopped, zeros_of
from minivim.tokenizer.perceptual import LPIPS, PerceptualConfig
from minivim.training import optimizer
from tests import tiny

CRITIC = DiscriminatorConfig(width=4, max_width=8, r1_interval=4)
WEIGHTS = LossConfig(vq=1.0, l2=1.0, logit_laplace=0.1, adversarial=0.1)
RECIPE = replace(
    tiny.TOKENIZER_RECIPE,
    model=replace(tiny.TOKENIZER, output="laplace"),
    loss=WEIGHTS,
    discriminator=CRITIC,
)
IMAGES = jnp.asarray(tiny.images(8), jnp.float32) / 255
BATCH = {"image": IMAGES}
DUE, NOT_DUE = Context(due=True), Context(due=False)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def players():
    return Players(RECIPE)


def loss_of(players, context=DUE, **changes):
    options = {"weights": WEIGHTS, "config": CRITIC, "key": KEY} | changes
    return adversarial_loss(players, BATCH, context, **options)


def slopes(loss, players):
    """Gradient norms of both networks."""
    graph, params = nnx.split(players)
    grads = jax.jit(jax.grad(lambda p: loss(nnx.merge(graph, p))))(params)
    return {name: float(optax.global_norm(grads[name])) for name in grads}


def only(name):
    """The joint loss without one of its two halves."""

    def loss(players):
        value, terms = loss_of(players)
        return terms[name] if name == "g_loss" else value - terms["g_loss"]

    return loss


@pytest.mark.paper("the adversarial loss, two networks and one step")
def test_the_gradients_of_both_losses_fall_on_disjoint_networks(players):
    generator, critic = (slopes(only(n), players) for n in ("g_loss", "d_loss"))
    assert generator["tokenizer"] > 0 and generator["discriminator"] == 0
    assert critic["tokenizer"] == 0 and critic["discriminator"] > 0


def test_without_the_stop_the_critic_would_help_the_forger(players, monkeypatch):
    """The bug: the generator's loss reaches the discriminator's parameters."""
    monkeypatch.setattr("minivim.tokenizer.objective.stopped", lambda module: module)
    assert slopes(only("g_loss"), players)["discriminator"] > 0


def test_the_sum_is_both_losses_written_apart(players):
    """Two formulations: the joint loss, and the two losses of any GAN text."""
    value, terms = nnx.jit(lambda p: loss_of(p))(players)
    recon, _ = players.tokenizer(IMAGES)
    on_real, on_fake = (players.discriminator(x) for x in (IMAGES, recon))
    d_loss = logistic_discriminator_loss(real=on_real, fake=on_fake)
    r1 = r1_penalty(players.discriminator, IMAGES)
    plain, _ = tokenizer_loss(
        players.tokenizer, BATCH, weights=replace(WEIGHTS, adversarial=0.0), key=KEY
    )
    g_loss = plain + 0.1 * jnp.mean(jax.nn.softplus(-on_fake))
    np.testing.assert_allclose(terms["d_loss"], d_loss, rtol=1e-4)
    np.testing.assert_allclose(terms["g_loss"], g_loss, rtol=1e-4)
    lazy = CRITIC.r1_gamma / 2 * CRITIC.r1_interval * r1
    np.testing.assert_allclose(value, g_loss + d_loss + lazy, rtol=1e-4)
    np.testing.assert_allclose(terms["right_on_real"], jnp.mean(on_real > 0))
    np.testing.assert_allclose(terms["right_on_fake"], jnp.mean(on_fake < 0))


def test_r1_counts_only_where_it_is_due(players):
    """Lazy: its share over an interval is that of a penalty on every step."""
    on, terms = loss_of(players)
    off, none = loss_of(players, NOT_DUE)
    assert (float(terms["r1_due"]), float(none["r1_due"])) == (1.0, 0.0)
    every, each = loss_of(players, config=replace(CRITIC, r1_interval=1))
    np.testing.assert_allclose(on - off, CRITIC.r1_interval * (every - off), rtol=1e-3)
    assert float(none["r1"]) == 0 and float(each["r1"]) == float(terms["r1"]) > 0


@pytest.mark.paper("the first adversarial step")
def test_before_the_start_nothing_is_adversarial(players):
    late = replace(CRITIC, start=3)

    def at(step):
        loss = partial(loss_of, context=Context(step=step, due=True), config=late)
        return slopes(lambda p: loss(p)[0], players), loss(players)[1]

    before, terms = at(2)
    assert before["discriminator"] == 0
    assert float(terms["adversarial"]) == float(terms["d_loss"]) == 0
    after, terms = at(3)
    assert after["discriminator"] > 0 and float(terms["adversarial"]) > 0


def test_both_see_the_same_mirrored_images(players, monkeypatch):
    """The real images of the critic are those that were reconstructed."""
    seen = []

    def spy(kind):
        call = kind.__call__

        def record(self, images, **options):
            seen.append(np.asarray(images))
            return call(self, images, **options)

        monkeypatch.setattr(kind, "__call__", record)

    spy(type(players.tokenizer))
    spy(type(players.discriminator))
    loss_of(players, NOT_DUE, flip=True)
    reconstructed, _, real, _ = seen
    np.testing.assert_array_equal(reconstructed, real)
    assert not np.array_equal(real, IMAGES)


def counts(state) -> list[int]:
    """Every step counter inside an optimizer's state."""
    found = jax.tree_util.tree_leaves_with_path(state)
    return [int(x) for path, x in found if "count" in jax.tree_util.keystr(path)]


def trained(ready, steps: int):
    state, step, found = ready.state(), ready.step(), []
    for _ in range(steps):
        state, metrics = step(state, next(ready.batches))
        found.append(metrics)
    return state, found


@pytest.mark.paper("the adversarial loss, two networks and one step")
def test_one_update_of_each_network_in_a_step():
    """C7: every counter equals the number of steps; one schedule each."""
    state, _ = trained(tiny.ready(RECIPE), 3)
    assert set(counts(state.optimizer)) == {3} and int(state.step) == 3
    assert len(counts(state.optimizer)) == 4  # Adam's and the schedule's, twice


def test_two_updates_in_a_step_would_be_counted():
    """The bug: one update for the reconstruction and one for the adversary.

    Adam forgets the size of a gradient, so the weight 0.1 would cancel as well.
    """
    params = {"kernel": jnp.ones(3)}
    update = optimizer(tiny.OPTIM, steps=12)
    state, moved = update.init(params), []
    for weight in (1.0, 0.1):
        one = update.init(params)
        change, one = update.update({"kernel": jnp.full(3, weight)}, one, params)
        change, one = update.update({"kernel": jnp.full(3, weight)}, one, params)
        moved.append(np.asarray(change["kernel"]))
        for _ in range(3):
            _, state = update.update({"kernel": jnp.full(3, weight)}, state, params)
    assert set(counts(state)) == {6} != {3}
    np.testing.assert_allclose(*moved, rtol=1e-4)


@pytest.mark.paper("the same Adam for the discriminator")
def test_each_network_has_its_own_optimizer():
    recipe = replace(
        RECIPE, discriminator=replace(CRITIC, lr_ratio=1e-6, beta1=0.0, beta2=0.5)
    )
    before, ready = Players(recipe), tiny.ready(recipe)
    state, _ = trained(ready, 3)
    after = nnx.merge(nnx.graphdef(ready.parts.model), state.params)

    def distance(name):
        old, new = (nnx.state(getattr(p, name), nnx.Param) for p in (before, after))
        return float(optax.global_norm(jax.tree.map(jnp.subtract, old, new)))

    assert distance("tokenizer") > 1e-2 > 1e-5 > distance("discriminator") > 0


@pytest.mark.paper("R1 on real images, every 16 steps")
def test_lazy_steps_are_every_fourth():
    _, found = trained(tiny.ready(RECIPE), 6)
    assert [float(m["r1_due"]) for m in found] == [1, 0, 0, 0, 1, 0]
    assert [float(m["r1"]) > 0 for m in found] == [
        True,
        False,
        False,
        False,
        True,
        False,
    ]


def test_gradient_norms_of_the_terms_at_one_place():
    """Equal to the gradient of each weighted term by the decoder's mean."""
    ready = tiny.ready(RECIPE)
    model = nnx.merge(*nnx.split(ready.parts.model))
    batch = next(ready.batches)
    images = jnp.asarray(batch["image"])
    _, metrics = ready.step(lazy_every=0)(ready.state(), batch)
    _, aux = model.tokenizer(images)

    def l2(mean):
        return jnp.mean(jnp.square(jax.nn.sigmoid(mean) - images))

    def adversarial(mean):
        logits = stopped(model.discriminator)(jax.nn.sigmoid(mean))
        return 0.1 * jnp.mean(jax.nn.softplus(-logits))

    for name, term in (("l2", l2), ("adversarial", adversarial)):
        want = optax.global_norm(jax.grad(term)(aux["mean"]))
        np.testing.assert_allclose(metrics[f"grad_norm_{name}"], want, rtol=1e-3)
    assert {f"grad_norm_{n}" for n in ("logit_laplace", "tokenizer")} <= metrics.keys()
    assert zeros_of(LossConfig()) is None


def test_histogram_of_logits_holds_everything():
    logits = jnp.array([-99.0, -4.9, -0.1, 0.0, 4.9, 99.0])
    found = logit_histogram(logits)
    assert found.shape == (LOGIT_BINS,) and int(found.sum()) == 6
    assert (int(found[0]), int(found[9]), int(found[10]), int(found[-1])) == (
        2,
        1,
        1,
        2,
    )


def test_rows_tell_a_healthy_run_from_a_sick_one():
    model, rows = tiny.ready(RECIPE).run()
    assert model.config == RECIPE.model  # the tokenizer alone comes back
    row = rows[-1]
    assert sum(row["logits_real"]) == sum(row["logits_fake"]) == 2 * tiny.RUN.batch_size
    assert {"d_loss", "g_loss", "right_on_real", "right_on_fake"} <= row.keys()
    assert [("r1" in r) for r in rows][:3] == [True, False, True]
    assert "r1_due" not in row


# 32 pixels is the least for PatchGAN.
WIDE = replace(RECIPE.model, image_size=32)
NARROW = PerceptualConfig(widths=(16, 16), convs=(1, 1))


def maps_of(program):
    """Types that the program's convolutions over maps above 4 x 4 read and write."""
    for equation in program.eqns:
        types = [v.aval for v in (*equation.invars, *equation.outvars)]
        if equation.primitive.name == "conv_general_dilated":
            yield from (t.dtype.name for t in types if types[0].shape[1] > 4)
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from maps_of(inner)


@pytest.mark.parametrize("kind", ["stylegan2", "patchgan"])
def test_pixel_networks_can_hold_their_maps_in_bfloat16(kind, monkeypatch):
    monkeypatch.setattr(fast, "OURS", ())  # convolutions of the library alone
    # A fresh tokenizer's images differ too little for a spread of rounded maps.
    critic = replace(CRITIC, kind=kind, stddev_group=0)
    players = Players(replace(RECIPE, model=WIDE, discriminator=critic))
    weights = replace(WEIGHTS, perceptual=0.1)
    context = Context(due=True, frozen=LPIPS(NARROW, rngs=nnx.Rngs(0)))
    batch = {"image": jnp.asarray(tiny.images(4, size=32), jnp.float32) / 255}
    graph, params = nnx.split(players)

    def loss(params, precision):
        how = {"weights": weights, "config": critic, "key": KEY}
        players = nnx.merge(graph, params)
        return adversarial_loss(players, batch, context, precision=precision, **how)

    half = jax.make_jaxpr(lambda p: loss(p, "bfloat16"))(params)
    assert {*maps_of(half.jaxpr)} == {"bfloat16"}
    assert {v.dtype.name for v in half.out_avals} <= {"float32", "int32"}
    slopes = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    (exact, exact_terms), (rough, terms) = (
        slopes(params, name) for name in ("float32", "bfloat16")
    )
    for name in ("perceptual", "adversarial", "g_loss", "d_loss", "r1"):
        was, now = float(exact_terms[name]), float(terms[name])
        assert now == pytest.approx(was, rel=0.05) and now != was, name
    for name in ("tokenizer", "discriminator"):
        a, b = (np.asarray(ravel_pytree(g[name])[0]) for g in (exact, rough))
        assert b.dtype == np.float32
        assert np.linalg.norm(a - b) < 0.15 * np.linalg.norm(a)
