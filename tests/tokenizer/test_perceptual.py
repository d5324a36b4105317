"""Perceptual distances: the formula, what is frozen, and what is refused (C6)."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minivim import classifier, data, trainer, weights
from minivim.config import ClassifierConfig, LossConfig
from minivim.errors import UserError
from minivim.tokenizer import perceptual as module
from minivim.tokenizer.perceptual import (
    LPIPS,
    FeatureDistance,
    PerceptualConfig,
    perceptual_net,
    unit,
)
from minivim.training import new_state
from tests import tiny

# 9 x 10 pixels, then 4 x 5, then 2 x 2: an odd side, and maps below the kernel.
SMALL = PerceptualConfig(widths=(4, 6, 8), convs=(2, 1, 1))
RNG = np.random.default_rng(0)
X, Y = RNG.random((2, 3, 9, 10, 3), dtype=np.float32)
CNN = ClassifierConfig(kind="cnn", num_classes=3, width=8)
LABELLED = RNG.random((2, 3, 16, 16, 3), dtype=np.float32)


def lpips() -> LPIPS:
    net = tiny.build(LPIPS, SMALL)
    for head in net.heads:
        head[...] = jnp.abs(head[...])
    return net


def feature_distance() -> FeatureDistance:
    return FeatureDistance(tiny.build(classifier.build, CNN))


NETS = {"lpips": (lpips, X, Y), "classifier": (feature_distance, *LABELLED)}


@pytest.fixture(params=NETS)
def net_and_images(request):
    make, x, y = NETS[request.param]
    return make(), x, y


def distance(net, x, y):
    """Compiled, with the network's state as an argument, as the training step does."""
    graph, state = nnx.split(net)

    @jax.jit
    def compiled(state, x, y):
        return nnx.merge(graph, state)(recon=x, target=y)

    return np.asarray(compiled(state, x, y))


# --- the formula -------------------------------------------------------------------


def by_loops(net: LPIPS, x, y) -> float:
    """LPIPS of one image pair in float64, written position by position."""

    def maps(image):
        image = (2.0 * image - 1 - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
        convs, found = list(net.convs), []
        for size, count in enumerate(net.config.convs):
            if size:
                h, w = (side // 2 for side in image.shape[:2])
                image = np.array(
                    [
                        [
                            image[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((0, 1))
                            for j in range(w)
                        ]
                        for i in range(h)
                    ]
                )
            for _ in range(count):
                conv = convs.pop(0)
                kernel = np.asarray(conv.kernel[...], np.float64)
                padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
                image = np.array(
                    [
                        [
                            np.einsum("abc,abcd", padded[i : i + 3, j : j + 3], kernel)
                            for j in range(image.shape[1])
                        ]
                        for i in range(image.shape[0])
                    ]
                )
                image = np.maximum(image + np.asarray(conv.bias[...]), 0)
            found.append(image)
        return found

    total = 0.0
    for f, g, head in zip(maps(x), maps(y), net.heads, strict=True):
        f, g = (m / (np.linalg.norm(m, axis=-1, keepdims=True) + 1e-10) for m in (f, g))
        total += ((f - g) ** 2 @ np.asarray(head[...], np.float64)).mean()
    return total


def off(net) -> float:
    """Largest relative difference from the loops."""
    want = np.array([by_loops(net, x, y) for x, y in zip(X, Y, strict=True)])
    return float(np.abs(distance(net, X, Y) / want - 1).max())


@pytest.mark.paper("the perceptual loss, on features of a VGG")
def test_lpips_is_the_formula():
    assert off(lpips()) < 1e-5


@pytest.mark.parametrize(
    "spoilt",
    [lambda x: x, lambda x: 2 * x - 1, lambda x: module.NORMALISED(x / 2 + 0.5)],
    ids=["as it is", "to [-1, 1] only", "shifted twice"],
)
def test_images_that_are_not_normalised_would_be_noticed(monkeypatch, spoilt):
    monkeypatch.setattr(module, "NORMALISED", module.normalised, raising=False)
    monkeypatch.setattr(module, "normalised", spoilt)
    assert off(lpips()) > 1e-2


@pytest.mark.paper("the same on features of our own classifier")
def test_a_classifier_gives_one_minus_the_cosine():
    net, (x, y) = feature_distance(), LABELLED
    _, of_x = tiny.call(net.network, x)
    _, of_y = tiny.call(net.network, y)
    layers = []
    for f, g in zip(of_x["features"], of_y["features"], strict=True):
        lengths = np.linalg.norm(f, axis=-1) * np.linalg.norm(g, axis=-1)
        # Where nothing fires on either side, they agree.
        cosine = np.divide((f * g).sum(-1), lengths, where=lengths > 0, out=0 * lengths)
        silent = np.all(f == 0, -1).astype(int) + np.all(g == 0, -1)
        layers.append((1 - cosine - silent / 2).mean((1, 2)))
    np.testing.assert_allclose(distance(net, x, y), np.mean(layers, 0), rtol=1e-4)


def test_a_grey_image_counts_as_three_equal_channels():
    grey = X[..., :1], Y[..., :1]
    coloured = (np.repeat(image, 3, axis=-1) for image in grey)
    net = lpips()
    np.testing.assert_allclose(
        distance(net, *grey), distance(net, *coloured), rtol=1e-6
    )


def test_more_noise_is_further_away():
    net = perceptual_net(weights.load("shapes/classifier"))
    clean = np.full((4, 32, 32, 3), 0.5, np.float32)
    clean[:, 8:20, 8:20] = [0.9, 0.2, 0.2]
    noise = RNG.standard_normal(clean.shape).astype(np.float32)
    far = [distance(net, clean + s * noise, clean).mean() for s in (0, 0.02, 0.05, 0.1)]
    assert far[0] < 1e-9 < far[1] < far[2] < far[3] < 1


# --- frozen and deterministic (C6) -------------------------------------------------


def steady(net, x, y) -> bool:
    """An image is at distance 0 from itself, and two calls agree."""
    once, again = (np.asarray(tiny.call(net, recon=x, target=y)) for _ in range(2))
    itself = np.abs(tiny.call(net, recon=x, target=x)).max()
    return bool(itself < 1e-9 and (once == again).all() and once.min() > 1e-6)


def test_no_chance_is_involved(net_and_images):
    assert steady(*net_and_images)


def test_dropout_would_be_noticed():
    """The bug: the network is part of a model that is switched to training."""

    class Switched(LPIPS):
        def features(self, images):
            return [self.dropout(f) for f in super().features(images)]

    net = tiny.build(Switched, replace(SMALL, widths=(4,), convs=(1,)))
    for head in net.heads:
        head[...] = jnp.abs(head[...])
    net.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    assert not steady(net, X, Y)


def moved(model, net) -> list[str]:
    """Names of the network's leaves that the optimizer of `model` would move."""
    trained = jax.tree.leaves(new_state(model, tiny.OPTIM, steps=2).params)
    return [
        name
        for name, leaf in weights.flat_weights(net).items()
        if any(np.array_equal(leaf, other) for other in trained)
    ]


@pytest.mark.paper("the perceptual loss, on features of a VGG")
def test_no_leaf_of_the_network_is_trained(tmp_path):
    network = tiny.build(classifier.build, CNN)
    weights.save(tmp_path, network, card={})
    recipe = replace(
        tiny.TOKENIZER_RECIPE,
        model=replace(tiny.TOKENIZER, image_size=16),
        loss=LossConfig(perceptual=0.1),
        perceptual_net=str(tmp_path),
    )
    images = tiny.images(8, 16)
    source = data.ArraySource(
        {"image": images, "label": np.zeros(8, np.int32)},
        class_names=["one"],
    )
    parts = tiny.ready(recipe, source, network=trainer.frozen_network(recipe)).parts
    assert moved(parts.model, network) == []


def test_a_network_inside_the_model_would_be_noticed():
    """The bug: the loss module owns tokenizer and VGG, and all of it is optimised."""

    class Owner(nnx.Module):
        def __init__(self, net):
            self.tokenizer, self.perceptual = tiny.tokenizer(), net

    net = lpips()
    assert moved(Owner(net), net) == list(weights.flat_weights(net))


def test_gradients_reach_the_reconstruction_only(net_and_images):
    net, x, y = net_and_images

    @jax.jit
    def slopes(x, y):
        return jax.grad(lambda x, y: net(recon=x, target=y).sum(), (0, 1))(x, y)

    at_recon, at_target = slopes(x, y)
    assert jnp.isfinite(at_recon).all() and jnp.abs(at_recon).max() > 1e-4
    assert (at_target == 0).all()


def test_a_position_without_features_has_a_finite_gradient():
    """The bug: the root's slope at 0."""

    def plain(x):
        return x / (jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True)) + 1e-10)

    def slope(unit):
        return jax.grad(lambda x: unit(x).sum())(jnp.zeros((1, 1, 1, 3)))

    assert jnp.isfinite(slope(unit)).all()
    assert jnp.isnan(slope(plain)).all()
    np.testing.assert_allclose(plain(jnp.asarray(X)), unit(jnp.asarray(X)), rtol=1e-6)


# --- what is refused ---------------------------------------------------------------


@pytest.mark.parametrize("which", ["recon", "target"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: 2 * x - 1, "run from -.* halve and add 0.5"),
        (lambda x: 255 * x, "divide by 255"),
        (lambda x: x * np.nan, "from nan to nan"),
        (lambda x: (255 * x).astype(np.int32), "int32 have no known range"),
        (lambda x: x[:1], "in pairs"),
        (lambda x: x[0], "no batch axis"),
    ],
)
def test_images_that_cannot_be_are_refused(net_and_images, which, spoil, message):
    net, x, y = net_and_images
    images = {"recon": x, "target": y}
    images[which] = spoil(images[which])
    with pytest.raises(UserError, match=message):
        net(**images)


def test_a_known_target_is_checked_under_a_gradient_too():
    net = lpips()
    with pytest.raises(ValueError, match="divide by 255"):
        jax.grad(lambda x: net(recon=x, target=200 * Y).sum())(X)
    with pytest.raises(ValueError, match="int32 have no known range"):
        jax.jit(lambda x: net(recon=x, target=Y))(jnp.zeros(Y.shape, jnp.int32))


def test_a_constant_in_a_compiled_function_is_no_obstacle(net_and_images):
    net, x, y = net_and_images
    found = jax.jit(lambda x: net(recon=x, target=y))(x)
    np.testing.assert_allclose(found, distance(net, x, y), rtol=1e-3, atol=1e-6)


def test_rounding_may_leave_the_range():
    lpips()(recon=np.where(X > 0.5, 1 + 1e-6, -1e-6), target=Y)


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (lpips, (2, 3, 8, 3), "3 x 8 pixels of 3 channels; use 4 x 4 or more"),
        (lpips, (2, 8, 8, 2), "pixels of 2 channels; .* of 1 or 3"),
        (feature_distance, (2, 12, 16, 3), "multiples of 8"),
        (feature_distance, (2, 16, 16, 1), "use 3 channels"),
    ],
)
def test_images_that_do_not_fit_the_network_are_refused(make, shape, message):
    images = np.full(shape, 0.5, np.float32)
    with pytest.raises(UserError, match=message):
        make()(recon=images, target=images)


def test_the_right_distance_is_made_from_what_was_loaded():
    net = lpips()
    assert perceptual_net(net) is net
    network = tiny.build(classifier.build, CNN)
    assert perceptual_net(network).network is network


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: tiny.build(classifier.build, replace(CNN, kind="residual")), "judge"),
        (tiny.tokenizer, "a Tokenizer is no classifier"),
        (tiny.prior, "a Prior is no classifier"),
    ],
)
def test_other_networks_are_refused(model, message):
    with pytest.raises(UserError, match=f"{message}.*kind=cnn.*shapes/classifier"):
        perceptual_net(model())


@pytest.mark.parametrize(
    "changes", [{"widths": (4, 0, 8)}, {"convs": (1, 1)}, {"widths": (), "convs": ()}]
)
def test_impossible_sizes_are_refused(changes):
    with pytest.raises(UserError, match="use those of VGG16|set widths="):
        replace(SMALL, **changes)


# --- files -------------------------------------------------------------------------


def test_weights_round_trip(tmp_path):
    net = lpips()
    weights.save(tmp_path, net, card={"source": "nowhere"})
    loaded = perceptual_net(weights.load(tmp_path))
    assert loaded.config == SMALL and loaded.card["source"] == "nowhere"
    np.testing.assert_array_equal(distance(loaded, X, Y), distance(net, X, Y))
