"""Whole data sets through the two stages, in batches of one size."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from minivim import data, metrics, weights
from minivim.batched import in_batches
from minivim.config.checks import Config, Count, Seed, Share, require
from minivim.data import CodesCard, Source, write_codes
from minivim.data.augment import augment
from minivim.prior import Prior
from minivim.sharding import fetch
from minivim.tokenizer import Tokenizer


def encode_all(
    tokenizer: Tokenizer, images: Any, *, batch_size: int = 256
) -> np.ndarray:
    """Codes `int32 [n, N]` of images, as `Tokenizer.encode` takes them, in batches."""
    images = data.unit_images(images, keep_bytes=True)
    return in_batches(tokenizer.encode, images, batch_size=batch_size)


def decode_all(
    tokenizer: Tokenizer, codes: ArrayLike, *, batch_size: int = 256
) -> np.ndarray:
    """Images `float32 [n, H, W, C]` of codes, in batches."""
    return in_batches(tokenizer.decode, codes, batch_size=batch_size)


def nats_per_token(
    prior: Prior, codes: np.ndarray, labels: np.ndarray | None, *, batch_size: int = 64
) -> float:
    """Mean of `-log p(c_i | class, c_<i)` over all codes, without dropout."""
    # One array, so that codes and labels go through in the same batches.
    rows = codes if labels is None else np.column_stack([codes, labels])
    return float(np.mean(in_batches(partial(_nll, prior), rows, batch_size=batch_size)))


@nnx.jit
def _nll(prior: Prior, rows: ArrayLike) -> jax.Array:
    codes, labels = jnp.split(jnp.asarray(rows), [prior.config.num_tokens], axis=1)
    logits, _ = prior(codes, labels[:, 0] if labels.size else None)
    chosen = jnp.take_along_axis(logits, codes[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def round_trip(
    tokenizer: Tokenizer, images: Any, *, batch_size: int = 256
) -> dict[str, float]:
    """PSNR of images there and back, and how much of the codebook they use."""
    codes = encode_all(tokenizer, images, batch_size=batch_size)
    recon = decode_all(tokenizer, codes, batch_size=batch_size)
    used = metrics.codebook_usage(codes, num_codes=tokenizer.config.quantizer.num_codes)
    psnr = float(metrics.psnr(images, recon))
    return {"psnr": psnr, "usage": used.usage, "perplexity": used.perplexity}


@dataclass(frozen=True)
class Views(Config):
    """Versions of each image to encode: the image as it is, and augmented ones."""

    count: Count = 1
    flip: bool = False
    crop: Share = 1.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = (self.count > 1) == (self.flip or self.crop < 1)
        told = f"views={self.count}, flip={self.flip}, crop={self.crop}: the first view"
        told += " is the image as it is, others need flip or a crop below 1"
        require(fits, f"{told}; choose views=1 alone, or views=8 and flip")


def encode_batches(
    tokenizer: Tokenizer,
    source: Source,
    *,
    views: Views = Views(),
    batch_size: int = 256,
    quiet: bool = False,
    **reading: Any,
) -> Iterator[data.Batch]:
    """Codes `int32 [n, N]`, with several views `[n, V, N]`, and labels, in order.

    View `v` of batch `b` is drawn from (seed, v, b). `reading`: `count` keeps the first
    images, `workers` other processes decode them.
    """
    changed = jax.jit(partial(augment, flip=views.flip, crop=views.crop))
    reading |= {"batch_size": batch_size, "quiet": quiet}
    with closing(data.in_order(source, desc="encode", **reading)) as read:
        for number, rows in enumerate(read):
            every = [data.padded(rows["image"], batch_size)]
            for view in range(1, views.count):
                key = jax.random.fold_in(jax.random.key(views.seed), view)
                key = jax.random.fold_in(key, number)
                every.append(fetch(changed(every[0], key=key)))
            every = [encode_all(tokenizer, x, batch_size=batch_size) for x in every]
            codes = np.stack(every, axis=1)[: len(rows["label"])]
            codes = codes if views.count > 1 else codes[:, 0]
            yield {"codes": codes, "label": rows["label"]}


def encode_source(tokenizer: Tokenizer, source: Source, **options) -> data.ArraySource:
    """A whole source as codes and labels in memory; options of `encode_batches`."""
    parts = list(encode_batches(tokenizer, source, **options))
    rows = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    told = f"codes of {source.description}"
    return data.ArraySource(rows, class_names=source.class_names, description=told)


def encode_folder(
    tokenizer: Tokenizer,
    folder: str | Path,
    sources: Mapping[str, Source],
    *,
    name: str,
    views: Views = Views(),
    **options: Any,
) -> Path:
    """Write the codes of splits as a folder that `minivim train prior` takes as data.

    Only "train" has augmented views. `name` is how the prior's card calls the
    tokenizer; options are those of `encode_batches`. An existing folder is refused.
    """
    checked = partial(data.checked, headers=True, quiet=options.get("quiet", False))
    sources, rows = {split: checked(source) for split, source in sources.items()}, {}
    for split, source in sources.items():
        kept = views if split == "train" else Views()
        batches = encode_batches(tokenizer, source, views=kept, **options)
        rows[split] = batches, source.class_names
    first = sources.get("train") or next(iter(sources.values()))
    data.announce(first)
    card = CodesCard(
        tokenizer=name, tokenizer_hash=weights.weights_hash(tokenizer),
        num_codes=tokenizer.config.quantizer.num_codes, grid=tokenizer.config.grid,
        data=first.description.removesuffix(" (train)").removesuffix(" (test)"),
        fingerprint=first.fingerprint, views=views.count, flip=views.flip,
        crop=views.crop, seed=views.seed,
    )  # fmt: skip
    return write_codes(folder, rows, card)
