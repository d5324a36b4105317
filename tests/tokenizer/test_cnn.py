"""The CNN baseline: shapes, order of tokens, ranges, gradients, closed forms."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx

from minivim import weights
from minivim.config import CNNConfig, TokenizerRecipe
from minivim.describe import build_abstract, count_parameters
from minivim.errors import UserError
from minivim.tokenizer import Tokenizer
from minivim.tokenizer.cnn import CNNDecoder, CNNEncoder, Double, Halve
from minivim.tokenizer.vit import Decoder, Encoder
from tests import tiny

IMAGES = jnp.asarray(tiny.images(4), jnp.float32) / 255
# Two sizes compile in less time than three.
SIZE = replace(tiny.CNN, channels=6, multipliers=(1, 2))
ENCODER = {"patch_size": 2, "encoder": SIZE}
DECODER = {"patch_size": 2, "decoder": SIZE}
BOTH = ENCODER | DECODER


@pytest.fixture(scope="module")
def tok():
    return tiny.tokenizer(**BOTH)


def test_shapes(tok):
    recon, aux = tiny.call(tok, IMAGES)
    assert recon.shape == aux["mean"].shape == IMAGES.shape
    assert aux["features"].shape == (4, 16, 12)
    codes = tok.encode(IMAGES)
    np.testing.assert_array_equal(codes, aux["codes"])
    np.testing.assert_allclose(tok.decode(codes), recon, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [(ENCODER, (CNNEncoder, Decoder)), (DECODER, (Encoder, CNNDecoder))],
)
def test_networks_may_be_of_different_kinds(changes, kinds):
    model = tiny.tokenizer(**changes, output="laplace")
    assert (type(model.encoder), type(model.decoder)) == kinds
    recon, aux = nnx.eval_shape(lambda model: model(IMAGES), model)
    assert recon.shape == aux["log_scale"].shape == IMAGES.shape


@pytest.mark.paper("VQGAN's convolutional networks as rivals")
def test_layers_follow_vqgan():
    """Attention at the smallest size only, one block more at every size to decode."""
    size = replace(tiny.CNN, multipliers=(1, 2, 2), res_blocks=2)
    model = nnx.eval_shape(
        lambda: Tokenizer(
            replace(tiny.TOKENIZER, encoder=size, decoder=size), rngs=nnx.Rngs(0)
        )
    )
    letters = {"ResidualBlock": "R", "SpatialAttention": "A"}
    encoder, decoder = (
        "".join(letters.get(type(layer).__name__, "|") for layer in side.layers)
        for side in (model.encoder, model.decoder)
    )
    assert encoder == "RR|RR|RARA" + "RAR"
    assert decoder == "RAR" + "RARARA|RRR|RRR"


def test_tanh_and_positions_leave_a_cnn_as_it_is():
    changed = tiny.tokenizer(**BOTH, tanh="blocks", positions="sincos")
    plain = tiny.tokenizer(**BOTH)
    tiny.assert_same(nnx.state(changed), nnx.state(plain))


# --- order -------------------------------------------------------------------------


def local(module):
    """A copy that mixes places through norms and a faint attention only."""
    copy = nnx.clone(module)
    for layer in (copy.stem, copy.out.conv, *copy.layers):
        for part in ("kernel", "first", "second", "conv", "out"):
            found = getattr(layer, part, None)
            kernel = getattr(found, "kernel", found)
            if kernel is None:
                continue
            if kernel.shape[0] == 3:
                centre = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1)
                kernel[...] = kernel[...] * centre
            else:
                kernel[...] = 0.01 * kernel[...]
    return copy


def cut(images):
    return rearrange(images, "b (h p) (w q) c -> b (h w) (p q c)", p=2, q=2)


def places(change) -> list[int]:
    """Where each of 16 changes is largest."""
    return jnp.argmax(jnp.linalg.norm(change, axis=-1), axis=1).tolist()


def test_tokens_are_in_raster_order(tok):
    rows = np.tile(cut(np.asarray(IMAGES[:1])), (17, 1, 1))
    rows[np.arange(1, 17), np.arange(16)] = 1
    images = rearrange(rows, "b (h w) (p q c) -> b (h p) (w q) c", h=4, p=2, q=2)
    features = tiny.call(local(tok.encoder), jnp.asarray(images))
    change = features[1:] - features[0]
    assert places(change) == list(range(16))
    by_columns = rearrange(change, "b (h w) d -> b (w h) d", h=4)
    assert places(by_columns) != list(range(16))


def test_decoder_takes_raster_order(tok):
    rows = np.random.default_rng(0).normal(size=(1, 16, 12)).astype(np.float32)
    rows = np.tile(rows, (17, 1, 1))
    rows[np.arange(1, 17), np.arange(16)] *= -1
    mean = cut(tiny.call(local(tok.decoder), jnp.asarray(rows))[1]["mean"])
    assert places(mean[1:] - mean[0]) == list(range(16))


def test_halving_and_doubling_keep_places():
    """Halving: the window begins at the kept position; doubling: squares of four."""
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    half, double = Halve(1, rngs=nnx.Rngs(0)), Double(1, rngs=nnx.Rngs(0))
    half.conv.kernel[...] = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1)
    np.testing.assert_array_equal(half(x)[0, ..., 0], [[0, 2], [8, 10]])
    double.conv.kernel[...] = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1)
    want = np.kron(np.arange(16).reshape(4, 4), np.ones((2, 2)))
    np.testing.assert_array_equal(double(x)[0, ..., 0], want)


# --- ranges and gradients ----------------------------------------------------------


@pytest.mark.parametrize(("output", "inside"), [("sigmoid", True), ("linear", False)])
def test_pixels_lie_between_zero_and_one(output, inside):
    decoder = tiny.tokenizer(**BOTH, output=output).decoder
    decoder.out.conv.kernel[...] *= 1e3
    rows = np.random.default_rng(0).normal(size=(1, 16, 12)).astype(np.float32)
    recon = np.asarray(tiny.call(decoder, jnp.asarray(rows))[0])
    assert recon.min() < 0.01 and recon.max() > 0.99
    assert bool(recon.min() >= 0 and recon.max() <= 1) is inside


def untrained(model, spoil=lambda model: None) -> list[str]:
    """Parameters without a gradient."""

    def loss(model):
        spoil(model)
        out = model(IMAGES)
        if not isinstance(out, tuple):
            return jnp.mean(out**2)
        return jnp.mean((out[0] - IMAGES) ** 2) + out[1]["vq_loss"]

    found = tiny.gradients(loss, model)
    return [name for name, grad in found.items() if np.abs(grad).max() < 1e-9]


def test_gradient_reaches_every_parameter(tok):
    assert untrained(tok) == []


def test_a_part_that_never_trains_is_noticed():
    def stopped(encoder):
        kernel = encoder.layers[1].qkv.kernel
        kernel[...] = jax.lax.stop_gradient(kernel[...])

    size = replace(SIZE, multipliers=(1,))
    encoder = tiny.tokenizer(patch_size=1, encoder=size).encoder
    assert untrained(encoder, stopped) == ["layers.1.qkv.kernel"]


# --- sizes and files --------------------------------------------------------


def test_the_size_that_equals_the_shapes_tokenizer():
    from minivim.recipes import shapes_tokenizer

    recipe: TokenizerRecipe = shapes_tokenizer()
    size = CNNConfig(channels=16, multipliers=(1, 2, 4), groups=4)
    cnn = replace(recipe.model, encoder=size, decoder=size)
    counted = count_parameters(build_abstract(replace(recipe, model=cnn)))
    assert counted == pytest.approx(recipe.model.parameters, rel=0.03)


def test_weights_round_trip(tok, tmp_path):
    weights.save(tmp_path, tok, card={})
    loaded = weights.load(tmp_path)
    assert loaded.config == tok.config
    tiny.assert_same(nnx.state(loaded, nnx.Param), nnx.state(tok, nnx.Param))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 3}, "groups=3 does not divide channels=4"),
        ({"multipliers": (1, 2)}, "patches of 2, but patch_size=4"),
        ({"multipliers": ()}, "set multipliers=1,1,2,4"),
        ({"res_blocks": 0}, "res_blocks=0 must be above zero"),
        ({"attention": (-1,)}, "must not be negative; set attention=0"),
        ({"attention": (2, 3)}, "names a size that is not there; use numbers below 3"),
    ],
)
def test_an_impossible_size_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        replace(tiny.TOKENIZER, encoder=replace(tiny.CNN, **changes))
