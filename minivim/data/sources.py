"""Where images come from: the embedded shapes, a folder, parquet files, or the hub.

Here it is decided, for every kind of data, which rows are a split (`hold_out` where
there is none), which columns are read, and what the classes are called.
"""

import glob
import hashlib
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from minivim.data import shapes
from minivim.data.arrays import ArraySource
from minivim.data.base import Columns, Request, Source, TableSource
from minivim.data.codes import is_codes
from minivim.data.pixels import to_pixels
from minivim.data.streams import Stream
from minivim.errors import UserError, explained

# What each split may be called, the best name first.
SPLIT_NAMES = {"train": ("train",), "test": ("test", "validation", "valid", "val")}
HELD_OUT_SHARE, HELD_OUT_MOST = 10, 2_000
MAX_IMAGE_SIZE = 4_096
PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm")
PICTURES += (".tif", ".tiff", ".webp")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)


def open_source(
    spec: str | os.PathLike[str],
    *,
    split: str = "train",
    image_size: int = 32,
    channels: int = 3,
) -> Source:
    """Open images by name, resized to `image_size` with their aspect kept.

    The pictures of a folder come in the order of a hash of their names, and the rows of
    a table that is sorted by its labels in a fixed permutation: the first are never of
    a few classes. Other tables keep their order.

    Args:
        spec: "shapes"; a folder of pictures; a parquet file, pattern or folder; a
            folder that `save_to_disk` of `datasets` wrote; or a dataset of the hub as
            "owner/name@revision".
        split: "train" or "test": sub-folders of these names, or parquet files whose
            names begin so (validation or val serves where there is no test). Otherwise
            a fixed pseudo-random tenth, at most 2,000 images, is held out as "test";
            fewer than 10 images are both splits, as a line on stderr says once.
        image_size, channels: the side in pixels, and 3 (RGB) or 1 (grey).

    Returns:
        A source of {"image": uint8 [H, W, C], "label": int32}. In a folder, labels are
        sub-folder names when all pictures lie in sub-folders, at least two. In a
        dataset the image column is the first of type Image and the label column one of
        type ClassLabel ("label" before others), or else integers called "label".
        Without labels, label is -1 and class_names is ().

    Raises:
        UserError: no such data, no images or image column, no connection to the hub,
            impossible arguments; on reading, a missing or corrupt image, by name.
    """
    request = _locate(spec, split, image_size, channels)
    shape = request.shape
    if request.kind == "shapes":
        drawn = shapes.arrays(split)
        images, labels = drawn["image"], drawn["label"]
        if (image_size, channels) != (shapes.IMAGE_SIZE, 3):
            images = np.stack([to_pixels(Image.fromarray(i), **shape) for i in images])
        arrays, told = {"image": images, "label": labels}, f"shapes ({split})"
        return ArraySource(arrays, class_names=shapes.CLASSES, description=told)
    if request.kind == "folder":
        return _open_folder(request)
    request, tables, identity = _read(request)
    train, test = _own_splits(tables.get)
    table = next(iter(tables.values())) if train is None else train
    columns = _image, label, class_names = _columns(request.name, table, tables)
    if train is None or test is None:
        rows = hold_out(len(table), split, request.name)
    else:
        table = train if split == "train" else test
        rows = np.arange(len(table))
    if not len(rows):
        raise UserError(f"{request.name} has no rows: give a dataset with images")
    if label and _is_sorted(_integers(table, label)):
        rows, identity = np.random.default_rng(0).permutation(rows), (identity, "mixed")
    identity = (identity, split, len(rows), class_names, sorted(shape.items()))
    return TableSource(table, columns, request, identity, rows=rows)


def open_stream(
    spec: str | os.PathLike[str],
    *,
    split: str = "train",
    image_size: int = 32,
    channels: int = 3,
) -> Stream:
    """Open images by name to be read in a row, not by index: see `Stream`.

    Takes what `open_source` takes except pictures in folders; datasets of the hub are
    not copied to this machine first. Nothing is held out: there must be files of both
    splits. Labels need a column of type ClassLabel, for nobody counts other ones
    beforehand. Rows keep their order: mix a table sorted by class before it is written,
    or the first rows, on which a run is evaluated, are of a few classes. Raises
    `UserError` as `open_source` does, and without files of the split.
    """
    request = _locate(spec, split, image_size, channels)
    if request.kind in ("shapes", "folder"):
        told = f"{request.name} is at hand and read by index: leave out --stream"
        raise UserError(f"{told}, which is for parquet, saved datasets and the hub")
    request, tables, identity = _read(request, streaming=True)
    train, test = _own_splits(tables.get)
    missing = "test" if test is None else "train" if train is None else None
    if split == "test" and missing:  # The only split there is would be both.
        told = f"{request.name} has no {missing} split, and a stream holds nothing out"
        remedy = f"add files whose names begin with {missing}, or leave out --stream"
        raise UserError(f"{told}: {remedy}")
    first = next(iter(tables.values())) if train is None else train
    if first.features is None:  # Some formats tell the types with the first row.
        first = first._resolve_features()
    if first.features is None:
        raise UserError(f"{request.name} has no rows: give a dataset with images")
    columns = _columns(request.name, first)
    identity = (identity, "stream", split, columns[2], image_size, channels)
    return Stream(first if split == "train" else test, columns, request, identity)


def require_labels(source: Source | Stream) -> None:
    """Raise UserError unless the source knows at least two labels."""
    if source.num_classes < 2:
        known = f"one label ({source.class_names[0]})" if source.class_names else "none"
        told = f"this needs images of at least two labels, and {source.description} has"
        remedy = "put each class in a folder of its own, or give a label column"
        raise UserError(f"{told} {known}: {remedy}")


def _locate(spec: Any, split: str, image_size: int, channels: int) -> Request:
    """Where the data are that a user asks for, if that is possible."""
    name, shape = os.fspath(spec), {"image_size": image_size, "channels": channels}
    if not 1 <= image_size <= MAX_IMAGE_SIZE:
        told = f"image_size {image_size} is impossible"
        raise UserError(f"{told}: choose a whole number from 1 to {MAX_IMAGE_SIZE}")
    if channels not in (1, 3):
        told = f"channels {channels} is impossible"
        raise UserError(f"{told}: choose 3 (RGB) or 1 (grey)")
    if split not in SPLIT_NAMES:
        raise UserError(f"there is no split {split!r}: use 'train' or 'test'")
    if not name.strip():
        told = "the data have an empty name, which would mean the folder you are in"
        raise UserError(f"{told}: give . for it, or 'shapes'")
    request = partial(Request, name, split, shape)
    path = Path(name).expanduser()
    if name == "shapes":
        return request("shapes")
    if path.is_dir():
        if is_codes(path):
            told = f"{name} holds codes, which minivim train prior alone reads"
            raise UserError(f"{told}: give the images here")
        if any((path / f).is_file() for f in ("dataset_dict.json", "state.json")):
            return request("saved", path, _files_under(path, {".arrow"}))
        files = _files_under(path, {".parquet"})
        return request("parquet" if files else "folder", path, files)
    if path.is_file() or glob.has_magic(name):
        matches = [path] if path.is_file() else glob.glob(str(path), recursive=True)
        found = sorted(f for f in map(Path, matches) if f.suffix.lower() == ".parquet")
        if not found:
            remedy = "check the pattern, or give the folder that holds it"
            raise UserError(f"no parquet file matches {name}: {remedy}")
        root = Path(os.path.commonpath([file.parent for file in found]))
        files = [file.relative_to(root).as_posix() for file in found]
        return request("parquet", root, files)
    if HUB_ID.fullmatch(name) and not name.startswith("."):
        return request("hub")
    remedy = "a parquet file, or a dataset of the hub as owner/name@revision"
    raise UserError(
        f"{name} does not exist: give 'shapes', a folder of images, {remedy}"
    )


def _files_under(path: Path, suffixes: Collection[str]) -> list[str]:
    """Relative names of files with one of the suffixes, without hidden ones, sorted."""
    found = []
    for folder, below, names in os.walk(path):
        below[:] = [name for name in below if not name.startswith(".")]
        seen = [Path(folder, name) for name in names if not name.startswith(".")]
        found += [file for file in seen if file.suffix.lower() in suffixes]
    return sorted(file.relative_to(path).as_posix() for file in found)


def _own_splits(find: Callable[[str], Any]) -> list[Any]:
    """What `find` gives for the first name of train and of test, or None."""
    return [
        next((own for name in names if (own := find(name)) is not None), None)
        for names in SPLIT_NAMES.values()
    ]


@lru_cache(maxsize=8)  # hence one warning for each source
def hold_out(count: int, split: str, name: str) -> Int[np.ndarray, " rows"]:
    """Row numbers of a split where the source `name` has none of its own."""
    most = min(HELD_OUT_MOST, count // HELD_OUT_SHARE)
    order = np.random.default_rng(0).permutation(count)
    if most:
        return np.sort(order[:most] if split == "test" else order[most:])
    if split == "test":
        told = f"{name} has fewer than {HELD_OUT_SHARE} images, too few to hold any out"
        result = "test and training images are the same"
        print(f"minivim: warning: {told}: {result}", file=sys.stderr)
    return np.arange(count)


def _columns(name: str, table: Any, tables: Mapping[str, Any] = {}) -> Columns:
    """What to read of a table; bare integers are labels only if `tables` count them."""
    import datasets

    image, label, class_names = None, None, ()
    for column, feature in reversed(table.features.items()):
        encoded = isinstance(feature, dict) and {"bytes", "path"} <= set(feature)
        if isinstance(feature, datasets.Image) or encoded:
            image = column
        if isinstance(feature, datasets.ClassLabel) and label != "label":
            label, class_names = column, tuple(feature.names)
    if image is None:
        told = f"{name} has no image column (its columns: {', '.join(table.features)})"
        raise UserError(f"{told}: store the images with the type datasets.Image")
    kind = getattr(table.features.get("label"), "dtype", "")
    if tables and label is None and re.match(r"u?int", kind):
        labels = np.concatenate([_integers(t, "label") for t in tables.values()])
        low, high = int(labels.min(initial=-1)), int(labels.max(initial=-1))
        if low < -1 or high >= 100_000:
            told = f"{name} has labels from {low} to {high}"
            raise UserError(f"{told}: number the classes from 0")
        label, class_names = "label", tuple(map(str, range(high + 1)))
    return image, label, class_names


def _integers(table: Any, column: str) -> Int[np.ndarray, " rows"]:
    """A whole column of labels, -1 for none."""
    return table.data.column(column).fill_null(-1).to_numpy().astype(np.int64)


def _is_sorted(labels: Int[np.ndarray, " rows"]) -> bool:
    """Whether labels only rise or only fall, so that the first rows are of a few."""
    steps = np.diff(labels)
    return bool(steps.any() and ((steps >= 0).all() or (steps <= 0).all()))


def _open_folder(request: Request) -> Source:
    """Pictures below a folder, labelled by their sub-folders."""
    import datasets

    path, split = request.root, request.split
    train, test = _own_splits(lambda n: path / n if (path / n).is_dir() else None)
    root = train or path
    if not (files := _files_under(root, PICTURES)):
        remedy = f"give a folder with {', '.join(PICTURES)} files"
        raise UserError(f"{root} holds no images: {remedy}, directly or in sub-folders")
    folders = sorted({os.path.dirname(file) for file in files})
    names = tuple(folders) if len(folders) > 1 and "" not in folders else ()
    if not (train and test):
        files = [files[i] for i in hold_out(len(files), split, request.name)]
    elif split == "test":
        root = test
        if not (files := _files_under(root, PICTURES)):
            raise UserError(f"{root} holds no images: fill it or remove it")
    # Sorted by a hash: by name, and hence by class, the first would be of a few.
    files.sort(key=lambda file: hashlib.sha256(file.encode()).hexdigest())
    numbers = {folder: number for number, folder in enumerate(names)}
    labels = [numbers.get(os.path.dirname(file), -1) for file in files]
    if names and -1 in labels:
        file, classes = root / files[labels.index(-1)], ", ".join(names[:10])
        told = f"{file} is of no class that the training images have"
        raise UserError(f"{told}: put it in one of {classes}")
    cells = {"image": [str(root / file) for file in files], "label": labels}
    table, rows = datasets.Dataset.from_dict(cells), np.arange(len(files))
    sizes = [(file, (root / file).stat().st_size) for file in files]
    identity = (sizes, names, sorted(request.shape.items()))
    return TableSource(table, ("image", "label", names), request, identity, rows=rows)


def _read(request: Request, streaming: bool = False) -> tuple[Request, Any, Any]:
    """The request, its splits as tables, and what identifies these on any machine."""
    import datasets
    import huggingface_hub
    import pyarrow.parquet
    from huggingface_hub.errors import OfflineModeIsEnabled

    name, root, files = request.name, request.root, request.files
    sizes = [(file, (root / file).stat().st_size) for file in files]
    load: Any = datasets.load_dataset
    if request.kind == "hub":
        repository, _, revision = name.partition("@")
        # Asked beforehand: it resolves the revision to a commit, and without connection
        # `load_dataset` would retry for half a minute. Offline a copy here may serve.
        told = f"{name} is neither a path here nor a dataset that the hub gives now"
        remedy = "check the name and the connection, or set HF_HUB_OFFLINE=1 for a copy"
        with explained(told, remedy), suppress(OfflineModeIsEnabled):
            ask = huggingface_hub.HfApi().dataset_info
            info = ask(repository, revision=revision or None, timeout=20)
            revision = info.sha or revision
        remedy = "download its parquet files and give their folder"
        with explained(f"the hub's dataset {name} cannot be loaded", remedy):
            tables = load(repository, revision=revision or None, streaming=streaming)
        pinned = f"{repository}@{revision}" if revision else repository
        return request._replace(name=pinned), tables, pinned
    remedy = "fetch or write it again"
    if request.kind == "saved":
        with explained(f"{name} cannot be read as a saved dataset", remedy):
            tables = datasets.load_from_disk(str(root))
        tables = tables if isinstance(tables, dict) else {"train": tables}
        return request, tables, sizes
    paths, first = [root / file for file in files], []
    for path in paths:
        with explained(f"{path} is not a readable parquet file", remedy):
            names = pyarrow.parquet.read_schema(path).names
        first = first or names
        if set(first) != set(names):
            told = f"{path} has columns {', '.join(names)} and {paths[0].name} has"
            raise UserError(f"{told} {', '.join(first)}: give files of one dataset")
    train, test = _own_splits(
        lambda word: [str(p) for p in paths if p.name.lower().startswith(word)] or None
    )
    groups = {"train": train or list(map(str, paths))}
    if train and test:
        groups["test"] = test
    remedy = "check that its files agree in column types and that the disk has room"
    with explained(f"{name} cannot be read as one dataset", remedy):
        tables = load("parquet", data_files=groups, streaming=streaming)
    return request, tables, sizes
