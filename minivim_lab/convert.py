"""Weights of other implementations, read from their files into our modules.

Only names and shapes are taken from them; none of their code runs. torch is imported
for files that `torch.save` wrote and for nothing else.
"""

import importlib.util
import io
import math
import os
import pickle
import re
import warnings
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from safetensors.flax import load_file

from minivim.config import CNNConfig, QuantizerConfig, StackConfig, TokenizerConfig
from minivim.config.checks import require
from minivim.errors import UserError, explained
from minivim.files import regular
from minivim.tokenizer.model import Tokenizer
from minivim.tokenizer.perceptual import LPIPS, PerceptualConfig
from minivim.tokenizer.vit import sincos_positions
from minivim.weights import abstract

SAVE_AGAIN = (
    "save it again with torch.save({k: v for k, v in model.state_dict().items()}, "
    "'weights.pt')"
)
# Public tokenizers: whose code they are, and a layer that no other of them has.
LAYOUTS = {
    "vit-vqgan": ("thuanz123/enhancing-transformers", "encoder.to_patch_embedding.0"),
    "vqgan": ("CompVis/taming-transformers", "encoder.down.0.block.0.conv1"),
    "llamagen": ("FoundationVision/LlamaGen", "encoder.conv_blocks.0.res.0.conv1"),
}
OTHER_LAYOUT = (
    f"known are {', '.join(f'{k} ({code})' for k, (code, _) in LAYOUTS.items())}; "
    f"for one of these, {SAVE_AGAIN}"
)
# How names in them begin, and which of them are no part of the model.
KNOWN = (
    r"(en|de)coder\.(to_p|.._pos|transformer|norm|conv|down\.|up\.|mid\.)|.*quant|loss"
)
BESIDES = "loss.", "quantize.codebook_used"
# A layer of ours and its name there: in a block of the ViT; in the CNN's layers of any
# kind, where three make one of ours; at the CNN's ends.
BLOCK = {
    "attention_norm": "0.norm", "qkv": "0.fn.to_qkv", "attention_out": "0.fn.to_out",
    "ffn_norm": "1.norm", "ffn_up": "1.fn.net.0", "ffn_down": "1.fn.net.2",
}  # fmt: skip
PARTS = {
    "first_norm": "norm1", "first": "conv1", "second_norm": "norm2", "second": "conv2",
    "skip": "nin_shortcut", "norm": "norm", "qkv": "q k v", "out": "proj_out",
    "conv": "conv",
}  # fmt: skip
ENDS = {"stem": "conv_in", "out.norm": "norm_out", "out.conv": "conv_out"}
# A CNN's layer: its size, which the middle has not, its kind and its number.
LAYER = re.compile(
    r"..coder\.(?:(down|up|conv_blocks)\.(\d+)|mid)\."
    r"(block|res|attn|downsample|upsample|)[._]?(\d*)"
)
HEAD_DIM = 64  # the width of every attention head in the public ViT-VQGAN
# Indices of the convolutions in torchvision's vgg16.
VGG16_CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG16 = "give the state dict of torchvision's vgg16 (not vgg16_bn)"
LPIPS_HEADS = "give weights/v0.1/vgg.pth of the lpips package"
# Of names, shapes and the like in a file: ten times what public ones have.
MOST_BYTES = 2**21
# Classes in public checkpoints beside the arrays; an empty one is read for each.
EMPTY = (
    "argparse.Namespace",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
)

Weights = dict[str, np.ndarray]
# For an array of ours itself, or for a layer its name in the file.
Ours = dict[str, np.ndarray | str]


def read_state_dict(path: str | Path) -> Weights:
    """The arrays of a `.safetensors` file, or of one that `torch.save` wrote.

    Floats come as float32. The latter is read with `weights_only=True`, which runs no
    code from the file; an "ema", "model" or "state_dict" inside it is unwrapped. Raises
    `UserError` where the file or torch is missing, for a file that holds anything but
    dense arrays by name, and for one that claims more than its own size.
    """
    path = Path(path)
    require(path.exists(), f"there is no file {path}; give one with weights")
    with explained(f"{path} cannot be read", f"fetch it again, or {SAVE_AGAIN}"):
        size = regular(path)
        if path.suffix != ".safetensors":
            return _saved_by_torch(path, size)
        with Frugal(path) as file:
            file.spend(int.from_bytes(file.read(8), "little"))
        arrays = {name: np.asarray(value) for name, value in load_file(path).items()}
        floats = [k for k, v in arrays.items() if jnp.issubdtype(v.dtype, jnp.floating)]
        return arrays | {name: arrays[name].astype(np.float32) for name in floats}


class Frugal(io.FileIO):
    """A file that gives `MOST_BYTES` to whoever reads names from it, and no more."""

    left = MOST_BYTES

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError("it has more names than any model that can be converted")

    def read(self, size: int | None = -1, /) -> Any:
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        # A pickle is read by the byte, and each takes its time.
        self.spend(size + 16)
        return super().read(size)


def _saved_by_torch(path: Path, size: int) -> Weights:
    if importlib.util.find_spec("torch") is None:
        problem = f"{path} needs torch to be read; run pip install -e '.[convert]'"
        raise UserError(f"{problem}, or save it as .safetensors")
    import torch

    empty: Any = type("Empty", (), {})
    known = torch.serialization.safe_globals([(empty, name) for name in EMPTY])
    with warnings.catch_warnings(action="ignore"), known, Frugal(path) as file:
        source, mapped = file, zipfile.is_zipfile(path)
        if mapped:
            for part in zipfile.ZipFile(file).infolist():
                plain = part.compress_type == zipfile.ZIP_STORED
                require(plain, f"{path} is compressed; {SAVE_AGAIN}")
                file.spend(part.file_size * part.filename.endswith("data.pkl"))
            # An array cannot lie outside of a file that is mapped into memory.
            source = path
        try:
            values = torch.load(source, "cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            if (found := re.search(r"GLOBAL ([\w.]+)", str(error))) is None:
                raise ValueError("it is damaged") from error
            problem = f"{path} holds more than arrays: {found[1]} could run code"
            told = f"{problem} and is not read (weights_only=True); {SAVE_AGAIN}"
            raise UserError(told) from error
    require(isinstance(values, dict), f"{path} holds no arrays by name; {SAVE_AGAIN}")
    inner = [values.get(name) for name in ("ema", "model", "state_dict")]
    values = next((found for found in inner if isinstance(found, dict)), values)
    arrays, left = {}, 2 * size  # two names may share an array
    for name, value in values.items():
        named = isinstance(name, str) and len(name) < 256 and torch.is_tensor(value)
        problem = f"{path} holds {name!r:.60} of type {type(value).__name__}"
        require(named, f"{problem}, not arrays by name; {SAVE_AGAIN}")
        kind = value.layout, value.device.type, value.is_quantized, value.is_nested
        problem = f"{path} holds {name!r} sparse, quantised or without values"
        dense = kind == (torch.strided, "cpu", False, False)
        require(dense, f"{problem}; save it as a dense array of floats")
        left -= value.nbytes
        problem = f"{path} claims more numbers than its {size} bytes hold"
        require(left >= 0, f"{problem}; {SAVE_AGAIN}")
        floats = value.float() if value.is_floating_point() else value
        arrays[name] = floats.detach().numpy()
    return arrays


def take(
    weights: Weights, name: str, *shape: int | None, remedy: str, keep: bool = False
) -> np.ndarray:
    """Remove floats of this shape (None fits any length), or raise `UserError`."""
    require(name in weights, f"there is no {name!r} among the weights; {remedy}")
    value = weights[name] if keep else weights.pop(name)
    fits = [m > 0 and n in (None, m) for n, m in zip(shape, value.shape, strict=False)]
    if len(shape) != value.ndim or not all(fits):
        has = "x".join(map(str, value.shape)) or "()"
        wanted = "x".join("?" if n is None else str(n) for n in shape)
        raise UserError(f"{name!r} has shape {has}, not {wanted}; {remedy}")
    real = value.dtype.kind == "f"
    require(real, f"{name!r} holds {value.dtype}, not floating point; {remedy}")
    require(bool(np.isfinite(value).all()), f"{name!r} has NaN or infinity; {remedy}")
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


def layout_of(state: Weights) -> str:
    """The one of `LAYOUTS` that a state has; raises `UserError` for any other."""
    for name, (_, layer) in LAYOUTS.items():
        if f"{layer}.weight" in state:
            return name
    other = next((name for name in state if not re.match(KNOWN, name)), "")
    told = f"{other!r} is in no known layout" if other else "there is no encoder in it"
    raise UserError(f"{told}; {OTHER_LAYOUT}")


def tokenizer_from_torch(state: Weights, image_size: int = 256) -> Tokenizer:
    """A tokenizer with the weights of one of `LAYOUTS`.

    Sizes are read from the shapes, but for a CNN's `image_size`, which they do not
    tell; the other options are what that code does. Training state is left out. The
    shapes do not tell of Gumbel or residual codes: none are assumed. Raises `UserError`
    for other layouts, trained positions, heads not of 64.
    """
    layout = layout_of(state)
    theirs = {k: v for k, v in state.items() if not k.startswith(BESIDES)}
    if layout != "vit-vqgan":
        return _filled(*_cnn(theirs, layout, image_size), theirs)
    # Until July 2022 two layers had other names.
    norms = [re.sub(r"^(..coder)\.norm", r"\1.transformer.norm", k) for k in theirs]
    names = [name.replace("pixel.conv_out", "pixel.1") for name in norms]
    theirs = dict(zip(names, theirs.values(), strict=True))
    return _filled(*_vit(theirs), theirs)


_take = partial(take, remedy=OTHER_LAYOUT)
_look = partial(_take, keep=True)


def _vit(theirs: Weights) -> tuple[TokenizerConfig, Ours]:
    """Pixels without sigmoid, tanh in every FFN, fixed positions, LayerNorm eps 1e-5.

    Codes are normalised, with a straight-through gradient to the vector before it.
    Queries, keys and values have no bias (here a zero one). The encoder reads pixels in
    [0, 1], ours `2 x - 1`: `W x + b = (W / 2) (2 x - 1) + (b + W 1 / 2)`.
    """
    ours: Ours = {"quantizer.down": "pre_quant", "quantizer.up": "post_quant"}
    name = "encoder.to_patch_embedding.0"
    width, channels, size, _ = _look(theirs, f"{name}.weight", *4 * [None]).shape
    patch = _take(theirs, f"{name}.weight", width, channels, size, size)
    ours["encoder.embed.kernel"] = rearrange(patch, "d c p q -> (p q c) d") / 2
    bias = _take(theirs, f"{name}.bias", width)
    ours["encoder.embed.bias"] = bias + patch.sum(axis=(1, 2, 3)) / 2
    encoder, grid = _stack(theirs, ours, "encoder.en_pos_embedding")
    decoder, other = _stack(theirs, ours, "decoder.de_pos_embedding")
    fits = (grid, width) == (other, encoder.width)
    require(fits, f"its parts are of unlike widths or grids; {OTHER_LAYOUT}")
    # The stride equals the kernel's size: a dense map for each token, nothing to flip.
    name, shape = "decoder.to_pixel.1", (decoder.width, channels, size, size)
    pixels = _take(theirs, f"{name}.weight", *shape)
    ours["decoder.head.kernel"] = rearrange(pixels, "d c p q -> d (p q c)")
    bias = _take(theirs, f"{name}.bias", channels)
    ours["decoder.head.bias"] = np.tile(bias, size**2)
    codes = _take(theirs, "quantizer.embedding.weight", None, None)
    ours["quantizer.codebook"] = codes
    sizes = dict(zip(("num_codes", "code_dim"), codes.shape, strict=True))
    config = TokenizerConfig(
        image_size=grid * size, patch_size=size, channels=channels, encoder=encoder,
        decoder=decoder, quantizer=QuantizerConfig(**sizes, straight_through="raw"),
        tanh="blocks", positions="sincos", output="linear",
    )  # fmt: skip
    return config, ours


def _stack(theirs: Weights, ours: Ours, table: str) -> tuple[StackConfig, int]:
    """The size of the blocks after a table of positions, and its grid's width."""
    positions = _take(theirs, table, 1, None, None)[0]
    tokens, width = positions.shape
    grid = math.isqrt(tokens)
    if grid**2 != tokens or width % 4:
        raise UserError(f"{table} is of no square grid; {OTHER_LAYOUT}")
    if np.abs(positions - sincos_positions(grid, width)).max() > 1e-4:
        problem = f"{table} differs from the fixed sin-cos table, as if trained"
        raise UserError(f"{problem}; only fixed positions can be converted")
    side = table.split(".")[0]
    layers = f"{side}.transformer.layers."
    inner = len(_look(theirs, f"{layers}0.0.fn.to_qkv.weight", None, width)) // 3
    if inner != width or width % HEAD_DIM:
        raise UserError(
            f"{side} has attention of width {inner} in a model of width {width}; only "
            f"models whose heads of {HEAD_DIM} fill the width can be converted, such "
            "as those of width 512 and 768"
        )
    hidden = len(_look(theirs, f"{layers}0.1.fn.net.0.bias", None))
    blocks = len({k.split(".")[3] for k in theirs if k.startswith(layers)})
    ours[f"{side}.stack.norm"] = f"{side}.transformer.norm"
    ours |= {f"{side}.stack.blocks.{k}": f"{layers}{{i}}.{v}" for k, v in BLOCK.items()}
    ours[f"{side}.stack.blocks.qkv.bias"] = np.zeros((blocks, 3 * width), np.float32)
    size = {"blocks": blocks, "width": width, "hidden": hidden}
    heads = width // HEAD_DIM
    return StackConfig(**size, heads=heads, activation="tanh", norm_eps=1e-5), grid


def _cnn(theirs: Weights, layout: str, size: int) -> tuple[TokenizerConfig, Ours]:
    """Pixels are `2 x - 1` at both ends, in ours only at the encoder's.

    LlamaGen's codes are normalised, those of VQGAN as long as they are.
    """
    ours: Ours = {"quantizer.down": "quant_conv", "quantizer.up": "post_quant_conv"}
    encoder = _side(theirs, ours, "encoder", "quant_conv.weight")
    decoder = _side(theirs, ours, "decoder", "post_quant_conv.weight")
    name, patch = "decoder.conv_out", encoder.patch_size
    pixels = _take(theirs, f"{name}.weight", None, decoder.widths[0], 3, 3) / 2
    ours["decoder.out.conv.kernel"] = pixels.transpose(2, 3, 1, 0)
    bias = _take(theirs, f"{name}.bias", len(pixels)) / 2
    ours["decoder.out.conv.bias"] = bias + 0.5
    codes = _take(theirs, "quantize.embedding.weight", None, None)
    ours["quantizer.codebook"] = codes
    wrong = f"images of {size} pixels are not of whole patches of {patch}"
    require(size % patch == 0, f"{wrong}; give a multiple as --image-size")
    sizes = dict(zip(("num_codes", "code_dim"), codes.shape, strict=True))
    quantizer = QuantizerConfig(**sizes, l2_normalise=layout == "llamagen")
    config = TokenizerConfig(
        image_size=size, patch_size=patch, channels=len(pixels), encoder=encoder,
        decoder=decoder, quantizer=quantizer, output="linear",
    )  # fmt: skip
    return config, ours


def _side(theirs: Weights, ours: Ours, side: str, outer: str) -> CNNConfig:
    """The size of one side of a CNN; its layers' names to `ours`."""
    found: dict[tuple[float, float, bool], str] = {}
    first = side == "encoder"
    for layer in filter(None, map(LAYER.match, theirs)):
        way, size, kind, number = layer.groups()
        if layer[0].startswith(side):
            # In the order in which they are run; the middle is at the smallest size.
            at = float(size or "inf") * (-1 if way == "up" or not (way or first) else 1)
            key = at, float(number or "inf"), kind == "attn"
            found[key] = layer[0].rstrip(".")
    ours |= {f"{side}.{k}": f"{side}.{v}" for k, v in ENDS.items()}
    for i, key in enumerate(sorted(found)):
        for part, names in PARTS.items():
            each = [f"{found[key]}.{name}" for name in names.split()]
            ours[f"{side}.layers.{i}.{part}"] = " ".join(each)
    rows = [k for k in found if math.isfinite(k[0]) and k[1] < math.inf and not k[2]]
    sizes = sorted((key for key in rows if key[1] == 0), reverse=first)
    attention = [i for i, key in enumerate(sizes) if (*key[:2], True) in found]
    names = [f"{found[key]}.conv1.weight" for key in reversed(sizes)]
    widths = [len(_look(theirs, name, None, None, 3, 3)) for name in names]
    channels = len(_look(theirs, "encoder.conv_in.weight", None, None, 3, 3))
    fits = bool(widths) and all(n % channels == 0 for n in widths)
    wrong = f"{side} has {widths} maps, not multiples of {channels}"
    require(fits, f"{wrong}; {OTHER_LAYOUT}")
    theirs[outer] = _take(theirs, outer, None, None, 1, 1)[:, :, 0, 0]
    features = theirs[outer].shape[1 if first else 0]
    return CNNConfig(
        channels=channels,
        multipliers=tuple(n // channels for n in widths),
        res_blocks=len(rows) // len(sizes) - (not first),
        attention=tuple(attention),
        features=0 if features == widths[-1] else features,
    )


def _filled(config: TokenizerConfig, ours: Ours, theirs: Weights) -> Tokenizer:
    """A tokenizer of `ours`, which name what is taken from theirs; none may be left."""

    def fill(path: tuple, leaf: nnx.Variable) -> nnx.Variable:
        name = ".".join(map(str, path))
        layer, _, part = name.rpartition(".")
        if name in ours:
            value = ours[name]
        elif "{i}" in (where := str(ours.get(layer, layer))):
            names = [where.format(i=i) for i in range(leaf.shape[0])]
            found = [_layer(theirs, n, part, *leaf.shape[1:]) for n in names]
            value = np.stack(found)
        else:
            names, (*shape, last) = where.split(), leaf.shape
            shape = (*shape, last // len(names))
            found = [_layer(theirs, n, part, *shape) for n in names]
            value = np.concatenate(found, axis=-1)
        return leaf.replace(jnp.asarray(value))

    graph, state = nnx.split(abstract("tokenizer", config))
    model = nnx.merge(graph, nnx.map_state(fill, state))
    if theirs:
        problem = f"{len(theirs)} weights have no place here, such as {min(theirs)!r}"
        raise UserError(f"{problem}; {OTHER_LAYOUT}")
    return model


def _layer(theirs: Weights, name: str, part: str, *shape: int) -> np.ndarray:
    """A bias, a scale or a kernel: [..., in, out] here, [out, in, ...] there."""
    if part != "kernel":
        return _take(theirs, f"{name}.{'bias' if part == 'bias' else 'weight'}", *shape)
    *size, inputs, outputs = shape
    kernel = _take(theirs, f"{name}.weight", outputs, inputs, *size)
    return kernel.transpose(*range(2, kernel.ndim), 1, 0)
