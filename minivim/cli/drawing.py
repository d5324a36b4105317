"""Commands that draw: reconstruct, sample and complete."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from minivim import data, metrics, prior, weights
from minivim.cli import arguments as args
from minivim.cli.arguments import command, option
from minivim.data.layout import composed
from minivim.encode import decode_all, encode_all
from minivim.errors import UserError
from minivim.files import write

# Images of one call: of the tokenizer, and of the prior, where they are what is drawn.
BATCH, DRAWN = 256, 512
SAMPLING = (
    *(args.PNG, args.SEED, args.QUIET),
    option("--tokenizer", help="default: the one the prior's card names"),
    option("--temperature", type=float, default=1.0),
    option("--top-k", type=int),
    option("--top-p", type=float),
    option("--guidance", type=float),
)
SAMPLED = ("temperature", "top_k", "top_p", "guidance")


def _parts(options: Namespace, total: int, size: int) -> Iterator[tuple[slice, Any]]:
    """Slices of at most `size` and a random key for each, the first the seed's own."""
    starts = range(0, total, size)
    quiet = options.quiet or len(starts) < 2
    key = jax.random.key(getattr(options, "seed", 0))
    for first in tqdm(starts, desc=options.command, unit="part", disable=quiet):
        part = slice(first, min(first + size, total))
        yield part, jax.random.fold_in(key, first) if first else key


@command(
    option("tokenizer"),
    *(*args.DATA, args.PNG, args.SPLIT, args.count(16), args.QUIET),
)
def _reconstruct(options: Namespace) -> None:
    """Draw originals beside reconstructions."""
    from minivim import show

    tokenizer = args.open_tokenizer(options.tokenizer)
    path, shape = args.writable(options.out, ".png"), tokenizer.config.image_shape
    source = data.open_source(args.data_of(options), split=options.split, **shape)
    data.announce(source)
    images = data.stack(source, options.count)["image"]
    parts = [images[part] for part, _ in _parts(options, len(images), BATCH)]
    recon = [decode_all(tokenizer, encode_all(tokenizer, part)) for part in parts]
    recon = np.concatenate(recon)
    write(path, show.to_png(show.reconstructions(images, recon)))
    print(f"PSNR {float(metrics.psnr(images, recon)):.2f} dB: {path}")


@command(
    option("prior"),
    option("--labels", nargs="+", help="names or numbers (default: all)"),
    *(args.count(8, "images per label"), *SAMPLING),
    option("--acceptance", type=args.share, help="draw more and keep the best share"),
    option("--classifier", help="labelled network that finds the best; no judge"),
)
def _sample(options: Namespace) -> None:
    """Draw new images from a prior."""
    from minivim import show

    tokenizer, model = weights.load_pair(options.prior, options.tokenizer)
    path = args.writable(options.out, ".png")
    names = args.show_classes(model)
    wanted = range(len(names))
    if options.labels:
        words = [[w] if composed(w) in names else w.split(",") for w in options.labels]
        wanted = prior.check_labels(model, [w.strip() for part in words for w in part])
    labels = np.repeat(wanted, options.count) if len(wanted) else None
    rejecting = options.classifier or options.acceptance is not None
    images = (_rejected if rejecting else _drawn)(options, model, tokenizer, labels)
    # Rows of 8, longer where the picture would be a strip.
    columns = max(8, math.isqrt(len(images)))
    if labels is None:
        figure = show.image_grid(images, columns=min(columns, options.count))
    else:
        rows, titles = _rows(labels, names, columns)
        figure = show.samples_by_class(images, rows, titles, columns=columns)
    write(path, show.to_png(figure))
    print(f"{len(images)} samples: {path}")


def _drawn(options: Namespace, model: Any, tokenizer: Any, labels: Any) -> Any:
    """Images of all labels, or as many as asked for without."""
    total = options.count if labels is None else len(labels)
    # All parts of one size: one compiled program serves them.
    images, size = [], min(DRAWN, total)
    how = args.given(options, *SAMPLED) | {"num_samples": size}
    for part, key in _parts(options, total, DRAWN):
        rows = None if labels is None else np.resize(labels[part], size)
        codes = np.asarray(prior.sample(model, key=key, labels=rows, **how))
        images.append(decode_all(tokenizer, codes[: part.stop - part.start]))
    return np.concatenate(images)


def _rejected(options: Namespace, model: Any, tokenizer: Any, labels: Any) -> Any:
    """Images that a classifier chose."""
    if not options.classifier or options.acceptance is None:
        raise UserError("rejection needs both --acceptance 0.5 --classifier FOLDER")
    if labels is None:
        wrong = "this prior has no labels that a classifier could look for"
        raise UserError(f"{wrong}; leave out --acceptance and --classifier")
    network, how = weights.load(options.classifier), args.given(options, *SAMPLED)
    how |= args.given(options, "acceptance", "quiet")
    how |= {"key": jax.random.key(options.seed), "labels": labels}
    found = prior.reject(model, tokenizer, network, **how)
    return found.images[found.chosen]


def _rows(labels: Any, names: list[str], columns: int) -> tuple[Any, list[str]]:
    """Which row each image is in, and the title of every row: a class may need more."""
    rows, titles = np.empty_like(labels), []
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        rows[mine] = len(titles) + np.arange(len(mine)) // columns
        titles += [names[label]] * math.ceil(len(mine) / columns)
    return rows, titles


@command(
    option("prior"),
    option("images", metavar="IMAGES", help="an image, or what --data takes"),
    option("--first", type=args.positive, default=4, help="images of a data set"),
    option("--keep", type=args.share, default=0.5, help="share of the rows on top"),
    option("--label", help="name or number, of all images (default: none)"),
    option("--peek", action="store_true", help="let the encoder see what is hidden"),
    *(*args.READING, args.SPLIT, args.count(4, "completions of each image")),
    *SAMPLING,
)
def _complete(options: Namespace) -> None:
    """Draw the rest of given images."""
    from minivim import show

    tokenizer, model = weights.load_pair(options.prior, options.tokenizer)
    path, shape = args.writable(options.out, ".png"), tokenizer.config.image_shape
    label, spec = options.label, args.data_of(options, options.images)
    source = data.open_source(spec, split=options.split, **shape)
    images = data.stack(source, options.first)["image"]
    how = args.given(options, "count", "peek", *SAMPLED)
    how["rows"] = round(options.keep * tokenizer.config.grid)
    parts = []
    for part, key in _parts(options, len(images), max(1, DRAWN // options.count)):
        given = images[part]
        labels = None if label is None else [label] * len(given)
        done = prior.complete(model, tokenizer, given, key=key, labels=labels, **how)
        parts.append(done)
    names = ("given", "codes", "images")
    whole = {n: np.concatenate([getattr(one, n) for one in parts]) for n in names}
    found = replace(parts[0], **whole)
    write(path, show.to_png(show.completions(images, found)))
    print(f"{options.count} completions of {len(images)} images: {path}")
