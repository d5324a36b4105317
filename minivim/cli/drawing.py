"""Commands that draw: reconstruct, sample and complete."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from minivim import data, metrics, prior, weights
from minivim.cli import arguments as args
from minivim.cli.arguments import command, option
from minivim.config.checks import require
from minivim.data.layout import composed
from minivim.encode import decode_all, encode_all
from minivim.files import write
from minivim.pictures import saved
from minivim.prior.model import class_names
from minivim.weights import load_pair

# Images of one call: of the tokenizer, and of the prior, where they are what is drawn.
BATCH, DRAWN = 256, 512
SAMPLING = (args.OUT, args.STEP, args.SEED, args.QUIET, args.TOKENIZER, *args.DRAWN)
# Labels of some images, if there are any, and arrays by the names of their sets.
Part = tuple[Any, dict[str, np.ndarray]]


def _parts(options: Namespace, total: int, size: int) -> Iterator[tuple[slice, Any]]:
    """Slices of at most `size` and a random key for each, the first the seed's own."""
    starts = range(0, total, size)
    quiet = options.quiet or len(starts) < 2
    key = jax.random.key(options.seed)
    for first in tqdm(starts, desc=options.command, unit="part", disable=quiet):
        part = slice(first, min(first + size, total))
        yield part, jax.random.fold_in(key, first) if first else key


def _write(
    place: tuple[Path, str], parts: Iterable[Part], figure: Any, *, of: Any, **how: Any
) -> None:
    """Write a figure of all parts, or their pictures, whose size is that `of` a model.

    `how`: what `saved` takes.
    """
    path, kind = place
    if kind == ".png":
        from minivim import show

        every = [arrays for _, arrays in parts]
        joined = {n: np.concatenate([one[n] for one in every]) for n in every[0]}
        write(path, show.to_png(figure(show, **joined)))
        return
    with saved(path, npz=bool(kind), side=of.config.image_size, **how) as add:
        for labels, arrays in parts:
            add(labels, **arrays)


@command(
    option("tokenizer"),
    *(*args.DATA, args.OUT, args.SPLIT, args.count(16), args.STEP, args.QUIET),
)
def _reconstruct(options: Namespace) -> None:
    """Draw originals beside reconstructions, or in OUT-real.npz or OUT/real."""
    tokenizer = args.open_tokenizer(options)
    place, shape = args.place(options.out), tokenizer.config.image_shape
    source = data.open_source(args.data_of(options), split=options.split, **shape)
    data.announce(source)
    count, psnr = min(options.count, len(source)), []

    def parts() -> Iterator[Part]:
        quiet = options.quiet or count <= BATCH
        reading = {"count": count, "batch_size": BATCH, "desc": "reconstruct"}
        for rows in data.in_order(source, quiet=quiet, **reading):
            real = rows["image"]
            recon = decode_all(tokenizer, encode_all(tokenizer, real))
            psnr.append(np.asarray(metrics.psnr_per_image(real, recon)))
            yield rows["label"], {"recon": recon, "real": real}

    how = {"count": count, "class_names": source.class_names, "sets": ("recon", "real")}
    pair = lambda show, recon, real: show.reconstructions(real, recon)  # noqa: E731
    _write(place, parts(), pair, of=tokenizer, **how)
    print(f"PSNR {np.concatenate(psnr).mean():.2f} dB: {options.out}")


@command(
    option("prior"),
    option("--labels", nargs="+", help="names or numbers (default: all)"),
    *(args.count(8, "images per label"), *SAMPLING),
    option("--acceptance", type=args.share, help="draw more and keep the best share"),
    option("--classifier", help="labelled network that finds the best; no judge"),
)
def _sample(options: Namespace) -> None:
    """Draw new images from a prior."""
    tokenizer, model = load_pair(options.prior, options.tokenizer, step=options.step)
    place, labels = args.place(options.out), None
    names = args.show_classes(model)
    wanted = range(len(names))
    if options.labels:
        words = [[w] if composed(w) in names else w.split(",") for w in options.labels]
        wanted = prior.check_labels(model, [w.strip() for part in words for w in part])
    if len(wanted):
        # Scores over consecutive parts want all classes in each of them.
        order = np.repeat if place[1] == ".png" else np.tile
        labels = order(wanted, options.count)
    total = options.count if labels is None else len(labels)

    # Rows of 8, longer where the picture would be a strip.
    columns = max(8, math.isqrt(total))

    def figure(show: Any, images: np.ndarray) -> Any:
        if labels is None:
            return show.image_grid(images, columns=min(columns, total))
        return show.samples_by_class(images, labels, names, columns=columns, wrap=True)

    rejecting = options.classifier or options.acceptance is not None
    parts = (_rejected if rejecting else _drawn)(options, model, tokenizer, labels)
    _write(place, parts, figure, of=tokenizer, count=total, class_names=names)
    print(f"{total} samples: {options.out}")


def _drawn(options: Namespace, model: Any, tokenizer: Any, labels: Any) -> Any:
    """Images of all labels, or as many as asked for without."""
    total = options.count if labels is None else len(labels)
    # All parts of one size: one compiled program serves them.
    size = min(DRAWN, total)
    how = args.given(options, *args.SAMPLED) | {"num_samples": size}
    for part, key in _parts(options, total, DRAWN):
        mine = None if labels is None else labels[part]
        rows = None if mine is None else np.resize(mine, size)
        codes = np.asarray(prior.sample(model, key=key, labels=rows, **how))
        yield mine, {"images": decode_all(tokenizer, codes[: part.stop - part.start])}


def _rejected(options: Namespace, model: Any, tokenizer: Any, labels: Any) -> Any:
    """Images that a classifier chose; candidates are kept as codes."""
    told = "rejection needs both --acceptance 0.5 --classifier FOLDER"
    require(options.classifier and options.acceptance is not None, told)
    told = "this prior has no labels that a classifier could look for"
    require(labels is not None, f"{told}; leave out --acceptance and --classifier")
    network, how = weights.load(options.classifier), args.given(options, *args.SAMPLED)
    how |= args.given(options, "acceptance", "quiet") | {"keep_images": False}
    how |= {"key": jax.random.key(options.seed), "labels": labels}
    found = prior.reject(model, tokenizer, network, **how)
    for part, _ in _parts(options, len(labels), DRAWN):
        codes = found.codes[found.chosen[part]]
        yield labels[part], {"images": decode_all(tokenizer, codes)}


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
    tokenizer, model = load_pair(options.prior, options.tokenizer, step=options.step)
    place, shape = args.place(options.out), tokenizer.config.image_shape
    spec, grid = args.data_of(options, options.images), tokenizer.config.grid
    source = data.open_source(spec, split=options.split, **shape)
    count, rows = min(options.first, len(source)), round(options.keep * grid)
    how = args.given(options, "count", "peek", *args.SAMPLED) | {"rows": rows}
    label, names = None, []
    if options.label is not None:
        [label], names = prior.check_labels(model, [options.label]), class_names(model)

    def parts() -> Iterator[Part]:
        size = max(1, DRAWN // options.count)
        read = data.in_order(source, count=count, batch_size=size)
        for (_, key), batch in zip(_parts(options, count, size), read, strict=True):
            real = batch["image"]
            given = None if label is None else np.full(len(real), label)
            done = prior.complete(model, tokenizer, real, key=key, labels=given, **how)
            arrays = {n: getattr(done, n) for n in ("given", "codes", "images")}
            labels = None if given is None else given.repeat(options.count)
            yield labels, {"real": real, **arrays}

    def figure(show: Any, real: np.ndarray, **arrays: np.ndarray) -> Any:
        return show.completions(real, prior.Completion(known=rows * grid, **arrays))

    drawn = {"count": count * options.count, "class_names": names}
    _write(place, parts(), figure, of=tokenizer, **drawn)
    print(f"{options.count} completions of {count} images: {options.out}")
