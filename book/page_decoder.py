"""The weights of the decoder that runs inside a page (`_static/decoder.js`).

A script and not a file of data, since a page opened from a disk may load scripts only.
"""

import json
from base64 import b64encode
from pathlib import Path

import numpy as np

import minivim
from minivim.config import as_dict
from minivim.tokenizer import Tokenizer
from minivim.weights import flat_weights, identity

PARTS = ("quantizer.codebook", "quantizer.up.", "decoder.")


def data(tokenizer: Tokenizer) -> dict:
    """Settings and weights of the half that decodes, ready for JSON.

    Raises ValueError where 16 bits do not hold a weight exactly: what the page computes
    must be what the package computes.
    """
    flat = {k: np.asarray(v) for k, v in sorted(flat_weights(tokenizer).items())}
    tensors, pieces, start = {}, [], 0
    for name, value in flat.items():
        if not name.startswith(PARTS):
            continue
        half = value.astype("<f2")
        if not np.array_equal(half, value):
            raise ValueError(f"{name} is not stored in 16 bits: export it as float16")
        tensors[name] = {"start": start, "shape": value.shape}
        pieces.append(half.tobytes())
        start += value.size
    config = as_dict(tokenizer.config)
    del config["encoder"]
    return {
        **identity(tokenizer),
        "config": config,
        "tensors": tensors,
        "weights": b64encode(b"".join(pieces)).decode("ascii"),
    }


def script(tokenizer: Tokenizer) -> str:
    """The same as a script that leaves them at `minivim.weights`."""
    return (
        "globalThis.minivim = globalThis.minivim || {};\n"
        f"minivim.weights = {json.dumps(data(tokenizer))};\n"
    )


def write(path: Path, *, name: str = "shapes/tokenizer") -> None:
    """Write the script of a shipped tokenizer, unless it is there already."""
    text = script(minivim.load(name))
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
