"""Weights of other implementations, read from their files into our modules.

Only names and shapes are taken from them; none of their code runs. torch is imported
for files that `torch.save` wrote and for nothing else.
"""

import importlib.util
import math
import pickle
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from safetensors import SafetensorError
from safetensors.flax import load_file

from minivim.config import QuantizerConfig, StackConfig, TokenizerConfig
from minivim.config.checks import require
from minivim.errors import UserError, explained
from minivim.tokenizer.model import Tokenizer
from minivim.tokenizer.perceptual import LPIPS, PerceptualConfig
from minivim.tokenizer.vit import sincos_positions
from minivim.weights import abstract

SAVE_AGAIN = (
    "save it again with torch.save({k: v for k, v in model.state_dict().items()}, "
    "'weights.pt')"
)
OTHER_LAYOUT = (
    "only the whole state of the public PyTorch ViT-VQGAN can be converted; if this "
    f"is one, {SAVE_AGAIN}"
)
# Indices of the convolutions in torchvision's vgg16.
VGG16_CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG16 = "give the state dict of torchvision's vgg16 (not vgg16_bn)"
LPIPS_HEADS = "give weights/v0.1/vgg.pth of the lpips package"
HEAD_DIM = 64  # the width of every attention head in that layout

Weights = dict[str, np.ndarray]


def read_state_dict(path: str | Path) -> Weights:
    """The float32 arrays of a `.safetensors` file, or of one that `torch.save` wrote.

    The latter is read with `weights_only=True`, which runs no code from the file; a
    "state_dict" inside it is unwrapped. Raises `UserError` where the file or torch is
    missing, and for a file that holds anything but named arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}; give one with weights")
    if path.suffix == ".safetensors":
        problem = f"{path} is no safetensors file"
        with explained(problem, "fetch it again", SafetensorError):
            return {k: np.asarray(v, np.float32) for k, v in load_file(path).items()}
    if importlib.util.find_spec("torch") is None:
        problem = f"{path} needs torch to be read; run pip install -e '.[convert]'"
        raise UserError(f"{problem}, or save it as .safetensors")
    import torch

    kinds = pickle.UnpicklingError, RuntimeError, EOFError, KeyError
    with explained(f"{path} is damaged or holds more than arrays", SAVE_AGAIN, kinds):
        values = torch.load(path, map_location="cpu", weights_only=True)
    values = values.get("state_dict", values) if isinstance(values, dict) else values
    if not isinstance(values, dict) or not all(map(torch.is_tensor, values.values())):
        raise UserError(f"{path} holds no arrays by name; {SAVE_AGAIN}")
    return {k: v.detach().float().numpy() for k, v in values.items()}


def take(weights: Weights, name: str, *shape: int | None, remedy: str) -> np.ndarray:
    """Remove an array of this shape (None fits any length), or raise `UserError`."""
    if name not in weights:
        raise UserError(f"there is no {name!r} among the weights; {remedy}")
    value = weights.pop(name)
    fits = [n in (None, m) for n, m in zip(shape, value.shape, strict=False)]
    if len(shape) != value.ndim or not all(fits):
        has = "x".join(map(str, value.shape))
        wanted = "x".join("?" if n is None else str(n) for n in shape)
        raise UserError(f"{name!r} has shape {has}, not {wanted}; {remedy}")
    return value


def lpips_from_torch(vgg: Weights, heads: Weights) -> LPIPS:
    """LPIPS from torchvision's `vgg16` and the heads of the `lpips` package.

    vgg: `features.N.weight` [O, I, 3, 3] and `.bias`; heads: `linN.model.1.weight`
    [1, C, 1, 1]; other keys are ignored. Raises `UserError` where one is missing or of
    another shape, or a head is negative.
    """
    model = abstract("perceptual", PerceptualConfig())
    of_vgg, heads = partial(take, dict(vgg), remedy=VGG16), dict(heads)
    for conv, index in zip(model.convs, VGG16_CONVS, strict=True):
        name, (h, w, inputs, outputs) = f"features.{index}", conv.kernel.shape
        kernel = of_vgg(f"{name}.weight", outputs, inputs, h, w)
        conv.kernel = nnx.Param(jnp.asarray(kernel.transpose(2, 3, 1, 0)))
        conv.bias = nnx.Param(jnp.asarray(of_vgg(f"{name}.bias", outputs)))
    for i, width in enumerate(model.config.widths):
        name = f"lin{i}.model.1.weight"
        head = take(heads, name, 1, width, 1, 1, remedy=LPIPS_HEADS).ravel()
        require(bool(head.min() >= 0), f"{name} is negative somewhere; {LPIPS_HEADS}")
        model.heads[i] = nnx.Param(jnp.asarray(head))
    return model


def tokenizer_from_torch(state: Weights) -> Tokenizer:
    """A tokenizer with the weights of the public PyTorch ViT-VQGAN.

    Sizes are read from the shapes; the options are what that code does: pixels without
    sigmoid, tanh in every FFN, fixed positions, LayerNorm eps 1e-5, no bias for
    queries, keys and values (here a zero one), normalised codes, and a straight-through
    gradient to the vector before normalisation. Its encoder reads pixels in [0, 1],
    ours `2 x - 1`: `W x + b = (W / 2) (2 x - 1) + (b + W 1 / 2)`. Training state under
    `loss.` is left out. The shapes do not tell of Gumbel or residual codes: none are
    assumed. Raises `UserError` for other layouts, trained positions, heads not of 64.
    """
    theirs = {k: v for k, v in state.items() if not k.startswith("loss.")}
    name = "encoder.to_patch_embedding.0"
    patch = _take(theirs, f"{name}.weight", None, None, None, None)
    width, channels, size, _ = patch.shape
    bias = _take(theirs, f"{name}.bias", width) + patch.sum(axis=(1, 2, 3)) / 2
    ours = {"encoder.embed.bias": bias}
    ours["encoder.embed.kernel"] = rearrange(patch, "d c p q -> (p q c) d") / 2
    encoder, grid = _stack(theirs, ours, "encoder", "en_pos_embedding")
    decoder, _ = _stack(theirs, ours, "decoder", "de_pos_embedding")
    # The stride equals the kernel's size: a dense map for each token, nothing to flip.
    name, shape = "decoder.to_pixel.conv_out", (decoder.width, channels, size, size)
    pixels = _take(theirs, f"{name}.weight", *shape)
    ours["decoder.head.kernel"] = rearrange(pixels, "d c p q -> d (p q c)")
    bias = _take(theirs, f"{name}.bias", channels)
    ours["decoder.head.bias"] = np.tile(bias, size**2)
    codes = _take(theirs, "quantizer.embedding.weight", None, None)
    count, dim = codes.shape
    ours["quantizer.codebook"] = codes
    ours |= _layer(theirs, "pre_quant", "quantizer.down", dim, width)
    ours |= _layer(theirs, "post_quant", "quantizer.up", decoder.width, dim)
    if theirs:
        problem = f"{len(theirs)} weights have no place here, such as {min(theirs)!r}"
        raise UserError(f"{problem}; {OTHER_LAYOUT}")
    quantizer = QuantizerConfig(num_codes=count, code_dim=dim, straight_through="raw")
    config = TokenizerConfig(
        image_size=grid * size, patch_size=size, channels=channels, encoder=encoder,
        decoder=decoder, quantizer=quantizer, tanh="blocks", positions="sincos",
        output="linear",
    )  # fmt: skip
    return _filled(config, ours)


_take = partial(take, remedy=OTHER_LAYOUT)


def _layer(theirs: Weights, name: str, ours: str, width: int, *inputs: int) -> Weights:
    """A dense layer of this width and number of inputs, or a norm without any."""
    first = _take(theirs, f"{name}.weight", width, *inputs).T
    bias = _take(theirs, f"{name}.bias", width)
    return {f"{ours}.{'kernel' if inputs else 'scale'}": first, f"{ours}.bias": bias}


def _stack(
    theirs: Weights, ours: Weights, side: str, table: str
) -> tuple[StackConfig, int]:
    """Convert one side's blocks and final norm; its size and its grid's width."""
    positions = _take(theirs, f"{side}.{table}", 1, None, None)[0]
    tokens, width = positions.shape
    grid = math.isqrt(tokens)
    if grid**2 != tokens or width % 4:
        raise UserError(f"{side}.{table} is of no square grid; {OTHER_LAYOUT}")
    if np.abs(positions - sincos_positions(grid, width)).max() > 1e-4:
        problem = f"{side}.{table} differs from the fixed sin-cos table, as if trained"
        raise UserError(f"{problem}; only fixed positions can be converted")
    layers = f"{side}.transformer.layers."
    count = len({k.split(".")[3] for k in theirs if k.startswith(layers)})
    if not count:
        raise UserError(f"there is no {layers}0 among the weights; {OTHER_LAYOUT}")
    hidden = len(theirs.get(f"{layers}0.1.fn.net.0.bias", ()))
    blocks = [_block(theirs, f"{layers}{i}", width, hidden) for i in range(count)]
    for name in blocks[0]:
        ours[f"{side}.stack.blocks.{name}"] = np.stack([b[name] for b in blocks])
    ours |= _layer(theirs, f"{side}.norm", f"{side}.stack.norm", width)
    size = {"blocks": count, "width": width, "hidden": hidden}
    heads = width // HEAD_DIM
    return StackConfig(**size, heads=heads, activation="tanh", norm_eps=1e-5), grid


def _block(theirs: Weights, name: str, width: int, hidden: int) -> Weights:
    """The weights of one block by our names."""
    qkv = _take(theirs, f"{name}.0.fn.to_qkv.weight", None, width)
    if qkv.shape[0] != 3 * width or width % HEAD_DIM:
        raise UserError(
            f"{name} has attention of width {qkv.shape[0] // 3} in a model of width "
            f"{width}; only models whose heads of {HEAD_DIM} fill the width can be "
            "converted, such as those of width 512 and 768"
        )
    return {
        "qkv.kernel": qkv.T,
        "qkv.bias": np.zeros(3 * width, np.float32),
        **_layer(theirs, f"{name}.0.norm", "attention_norm", width),
        **_layer(theirs, f"{name}.0.fn.to_out", "attention_out", width, width),
        **_layer(theirs, f"{name}.1.norm", "ffn_norm", width),
        **_layer(theirs, f"{name}.1.fn.net.0", "ffn_up", hidden, width),
        **_layer(theirs, f"{name}.1.fn.net.2", "ffn_down", width, hidden),
    }


def _filled(config: TokenizerConfig, weights: Weights) -> Tokenizer:
    """A tokenizer with exactly these parameters."""
    graph, state = nnx.split(abstract("tokenizer", config))

    def fill(path: tuple, leaf: nnx.Variable) -> nnx.Variable:
        return leaf.replace(jnp.asarray(weights.pop(".".join(map(str, path)))))

    model = nnx.merge(graph, nnx.map_state(fill, state))
    assert not weights
    return model
