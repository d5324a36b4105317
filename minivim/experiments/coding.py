"""Whole data sets through the two stages, in batches of one size."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from tqdm.auto import tqdm

from minivim import data
from minivim.data import Source
from minivim.prior import Prior
from minivim.sharding import fetch
from minivim.tokenizer import Tokenizer


def encode_all(
    tokenizer: Tokenizer, images: np.ndarray, *, batch_size: int = 256
) -> np.ndarray:
    """Codes `int32 [n, N]` of uint8 or float images, in batches."""
    parts = []
    for first in range(0, len(images), batch_size):
        part = images[first : first + batch_size]
        scaled = part.astype(np.float32) / 255 if part.dtype == np.uint8 else part
        parts.append(fetch(tokenizer.encode(_padded(scaled, batch_size)))[: len(part)])
    return np.concatenate(parts)


def decode_all(
    tokenizer: Tokenizer, codes: np.ndarray, *, batch_size: int = 256
) -> np.ndarray:
    """Images `float32 [n, H, W, C]` of codes, in batches."""
    parts = []
    for first in range(0, len(codes), batch_size):
        part = np.asarray(codes[first : first + batch_size])
        parts.append(fetch(tokenizer.decode(_padded(part, batch_size)))[: len(part)])
    return np.concatenate(parts)


def encode_source(
    tokenizer: Tokenizer, source: Source, *, batch_size: int = 256, quiet: bool = False
) -> data.ArraySource:
    """A whole source as codes and labels in memory."""
    codes, labels = [], []
    firsts = range(0, len(source), batch_size)
    for first in tqdm(firsts, desc="encode", unit="batch", disable=quiet):
        rows = source.take(np.arange(first, min(first + batch_size, len(source))))
        codes.append(encode_all(tokenizer, rows["image"], batch_size=batch_size))
        labels.append(rows["label"])
    return data.ArraySource(
        {"codes": np.concatenate(codes), "label": np.concatenate(labels)},
        class_names=source.class_names,
        description=f"codes of {source.description}",
    )


@nnx.jit
def _nll(prior: Prior, codes: ArrayLike, labels: ArrayLike | None) -> jax.Array:
    codes, labels = jnp.asarray(codes), None if labels is None else jnp.asarray(labels)
    logits, _ = prior(codes, labels)
    chosen = jnp.take_along_axis(logits, codes[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def nats_per_token(
    prior: Prior,
    codes: np.ndarray,
    labels: np.ndarray | None,
    *,
    batch_size: int = 64,
) -> float:
    """Mean of `-log p(c_i | class, c_<i)` over all codes, without dropout."""
    parts = []
    for first in range(0, len(codes), batch_size):
        part = slice(first, first + batch_size)
        rows = _padded(codes[part], batch_size)
        named = None if labels is None else _padded(labels[part], batch_size)
        parts.append(fetch(_nll(prior, rows, named))[: len(codes[part])])
    return float(np.mean(np.concatenate(parts)))


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    """Repeat the last row up to `count`, so that one program serves every batch."""
    missing = count - len(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, 0)]) if missing else rows
