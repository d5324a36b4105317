"""Weights in the layouts of VQGAN and LlamaGen: the same codes and pictures.

The networks below are those architectures written again from their facts.
"""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from minivim import cli, weights
from minivim.errors import UserError
from minivim_lab import convert
from minivim_lab.convert import tokenizer_from_torch
from tests import tiny

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


@pytest.fixture(scope="module", params=LAYOUTS)
def twin(request):
    return Twin(request.param)


def test_codes_are_identical_and_pixels_agree(twin):
    codes, recon = twin(IMAGES)
    assert np.unique(codes).size > 10
    assert recon.std() > 0.1 and recon.min() < 0 < 1 < recon.max()
    model = tokenizer_from_torch(twin.arrays(), image_size=SIDE)
    ours, aux = tiny.call(model, IMAGES)
    np.testing.assert_array_equal(aux["codes"], codes)
    np.testing.assert_allclose(ours, recon, atol=1e-4)
