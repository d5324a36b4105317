"""Where images come from: the embedded shapes, a folder, parquet files, or the hub.

This module decides, for every kind of data, which rows are a split (`SPLIT_NAMES`,
`_own_splits`, `hold_out`), and which columns hold the pictures and the labels and what
the classes are called (`_columns`; in folders of pictures `_open_folder`).
"""

import glob
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image

from minivim.data import shapes
from minivim.data.base import ArraySource, Columns, Source, TableSource
from minivim.data.codes import is_codes
from minivim.data.pixels import to_pixels
from minivim.data.streams import Stream
from minivim.errors import UserError, explained

# What each split may be called, the best name first.
SPLIT_NAMES = {"train": ("train",), "test": ("test", "validation", "valid", "val")}
HELD_OUT_SHARE, HELD_OUT_MOST = 10, 2_000
MAX_IMAGE_SIZE = 4_096
PICTURES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
    | {".pbm", ".pgm", ".pnm", ".ppm"}
)
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
        split: "train" or "test": sub-folders of these names, or parquet files whose
            names begin so (validation or val serves where there is no test). Without a
            split of its own, a fixed pseudo-random tenth, at most 2,000 images, is held
            out as "test"; of fewer than 10 images nothing is, both splits are all of
            them, and a line on stderr says so once.
        image_size: height and width in pixels.
        channels: 3 (RGB) or 1 (grey).

    Returns:
        A source of {"image": uint8 [H, W, C], "label": int32}. In a folder, labels are
        sub-folder names when all pictures lie in sub-folders, at least two. In a
        dataset the image column is the first of type Image and the label column one of
        type ClassLabel ("label" before others), or else integers called "label".
        Without labels, label is -1 and class_names is ().

    Raises:
        UserError: no such data, no images, no image column, no connection to the hub,
            impossible split, image_size or channels; on reading, a missing or corrupt
            image, by name.
    """
    shape = {"image_size": image_size, "channels": channels}
    place = _locate(os.fspath(spec), split, shape)
    if place.kind == "shapes":
        return _open_shapes(split, shape)
    if place.kind == "folder":
        return _open_folder(place, split, shape)
    name, tables, identity = _read(place)
    train, test = _own_splits(tables.get)
    first = next(iter(tables.values())) if train is None else train
    columns = _columns(name, first, tables, shape)
    if train is not None and test is not None:
        table = train if split == "train" else test
        rows = np.arange(len(table))
    else:
        table, rows = first, hold_out(len(first), split, name)
    if not len(rows):
        raise UserError(f"{name} has no rows: give a dataset with images")
    if columns.label and _is_sorted(_integers(table, columns.label)):
        rows, identity = np.random.default_rng(0).permutation(rows), (identity, "mixed")
    identity = (identity, split, len(rows))
    return TableSource(table, rows, columns, name=name, split=split, identity=identity)


def open_stream(
    spec: str | os.PathLike[str],
    *,
    split: str = "train",
    image_size: int = 32,
    channels: int = 3,
) -> Stream:
    """Open images by name to be read in a row, not by index: see `Stream`.

    Takes what `open_source` takes except pictures in folders: parquet files, a folder
    that `save_to_disk` of `datasets` wrote, and datasets of the hub, which are not
    copied to this machine first. Nothing is held out: there must be files of both
    splits. Labels need a column of type ClassLabel, for nobody counts other ones
    beforehand. Rows keep their order, so that the first ones of a table sorted by
    class, on which a run is evaluated, are of a few classes: mix it before it is
    written.

    Raises:
        UserError: as `open_source`; a spec that is no table; no split of its own.
    """
    shape = {"image_size": image_size, "channels": channels}
    place = _locate(os.fspath(spec), split, shape)
    if place.kind in ("shapes", "folder"):
        raise UserError(
            f"{place.name} is at hand and read by index: leave out --stream, which "
            "is for parquet files, folders of datasets and the hub"
        )
    name, tables, identity = _read(place, streaming=True)
    train, test = _own_splits(tables.get)
    # The only split there is would be both.
    missing = "test" if test is None else "train" if train is None else None
    if split == "test" and missing:
        raise UserError(
            f"{name} has no {missing} split, and a stream holds nothing out: add "
            f"files whose names begin with {missing}, or leave out --stream"
        )
    first = next(iter(tables.values())) if train is None else train
    if first.features is None:  # Some formats tell the types with the first row.
        first = first._resolve_features()
    if first.features is None:
        raise UserError(f"{name} has no rows: give a dataset with images")
    columns = _columns(name, first, {}, shape)
    table = first if split == "train" else test
    return Stream(table, columns, name=name, split=split, identity=identity)


def require_labels(source: Source | Stream) -> None:
    """Raise UserError unless the source knows at least two labels."""
    if source.num_classes < 2:
        known = f"one label ({source.class_names[0]})" if source.class_names else "none"
        raise UserError(
            f"this needs images of at least two labels, and {source.description} has "
            f"{known}: put each class in a folder of its own, or give a dataset with a "
            "label column"
        )


class _Place(NamedTuple):
    """What a spec names: "shapes", "folder", "saved", "parquet" or "hub"."""

    kind: str
    name: str
    root: Path = Path()
    files: list[str] = []  # relative to `root`


def _locate(name: str, split: str, shape: dict[str, int]) -> _Place:
    """What a spec names, once all that was asked for is possible."""
    image_size, channels = shape.values()
    if not 1 <= image_size <= MAX_IMAGE_SIZE:
        raise UserError(
            f"image_size {image_size} is impossible: "
            f"choose a whole number from 1 to {MAX_IMAGE_SIZE}"
        )
    if channels not in (1, 3):
        raise UserError(
            f"channels {channels} is impossible: choose 3 (RGB) or 1 (grey)"
        )
    if split not in SPLIT_NAMES:
        raise UserError(f"there is no split {split!r}: use 'train' or 'test'")
    if not name.strip():
        raise UserError(
            "the data have an empty name, which would mean the folder you are in: "
            "give . for it, or 'shapes'"
        )
    path = Path(name).expanduser()
    if name == "shapes":
        return _Place("shapes", name)
    if path.is_dir():
        if is_codes(path):
            raise UserError(
                f"{name} holds codes, which minivim train prior alone reads: "
                "give the images here"
            )
        if any((path / f).is_file() for f in ("dataset_dict.json", "state.json")):
            return _Place("saved", name, path, _files_under(path, {".arrow"}))
        files = _files_under(path, {".parquet"})
        return _Place("parquet" if files else "folder", name, path, files)
    if path.is_file() or glob.has_magic(name):
        matches = [path] if path.is_file() else glob.glob(str(path), recursive=True)
        found = sorted(f for f in map(Path, matches) if f.suffix.lower() == ".parquet")
        if not found:
            raise UserError(
                f"no parquet file matches {name}: check the pattern, or give the "
                "folder that holds it"
            )
        root = Path(os.path.commonpath([file.parent for file in found]))
        files = [file.relative_to(root).as_posix() for file in found]
        return _Place("parquet", name, root, files)
    if HUB_ID.fullmatch(name) and not name.startswith("."):
        return _Place("hub", name)
    raise UserError(
        f"{name} does not exist: give 'shapes', a folder of images, a parquet file, "
        "or a dataset of the hub as owner/name@revision"
    )


def _files_under(path: Path, suffixes: Iterable[str]) -> list[str]:
    """Relative names of files with one of the suffixes, without hidden ones, sorted."""
    found = []
    for folder, below, names in os.walk(path):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                found.append(Path(folder, name).relative_to(path).as_posix())
    return sorted(found)


def _own_splits(find: Callable[[str], Any]) -> tuple[Any, Any]:
    """What `find` gives for the first name of train and of test, or None."""
    train, test = (
        next((own for name in names if (own := find(name)) is not None), None)
        for names in SPLIT_NAMES.values()
    )
    return train, test


def hold_out(count: int, split: str, name: str) -> Int[np.ndarray, " rows"]:
    """Row numbers of a split where the source `name` has none of its own."""
    most = min(HELD_OUT_MOST, count // HELD_OUT_SHARE)
    order = np.random.default_rng(0).permutation(count)
    if most:
        return np.sort(order[:most] if split == "test" else order[most:])
    if split == "test":
        _warn_once(
            f"{name} has fewer than {HELD_OUT_SHARE} images, too few to hold any out: "
            "test and training images are the same"
        )
    return np.arange(count)


@cache
def _warn_once(text: str) -> None:
    print(f"minivim: warning: {text}", file=sys.stderr)


def _columns(
    name: str, table: Any, tables: dict[str, Any], shape: dict[str, int]
) -> Columns:
    """Which columns are the image and the label, and what the classes are called.

    Bare integers are labels only where `tables` are given to count the classes in.
    """
    import datasets

    image, label, class_names = None, None, ()
    for column, feature in reversed(table.features.items()):
        encoded = isinstance(feature, dict) and {"bytes", "path"} <= set(feature)
        if isinstance(feature, datasets.Image) or encoded:
            image = column
        if isinstance(feature, datasets.ClassLabel) and label != "label":
            label, class_names = column, tuple(feature.names)
    if image is None:
        raise UserError(
            f"{name} has no image column (its columns: "
            f"{', '.join(table.column_names)}): store the images with the feature type "
            "datasets.Image"
        )
    kind = getattr(table.features.get("label"), "dtype", "")
    if tables and label is None and re.match(r"u?int", kind):
        labels = [[-1], *(_integers(t, "label") for t in tables.values())]
        low, high = (int(f(np.concatenate(labels))) for f in (np.min, np.max))
        if low < -1 or high >= 100_000:
            raise UserError(
                f"{name} has labels from {low} to {high}: number the classes from 0"
            )
        label, class_names = "label", tuple(str(k) for k in range(high + 1))
    return Columns(image, label, class_names, shape)


def _integers(table: Any, column: str) -> Int[np.ndarray, " rows"]:
    """A whole column of labels, -1 for none."""
    return table.data.column(column).fill_null(-1).to_numpy().astype(np.int64)


def _is_sorted(labels: Int[np.ndarray, " rows"]) -> bool:
    """Whether labels only rise or only fall, so that the first rows are of a few."""
    steps = np.diff(labels)
    return bool(steps.any() and ((steps >= 0).all() or (steps <= 0).all()))


def _open_shapes(split: str, shape: dict[str, int]) -> Source:
    drawn = shapes.arrays(split)
    images = drawn["image"]
    if (shape["image_size"], shape["channels"]) != (shapes.IMAGE_SIZE, 3):
        images = np.stack([to_pixels(Image.fromarray(i), **shape) for i in images])
    return ArraySource(
        {"image": images, "label": drawn["label"]},
        class_names=shapes.CLASSES,
        description=f"shapes ({split})",
    )


def _open_folder(place: _Place, split: str, shape: dict[str, int]) -> Source:
    """Pictures below a folder, labelled by their sub-folders."""
    import datasets

    name, path = place.name, place.root
    train, test = _own_splits(lambda n: path / n if (path / n).is_dir() else None)
    root = train or path
    if not (files := _files_under(root, PICTURES)):
        raise UserError(
            f"{root} holds no images: give a folder with "
            f"{', '.join(sorted(PICTURES))} files, directly or in sub-folders"
        )
    folders = sorted({os.path.dirname(file) for file in files})
    names = folders if len(folders) > 1 and "" not in folders else []
    if not (train and test):
        files = [files[i] for i in hold_out(len(files), split, name)]
    elif split == "test":
        root = test
        if not (files := _files_under(root, PICTURES)):
            raise UserError(f"{root} holds no images: fill it or remove it")
    # Sorted by a hash: by name, and hence by class, the first would be of a few.
    files.sort(key=lambda file: hashlib.sha256(file.encode()).hexdigest())
    numbers = {folder: number for number, folder in enumerate(names)}
    labels = [numbers.get(os.path.dirname(file), -1) for file in files]
    if names and -1 in labels:
        raise UserError(
            f"{root / files[labels.index(-1)]} is of no class that the training images "
            f"have: put it in one of {', '.join(names[:10])}"
        )
    cells = {"image": [str(root / file) for file in files], "label": labels}
    table = datasets.Dataset.from_dict(cells).cast_column("image", datasets.Image())
    columns, rows = (
        Columns("image", "label", tuple(names), shape),
        np.arange(len(files)),
    )
    identity = (_sizes(root, files),)
    return TableSource(table, rows, columns, name=name, split=split, identity=identity)


def _sizes(root: Path, files: list[str]) -> list[tuple[str, int]]:
    """What identifies files on any machine."""
    return [(file, (root / file).stat().st_size) for file in files]


def _read(place: _Place, *, streaming: bool = False) -> tuple[str, dict[str, Any], Any]:
    """A name, the splits as tables, and what identifies them on any machine."""
    import datasets
    import pyarrow.parquet

    _, name, root, files = place
    if place.kind == "hub":
        return _read_hub(name, streaming)
    identity = _sizes(root, files)
    if place.kind == "saved":
        unreadable = f"{name} cannot be read as a saved dataset"
        with explained(unreadable, "fetch or write it again"):
            tables: Any = datasets.load_from_disk(str(root))
        tables = tables if isinstance(tables, dict) else {"train": tables}
        return name, tables, identity
    paths, first = [root / file for file in files], []
    for path in paths:
        unreadable = f"{path} is not a readable parquet file"
        with explained(unreadable, "fetch or write it again"):
            columns = pyarrow.parquet.read_schema(path).names
        first = first or columns
        if set(columns) != set(first):
            raise UserError(
                f"{path} has columns {', '.join(columns)} and {paths[0].name} has "
                f"{', '.join(first)}: give files of one dataset"
            )

    def beginning(name: str) -> list[str] | None:
        return [str(p) for p in paths if p.name.lower().startswith(name)] or None

    train, test = _own_splits(beginning)
    groups: dict[str, Any] = {"train": train} | ({"test": test} if test else {})
    if train is None or len(paths) == 1:
        groups = {"train": [str(path) for path in paths]}
    remedy = "check that its files agree in column types and that the disk has room"
    with explained(f"{name} cannot be read as one dataset", remedy):
        load = datasets.load_dataset
        tables = load("parquet", data_files=groups, streaming=streaming)
    return name, tables, identity


def _read_hub(name: str, streaming: bool) -> tuple[str, dict[str, Any], str]:
    """As `_read`, of the hub's dataset owner/name@revision; named by its commit."""
    import datasets
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    repository, _, revision = name.partition("@")
    # Asked once beforehand: it resolves the revision to a commit, and without a
    # connection `load_dataset` would retry, noisily, for half a minute. Offline a copy
    # on this machine may serve.
    unknown = f"{name} is neither a path here nor a dataset that the hub gives now"
    remedy = "check the name and the connection, or set HF_HUB_OFFLINE=1 to use a copy "
    remedy += "downloaded before"
    with explained(unknown, remedy), suppress(OfflineModeIsEnabled):
        api = huggingface_hub.HfApi()
        info = api.dataset_info(repository, revision=revision or None, timeout=20)
        revision = info.sha or revision
    remedy = "download its parquet files and give their folder"
    with explained(f"the hub's dataset {name} cannot be loaded", remedy):
        tables: Any = datasets.load_dataset(
            repository, revision=revision or None, streaming=streaming
        )
    pinned = f"{repository}@{revision}" if revision else repository
    return pinned, tables, pinned
