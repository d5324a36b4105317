"""The network of FID against pytorch-fid's, from the same random weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minivim.errors import UserError
from minivim.metrics.judged import features_and_logits
from minivim_lab import inception
from minivim_lab.inception import inception_from_torch
from tests import tiny

torch = pytest.importorskip("torch")
# Smaller and larger than 299.
IMAGES = {
    "small": tiny.images(2, 32),
    "large": tiny.images(1, 340),
    "oblong": tiny.images(2, 50)[:, :37],
}


@pytest.fixture(scope="module")
def state(torchvision):
    """Random weights, of scales that keep the signal, and batch norms that matter."""
    module = pytest.importorskip("pytorch_fid.inception")
    rng = np.random.default_rng(0)
    drawn = {}

    def draw(name, like):
        shape = tuple(like.shape)
        if name.endswith("num_batches_tracked"):
            return like
        values = rng.standard_normal(shape, np.float32)
        if name.endswith("conv.weight"):
            values *= (2 / np.prod(shape[1:])) ** 0.5
        elif name.endswith("running_var"):
            values = rng.uniform(0.3, 3.0, shape).astype(np.float32)
        elif name.endswith("bn.weight"):
            values = 1.2 + 0.3 * values
        elif name == "fc.weight":
            values *= 0.05
        else:
            values *= 0.3
        return torch.from_numpy(values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *a, **k: drawn)
        make = module._inception_v3

        def filled(**options):
            made = make(**options)
            # The patched blocks have the names and shapes of those they replace.
            drawn.update({k: draw(k, v) for k, v in made.state_dict().items()})
            return made

        patch.setattr(module, "_inception_v3", filled)
        yield module.InceptionV3([3]).eval(), drawn


@pytest.fixture(scope="module")
def arrays(state) -> dict:
    return {name: value.numpy() for name, value in state[1].items()}


@torch.no_grad()
def theirs(twin, images) -> np.ndarray:
    pixels = torch.tensor(images).permute(0, 3, 1, 2) / 255
    return twin(pixels)[0].flatten(1).numpy()


def off(found, want) -> float:
    return float(np.abs(np.asarray(found) - want).max() / np.abs(want).max())


def test_features_and_logits(state, arrays, monkeypatch):
    images = tiny.images(2, 40)[:, :32]
    want = theirs(state[0], images)
    assert want.std() > 0.1 and (want > 0).mean() > 0.3
    features, logits = features_and_logits(inception_from_torch(arrays), images)
    assert off(features, want) < 1e-4
    # The head without its bias, which the first Inception Score left out.
    assert off(logits, want @ arrays["fc.weight"].T) < 1e-4
    assert logits.shape == (2, 1008)
    monkeypatch.setattr(inception, "NORM_EPS", 1e-5)
    wrong, _ = features_and_logits(inception_from_torch(arrays), images)
    assert off(wrong, want) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pool", "options"),
    [
        ("average", {"padding": "SAME"}),  # the margin's zeros count
        ("largest", None),  # an average, as in every other block
    ],
)
def test_other_pools_would_be_noticed(state, arrays, pool, options, monkeypatch):
    images = tiny.images(1, 32)
    other = inception.POOLS["average"]
    if options is not None:
        other = partial(nnx.avg_pool, window_shape=(3, 3), **options)
    monkeypatch.setitem(inception.POOLS, pool, other)
    scaled = jnp.asarray(images, jnp.float32) / 255
    # A function of its own, so that the program with the right pools is not taken.
    fresh = nnx.jit(lambda network, x: network(x)[1]["features"][-1])
    found = fresh(inception_from_torch(arrays), scaled).mean((1, 2))
    assert off(found, theirs(state[0], images)) > 1e-3


@pytest.mark.parametrize("kind", IMAGES)
def test_pixels(kind):
    images = jnp.asarray(IMAGES[kind], jnp.float32) / 255
    pixels = torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)
    want = torch.nn.functional.interpolate(
        pixels, size=(299, 299), mode="bilinear", align_corners=False
    )
    want = (2 * want - 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(inception.prepared(images), want, atol=2e-6)
    if kind == "large":
        smooth = jax.image.resize(images, want.shape, "bilinear", antialias=True)
        assert off(2 * smooth - 1, want) > 0.01


def test_grey_counts_thrice():
    grey = jnp.asarray(tiny.images(1, 32)[..., :1], jnp.float32) / 255
    want = inception.prepared(jnp.repeat(grey, 3, axis=-1))
    np.testing.assert_array_equal(inception.prepared(grey), want)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("Mixed_7c.branch3x3_2a.bn.running_var"),
         r"no 'Mixed_7c\.branch3x3_2a\.bn\.running_var' among.*pytorch-fid"),
        (lambda s: s.update({"fc.weight": s["fc.weight"][:1000]}),
         r"'fc\.weight' has shape 1000x2048, not 1008x2048.*pytorch-fid"),
    ],
)  # fmt: skip
def test_other_networks_are_refused(arrays, change, words):
    """Such as torchvision's own, of 1000 classes."""
    other = dict(arrays)
    change(other)
    with pytest.raises(UserError, match=words) as caught:
        inception_from_torch(other)
    assert "\n" not in str(caught.value)
