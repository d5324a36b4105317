"""The weights that run inside a page (`_static/decoder.js` and `_static/prior.js`).

A script and not a file of data, since a page opened from a disk may load scripts only.
"""

import json
import zlib
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np

import minivim
from minivim.config import as_dict
from minivim.data import shapes
from minivim.prior import Prior
from minivim.prior.model import class_names
from minivim.tokenizer import Tokenizer
from minivim.transformer import patchify
from minivim.weights import flat_weights, identity

PARTS = ("quantizer.codebook", "quantizer.up.", "decoder.")


def _halves(model: Any, parts: tuple[str, ...] = ("",)) -> tuple[dict, np.ndarray]:
    """Where each parameter lies, and all of them one after another in 16 bits.

    Raises ValueError where 16 bits do not hold a weight exactly: what the page computes
    must be what the package computes.
    """
    flat = {k: np.asarray(v) for k, v in sorted(flat_weights(model).items())}
    tensors, pieces, start = {}, [], 0
    for name, value in flat.items():
        if not name.startswith(parts):
            continue
        half = value.astype("<f2")
        if not np.array_equal(half, value):
            raise ValueError(f"{name} is not stored in 16 bits: export it as float16")
        tensors[name] = {"start": start, "shape": value.shape}
        pieces.append(half.ravel())
        start += value.size
    return tensors, np.concatenate(pieces)


def _text(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def data(tokenizer: Tokenizer) -> dict:
    """Settings and weights of the half that decodes, ready for JSON."""
    config = as_dict(tokenizer.config)
    del config["encoder"]
    tensors, halves = _halves(tokenizer, PARTS)
    weights = {"tensors": tensors, "weights": _text(halves.tobytes())}
    return {**identity(tokenizer), "config": config, **weights}


def prior_data(prior: Prior) -> dict:
    """Settings, names of classes and weights of a prior, ready for JSON.

    Compressed, with all lower bytes before the upper ones, which alone can be: the
    first page carries the decoder too.
    """
    tensors, halves = _halves(prior)
    planes = halves.view(np.uint8).reshape(-1, 2).T.tobytes()
    packed = {"tensors": tensors, "packed": _text(zlib.compress(planes, 9))}
    names = {"class_names": class_names(prior)}
    return {**identity(prior), "config": as_dict(prior.config), **names, **packed}


def patches(tokenizer: Tokenizer) -> str:
    """Base64 of `[K, p, p, C]` bytes: what each code looks like.

    It is the mean over decoded test pictures; of a code that none of them has, the
    middle of a picture of this code alone.
    """
    config = tokenizer.config
    count, middle = config.quantizer.num_codes, (config.grid + 1) * config.grid // 2
    images = shapes.arrays("test", size=512)["image"].astype(np.float32) / 255
    codes = np.asarray(tokenizer.encode(images)).ravel()
    alone = np.repeat(np.arange(count)[:, None], config.num_tokens, axis=1)

    def rows(codes: np.ndarray) -> np.ndarray:
        return np.asarray(patchify(tokenizer.decode(codes), config.patch_size))

    mean = rows(alone)[:, middle].copy()
    decoded = rows(codes.reshape(len(images), -1)).reshape(len(codes), -1)
    for code in np.unique(codes):
        mean[code] = decoded[codes == code].mean(axis=0)
    return _text((255 * mean).round().astype(np.uint8).tobytes())


def script(name: str, content: dict) -> str:
    """A script that leaves `content` at `minivim.<name>`."""
    return (
        "globalThis.minivim = globalThis.minivim || {};\n"
        f"minivim.{name} = {json.dumps(content)};\n"
    )


def scripts(data_set: str = "shapes") -> dict[str, str]:
    """The scripts of the shipped weights, by the names of their files."""
    tokenizer = minivim.load(f"{data_set}/tokenizer")
    prior = prior_data(minivim.load(f"{data_set}/prior"))
    prior |= {"tokenizer": identity(tokenizer)["hash"], "patches": patches(tokenizer)}
    return {
        f"{data_set}-decoder.js": script("weights", data(tokenizer)),
        f"{data_set}-prior.js": script("priorWeights", prior),
    }


def write(folder: Path) -> None:
    """Write them, unless they are there already."""
    for file, text in scripts().items():
        path = folder / file
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
