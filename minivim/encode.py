"""Whole data sets through the two stages, in batches of one size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from minivim import data, weights
from minivim.data import CodesCard, Source, write_codes
from minivim.data.augment import augment
from minivim.errors import UserError
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
        parts.append(
            fetch(tokenizer.encode(data.padded(scaled, batch_size)))[: len(part)]
        )
    return np.concatenate(parts)


def decode_all(
    tokenizer: Tokenizer, codes: np.ndarray, *, batch_size: int = 256
) -> np.ndarray:
    """Images `float32 [n, H, W, C]` of codes, in batches."""
    parts = []
    for first in range(0, len(codes), batch_size):
        part = np.asarray(codes[first : first + batch_size])
        parts.append(
            fetch(tokenizer.decode(data.padded(part, batch_size)))[: len(part)]
        )
    return np.concatenate(parts)


@dataclass(frozen=True, kw_only=True)
class Views:
    """Versions of each image to encode: the image as it is, and augmented ones."""

    count: int = 1
    flip: bool = False
    crop: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        changes = self.flip or self.crop < 1
        if self.count < 1 or not 0 < self.crop <= 1 or (self.count > 1) != changes:
            raise UserError(
                f"views={self.count}, flip={self.flip}, crop={self.crop}: the first "
                "view is the image as it is, others need flip or a crop in (0, 1], and "
                "these need others; choose views=1 alone, or views=8 and flip"
            )


def encode_batches(
    tokenizer: Tokenizer,
    source: Source,
    *,
    views: Views = Views(),
    count: int | None = None,
    batch_size: int = 256,
    workers: int = 0,
    quiet: bool = False,
) -> Iterator[data.Batch]:
    """Codes `int32 [n, N]`, with several views `[n, V, N]`, and labels, in order.

    View `v` of batch `b` is drawn from (seed, v, b). `count` keeps the first images,
    `workers` other processes decode them.
    """
    changed = jax.jit(partial(augment, flip=views.flip, crop=views.crop))
    read = data.in_order(
        source, count=count, batch_size=batch_size, workers=workers, desc="encode",
        quiet=quiet,
    )  # fmt: skip
    with closing(read):
        for number, rows in enumerate(read):
            images = rows["image"]
            codes = [encode_all(tokenizer, images, batch_size=batch_size)]
            for view in range(1, views.count):
                key = jax.random.fold_in(jax.random.key(views.seed), view)
                key = jax.random.fold_in(key, number)
                other = fetch(changed(data.padded(images, batch_size), key=key))
                coded = encode_all(tokenizer, other, batch_size=batch_size)
                codes.append(coded[: len(images)])
            stacked = np.stack(codes, axis=1) if views.count > 1 else codes[0]
            yield {"codes": stacked, "label": rows["label"]}


def encode_source(
    tokenizer: Tokenizer,
    source: Source,
    *,
    views: Views = Views(),
    batch_size: int = 256,
    workers: int = 0,
    quiet: bool = False,
) -> data.ArraySource:
    """A whole source as codes and labels in memory."""
    parts = list(
        encode_batches(
            tokenizer,
            source,
            views=views,
            batch_size=batch_size,
            workers=workers,
            quiet=quiet,
        )
    )
    return data.ArraySource(
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
        class_names=source.class_names,
        description=f"codes of {source.description}",
    )


def encode_folder(
    tokenizer: Tokenizer,
    folder: str | Path,
    sources: Mapping[str, Source],
    *,
    name: str,
    views: Views = Views(),
    count: int | None = None,
    batch_size: int = 256,
    workers: int = 0,
    quiet: bool = False,
) -> Path:
    """Write the codes of splits as a folder that `minivim train prior` takes as data.

    Only "train" has augmented views. `name` is how the prior's card calls the
    tokenizer. Raises `UserError` for a folder that is there already.
    """
    kept = {s: views if s == "train" else Views() for s in sources}
    rows = {
        split: (
            encode_batches(
                tokenizer, source, views=kept[split], count=count,
                batch_size=batch_size, workers=workers, quiet=quiet,
            ),
            source.class_names,
        )
        for split, source in sources.items()
    }  # fmt: skip
    first = sources.get("train") or next(iter(sources.values()))
    card = CodesCard(
        tokenizer=name,
        tokenizer_hash=weights.weights_hash(tokenizer),
        num_codes=tokenizer.config.quantizer.num_codes,
        grid=tokenizer.config.grid,
        data=first.description.removesuffix(" (train)").removesuffix(" (test)"),
        fingerprint=first.fingerprint,
        views=views.count,
        flip=views.flip,
        crop=views.crop,
        seed=views.seed,
    )
    return write_codes(folder, rows, card)


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
        rows = data.padded(codes[part], batch_size)
        named = None if labels is None else data.padded(labels[part], batch_size)
        parts.append(fetch(_nll(prior, rows, named))[: len(codes[part])])
    return float(np.mean(np.concatenate(parts)))
