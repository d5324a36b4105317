"""The linear probe: a convex fit, honest choices, and features that see no label."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minivim import probe as probe_module
from minivim import weights
from minivim.card import Carded
from minivim.errors import UserError
from minivim.probe import SoftmaxProbe, fit_probe, linear_probe, probe_features

CLASSES = 3


class FakeTokenizer(Carded):
    """Codes are brightness levels of 4 x 4 patches; the code vectors are one-hot."""

    def __init__(self, *, encoder: bool = True):
        self.encoder = encoder

    def __call__(self, images):
        n, h, w, c = images.shape
        tokens = images.reshape(n, h // 4, 4, w // 4, 4, c).mean((2, 4, 5))
        codes = jnp.clip((tokens * 4).astype(jnp.int32), 0, 3).reshape(n, -1)
        # As wide as a block, so that one compiled fit serves both.
        aux = {"codes": codes, "z_q": jax.nn.one_hot(codes, 6)}
        if self.encoder:
            aux["features"] = jnp.tile(tokens.reshape(n, -1, 1), 6)
        return images, aux


class FakePrior:
    """Three blocks of width 6, of which only the second shows the code counts."""

    def __init__(self, num_classes: int = 0):
        self.config = SimpleNamespace(num_classes=num_classes)

    def features(self, codes):
        counts = jax.nn.one_hot(codes, 6).mean(1)
        places = jnp.sqrt(jnp.arange(1.0, codes.shape[1] + 1))
        noise = jnp.sin(1e3 * (codes @ places)[:, None] + jnp.arange(6.0))
        return jnp.stack([noise, counts, jnp.zeros_like(counts)])


def data(n, seed):
    """Label 0, 1, 2 = 1, 3, 5 bright patches of 16, in random places."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    grid = np.zeros((n, 16), np.float32)
    for row, label in zip(grid, labels, strict=True):
        row[rng.permutation(16)[: 2 * label + 1]] = 1
    image = np.kron(grid.reshape(n, 4, 4), np.ones((4, 4)))[..., None] * 200 + 20
    return {"image": image.astype(np.uint8), "label": labels.astype(np.int32)}


@pytest.fixture(scope="module")
def result():
    return linear_probe(FakePrior(), FakeTokenizer(), data(120, 0), data(60, 1))


@pytest.mark.paper("the block is chosen on held-out training images")
def test_finds_the_informative_block(result):
    assert result.block == 1
    assert result.accuracy == result.block_accuracy[1] > 0.98
    assert max(result.block_accuracy[0], result.block_accuracy[2]) < 0.6
    assert (result.n_train, result.n_test) == (120, 60)


def test_baselines_come_in_the_same_call(result):
    assert set(result.baselines) == {"pixels", "latents", "encoder"}
    assert result.baselines["latents"][1] > 0.98
    images = data(9, 0)["image"]
    alone = probe_features(FakePrior(), FakeTokenizer(encoder=False), images)
    assert set(alone) == {"pixels", "latents", "blocks"}


def test_rows_print_every_figure(result):
    rows = result.rows()
    names = [name for name, _, _ in rows]
    assert names[-3:] == ["block 1 of 3", "block 2 of 3, chosen", "block 3 of 3"]
    assert rows[-2][1:] == (result.probe.held_out, result.accuracy)
    assert len(rows) == 6


@pytest.mark.paper("a prior that has seen no label")
def test_permuted_labels_leave_the_features_as_they_were(monkeypatch):
    """What each fit of the whole call receives depends on the images alone."""
    seen = []
    real = fit_probe

    def record(features, labels, **options):
        seen.append((np.array(features), np.array(labels)))
        return real(features, labels, **options)

    monkeypatch.setattr(probe_module, "fit_probe", record)
    train, test = data(120, 2), data(60, 3)
    linear_probe(FakePrior(), FakeTokenizer(), train, test)
    first, seen[:] = list(seen), []
    permuted = np.random.default_rng(4).permutation(train["label"])
    other = linear_probe(
        FakePrior(), FakeTokenizer(), train | {"label": permuted}, test
    )
    assert len(seen) == len(first) == 6
    for (features, labels), (same, changed) in zip(first, seen, strict=True):
        np.testing.assert_array_equal(features, same)
        assert (labels != changed).any()
    assert other.accuracy < 0.7


@pytest.mark.paper("the block is chosen on held-out training images")
def test_block_is_chosen_without_the_test_images(monkeypatch):
    """The second block wins on held-out rows, the third would win on the test rows."""
    figures = iter([(0.5, 0.6), (0.8, 0.7), (0.7, 0.9), (0.9, 1.0), (0.9, 1.0)])

    class Preset(SoftmaxProbe):
        def accuracy(self, features, labels):
            return self.l2

    def fake(features, labels, **options):
        held_out, accuracy = next(figures)
        none = np.zeros(0)
        arrays = {"weights": none, "bias": none, "mean": none, "std": none}
        return Preset(**arrays, l2=accuracy, held_out=held_out)

    monkeypatch.setattr(probe_module, "fit_probe", fake)
    tokenizer = FakeTokenizer(encoder=False)
    found = linear_probe(FakePrior(), tokenizer, data(120, 2), data(60, 3))
    assert (found.block, found.accuracy) == (1, 0.7)
    assert found.block_accuracy == (0.6, 0.7, 0.9)


def test_features_do_not_depend_on_the_batch_size():
    images = data(50, 5)["image"]
    whole = probe_features(FakePrior(), FakeTokenizer(), images, batch_size=50)
    parts = probe_features(FakePrior(), FakeTokenizer(), images, batch_size=16)
    floats = images.astype(np.float32) / 255
    direct = probe_features(FakePrior(), FakeTokenizer(), floats, batch_size=64)
    assert whole["blocks"].shape == (3, 50, 6)
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], atol=1e-6)
        np.testing.assert_allclose(direct[name], whole[name], atol=1e-6)


def test_large_images_are_reduced_for_the_pixel_baseline():
    images = np.zeros((2, 64, 64, 3), np.uint8)
    found = probe_features(FakePrior(), FakeTokenizer(), images)
    assert found["pixels"].shape == (2, 32 * 32 * 3)


def blobs(seed, n=120, width=6):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    return (labels[:, None] + rng.normal(size=(n, width))) * 10 + 3, labels


@pytest.mark.paper("one softmax layer on frozen features")
def test_fit_reaches_the_optimum():
    """At the minimum the mean of (p - onehot) z^T equals -l2 W, and that of p, y."""
    x, y = blobs(0)
    probe = fit_probe(x, y, num_classes=CLASSES, l2_grid=(0.05,), tolerance=1e-6)
    z = (x - x.mean(0)) / x.std(0)
    np.testing.assert_allclose(probe.mean, x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(probe.std, x.std(0), rtol=1e-4)
    logits = z @ probe.weights + probe.bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    residual = (p - np.eye(CLASSES)[y]) / len(y)
    np.testing.assert_allclose(z.T @ residual, -0.05 * probe.weights, atol=1e-4)
    np.testing.assert_allclose(residual.sum(0), 0, atol=1e-4)


def test_fit_is_deterministic_and_refits_on_all_rows():
    x, y = blobs(1)
    one, two = (fit_probe(x, y, num_classes=CLASSES, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.weights, two.weights)
    # The scaling of the final layer is that of all rows, held-out ones included.
    np.testing.assert_allclose(one.mean, x.mean(0), rtol=1e-4)


def test_strength_is_chosen_on_held_out_rows():
    """With noise features and few rows the strong penalty must win over none."""
    rng = np.random.default_rng(2)
    x, y = blobs(2, width=2)
    x = np.concatenate([x, 10 * rng.normal(size=(120, 254))], axis=1)
    grid = (1.0, 1e-6)
    chosen = fit_probe(x, y, num_classes=CLASSES, l2_grid=grid, held_out=0.4)
    scores = [
        fit_probe(x, y, num_classes=CLASSES, l2_grid=(l2,), held_out=0.4).held_out
        for l2 in grid
    ]
    assert chosen.held_out == max(scores)
    assert chosen.l2 == grid[int(np.argmax(scores))]


def test_constant_features_are_harmless():
    x, y = blobs(3)
    x[:, 0] = 7
    probe = fit_probe(x, y, num_classes=CLASSES)
    assert np.isfinite(probe.weights).all() and probe.accuracy(x, y) > 0.5


@pytest.mark.parametrize(
    ("train", "test", "options", "message"),
    [
        ([0, 0, 0], [0, 0, 0], {}, "at least two labels"),
        ([-1, -1, -1], [0, 1, 0], {}, "at least two labels"),
        ([0, 1, 2], [0, 1, 3], {}, "between 0 and 2"),
        ([0, 1, 3], [0, 1, 2], {"num_classes": 3}, "labels run from 0 to 3"),
        ([0, 1, -1], [0, 1, 0], {"num_classes": 2}, "labels run from -1 to 1"),
        ([0, 1], [0, 1, 0], {}, "3 images came with labels"),
    ],
)
def test_refuses_unusable_labels(train, test, options, message):
    images = np.zeros((3, 16, 16, 1), np.uint8)
    with pytest.raises(UserError, match=message) as error:
        linear_probe(
            FakePrior(),
            FakeTokenizer(),
            {"image": images, "label": np.array(train)},
            {"image": images, "label": np.array(test)},
            **options,
        )
    assert "\n" not in str(error.value)


@pytest.mark.paper("a prior that has seen no label")
def test_refuses_a_prior_trained_with_labels():
    with pytest.raises(UserError, match="trained with 8 labels") as error:
        linear_probe(FakePrior(8), FakeTokenizer(), data(20, 0), data(10, 1))
    assert "\n" not in str(error.value)


OLD = {"recipe": {"loss": {"perceptual": 0.1}}}  # from before `labels_seen`


@pytest.mark.parametrize("card", [OLD, {"labels_seen": "a perceptual loss"}])
@pytest.mark.paper("no perceptual loss behind codes that are probed")
def test_refuses_a_tokenizer_that_labels_have_touched(card):
    tokenizer = FakeTokenizer()
    tokenizer.card = weights.Card("tok", card)
    with pytest.raises(UserError, match="tok has seen labels through a perceptual"):
        linear_probe(FakePrior(), tokenizer, data(20, 0), data(10, 1))
