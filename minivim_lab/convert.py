"""Weights of other implementations, read from their files into our modules.

Only names and shapes are taken from them; none of their code runs. torch is imported
for files that `torch.save` wrote and for nothing else.
"""

import importlib.util
import io
import math
import pickle
import re
import warnings
import zipfile
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
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

SAVE_AGAIN = "save it again with torch.save(dict(model.state_dict()), 'weights.pt')"
# Public tokenizers: whose code they are, and a layer that no other of them has.
LAYOUTS = {
    "vit-vqgan": ("thuanz123/enhancing-transformers", "encoder.to_patch_embedding.0"),
    "vqgan": ("CompVis/taming-transformers", "encoder.down.0.block.0.conv1"),
    "llamagen": ("FoundationVision/LlamaGen", "encoder.conv_blocks.0.res.0.conv1"),
}
CODES = ", ".join(f"{name} ({code})" for name, (code, _) in LAYOUTS.items())
OTHER_LAYOUT = f"known are {CODES}; for one of these, {SAVE_AGAIN}"
# How names in them begin, and which of them are no part of the model.
KNOWN = r"..coder\.(to_p|.._pos|transformer|norm|conv|down\.|up\.|mid\.)|.*quant|loss"
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
# Networks that measure, and their origin.
OTHERS = {
    "lpips": "VGG16 and the linear heads of LPIPS",
    "inception": "InceptionV3 of 2015, as pytorch-fid has it",
}
HEAD_DIM = 64  # the width of every attention head in the public ViT-VQGAN
# Indices of the convolutions in torchvision's vgg16.
VGG16_CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG16 = "give the state dict of torchvision's vgg16 (not vgg16_bn)"
LPIPS_HEADS = "give weights/v0.1/vgg.pth of the lpips package"
# Of names, shapes and the like in a file: ten times what public ones have.
MOST_BYTES = 2**21
# Classes in public checkpoints beside the arrays; an empty one is read for each.
EMPTY = ["pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"]
EMPTY += ["argparse.Namespace"]

Weights = dict[str, np.ndarray]
# For an array of ours itself, or for a layer its name in the file.
Ours = dict[str, np.ndarray | str]


def converted(
    what: str, files: list[str], image_size: int | None = None
) -> tuple[Any, dict[str, str]]:
    """The model in files of one of `LAYOUTS` or `OTHERS`, and its card."""
    pair, seen = what == "lpips", "ImageNet"
    wrong = f"convert {what} takes {'vgg16 and heads' if pair else 'one file'}"
    told = f"{wrong}, got {len(files)}; see minivim convert --help"
    require(len(files) == 1 + pair, told)
    wrong = f"the weights of {what} tell the size; leave out --image-size"
    require(image_size is None or what in ("vqgan", "llamagen"), wrong)
    states = [read_state_dict(file) for file in files]
    if what in LAYOUTS:
        seen = "a perceptual loss, as the public code has it"
        origin = f"the layout of {LAYOUTS[what][0]}"
        model = tokenizer_from_torch(states[0], what, image_size or 256)
    else:
        origin, module = OTHERS[what], "convert" if pair else what
        model = resolve_name(f"minivim_lab.{module}:{what}_from_torch")(*states)
    return model, {"converted_from": origin, "labels_seen": seen}


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
            file.read(int.from_bytes(file.read(8), "little"))
        arrays = {name: np.asarray(value) for name, value in load_file(path).items()}
        floats = [k for k, v in arrays.items() if jnp.issubdtype(v.dtype, jnp.floating)]
        return arrays | {name: arrays[name].astype(np.float32) for name in floats}


class Frugal(io.FileIO):
    """A file that gives `MOST_BYTES` to whoever reads names from it, and no more."""

    left = MOST_BYTES

    def read(self, size: int | None = -1, /) -> Any:
        if size is None or size < 0:
            size = regular(str(self.name)) - self.tell()
        # A pickle is read by the byte, and each takes its time.
        self.left -= size + 16
        if self.left < 0:
            raise ValueError("it has more names than any model that can be converted")
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
            archive = zipfile.ZipFile(file)
            for part in archive.infolist():
                if part.compress_type != zipfile.ZIP_STORED:
                    raise ValueError("it is compressed")
                # What torch builds of a name alone, however long it is said to be.
                pickled = part.filename.endswith("data.pkl")
                if pickled and b"bytearray" in archive.read(part):
                    raise ValueError("it holds more than arrays")
            # An array cannot lie outside of a file that is mapped into memory.
            source = path
        try:
            values = torch.load(source, "cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            runs = re.search(r"GLOBAL ([\w.]+)", str(error))
            told = "it could run {}, which weights_only=True refuses"
            raise ValueError(told.format(runs[1]) if runs else "damaged") from error
    for name in ("ema", "model", "state_dict"):
        if isinstance(values, dict) and isinstance(values.get(name), dict):
            values = values[name]
    require(isinstance(values, dict), f"{path} holds no arrays by name; {SAVE_AGAIN}")
    arrays, left = {}, 2 * size  # two names may share an array
    for name, value in values.items():
        named = isinstance(name, str) and len(name) < 256 and torch.is_tensor(value)
        problem = f"{path} holds {name!r:.60} of type {type(value).__name__}"
        require(named, f"{problem}, not arrays by name; {SAVE_AGAIN}")
        with explained(f"{path} holds {name!r}, no dense array", SAVE_AGAIN):
            left -= value.nbytes
            if left < 0:
                raise ValueError(f"more numbers are claimed than {size} bytes hold")
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

    vgg: `features.N`; heads: `linN.model.1.weight` [1, C, 1, 1]; others are ignored.
    Raises `UserError` for one missing or of another shape, and for a negative head.
    """
    model, heads = abstract("perceptual", PerceptualConfig()), dict(heads)
    ours: Ours = {f"convs.{i}": f"features.{n}" for i, n in enumerate(VGG16_CONVS)}
    for i, width in enumerate(model.config.widths):
        name = f"lin{i}.model.1.weight"
        head = take(heads, name, 1, width, 1, 1, remedy=LPIPS_HEADS).ravel()
        require(bool(head.min() >= 0), f"{name} is negative somewhere; {LPIPS_HEADS}")
        ours[f"heads.{i}"] = head
    return _filled(model, ours, dict(vgg), VGG16)


def tokenizer_from_torch(
    state: Weights, layout: str = "", image_size: int = 256
) -> Tokenizer:
    """A tokenizer with the weights of one of `LAYOUTS`, which their names tell.

    Sizes are read from the shapes, but for a CNN's `image_size`, which they do not
    tell; the other options are what that code does. Training state is left out. The
    shapes do not tell of Gumbel or residual codes: none are assumed. Raises `UserError`
    for other layouts, for one that is not `layout`, trained positions, heads not of 64.
    """
    signs = {name: f"{layer}.weight" for name, (_, layer) in LAYOUTS.items()}
    found = next((name for name, sign in signs.items() if sign in state), "")
    other = next((name for name in state if not re.match(KNOWN, name)), "no encoder")
    require(bool(found), f"{other!r} is in no known layout; {OTHER_LAYOUT}")
    wrong = f"these weights are in the layout of {found}; run minivim convert {found}"
    require(layout in ("", found), wrong)
    theirs = {k: v for k, v in state.items() if not k.startswith(BESIDES)}
    vit = found == "vit-vqgan"
    if vit:
        # Until July 2022 two layers had other names.
        names = [re.sub("^(..coder).norm", r"\1.transformer.norm", k) for k in theirs]
        names = [name.replace("pixel.conv_out", "pixel.1") for name in names]
        theirs = dict(zip(names, theirs.values(), strict=True))
    name = "quantizer.embedding.weight" if vit else "quantize.embedding.weight"
    codes = _take(theirs, name, None, None)
    quantizer = QuantizerConfig(
        num_codes=len(codes), code_dim=codes.shape[1], l2_normalise=found != "vqgan",
        straight_through="raw" if vit else "project",
    )  # fmt: skip
    make = _vit if vit else partial(_cnn, size=image_size)
    config, ours = make(theirs, quantizer)
    ours["quantizer.codebook"] = codes
    model = _filled(abstract("tokenizer", config), ours, theirs, OTHER_LAYOUT)
    if theirs:
        problem = f"{len(theirs)} weights have no place here, such as {min(theirs)!r}"
        raise UserError(f"{problem}; {OTHER_LAYOUT}")
    return model


_take = partial(take, remedy=OTHER_LAYOUT)
_look = partial(_take, keep=True)


def _vit(theirs: Weights, quantizer: QuantizerConfig) -> tuple[TokenizerConfig, Ours]:
    """Pixels without sigmoid, tanh in every FFN, fixed positions, LayerNorm eps 1e-5.

    Codes are normalised, with a straight-through gradient to the vector before it.
    Queries, keys and values have no bias (here a zero one). The encoder reads pixels in
    [0, 1], ours `2 x - 1`: `W x + b = (W / 2) (2 x - 1) + (b + W 1 / 2)`.
    """
    name = "encoder.to_patch_embedding.0"
    width, channels, size, _ = _look(theirs, f"{name}.weight", *4 * [None]).shape
    patch = _take(theirs, f"{name}.weight", width, channels, size, size)
    bias = _take(theirs, f"{name}.bias", width)
    ours: Ours = {"quantizer.down": "pre_quant", "quantizer.up": "post_quant"}
    ours["encoder.embed.kernel"] = rearrange(patch, "d c p q -> (p q c) d") / 2
    ours["encoder.embed.bias"] = bias + patch.sum(axis=(1, 2, 3)) / 2
    encoder, grid = _stack(theirs, ours, "encoder.en_pos_embedding", None, width)
    decoder, _ = _stack(theirs, ours, "decoder.de_pos_embedding", grid**2, None)
    # The stride equals the kernel's size: a dense map for each token, nothing to flip.
    name, shape = "decoder.to_pixel.1", (decoder.width, channels, size, size)
    pixels = _take(theirs, f"{name}.weight", *shape)
    ours["decoder.head.kernel"] = rearrange(pixels, "d c p q -> d (p q c)")
    bias = _take(theirs, f"{name}.bias", channels)
    ours["decoder.head.bias"] = np.tile(bias, size**2)
    config = TokenizerConfig(
        image_size=grid * size, patch_size=size, channels=channels, encoder=encoder,
        decoder=decoder, quantizer=quantizer, tanh="blocks", positions="sincos",
        output="linear",
    )  # fmt: skip
    return config, ours


def _stack(
    theirs: Weights, ours: Ours, table: str, *shape: int | None
) -> tuple[StackConfig, int]:
    """The size of the blocks after a table of positions, and its grid's width."""
    positions = _take(theirs, table, 1, *shape)[0]
    tokens, width = positions.shape
    grid = math.isqrt(tokens)
    known = sincos_positions(grid, width)
    if known.shape != positions.shape or np.abs(positions - known).max() > 1e-4:
        problem = f"{table} differs from the sin-cos table of a square, as if trained"
        raise UserError(f"{problem}; only fixed positions can be converted")
    side = table.split(".")[0]
    layers = f"{side}.transformer.layers."
    inner = len(_look(theirs, f"{layers}0.0.fn.to_qkv.weight", None, width)) // 3
    wrong = f"{side} has attention of width {inner} in a model of width {width}"
    told = f"{wrong}; heads of {HEAD_DIM} must fill it, as at widths 512 and 768"
    require(inner == width and width % HEAD_DIM == 0, told)
    hidden = len(_look(theirs, f"{layers}0.1.fn.net.0.bias", None))
    blocks = len({k.split(".")[3] for k in theirs if k.startswith(layers)})
    ours[f"{side}.stack.norm"] = f"{side}.transformer.norm"
    ours |= {f"{side}.stack.blocks.{k}": f"{layers}{{i}}.{v}" for k, v in BLOCK.items()}
    ours[f"{side}.stack.blocks.qkv.bias"] = np.zeros((blocks, 3 * width), np.float32)
    size = {"blocks": blocks, "width": width, "hidden": hidden}
    heads = width // HEAD_DIM
    return StackConfig(**size, heads=heads, activation="tanh", norm_eps=1e-5), grid


def _cnn(
    theirs: Weights, quantizer: QuantizerConfig, size: int
) -> tuple[TokenizerConfig, Ours]:
    """Pixels are `2 x - 1` at both ends, in ours only at the encoder's."""
    ours: Ours = {"quantizer.down": "quant_conv", "quantizer.up": "post_quant_conv"}
    encoder = _side(theirs, ours, "encoder", "quant_conv.weight")
    decoder = _side(theirs, ours, "decoder", "post_quant_conv.weight")
    name, patch = "decoder.conv_out", encoder.patch_size
    pixels = _take(theirs, f"{name}.weight", None, decoder.widths[0], 3, 3) / 2
    ours["decoder.out.conv.kernel"] = pixels.transpose(2, 3, 1, 0)
    bias = _take(theirs, f"{name}.bias", len(pixels)) / 2
    ours["decoder.out.conv.bias"] = bias + 0.5
    wrong = f"images of {size} pixels are not of whole patches of {patch}"
    require(size % patch == 0, f"{wrong}; give a multiple as --image-size")
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
    firsts = [f"{found[key]}.conv1.weight" for key in reversed(sizes)]
    widths = [len(_look(theirs, name, None, None, 3, 3)) for name in firsts]
    channels = len(_look(theirs, "encoder.conv_in.weight", None, None, 3, 3))
    theirs[outer] = _take(theirs, outer, None, None, 1, 1)[:, :, 0, 0]
    return CNNConfig(
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        res_blocks=len(rows) // max(len(sizes), 1) - (not first),
        attention=tuple(i for i, k in enumerate(sizes) if (*k[:2], True) in found),
        features=theirs[outer].shape[1 if first else 0],
    )


def _filled(model: Any, ours: Ours, theirs: Weights, remedy: str) -> Any:
    """An abstract model with `ours`, which name what is taken from theirs."""

    def one(name: str, part: str, *shape: int) -> np.ndarray:
        """[..., in, out] here is [out, in, ...] there, and a scale a weight."""
        kernel, name = (
            part == "kernel",
            f"{name}.{part if part == 'bias' else 'weight'}",
        )
        shape = (*shape[:-3:-1], *shape[:-2]) if kernel else shape
        value = take(theirs, name, *shape, remedy=remedy)
        return np.moveaxis(value, (0, 1), (-1, -2)) if kernel else value

    def fill(path: tuple, leaf: nnx.Variable) -> nnx.Variable:
        name = ".".join(map(str, path))
        layer, _, part = name.rpartition(".")
        where = ours.get(name, ours.get(layer, layer))
        if not isinstance(where, str):
            return leaf.replace(jnp.asarray(where))
        if "{i}" in where:
            each = [where.format(i=i) for i in range(leaf.shape[0])]
            value = np.stack([one(n, part, *leaf.shape[1:]) for n in each])
        else:
            each, (*shape, last) = where.split(), leaf.shape
            found = [one(n, part, *shape, last // len(each)) for n in each]
            value = np.concatenate(found, axis=-1)
        return leaf.replace(jnp.asarray(value))

    graph, state = nnx.split(model)
    return nnx.merge(graph, nnx.map_state(fill, state))
