"""LPIPS against the lpips package, from the same random VGG and its real heads."""

import jax
import numpy as np
import pytest
from flax import nnx

from minivim.metrics import lpips_per_image
from minivim.tokenizer import perceptual
from minivim.tokenizer.perceptual import LPIPS
from minivim_lab.convert import VGG16_CONVS, lpips_from_torch, read_state_dict

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
# Even and odd sides; the second ends in maps of 2 x 3, the last in 1 x 1.
SIZES = [(64, 64), (37, 53), (16, 16)]


@pytest.fixture(scope="module")
def twin(torchvision):
    """The package's network, biases random too, for torchvision starts them at 0."""
    # Before the network is made: its weights would else depend on the tests before.
    torch.manual_seed(0)
    net = pytest.importorskip("lpips").LPIPS(net="vgg", pnet_rand=True, verbose=False)
    for name, value in net.net.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(value, std=0.1)
    return net


def state_dicts(twin) -> tuple[dict, dict]:
    """Of torchvision's VGG16, with its unused classifier, and of the heads."""
    vgg = {
        "features." + name.split(".", 1)[1]: value
        for name, value in twin.net.state_dict().items()
    }
    heads = {k: v for k, v in twin.state_dict().items() if k.startswith("lin")}
    return vgg | {"classifier.0.weight": torch.zeros(2, 2)}, heads


@pytest.fixture(scope="module")
def ours(twin, tmp_path_factory) -> LPIPS:
    """Converted by way of files, as a user would."""
    folder, found = tmp_path_factory.mktemp("lpips"), []
    for i, tensors in enumerate(state_dicts(twin)):
        torch.save(tensors, folder / f"{i}.pth")
        found.append(read_state_dict(folder / f"{i}.pth"))
    return lpips_from_torch(*found)


def pair(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    x = RNG.random((2, *size, 3), dtype=np.float32)
    noise = 0.2 * RNG.standard_normal(x.shape, dtype=np.float32)
    return x, np.clip(x + noise, 0, 1)


def value_and_slope(net: LPIPS, x, y):
    graph, state = nnx.split(net)

    @jax.jit
    def compiled(state, x, y):
        def total(x):
            each = nnx.merge(graph, state)(recon=x, target=y)
            return each.sum(), each

        slope, each = jax.grad(total, has_aux=True)(x)
        return each, slope

    with jax.default_matmul_precision("highest"):
        return compiled(state, x, y)


def theirs(twin, x, y):
    """Values and slope, for images [B, C, H, W] in [-1, 1] there."""
    x, y = (torch.tensor(images).permute(0, 3, 1, 2) for images in (x, y))
    x.requires_grad_()
    each = twin(2 * x - 1, 2 * y - 1).ravel()
    each.sum().backward()
    return each.detach().numpy(), x.grad.permute(0, 2, 3, 1).numpy()


def off(found, want) -> float:
    return float(np.abs(np.asarray(found) - want).max() / np.abs(want).max())


@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradients(twin, ours, size):
    """The slope has kinks: where a ReLU or the larger of two lies within rounding of
    one, either side is right. So all values must agree, and the slopes of one pair in
    four; a wrong slope agrees for none."""
    apart = []
    for _ in range(4):
        x, y = pair(size)
        each, slope = value_and_slope(ours, x, y)
        want, want_slope = theirs(twin, x, y)
        assert want.min() > 1e-2
        np.testing.assert_allclose(each, want, rtol=1e-5)
        apart.append(off(slope, want_slope))
    assert min(apart) < 1e-4, apart


def test_the_metric_is_the_same_distance(twin, ours):
    x, y = pair((32, 32))
    want, _ = theirs(twin, x, y)
    np.testing.assert_allclose(lpips_per_image(ours, y, x), want, rtol=1e-5)


def test_images_that_are_not_normalised_would_be_noticed(twin, ours, monkeypatch):
    x, y = pair((16, 16))
    monkeypatch.setattr(perceptual, "normalised", lambda images: images)
    assert off(value_and_slope(ours, x, y)[0], theirs(twin, x, y)[0]) > 1e-2


def test_torchvision_names_its_convolutions_so(torchvision):
    vgg = torchvision.models.vgg16(weights=None).features.state_dict()
    convs = [int(k.split(".")[0]) for k in vgg if k.endswith("weight")]
    assert tuple(convs) == VGG16_CONVS
