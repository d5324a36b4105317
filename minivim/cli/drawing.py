"""Commands that draw: reconstruct, sample and complete."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
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
)
from minivim.errors import UserError
from minivim.files import write

# Images of one call: of the tokenizer, and of the prior, where they are what is drawn.
BATCH, DRAWN = 256, 512


def add_commands(command: Command) -> None:
    """reconstruct, sample and complete."""
    one = command("reconstruct", _reconstruct, "draw originals beside reconstructions")
    one.add_argument("tokenizer")
    add_data(one)
    one.add_argument("--out", required=True, help="a .png file")
    add_subset(one, count=16)
    _add_quiet(one)
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
    _add_quiet(one)


def _add_quiet(one: argparse.ArgumentParser) -> None:
    one.add_argument("--quiet", action="store_true", help="no progress bar")


def _reconstruct(options: argparse.Namespace) -> None:
    import numpy as np

    from minivim import data, metrics, show
    from minivim.encode import decode_all, encode_all

    tokenizer = open_tokenizer(options.tokenizer)
    path = writable(options.out, ".png")
    rows = data.stack(open_split(options, tokenizer), options.count)
    images = rows["image"].astype(np.float32) / 255
    recon = np.concatenate(
        [
            decode_all(tokenizer, encode_all(tokenizer, images[part]))
            for part in _parts(len(images), BATCH, options, "reconstruct")
        ]
    )
    write(path, show.to_png(show.reconstructions(images, recon)))
    print(f"PSNR {float(metrics.psnr(images, recon)):.2f} dB: {path}")


def _sample(options: argparse.Namespace) -> None:
    import numpy as np

    from minivim import show, weights

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
        images = _drawn(options, model, tokenizer, drawing)
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
        titles += [names[label]] * math.ceil(len(mine) / columns)
    return rows, titles


def _drawing(options: argparse.Namespace) -> dict[str, Any]:
    import jax

    names = ("temperature", "top_k", "top_p", "guidance")
    found = {name: getattr(options, name) for name in names}
    return found | {"key": jax.random.key(options.seed)}


def _parts(
    count: int, size: int, options: argparse.Namespace, desc: str
) -> Iterator[slice]:
    """Slices of at most `size`; with several a bar, unless it is to be quiet."""
    from tqdm.auto import tqdm

    starts = range(0, count, size)
    quiet = options.quiet or len(starts) < 2
    for first in tqdm(starts, desc=desc, unit="part", disable=quiet):
        yield slice(first, min(first + size, count))


def _keyed(drawing: dict[str, Any], part: slice) -> Any:
    """The same with the key of a part; the first, or only one, has it as it is."""
    import jax

    if not part.start:
        return drawing
    return drawing | {"key": jax.random.fold_in(drawing["key"], part.start)}


def _drawn(
    options: argparse.Namespace, model: Any, tokenizer: Any, drawing: dict[str, Any]
) -> Any:
    """Images of all labels, or as many without."""
    import numpy as np

    from minivim import prior
    from minivim.encode import decode_all

    labels, images = drawing["labels"], []
    count = options.count if labels is None else len(labels)
    for part in _parts(count, DRAWN, options, "sample"):
        one = _keyed(drawing, part)
        # All parts of one size: one compiled program serves them.
        size = min(DRAWN, count)
        if labels is None:
            codes = prior.sample(model, num_samples=size, **one)
        else:
            padded = np.resize(labels[part], size)
            codes = prior.sample(model, **one | {"labels": padded})
        codes = np.asarray(codes)[: part.stop - part.start]
        images.append(decode_all(tokenizer, codes))
    return np.concatenate(images)


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
        model, tokenizer, chooser, acceptance=options.acceptance, quiet=options.quiet,
        **drawing,
    )  # fmt: skip
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
    drawing = _drawing(options)
    parts: list[prior.Completion] = []
    size = max(1, DRAWN // options.count)
    for part in _parts(len(images), size, options, "complete"):
        one = prior.complete(
            model,
            tokenizer,
            images[part],
            rows=round(options.keep * tokenizer.config.grid),
            labels=None if label is None else np.full(len(images[part]), label),
            count=options.count,
            peek=options.peek,
            **_keyed(drawing, part),
        )
        parts.append(one)
    found = replace(
        parts[0],
        given=np.concatenate([one.given for one in parts]),
        codes=np.concatenate([one.codes for one in parts]),
        images=np.concatenate([one.images for one in parts]),
    )
    write(path, show.to_png(show.completions(images, found)))
    print(f"{found.images.shape[1]} completions of {len(images)} images: {path}")
