"""The CNN baseline's parts against torch.nn layers, put together by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minivim.tokenizer import cnn
from tests import tiny

torch = pytest.importorskip("torch")
F = torch.nn.functional

SIZE = replace(tiny.CNN, groups=2, norm_eps=1e-5)
X = np.random.default_rng(0).standard_normal((3, 6, 6, 8)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def exact_products():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with jax.default_matmul_precision("highest"), torch.no_grad():
        yield
    torch.set_num_threads(threads)


def built(part, *sizes):
    """A part with random weights, its norms and biases included."""
    arguments = sizes if part in (cnn.Halve, cnn.Double) else (SIZE, *sizes)
    return tiny.build(lambda _, *, rngs: part(*arguments, rngs=rngs), part)


def tensor(parameter) -> torch.Tensor:
    return torch.tensor(np.array(parameter[...]))


def conv(layer, x, **options):
    kernel, bias = tensor(layer.kernel), tensor(layer.bias)
    padding = options.pop("padding", kernel.shape[0] // 2)
    return F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=padding, **options)


def norm(layer, x):
    scale, bias = tensor(layer.scale), tensor(layer.bias)
    return F.group_norm(x, SIZE.groups, scale, bias, SIZE.norm_eps)


def residual(block, x):
    y = conv(block.first, F.silu(norm(block.first_norm, x)))
    y = conv(block.second, F.silu(norm(block.second_norm, y)))
    return y + (x if block.skip is None else conv(block.skip, x))


def spatial_attention(block, x, power=-0.5):
    q, k, v = conv(block.qkv, norm(block.norm, x)).flatten(2).chunk(3, dim=1)
    scores = torch.einsum("bcq,bct->bqt", q, k) * q.shape[1] ** power
    mixed = torch.einsum("bqt,bct->bcq", scores.softmax(-1), v).reshape(x.shape)
    return x + conv(block.out, mixed)


def halve(block, x):
    return conv(block.conv, F.pad(x, (0, 1, 0, 1)), padding=0, stride=2)


def double(block, x, mode="nearest"):
    return conv(block.conv, F.interpolate(x, scale_factor=2, mode=mode))


def output(block, x):
    return conv(block.conv, F.silu(norm(block.norm, x)))


def error(block, twin, x=X, **options) -> float:
    """Largest difference over the largest value."""
    want = twin(block, torch.tensor(x).permute(0, 3, 1, 2), **options)
    want = want.permute(0, 2, 3, 1).numpy()
    ours = np.asarray(tiny.call(block, jnp.asarray(x)))
    assert ours.shape == want.shape
    return float(np.abs(ours - want).max() / np.abs(want).max())


PARTS = {
    "residual": (cnn.ResidualBlock, (8, 8), residual),
    "residual, wider": (cnn.ResidualBlock, (8, 12), residual),
    "attention": (cnn.SpatialAttention, (8,), spatial_attention),
    "halve": (cnn.Halve, (8,), halve),
    "double": (cnn.Double, (8,), double),
    "output": (cnn.Output, (8, 5), output),
}


@pytest.mark.parametrize("name", PARTS)
def test_part(name):
    part, sizes, twin = PARTS[name]
    assert error(built(part, *sizes), twin) < 1e-5


def symmetric(block, x):
    return conv(block.conv, x, stride=2)


def first_normalised_only(block, x):
    y = conv(block.first, F.silu(norm(block.first_norm, x)))
    return x + conv(block.second, F.silu(y))


@pytest.mark.parametrize(
    ("name", "bug", "options"),
    [
        ("halve", symmetric, {}),
        ("double", double, {"mode": "bilinear"}),
        ("attention", spatial_attention, {"power": 0.0}),
        ("residual", first_normalised_only, {}),
    ],
)
def test_a_bug_would_be_seen(name, bug, options):
    part, sizes, _ = PARTS[name]
    assert error(built(part, *sizes), bug, **options) > 1e-2


def test_encoder_and_decoder():
    """Every layer in its order, images as 2 x - 1 and features in raster order."""
    twins = {part: twin for part, _, twin in PARTS.values()}
    size = replace(SIZE, multipliers=(1, 2))
    model = tiny.tokenizer(patch_size=2, encoder=size, decoder=size)
    images = tiny.images(2).astype(np.float32) / 255

    def walk(side, x):
        x = conv(side.stem, x)
        for layer in side.layers:
            x = twins[type(layer)](layer, x)
        return output(side.out, x)

    features = walk(model.encoder, 2 * torch.tensor(images).permute(0, 3, 1, 2) - 1)
    rows = features.flatten(2).mT
    ours = tiny.call(model.encoder, jnp.asarray(images))
    np.testing.assert_allclose(ours, rows, atol=1e-5 * float(rows.abs().max()))
    mean = walk(model.decoder, features).permute(0, 2, 3, 1)
    recon, aux = tiny.call(model.decoder, jnp.asarray(rows.numpy()))
    np.testing.assert_allclose(aux["mean"], mean, atol=1e-5 * float(mean.abs().max()))
    np.testing.assert_allclose(recon, mean.sigmoid(), atol=1e-4)
