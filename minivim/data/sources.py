"""Where images come from: the embedded shapes, a folder, parquet files, or the hub."""

import glob
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image

from minivim.data import shapes
from minivim.data.folders import open_folder
from minivim.data.loader import ArraySource, Source
from minivim.data.pixels import check_shape, to_pixels
from minivim.data.splits import SPLIT_NAMES, files_under
from minivim.data.tables import open_hub, open_parquet
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

    Args:
        spec: "shapes"; a folder of pictures; a parquet file, pattern or folder; or a
            dataset of the hub as "owner/name@revision".
        split: "train" or "test". In a folder of pictures the splits are the sub-folders
            train and test, among parquet files the names that begin so (validation or
            val serves where there is no test). Without a split of its own, a fixed
            pseudo-random tenth, at most 2,000 images, is held out as "test"; of fewer
            than 10 images nothing is, and both splits are all of them.
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
    if split not in SPLIT_NAMES:
        raise UserError(f"there is no split {split!r}: use 'train' or 'test'")
    shape = {"image_size": image_size, "channels": channels}
    name = os.fspath(spec)
    if name == "shapes":
        return _open_shapes(split, **shape)
    path = Path(name).expanduser()
    if path.is_dir():
        files = files_under(path, {".parquet"})
        if files:
            return open_parquet(name, path, files, split, **shape)
        return open_folder(name, path, split, **shape)
    if path.is_file():
        if path.suffix.lower() != ".parquet":
            raise UserError(
                f"{name} is neither a folder of images nor a parquet file: "
                "give the folder that holds it"
            )
        return open_parquet(name, path.parent, [path], split, **shape)
    if glob.has_magic(name):
        found = sorted(Path(f) for f in glob.glob(str(path), recursive=True))
        files = [file for file in found if file.suffix.lower() == ".parquet"]
        if not files:
            raise UserError(f"no parquet file matches {name}: check the pattern")
        root = Path(os.path.commonpath([file.parent for file in files]))
        return open_parquet(name, root, files, split, **shape)
    if HUB_ID.fullmatch(name) and not name.startswith("."):
        return open_hub(name, split, **shape)
    raise UserError(
        f"{name} does not exist: give 'shapes', a folder of images, a parquet file, "
        "or a dataset of the hub as owner/name@revision"
    )


def require_labels(source: Source) -> None:
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
