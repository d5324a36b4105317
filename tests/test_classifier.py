"""The two labelled networks: sizes, augmentation, learning, figures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from minivim.classifier import (
    MAX_SHIFT,
    Classifier,
    Judge,
    accuracy,
    augment,
    build,
    classifier_loss,
    predict,
)
from minivim.config import ClassifierConfig
from tests import tiny

KINDS = ("cnn", "residual")


def network(kind, width=8, num_classes=3, channels=3):
    config = ClassifierConfig(
        kind=kind, num_classes=num_classes, width=width, channels=channels
    )
    return build(config, rngs=nnx.Rngs(0))


def stripes(n, seed):
    """Horizontal, vertical or no stripes, of any phase: nothing a mean could tell."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    phase = rng.integers(0, 4, n)
    y, x = np.mgrid[:16, :16]
    images = np.stack(
        [
            np.stack([y, x, np.full_like(y, 2)])[label] + p
            for label, p in zip(labels, phase, strict=True)
        ]
    )
    images = np.repeat((images % 4 < 2)[..., None], 3, -1).astype(np.float32)
    return 0.2 + 0.6 * images, labels.astype(np.int32)


@pytest.fixture(scope="module")
def networks():
    configs = [ClassifierConfig(kind=kind, num_classes=3, width=8) for kind in KINDS]
    return [tiny.build(build, config, seed) for seed, config in enumerate(configs)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("width", "channels", "size"), [(8, 3, 32), (12, 1, 16)])
def test_shapes(kind, width, channels, size):
    def run():
        model = network(kind, width=width, channels=channels)
        return model(jnp.full((2, size, size, channels), 0.5))

    logits, aux = nnx.eval_shape(run)
    assert logits.shape == (2, 3) and logits.dtype == jnp.float32
    sides = {"cnn": (2, 4, 4, 8), "residual": (4, 4, 4)}[kind]
    widths = {"cnn": (1, 2, 2, 4), "residual": (2, 2, 2)}[kind]
    assert [f.shape for f in aux["features"]] == [
        (2, size // s, size // s, w * width) for s, w in zip(sides, widths, strict=True)
    ]


def test_two_architectures_of_similar_size():
    models = [
        nnx.eval_shape(lambda k=kind: network(k, width=32, num_classes=8))
        for kind in KINDS
    ]
    assert isinstance(models[0], Classifier) and isinstance(models[1], Judge)
    states = [nnx.state(model, nnx.Param) for model in models]
    sizes = [sum(x.size for x in jax.tree.leaves(state)) for state in states]
    assert sizes == [134_376, 126_344]
    assert jax.tree.structure(states[0]) != jax.tree.structure(states[1])


def test_augmentation_is_drawn_from_the_key_for_each_image():
    images = jnp.broadcast_to(stripes(1, 0)[0], (8, 16, 16, 3))
    drawn = jax.jit(augment)
    one = drawn(images, key=jax.random.key(0))
    np.testing.assert_array_equal(one, drawn(images, key=jax.random.key(0)))
    assert not np.allclose(one, drawn(images, key=jax.random.key(1)))
    assert not np.allclose(one[0], one[1])
    assert one.shape == images.shape
    assert float(one.min()) >= 0 and float(one.max()) <= 1


def test_augmentation_moves_a_dot_by_at_most_the_stated_shift():
    images = jnp.zeros((200, 16, 16, 1)).at[:, 8, 8].set(1)
    moved = jax.jit(augment)(images, key=jax.random.key(2))
    brightest = np.asarray(moved).reshape(200, -1).argmax(1)
    offsets = np.stack(np.divmod(brightest, 16)) - 8
    assert np.abs(offsets).max() == MAX_SHIFT
    assert len(np.unique(offsets, axis=1).T) == (2 * MAX_SHIFT + 1) ** 2


def test_loss_is_cross_entropy_and_augments_only_with_a_key(networks):
    model, (images, labels) = networks[0], stripes(16, 1)
    loss_of = nnx.jit(classifier_loss)
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
    loss, metrics = loss_of(model, batch)
    logits = np.asarray(nnx.jit(type(model).__call__)(model, batch["image"])[0])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert float(loss) == pytest.approx(-log_p[np.arange(16), labels].mean(), rel=1e-5)
    assert float(metrics["accuracy"]) == (logits.argmax(1) == labels).mean()
    assert float(loss_of(model, batch)[0]) == float(loss)
    assert float(loss_of(model, batch, key=jax.random.key(0))[0]) != float(loss)


@pytest.mark.parametrize("kind", KINDS)
def test_learns_a_small_task(kind):
    graph, _ = nnx.split(nnx.eval_shape(lambda: network(kind)))
    params = jax.jit(lambda: nnx.state(network(kind)))()
    optimiser = optax.adam(1e-2)
    state = optimiser.init(params)

    @jax.jit
    def step(params, state, batch, key):
        def loss(params):
            return classifier_loss(nnx.merge(graph, params), batch, key=key)[0]

        updates, state = optimiser.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    for i in range(40):
        images, labels = stripes(32, 10 + i)
        batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
        params, state = step(params, state, batch, jax.random.key(i))
    images, labels = stripes(64, 0)
    assert accuracy(nnx.merge(graph, params), images, labels) > 0.9


def test_figures_do_not_depend_on_batches_or_on_the_image_type(networks):
    one, other = networks
    images = np.random.default_rng(0).integers(0, 256, (21, 16, 16, 3), np.uint8)
    labels = predict(one, images)
    assert labels.shape == (21,) and labels.dtype == np.int32
    np.testing.assert_array_equal(labels, predict(one, images, batch_size=8))
    np.testing.assert_array_equal(labels, predict(one, images / np.float32(255)))
    assert accuracy(one, images, labels) == 1
    same = (predict(other, images) == labels).mean()
    assert accuracy(other, images, labels) == same


def test_accuracy_refuses_labels_of_another_length(networks):
    with pytest.raises(ValueError, match="3 images"):
        accuracy(networks[0], np.zeros((3, 16, 16, 3), np.uint8), np.zeros((3, 1)))
