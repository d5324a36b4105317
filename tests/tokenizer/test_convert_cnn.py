"""Weights in the layouts of VQGAN and LlamaGen: the same codes and pictures.

The networks below are those architectures written again from their facts.
"""

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from minivim import cli, data, weights
from minivim.config import CNNConfig
from minivim_lab import convert
from minivim_lab.convert import tokenizer_from_torch
from tests import tiny
from tests.tiny import message
from tests.tokenizer import test_convert

SIDE, CODES, CODE_DIM, FEATURES = 16, 40, 4, 24
IMAGES = tiny.images(6, size=SIDE).astype(np.float32) / 255
# Prefix of size i of n, its blocks, and the three layers of the middle.
NAMES = {
    "vqgan": {
        "encoder": lambda i, n: f"encoder.down.{i}",
        "decoder": lambda i, n: f"decoder.up.{i}",
        "block": "block",
        "middle": ("mid.block_1", "mid.attn_1", "mid.block_2"),
    },
    "llamagen": {
        "encoder": lambda i, n: f"encoder.conv_blocks.{i}",
        "decoder": lambda i, n: f"decoder.conv_blocks.{n - 1 - i}",
        "block": "res",
        "middle": ("mid.0", "mid.1", "mid.2"),
    },
}
LAYOUTS = list(NAMES)


class Twin:
    """That architecture; weights are drawn when a layer is run for the first time."""

    def __init__(self, layout, *, widths=(32, 64, 64), blocks=2, attention=(2,)):
        self.layout, self.names, self.widths = layout, NAMES[layout], widths
        self.blocks, self.attention = blocks, attention
        self.state, self.rng = {}, np.random.default_rng(0)
        self.draw("quantize.embedding.weight", CODES, CODE_DIM, scale=0.5)
        self(IMAGES)

    def draw(self, name, *shape, around=0.0, scale=None):
        if name not in self.state:
            scale = scale or (np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.2)
            value = around + scale * self.rng.normal(size=shape)
            self.state[name] = torch.tensor(value, dtype=torch.float32)
        return self.state[name]

    def conv(self, name, x, width, size=3, **how):
        weight = self.draw(f"{name}.weight", width, x.shape[1], size, size)
        how = how or {"padding": size // 2}
        return F.conv2d(x, weight, self.draw(f"{name}.bias", width), **how)

    def norm(self, name, x):
        weight = self.draw(f"{name}.weight", x.shape[1], around=1.0)
        return F.group_norm(x, 32, weight, self.draw(f"{name}.bias", x.shape[1]), 1e-6)

    def residual(self, name, x, width):
        y = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", x)), width)
        y = self.conv(f"{name}.conv2", F.silu(self.norm(f"{name}.norm2", y)), width)
        if x.shape[1] != width:
            x = self.conv(f"{name}.nin_shortcut", x, width, 1)
        return x + y

    def attend(self, name, x):
        y, width = self.norm(f"{name}.norm", x), x.shape[1]
        q, k, v = (
            self.conv(f"{name}.{part}", y, width, 1).flatten(2).mT for part in "qkv"
        )
        y = F.scaled_dot_product_attention(q, k, v).mT.reshape(x.shape)
        return x + self.conv(f"{name}.proj_out", y, width, 1)

    def size(self, side, i, x, blocks):
        name = self.names[side](i, len(self.widths))
        for j in range(blocks):
            x = self.residual(f"{name}.{self.names['block']}.{j}", x, self.widths[i])
            if i in self.attention:
                x = self.attend(f"{name}.attn.{j}", x)
        return name, x

    def middle(self, side, x):
        first, attention, last = (f"{side}.{name}" for name in self.names["middle"])
        x = self.residual(first, x, self.widths[-1])
        return self.residual(last, self.attend(attention, x), self.widths[-1])

    def encode(self, pixels):
        x, last = (
            self.conv("encoder.conv_in", pixels, self.widths[0]),
            len(self.widths) - 1,
        )
        for i in range(last + 1):
            name, x = self.size("encoder", i, x, self.blocks)
            if i < last:
                x = F.pad(x, (0, 1, 0, 1))
                width = self.widths[i]
                x = self.conv(f"{name}.downsample.conv", x, width, stride=2)
        x = F.silu(self.norm("encoder.norm_out", self.middle("encoder", x)))
        return self.conv(
            "quant_conv", self.conv("encoder.conv_out", x, FEATURES), CODE_DIM, 1
        )

    def decode(self, z):
        x = self.conv("post_quant_conv", z, FEATURES, 1)
        x = self.middle("decoder", self.conv("decoder.conv_in", x, self.widths[-1]))
        for i in reversed(range(len(self.widths))):
            name, x = self.size("decoder", i, x, self.blocks + 1)
            if i:
                x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
                x = self.conv(f"{name}.upsample.conv", x, self.widths[i])
        return self.conv(
            "decoder.conv_out", F.silu(self.norm("decoder.norm_out", x)), 3
        )

    @torch.no_grad()
    def __call__(self, images):
        """Codes [B, N] and reconstructions [B, H, W, C] of images in [0, 1]."""
        pixels = 2 * torch.from_numpy(images).permute(0, 3, 1, 2) - 1
        maps = self.encode(pixels)
        z, book = maps.flatten(2).mT, self.state["quantize.embedding.weight"]
        if self.layout == "llamagen":
            z, book = F.normalize(z, dim=-1), F.normalize(book, dim=-1)
        codes = torch.cdist(z, book[None]).argmin(-1)
        recon = self.decode(book[codes].mT.reshape(maps.shape))
        return codes.numpy(), (recon.permute(0, 2, 3, 1).numpy() + 1) / 2

    def arrays(self):
        return {name: value.numpy() for name, value in self.state.items()}


@cache
def twin_of(layout):
    return Twin(layout)


@pytest.fixture(params=LAYOUTS)
def twin(request):
    return twin_of(request.param)


def differences(twin):
    """How many codes differ, and the largest difference of a pixel."""
    codes, recon = twin(IMAGES)
    ours, aux = tiny.call(tokenizer_from_torch(twin.arrays(), image_size=SIDE), IMAGES)
    return int((aux["codes"] != codes).sum()), float(np.abs(recon - ours).max())


def test_codes_are_identical_and_pixels_agree(twin):
    codes, recon = twin(IMAGES)
    assert np.unique(codes).size > 10
    assert recon.std() > 0.1 and recon.min() < 0 < 1 < recon.max()
    wrong, error = differences(twin)
    assert wrong == 0 and error < 1e-4


@pytest.mark.parametrize(
    ("layout", "attention"), [("vqgan", ()), ("llamagen", (0, 1))], ids=str
)
def test_attention_is_where_the_file_has_it(layout, attention):
    twin = Twin(layout, widths=(32, 64), blocks=1, attention=attention)
    wrong, error = differences(twin)
    assert wrong == 0 and error < 1e-4


def test_sizes_are_read_from_the_shapes(twin):
    state = twin.arrays() | {
        "loss.discriminator.main.3.num_batches_tracked": np.array(3),
        "quantize.codebook_used": np.zeros(65536, np.float32),
    }
    config = tokenizer_from_torch(state).config
    size = CNNConfig(channels=32, multipliers=(1, 2, 2), features=FEATURES)
    assert (config.encoder, config.decoder) == (size, size)
    assert (config.image_size, config.patch_size, config.channels) == (256, 4, 3)
    assert (config.quantizer.num_codes, config.quantizer.code_dim) == (CODES, CODE_DIM)
    assert config.quantizer.l2_normalise == (twin.layout == "llamagen")
    assert config.output == "linear"


def other_eps(config, ours):
    return replace(config, decoder=replace(config.decoder, norm_eps=1e-2))


def other_groups(config, ours):
    return replace(config, encoder=replace(config.encoder, groups=16))


def other_codes(config, ours):
    normalised = not config.quantizer.l2_normalise
    return replace(config, quantizer=replace(config.quantizer, l2_normalise=normalised))


def unhalved(config, ours):
    ours["decoder.out.conv.kernel"] = 2 * ours["decoder.out.conv.kernel"]
    return config


def turned(config, ours):
    ours["decoder.out.conv.kernel"] = ours["decoder.out.conv.kernel"][::-1]
    return config


@pytest.mark.parametrize(
    "mistake",
    [other_eps, other_groups, other_codes, unhalved, turned],
    ids=lambda mistake: mistake.__name__,
)
def test_a_mistake_in_a_detail_is_caught(mistake, monkeypatch):
    cnn = convert._cnn

    def wrongly(*args, **how):
        config, ours = cnn(*args, **how)
        return mistake(config, ours), ours

    monkeypatch.setattr(convert, "_cnn", wrongly)
    codes, error = differences(Twin("llamagen", widths=(32, 64), blocks=1))
    assert codes or error > 1e-3


# --- what cannot be converted --------------------------------------------------------


def without(*parts):
    def change(state):
        for name in list(state):
            if any(part in name for part in parts):
                del state[name]

    return change


def renamed(old, new):
    def change(state):
        for name in list(state):
            state[name.replace(old, new)] = state.pop(name)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict.clear, "'no encoder' is in no known layout; known are vit-vqgan .*, "
                     r"vqgan \(CompVis/taming-transformers\), llamagen \("),
        (renamed(".down.", ".down_blocks."), "'encoder.down_blocks.0.block.0.norm1.we"),
        (renamed("quantize.embedding", "quantize.embed"), "no 'quantize.embedding.wei"),
        (without("down.1.downsample"), "there is no 'encoder.down.2"),
        (without("up.0.block.2"), "there is no 'decoder"),
        (without("down.1.block.1"), "there is no 'encoder"),
        (without("decoder.up"), r"multipliers=\(\)"),
        (without("encoder.mid.attn_1.k"), "no 'encoder.mid.attn_1.k.bias'"),
        (without("quant_conv.weight"), "no 'quant_conv.weight'"),
        (without("conv_in"), "no 'encoder.conv_in.weight'"),
        (lambda s: s.update(extra=np.ones(2)), "1 weights have no place here.*'extra'"),
        (lambda s: s.update({"post_quant_conv.bias": np.ones(3, np.float32)}),
         f"has shape 3, not {FEATURES}"),
    ],
)  # fmt: skip
def test_other_states_are_refused_in_one_line(change, words):
    state = twin_of("vqgan").arrays()
    change(state)
    assert re.search(words, message(lambda: tokenizer_from_torch(state)))


# --- commands ------------------------------------------------------------------------


def saved(layout, path):
    """A small model of a layout, and what to say of it."""
    vit = layout == "vit-vqgan"
    state = test_convert.random_state() if vit else twin_of(layout).state
    whole = {"llamagen": {"model": state}, "vqgan": {"state_dict": state, "epoch": 3}}
    torch.save(whole.get(layout, state), path)
    return [] if vit else ["--image-size", str(SIDE)]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["vit-vqgan", *LAYOUTS])
def test_commands_work_over_what_was_converted(layout, tmp_path, capsys):
    """Reconstruct, encode, train a prior on the codes, draw samples of it."""
    size, folder = saved(layout, tmp_path / "public.pt"), str(tmp_path / "tokenizer")
    command = ["convert", layout, str(tmp_path / "public.pt"), "--out", folder, *size]
    assert cli.main(command) == 0
    assert capsys.readouterr().out == f"tokenizer: {folder}\n"
    tokenizer = weights.load(folder)
    assert convert.LAYOUTS[layout][0] in tokenizer.card["converted_from"]
    assert tokenizer.card.labels_seen  # as far as anybody knows: not for the probe
    pictures = ["--data", str(tiny.pictures(tmp_path / "pictures"))]
    image, codes, prior = (str(tmp_path / name) for name in ("a.png", "codes", "prior"))
    assert cli.main(["reconstruct", folder, *pictures, "--out", image]) == 0
    command = ["encode", folder, *pictures, "--out", codes, "--quiet"]
    assert cli.main([*command, "--split", "train"]) == 0
    found = data.open_codes(codes, "train").take(np.arange(4))["codes"]
    source = data.open_source(pictures[1], split="train", image_size=SIDE, channels=3)
    expected = tokenizer.encode(source.take(np.arange(4))["image"])
    np.testing.assert_array_equal(found.reshape(4, -1), expected)
    settings = [s for s in tiny.PRIOR_SETTINGS if not s.startswith("grid")]
    settings += ["num_codes=40", "grid=4", f"tokenizer={folder}"]
    command = ["train", "prior", "shapes", "--quiet", "--workdir", prior, *pictures]
    assert cli.main([*command, "--set", *settings]) == 0
    assert cli.main(["sample", prior, "--out", image]) == 0


def test_the_command_says_which_layout_and_size(tmp_path, capsys):
    path, out = str(tmp_path / "public.pt"), str(tmp_path / "out")
    size = saved("llamagen", path)
    for command, words in (
        (["vqgan", path, *size], "layout of llamagen; run minivim convert llamagen"),
        (["llamagen", path, "--image-size", "18"], "not of whole patches of 4; give a"),
        (["vit-vqgan", path, *size], "tell the size; leave out --image-size"),
        (["lpips", path, path, *size], "tell the size; leave out --image-size"),
    ):
        assert cli.main(["convert", *command, "--out", out]) == 2
        shown = capsys.readouterr().err
        assert words in shown and shown.count("\n") == 1
