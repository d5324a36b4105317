"""Where images come from: the embedded shapes, a folder, parquet files, or the hub."""

import glob
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from minivim.data import shapes
from minivim.data.codes import is_codes
from minivim.data.folders import open_folder
from minivim.data.loader import ArraySource, Source
from minivim.data.pixels import check_shape, to_pixels
from minivim.data.splits import check_split, files_under
from minivim.data.streams import Stream
from minivim.data.tables import (
    is_saved,
    open_hub,
    open_parquet,
    open_saved,
    read_hub,
    read_parquet,
    read_saved,
)
from minivim.errors import UserError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)


def open_source(
    spec: str | os.PathLike[str],
    *,
    split: str = "train",
    image_size: int = 32,
    channels: int = 3,
) -> Source:
    """Open images by name, resized to `image_size` with their aspect kept.

    So that the first n images are not of a few classes, those of a folder come in a
    fixed order by a hash of their names, and the rows of a table that is sorted by its
    labels in a fixed permutation. Other tables keep the order that they have.

    Args:
        spec: "shapes"; a folder of pictures; a parquet file, pattern or folder; a
            folder that `save_to_disk` of `datasets` wrote; or a dataset of the hub as
            "owner/name@revision".
        split: "train" or "test". In a folder of pictures the splits are the sub-folders
            train and test, among parquet files the names that begin so (validation or
            val serves where there is no test). Without a split of its own, a fixed
            pseudo-random tenth, at most 2,000 images, is held out as "test"; of fewer
            than 10 images nothing is, both splits are all of them, and a line on stderr
            says so once.
        image_size: height and width in pixels.
        channels: 3 (RGB) or 1 (grey).

    Returns:
        A source of {"image": uint8 [H, W, C], "label": int32}. In a folder, labels are
        sub-folder names when all pictures lie in sub-folders, at least two. In a
        dataset the image column is the first of type Image and the label column one of
        type ClassLabel ("label" before others), or else integers called "label".
        Without labels, label is -1 and class_names is ().

    Raises:
        UserError: nothing there, no images, no image column, no connection to the hub,
            impossible split, image_size or channels; on reading, a missing or corrupt
            image, by name.
    """
    check_shape(image_size=image_size, channels=channels)
    check_split(split)
    shape = {"image_size": image_size, "channels": channels}
    found = locate(os.fspath(spec))
    match found.kind:
        case "shapes":
            return _open_shapes(split, **shape)
        case "parquet":
            return open_parquet(found.name, found.path, found.files, split, **shape)
        case "saved":
            return open_saved(found.name, found.path, split, **shape)
        case "folder":
            return open_folder(found.name, found.path, split, **shape)
    return open_hub(found.name, split, **shape)


def open_stream(
    spec: str | os.PathLike[str],
    *,
    split: str = "train",
    image_size: int = 32,
    channels: int = 3,
) -> Stream:
    """Open images by name to be read in a row, not by index: see `Stream`.

    Takes what `open_source` takes, of it parquet files, a folder that `save_to_disk` of
    `datasets` wrote, and datasets of the hub, which are not copied to this machine
    first. Nothing is held out: there must be files of both splits. Labels need a
    column of type ClassLabel, for nobody counts other ones beforehand. Rows come in the
    order that they have, so that of a table sorted by class the first ones, which are
    what a run is evaluated on, are of a few classes: mix it before it is written.

    Raises:
        UserError: as `open_source`; a spec that is no table; no split of its own.
    """
    check_shape(image_size=image_size, channels=channels)
    check_split(split)
    found = locate(os.fspath(spec))
    match found.kind:
        case "parquet":
            read = read_parquet(found.name, found.path, found.files, streaming=True)
        case "saved":
            read = read_saved(found.name, found.path)
        case "hub":
            read = read_hub(found.name, streaming=True)
        case _:
            raise UserError(
                f"{found.name} is at hand and read by index: leave out --stream, which "
                "is for parquet files, folders of datasets and the hub"
            )
    shape = {"image_size": image_size, "channels": channels}
    return Stream(found.name, *read, split=split, **shape)


class Place(NamedTuple):
    """What a spec names: "shapes", "folder", "saved", "parquet" or "hub"."""

    kind: str
    name: str
    # Of a folder, or the one that all files lie below.
    path: Path = Path()
    files: list[Path] = []


def locate(name: str) -> Place:
    """What is there under a name; raises `UserError` for nothing."""
    if not name.strip():
        raise UserError(
            "the data have an empty name, which would mean the folder you are in: "
            "give . for it, or 'shapes'"
        )
    path = Path(name).expanduser()
    if name == "shapes":
        return Place("shapes", name)
    if path.is_dir():
        if is_codes(path):
            raise UserError(
                f"{name} holds codes, which minivim train prior alone reads: "
                "give the images here"
            )
        if is_saved(path):
            return Place("saved", name, path)
        files = files_under(path, {".parquet"})
        return Place("parquet" if files else "folder", name, path, files)
    if path.is_file():
        if path.suffix.lower() != ".parquet":
            raise UserError(
                f"{name} is neither a folder of images nor a parquet file: "
                "give the folder that holds it"
            )
        return Place("parquet", name, path.parent, [path])
    if glob.has_magic(name):
        found = sorted(Path(f) for f in glob.glob(str(path), recursive=True))
        files = [file for file in found if file.suffix.lower() == ".parquet"]
        if not files:
            raise UserError(f"no parquet file matches {name}: check the pattern")
        root = Path(os.path.commonpath([file.parent for file in files]))
        return Place("parquet", name, root, files)
    if HUB_ID.fullmatch(name) and not name.startswith("."):
        return Place("hub", name)
    raise UserError(
        f"{name} does not exist: give 'shapes', a folder of images, a parquet file, "
        "or a dataset of the hub as owner/name@revision"
    )


def require_labels(source: Source | Stream) -> None:
    """Raise UserError unless the source knows at least two labels."""
    if source.num_classes < 2:
        known = f"one label ({source.class_names[0]})" if source.class_names else "none"
        raise UserError(
            f"this needs images of at least two labels, and {source.description} has "
            f"{known}: put each class in a folder of its own, or give a dataset with a "
            "label column"
        )


def _open_shapes(split: str, *, image_size: int, channels: int) -> Source:
    drawn = shapes.arrays(split)
    images = drawn["image"]
    if (image_size, channels) != (shapes.IMAGE_SIZE, 3):
        resized = [
            to_pixels(Image.fromarray(i), image_size=image_size, channels=channels)
            for i in images
        ]
        images = np.stack(resized)
    return ArraySource(
        {"image": images, "label": drawn["label"]},
        class_names=shapes.CLASSES,
        description=f"shapes ({split})",
    )
