"""ViT-VQGAN as a whole: shapes, order of tokens, positions, heads, ranges."""

import inspect
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from minivim.config import LossConfig
from minivim.errors import UserError
from minivim.tokenizer import Tokenizer, tokenizer_loss
from minivim.tokenizer.losses import l1_loss, l2_loss, total_loss
from minivim.tokenizer.vit import TanhHead, sincos_positions
from minivim.transformer import patchify, unpatchify
from tests import tiny

IMAGES = jnp.asarray(tiny.images(4), jnp.float32) / 255


@pytest.fixture(scope="module")
def tok():
    return tiny.tokenizer()


@pytest.mark.paper("the encoder, Transformer blocks over patches")
def test_shapes(tok):
    recon, aux = tiny.call(tok, IMAGES)
    assert recon.shape == IMAGES.shape
    assert recon.dtype == jnp.float32
    assert aux["codes"].shape == (4, 4)
    assert aux["z_e"].shape == aux["z_q"].shape == (4, 4, 4)
    assert aux["features"].shape == (4, 4, 16)
    codes = tok.encode(IMAGES)
    assert codes.dtype == jnp.int32
    np.testing.assert_array_equal(codes, aux["codes"])
    np.testing.assert_allclose(tok.decode(codes), recon, atol=1e-5)
    np.testing.assert_array_equal(tok.reconstruct(IMAGES), tok.decode(codes))


@pytest.mark.paper("the decoder, the same in reverse")
def test_encoder_and_decoder_may_differ():
    sizes = replace(tiny.STACK, width=32, heads=4, blocks=3)
    recon, aux = tiny.call(tiny.tokenizer(decoder=sizes), IMAGES)
    assert recon.shape == IMAGES.shape
    assert aux["features"].shape == (4, 4, 16)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 2))
@pytest.mark.paper("an image as a row of patches, in raster order")
def test_unpatchify_inverts_patchify(grid, patch, channels, batch):
    shape = (batch, grid * patch, grid * patch, channels)
    images = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    # In NumPy, for compiling a program for each size would take a minute.
    rows = inspect.unwrap(patchify)(images, patch)
    assert rows.shape == (batch, grid * grid, patch * patch * channels)
    back = inspect.unwrap(unpatchify)(rows, grid=grid, patch=patch)
    np.testing.assert_array_equal(back, images)


@pytest.mark.paper("an image as a row of patches, in raster order")
def test_tokens_are_in_raster_order():
    marked = jnp.zeros((1, 8, 8, 3)).at[0, :4, 4:].set(1)  # the upper right patch
    np.testing.assert_array_equal(patchify(marked, 4).sum(-1), [[0, 48, 0, 0]])


@pytest.mark.paper("a sigmoid on the mean, no other last activation")
def test_pixels_lie_between_zero_and_one(tok):
    big = nnx.clone(tok)
    big.decoder.head.out.kernel[...] *= 1e3
    decoded = np.asarray(big.decode(jnp.arange(24).reshape(6, 4)))
    assert 0 <= decoded.min() < 0.01
    assert 0.99 < decoded.max() <= 1


def test_linear_output_is_clipped_by_decode_only():
    linear = tiny.tokenizer(output="linear")
    linear.decoder.head.out.bias[...] += 2
    codes = linear.encode(IMAGES)
    decoded = np.asarray(linear.decode(codes))
    assert decoded.max() <= 1
    assert np.asarray(tiny.call(linear, IMAGES)[0]).max() > 1


@pytest.mark.parametrize("side", ["encoder", "decoder"])
@pytest.mark.paper("one more LayerNorm after the last block")
def test_both_stacks_end_with_a_layer_norm(tok, side):
    changed = nnx.clone(tok)
    norm = getattr(changed, side).stack.norm
    assert isinstance(norm, nnx.LayerNorm)
    norm.scale[...] = norm.scale[...] * 2
    before, after = tiny.call(tok, IMAGES), tiny.call(changed, IMAGES)
    if side == "encoder":
        before, after = (result[1]["features"] for result in (before, after))
    else:
        before, after = before[0], after[0]
    assert float(jnp.abs(before - after).max()) > 1e-3


def moved(model: Tokenizer, codes: jax.Array) -> float:
    """How much more than the patches moves when two tokens change places."""
    order = jnp.array([1, 0, 2, 3])
    plain = patchify(model.decode(codes), 4)[:, order]
    swapped = patchify(model.decode(codes[:, order]), 4)
    return float(jnp.abs(plain - swapped).max())


@pytest.mark.paper("positions in stage 1, learnt or fixed")
def test_decoder_uses_positions(tok):
    codes = jnp.arange(12).reshape(3, 4)
    assert moved(tok, codes) > 1e-3
    without = nnx.clone(tok)
    without.decoder.positions.table[...] *= 0
    assert moved(without, codes) < 1e-5


@pytest.mark.parametrize("kind", ["learnt", "sincos"])
@pytest.mark.paper("positions in stage 1, learnt or fixed")
def test_encoder_uses_positions(kind):
    same = jnp.ones((1, 8, 8, 3)) * 0.3  # every patch alike
    features = tiny.call(tiny.tokenizer(positions=kind), same)[1]["features"]
    assert float(jnp.abs(features[:, 0] - features[:, 3]).max()) > 1e-3


@pytest.mark.paper("positions in stage 1, learnt or fixed")
def test_sincos_table():
    table = sincos_positions(3, 8)  # [sin x, cos x, sin y, cos y] of 2 frequencies
    assert table.shape == (9, 8)
    np.testing.assert_allclose(table[0], [0, 0, 1, 1, 0, 0, 1, 1], atol=1e-7)
    x, y = 2.0, 1.0  # token 5 is row 1, column 2
    expected = [
        np.sin(x), np.sin(x / 100), np.cos(x), np.cos(x / 100),
        np.sin(y), np.sin(y / 100), np.cos(y), np.cos(y / 100),
    ]  # fmt: skip
    np.testing.assert_allclose(table[5], expected, atol=1e-6)
    assert len(np.unique(table.round(5), axis=0)) == 9


def test_sincos_has_no_position_parameters():
    names = dict(nnx.to_flat_state(nnx.state(tiny.tokenizer(positions="sincos"))))
    assert not [name for name in names if "positions" in name]


@pytest.mark.paper("tanh in a head, or inside every block")
def test_tanh_sits_in_the_head_or_in_the_blocks():
    head, blocks = tiny.tokenizer(tanh="head"), tiny.tokenizer(tanh="blocks")
    assert isinstance(head.encoder.head, TanhHead)
    assert isinstance(head.decoder.head, TanhHead)
    assert head.config.encoder.activation == "gelu"
    assert blocks.encoder.head is None
    assert isinstance(blocks.decoder.head, nnx.Linear)
    assert blocks.config.encoder.activation == "tanh"
    assert blocks.config.decoder.activation == "tanh"


@pytest.mark.paper("a two-layer tanh network at the output of the blocks")
def test_tanh_head_saturates():
    head = TanhHead(4, 6, 5, rngs=nnx.Rngs(0))
    x = 1e4 * jnp.ones((1, 2, 4))
    np.testing.assert_allclose(head(x), head(10 * x), atol=1e-5)
    assert float(jnp.abs(head(x)).max()) < 10


@pytest.mark.parametrize("shape", [(2, 16, 16, 3), (2, 8, 8, 1)])
def test_images_of_another_shape_are_refused(tok, shape):
    with pytest.raises(UserError, match=r"convert them to \[B, 8, 8, 3\]"):
        tok.encode(jnp.zeros(shape))


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_uint8_pixels_are_divided_by_255(tok, kind):
    """As everywhere else; they were taken for numbers from 0 to 255."""
    pixels = tiny.images(4)
    np.testing.assert_array_equal(tok.encode(kind(pixels)), tok.encode(IMAGES))
    np.testing.assert_array_equal(
        tok.reconstruct(kind(pixels)), tok.reconstruct(IMAGES)
    )


def test_other_whole_numbers_are_no_pixels(tok):
    for kind in (np.int64, np.int32, bool):
        with pytest.raises(UserError, match="divide by the largest possible value"):
            tok.encode(tiny.images(2).astype(kind))


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_codes_that_do_not_exist_are_refused(tok, kind):
    codes = np.array([[0, 1, 2, 23]])
    assert tok.decode(kind(codes)).shape == (1, 8, 8, 3)
    for wrong in (-1, 24, 999):
        with pytest.raises(UserError, match=f"code {wrong} is out of range.* 0 to 23"):
            tok.decode(kind(np.where(codes == 2, wrong, codes)))
    with pytest.raises(UserError, match="whole numbers from 0 to 23"):
        tok.decode(kind(codes.astype(np.float32)))
    # What a compiled program is given it cannot look at.
    found = jax.jit(lambda x: tok.decode(x))(codes)
    np.testing.assert_allclose(found, tok.decode(codes), atol=1e-6)


def test_codes_of_another_length_are_refused(tok):
    with pytest.raises(UserError, match=r"\[B, 4\] in raster order"):
        tok.decode(jnp.zeros((2, 5), jnp.int32))


@pytest.mark.paper("the loss of stage 1 as a weighted sum")
def test_loss_is_the_weighted_sum_of_its_terms(tok):
    weights = LossConfig(vq=0.5, l2=2.0, l1=0.1)
    batch, key = {"image": IMAGES}, jax.random.key(0)
    loss, terms = nnx.jit(tokenizer_loss, static_argnames="weights")(
        tok, batch, weights=weights, key=key
    )
    expected = 0.5 * terms["vq"] + 2 * terms["l2"] + 0.1 * terms["l1"]
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    recon = tiny.call(tok, IMAGES)[0]
    assert float(terms["l2"]) == pytest.approx(
        float(jnp.mean((recon - IMAGES) ** 2)), rel=1e-5
    )


@pytest.mark.paper("the squared error of pixels")
def test_pixel_losses_are_means():
    recon, target = jnp.full((2, 4, 4, 3), 0.5), jnp.zeros((2, 4, 4, 3))
    assert float(l2_loss(recon=recon, target=target)) == pytest.approx(0.25)
    assert float(l1_loss(recon=recon, target=target)) == pytest.approx(0.5)


def test_a_zero_weight_leaves_a_term_out():
    terms = {"vq": jnp.float32(2), "l2": jnp.float32(3), "l1": jnp.float32(jnp.nan)}
    assert float(total_loss(LossConfig(vq=1.0, l2=1.0, l1=0.0), terms)) == 5
