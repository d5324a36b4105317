"""Weights in the layout of the public PyTorch ViT-VQGAN: the same codes and pictures.

The network below is that architecture written again from its facts.
"""

from dataclasses import replace

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from minivim import weights
from minivim.errors import UserError
from minivim.tokenizer.perceptual import PerceptualConfig
from minivim.tokenizer.vit import sincos_positions
from minivim_lab import convert
from minivim_lab.convert import (
    VGG16_CONVS,
    lpips_from_torch,
    read_state_dict,
    tokenizer_from_torch,
)
from tests import tiny

WIDTH, HIDDEN, PATCH, SIDE, CODES, CODE_DIM = 128, 96, 4, 16, 40, 8
DEPTH = {"encoder": 2, "decoder": 3}
IMAGES = tiny.images(6, size=SIDE).astype(np.float32) / 255


def random_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of every part by the names of that layout."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int, around: float = 0.0) -> torch.Tensor:
        scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.2
        return torch.from_numpy(
            (around + scale * rng.normal(size=shape)).astype(np.float32)
        )

    grid = SIDE // PATCH
    table = torch.from_numpy(sincos_positions(grid, WIDTH))[None]
    embed = 2 * draw(WIDTH, 3, PATCH, PATCH)
    state = {
        "encoder.to_patch_embedding.0.weight": embed,
        # Grey is about zero, so that the codes of noise differ.
        "encoder.to_patch_embedding.0.bias": draw(WIDTH) - embed.sum((1, 2, 3)) / 2,
        "encoder.en_pos_embedding": table,
        "decoder.de_pos_embedding": table.clone(),
        "decoder.to_pixel.1.weight": draw(WIDTH, 3, PATCH, PATCH) / 8,
        "decoder.to_pixel.1.bias": draw(3),
        "quantizer.embedding.weight": draw(CODES, CODE_DIM),
        "pre_quant.weight": draw(CODE_DIM, WIDTH),
        "pre_quant.bias": draw(CODE_DIM),
        "post_quant.weight": draw(WIDTH, CODE_DIM),
        "post_quant.bias": draw(WIDTH),
        # What a training checkpoint holds besides.
        "loss.discriminator.conv.weight": draw(3, 3),
    }
    for side, depth in DEPTH.items():
        state[f"{side}.transformer.norm.weight"] = draw(WIDTH, around=1.0)
        state[f"{side}.transformer.norm.bias"] = draw(WIDTH)
        for i in range(depth):
            name = f"{side}.transformer.layers.{i}"
            state |= {
                f"{name}.0.norm.weight": draw(WIDTH, around=1.0),
                f"{name}.0.norm.bias": draw(WIDTH),
                f"{name}.0.fn.to_qkv.weight": draw(3 * WIDTH, WIDTH),
                f"{name}.0.fn.to_out.weight": draw(WIDTH, WIDTH),
                f"{name}.0.fn.to_out.bias": draw(WIDTH),
                f"{name}.1.norm.weight": draw(WIDTH, around=1.0),
                f"{name}.1.norm.bias": draw(WIDTH),
                f"{name}.1.fn.net.0.weight": draw(HIDDEN, WIDTH),
                f"{name}.1.fn.net.0.bias": draw(HIDDEN),
                f"{name}.1.fn.net.2.weight": draw(WIDTH, HIDDEN),
                f"{name}.1.fn.net.2.bias": draw(WIDTH),
            }
    return state


def blocks(state: dict, side: str, x: torch.Tensor) -> torch.Tensor:
    """The stack of one side and its final norm."""

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.layer_norm(x, (WIDTH,), weight, bias)

    for i in range(DEPTH[side]):
        name = f"{side}.transformer.layers.{i}"
        attention = nn.MultiheadAttention(WIDTH, WIDTH // 64, batch_first=True)
        attention.in_proj_weight.copy_(state[f"{name}.0.fn.to_qkv.weight"])
        attention.in_proj_bias.zero_()
        attention.out_proj.weight.copy_(state[f"{name}.0.fn.to_out.weight"])
        attention.out_proj.bias.copy_(state[f"{name}.0.fn.to_out.bias"])
        y = norm(f"{name}.0.norm", x)
        x = x + attention(y, y, y, need_weights=False)[0]
        up, down = (
            (state[f"{name}.1.fn.net.{j}.weight"], state[f"{name}.1.fn.net.{j}.bias"])
            for j in (0, 2)
        )
        x = x + F.linear(torch.tanh(F.linear(norm(f"{name}.1.norm", x), *up)), *down)
    return norm(f"{side}.transformer.norm", x)


@torch.no_grad()
def twin(state: dict, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes [B, N] and unclipped reconstructions [B, H, W, C] of that architecture."""

    def layer(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    x = F.conv2d(pixels, *layer("encoder.to_patch_embedding.0"), stride=PATCH)
    x = x.flatten(2).transpose(1, 2) + state["encoder.en_pos_embedding"]
    z = F.normalize(F.linear(blocks(state, "encoder", x), *layer("pre_quant")), dim=-1)
    book = F.normalize(state["quantizer.embedding.weight"], dim=-1)
    codes = torch.cdist(z, book[None]).argmin(-1)
    x = F.linear(book[codes], *layer("post_quant")) + state["decoder.de_pos_embedding"]
    x = blocks(state, "decoder", x).transpose(1, 2)
    x = x.unflatten(2, (SIDE // PATCH, -1))
    x = F.conv_transpose2d(x, *layer("decoder.to_pixel.1"), stride=PATCH)
    return codes.numpy(), x.permute(0, 2, 3, 1).numpy()


def arrays(state: dict) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in state.items()}


def differences(state: dict) -> tuple[int, float]:
    """How many codes differ, and the largest difference of a pixel."""
    codes, recon = twin(state, IMAGES)
    ours, aux = tiny.call(tokenizer_from_torch(arrays(state)), IMAGES)
    return int((codes != aux["codes"]).sum()), float(np.abs(recon - ours).max())


def test_codes_are_identical_and_pixels_agree():
    state = random_state()
    codes, recon = twin(state, IMAGES)
    assert np.unique(codes).size > 10
    assert recon.std() > 0.1 and recon.min() < 0 < recon.max()
    wrong, error = differences(state)
    assert wrong == 0
    assert error < 1e-4
    model = tokenizer_from_torch(arrays(state))
    np.testing.assert_array_equal(model.encode(IMAGES), codes)
    np.testing.assert_allclose(model.decode(codes), recon.clip(0, 1), atol=1e-4)


def test_the_names_until_july_2022_are_known():
    state = arrays(random_state())
    older = {
        name.replace(".transformer.norm.", ".norm.").replace(
            "pixel.1", "pixel.conv_out"
        ): x
        for name, x in state.items()
    }
    assert len(older.keys() - state.keys()) == 6
    now, before = (
        weights.flat_weights(tokenizer_from_torch(s)) for s in (state, older)
    )
    tiny.assert_same(now, before)


def test_sizes_are_read_from_the_shapes():
    config = tokenizer_from_torch(arrays(random_state())).config
    assert (config.image_size, config.patch_size, config.channels) == (SIDE, PATCH, 3)
    assert (config.encoder.blocks, config.decoder.blocks) == (2, 3)
    assert (config.encoder.width, config.encoder.heads) == (WIDTH, WIDTH // 64)
    assert config.encoder.hidden == HIDDEN
    assert (config.quantizer.num_codes, config.quantizer.code_dim) == (CODES, CODE_DIM)
    assert config.quantizer.straight_through == "raw"


def unhalved(weights, config):
    """The encoder's 2 x - 1 forgotten."""
    weights["encoder.embed.kernel"] = 2 * weights["encoder.embed.kernel"]
    return config


def flipped(weights, config):
    """The kernel turned, as a general transposed convolution needs it."""
    kernel = weights["decoder.head.kernel"].reshape(WIDTH, PATCH, PATCH, 3)
    weights["decoder.head.kernel"] = kernel[:, ::-1, ::-1].reshape(WIDTH, -1)
    return config


def channels_first(weights, config):
    """The rows of a patch in the order of the file."""
    kernel = weights["decoder.head.kernel"].reshape(WIDTH, PATCH * PATCH, 3)
    weights["decoder.head.kernel"] = kernel.swapaxes(1, 2).reshape(WIDTH, -1)
    return config


def other_heads(weights, config):
    """Heads of 32."""
    return replace(config, decoder=replace(config.decoder, heads=WIDTH // 32))


def other_eps(weights, config):
    """LayerNorm eps of another order."""
    return replace(config, decoder=replace(config.decoder, norm_eps=1e-2))


def unnormalised(weights, config):
    """Codes as long as they are."""
    quantizer = replace(config.quantizer, l2_normalise=False)
    return replace(config, quantizer=quantizer)


@pytest.mark.parametrize(
    "mistake",
    [unhalved, flipped, channels_first, other_heads, other_eps, unnormalised],
    ids=lambda mistake: mistake.__name__,
)
def test_a_mistake_in_a_detail_is_caught(mistake, monkeypatch):
    vit = convert._vit

    def wrongly(*args):
        config, ours = vit(*args)
        return mistake(ours, config), ours

    monkeypatch.setattr(convert, "_vit", wrongly)
    codes, error = differences(random_state())
    assert codes or error > 1e-3


# --- what cannot be converted --------------------------------------------------------


def removed(state):
    del state["decoder.transformer.layers.1.0.norm.bias"]


def added(state):
    state["ema.encoder.norm.weight"] = torch.ones(3)


def reshaped(state):
    state["pre_quant.weight"] = state["pre_quant.weight"].T


def wide(state):
    """Heads that do not fill the width, as in the models of width 1280."""
    for name in list(state):
        if name.endswith("to_qkv.weight"):
            state[name] = state[name][: 3 * 64]


def columns_first(state):
    first, second = state["encoder.en_pos_embedding"].chunk(2, dim=-1)
    state["encoder.en_pos_embedding"] = torch.cat([second, first], dim=-1)


def unlike(state):
    state["decoder.de_pos_embedding"] = torch.from_numpy(sincos_positions(2, WIDTH))[
        None
    ]


def oblong(state):
    state["encoder.en_pos_embedding"] = state["encoder.en_pos_embedding"][:, :15]


def no_blocks(state):
    for name in list(state):
        if name.startswith("encoder.transformer"):
            del state[name]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (removed, "no 'decoder.transformer.layers.1.0.norm.bias'.*save it again"),
        (added, "1 weights have no place here, such as 'ema.encoder.norm.weight'"),
        (reshaped, "'pre_quant.weight' has shape 128x8, not 8x128.*save it again"),
        (wide, "attention of width 64 in a model of width 128.*512 and 768"),
        (columns_first, "encoder.en_pos_embedding differs from the sin-cos table"),
        (oblong, "encoder.en_pos_embedding differs from the sin-cos table of a square"),
        (unlike, "decoder.de_pos_embedding' has shape 1x4x128, not 1x16x"),
        (no_blocks, "no 'encoder.transformer.layers.0.0.fn.to_qkv.weight' among"),
        (dict.clear, "'no encoder' is in no known layout; known are vit-vqgan"),
    ],
)
def test_other_states_are_refused_in_one_line(change, words):
    state = random_state()
    change(state)
    with pytest.raises(UserError, match=words) as caught:
        tokenizer_from_torch(arrays(state))
    assert "\n" not in str(caught.value)


# --- files ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["safetensors", "torch", "lightning", "half", "bf16"])
def test_files_that_can_be_read(kind, tmp_path):
    state, path = random_state(), tmp_path / "weights.ckpt"
    tolerance = 0.0
    if kind == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(state, path)
    elif kind == "bf16":
        path, tolerance = path.with_suffix(".safetensors"), 1e-2
        save_file({k: v.bfloat16() for k, v in state.items()}, path)
    elif kind == "half":
        tolerance = 1e-3
        torch.save({k: v.half() for k, v in state.items()}, path)
    else:
        whole = {"state_dict": state, "epoch": 3, "callbacks": {}}
        torch.save(whole if kind == "lightning" else state, path)
    found = read_state_dict(path)
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance)


class Anything:
    """What a checkpoint should not hold."""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": {"a": torch.ones(1)}, "hparams": Anything()}, "save it again"),
        ({"a": 1}, "not arrays by name; save it again"),
        ([torch.ones(1)], "no arrays by name.*save it again"),
    ],
    ids=["pickled", "numbers", "list"],
)
def test_files_with_other_things_are_refused(content, words, tmp_path):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=words):
        read_state_dict(tmp_path / "weights.pt")


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_damaged_and_missing_files_are_refused(name, tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        read_state_dict(tmp_path / name)
    for content in (b"", b"nothing of the kind"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"fetch it again|save it again"):
            read_state_dict(tmp_path / name)


def test_without_torch_the_extra_is_named(tmp_path, monkeypatch):
    torch.save({"a": torch.ones(1)}, tmp_path / "weights.pt")
    monkeypatch.setattr(
        convert.importlib.util, "find_spec", lambda name: None if name == "torch" else 1
    )
    with pytest.raises(UserError, match=r"pip install -e '\.\[convert\]'"):
        read_state_dict(tmp_path / "weights.pt")


# --- LPIPS -----------------------------------------------------------------------


def vgg_and_heads() -> tuple[dict, dict]:
    """Tensors of the real names and shapes, all zero, with keys that are not ours."""
    config, vgg = PerceptualConfig(), {"classifier.0.weight": np.zeros((2, 2))}
    widths = [
        w for w, n in zip(config.widths, config.convs, strict=True) for _ in range(n)
    ]
    for n, a, b in zip(VGG16_CONVS, [3, *widths], widths, strict=False):
        vgg[f"features.{n}.weight"] = np.broadcast_to(np.float32(n), (b, a, 3, 3))
        vgg[f"features.{n}.bias"] = np.zeros(b, np.float32)
    heads = {
        f"lin{i}.model.1.weight": np.full((1, w, 1, 1), i, np.float32)
        for i, w in enumerate(config.widths)
    }
    return vgg, heads | {"lins.0.model.1.weight": np.ones(1)}


def test_conversion_fills_every_leaf():
    net = lpips_from_torch(*vgg_and_heads())
    assert [float(c.kernel[0, 0, 0, 0]) for c in net.convs] == list(VGG16_CONVS)
    assert [float(h[0]) for h in net.heads] == [0, 1, 2, 3, 4]
    leaves = weights.flat_weights(net)
    assert sum(leaf.size for leaf in leaves.values()) == 14_714_688 + 1_472
    assert all(isinstance(leaf, jax.Array) for leaf in leaves.values())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("features.28.bias", None, "no 'features.28.bias'.*torchvision's vgg16"),
        ("features.0.weight", np.zeros((8, 3, 3, 3)), "shape 8x3x3x3, not"),
        ("lin4.model.1.weight", None, "no 'lin4.*v0.1/vgg.pth"),
        ("lin1.model.1.weight", np.zeros((1, 192, 1, 1)), "192.*v0.1/vgg.pth"),
        ("lin1.model.1.weight", np.full((1, 128, 1, 1), -1.0), "negative somewhere"),
    ],
)
def test_files_of_another_network_are_refused(name, value, message):
    vgg, heads = vgg_and_heads()
    part = vgg if name in vgg else heads
    part[name] = value
    if value is None:
        del part[name]
    with pytest.raises(UserError, match=message):
        lpips_from_torch(vgg, heads)
