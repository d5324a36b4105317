"""Commands that draw: reconstruct, sample and complete."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from minivim.cli.arguments import (
    Command,
    add_data,
    add_seed,
    add_subset,
    open_split,
    open_tokenizer,
    positive,
    share,
    writable,
    write,
)
from minivim.errors import UserError


def add_commands(command: Command) -> None:
    """reconstruct, sample and complete."""
    one = command("reconstruct", _reconstruct, "draw originals beside reconstructions")
    one.add_argument("tokenizer")
    add_data(one)
    one.add_argument("--out", required=True, help="a .png file")
    add_subset(one, count=16)
    _add_sample(command("sample", _sample, "draw new images from a prior"))
    _add_complete(command("complete", _complete, "draw the rest of given images"))


def _add_sample(one: argparse.ArgumentParser) -> None:
    one.add_argument("prior")
    one.add_argument("--labels", nargs="+", type=int, help="default: all")
    one.add_argument("--count", type=positive, default=8, help="images per label")
    _add_drawing(one)
    one.add_argument(
        "--acceptance", type=share, metavar="A",
        help="draw more, and keep the share that the classifier likes best",
    )  # fmt: skip
    one.add_argument("--classifier", help="labelled network that chooses; no judge")


def _add_complete(one: argparse.ArgumentParser) -> None:
    one.add_argument("prior")
    one.add_argument("images", metavar="IMAGES", help="an image, or what --data takes")
    one.add_argument("--split", default="test", choices=("train", "test"))
    one.add_argument("--first", type=positive, default=4, metavar="N",
                     help="the first N images of a data set")  # fmt: skip
    one.add_argument("--keep", type=share, default=0.5, metavar="SHARE",
                     help="of the rows, from the top")  # fmt: skip
    one.add_argument("--count", type=positive, default=4, help="for each image")
    one.add_argument("--label", type=int, help="of all images (default: none)")
    one.add_argument("--peek", action="store_true",
                     help="let the encoder see what is hidden")  # fmt: skip
    _add_drawing(one)


def _add_drawing(one: argparse.ArgumentParser) -> None:
    one.add_argument("--out", required=True, help="a .png file")
    one.add_argument("--tokenizer", help="default: the one the prior's card names")
    add_seed(one)
    one.add_argument("--temperature", type=float, default=1.0)
    one.add_argument("--top-k", type=int)
    one.add_argument("--top-p", type=float)
    one.add_argument("--guidance", type=float)


def _reconstruct(options: argparse.Namespace) -> None:
    import numpy as np

    from minivim import data, metrics, show
    from minivim.experiments import decode_all, encode_all

    tokenizer = open_tokenizer(options.tokenizer)
    path = writable(options.out, ".png")
    rows = data.stack(open_split(options, tokenizer), options.count)
    images = rows["image"].astype(np.float32) / 255
    recon = decode_all(tokenizer, encode_all(tokenizer, images))
    write(path, show.to_png(show.reconstructions(images, recon)))
    print(f"PSNR {float(metrics.psnr(images, recon)):.2f} dB: {path}")


def _sample(options: argparse.Namespace) -> None:
    import numpy as np

    from minivim import prior, show, weights
    from minivim.experiments import decode_all

    tokenizer, model = weights.load_pair(options.prior, options.tokenizer)
    path = writable(options.out, ".png")
    names = weights.card_of(model).get("class_names") or []
    wanted = options.labels
    if wanted is None and model.config.num_classes:
        wanted = list(range(model.config.num_classes))
    labels = None if wanted is None else np.repeat(wanted, options.count)
    drawing: Any = _drawing(options) | {"labels": labels}
    if options.classifier or options.acceptance is not None:
        images = _rejected(options, model, tokenizer, drawing)
    else:
        count = options.count if labels is None else None
        codes = prior.sample(model, num_samples=count, **drawing)
        images = decode_all(tokenizer, np.asarray(codes))
    # Rows of 8, longer where the picture would be a strip.
    columns = max(8, math.isqrt(len(images)))
    if labels is None:
        figure = show.image_grid(images, columns=min(columns, options.count))
    else:
        names = names or [str(i) for i in range(model.config.num_classes)]
        rows, titles = _rows(labels, names, columns)
        figure = show.samples_by_class(images, rows, titles, columns=columns)
    write(path, show.to_png(figure))
    print(f"{len(images)} samples: {path}")


def _rows(labels: Any, names: list[str], columns: int) -> tuple[Any, list[str]]:
    """Which row each image is in, and the title of every row: a class may need more."""
    import numpy as np

    rows, titles = np.empty_like(labels), []
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        rows[mine] = len(titles) + np.arange(len(mine)) // columns
        titles += [names[label], *[""] * ((len(mine) - 1) // columns)]
    return rows, titles


def _drawing(options: argparse.Namespace) -> dict[str, Any]:
    import jax

    names = ("temperature", "top_k", "top_p", "guidance")
    found = {name: getattr(options, name) for name in names}
    return found | {"key": jax.random.key(options.seed)}


def _rejected(
    options: argparse.Namespace, model: Any, tokenizer: Any, drawing: dict[str, Any]
) -> Any:
    """Images that a classifier chose."""
    from minivim import prior, weights

    if not options.classifier or options.acceptance is None:
        raise UserError(
            "rejection needs both, a share and who chooses: --acceptance 0.5 "
            "--classifier FOLDER"
        )
    if drawing["labels"] is None:
        raise UserError(
            "rejection keeps what looks most like its label, and this prior has none; "
            "leave out --acceptance and --classifier"
        )
    chooser = weights.load(options.classifier)
    found = prior.reject(
        model, tokenizer, chooser, acceptance=options.acceptance, **drawing
    )
    return found.images[found.chosen]


def _complete(options: argparse.Namespace) -> None:
    import numpy as np

    from minivim import data, prior, show, weights
    from minivim.data.pixels import decode

    tokenizer, model = weights.load_pair(options.prior, options.tokenizer)
    path, shape = writable(options.out, ".png"), tokenizer.config.image_shape
    file = Path(options.images)
    if file.is_file() and file.suffix.lower() != ".parquet":
        images = decode(file, options.images, **shape)[None]
    else:
        source = data.open_source(options.images, split=options.split, **shape)
        images = data.stack(source, options.first)["image"]
    label = options.label
    found = prior.complete(
        model,
        tokenizer,
        images,
        rows=round(options.keep * tokenizer.config.grid),
        labels=None if label is None else np.full(len(images), label),
        count=options.count,
        peek=options.peek,
        **_drawing(options),
    )
    write(path, show.to_png(show.completions(images, found)))
    print(f"{found.images.shape[1]} completions of {len(images)} images: {path}")
