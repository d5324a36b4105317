"""Where images come from: the embedded shapes, pictures, tables, the hub, or objects.

What a split, a class and a column is, `minivim.data.layout` decides for all of them.
"""

import dataclasses
import glob
import hashlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minivim.config.checks import require
from minivim.data import files, layout, shapes, tables
from minivim.data.arrays import ArraySource
from minivim.data.base import Pictures, Request, Source, Subset
from minivim.data.check import checked
from minivim.data.codes import is_codes
from minivim.data.files import bars
from minivim.data.pixels import PIXELS, suffixes, to_pixels
from minivim.data.streams import Stream
from minivim.errors import UserError, one_line

MAX_IMAGE_SIZE = 4_096
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """What `open_source` takes, with options: columns of tables, broken pictures."""

    spec: Any
    image_column: str = ""
    label_column: str = ""
    check: bool = False  # decode all pictures at once and name every broken one
    skip_unreadable: bool = False  # leave broken pictures out
    quiet: bool = True

    def __fspath__(self) -> str:
        return os.fspath(self.spec)

    __str__ = __fspath__


def open_source(
    spec: Any, *, split: str = "train", image_size: int = 32, channels: int = 3
) -> Source:
    """Open images, resized to `image_size` with their aspect kept, as uint8 [H, W, C].

    `spec` is "shapes"; a folder of pictures, a picture or a pattern; a parquet file,
    pattern or folder; a folder that `save_to_disk` of `datasets` wrote; a dataset of
    the hub as "owner/name@revision"; a `Source`, a `datasets.Dataset` or a dictionary
    of those by split; or a `DataSpec`. Splits are "train" and "test", in common
    spellings; validation serves where there is no test. Else a fixed tenth, at most
    2,000 images, is held out as "test"; fewer than 10 images are both. `channels` are
    3 (RGB) or 1 (grey).

    Labels, int32, are the names of folders, at least two, or a table beside the
    pictures names them (metadata.csv: file_name, label). In a dataset they are a column
    that is called so, or one of type ClassLabel; -1 stands for none. Pictures come in
    the order of a hash of their names, the rows of a table sorted by its labels in a
    fixed permutation, others in their own order. `summary` says what was found and what
    is not used. Raises `UserError` for data that cannot be found or read, or are
    ambiguous.
    """
    asked = spec if isinstance(spec, DataSpec) else DataSpec(spec)
    request = _locate(asked.spec, split, image_size, channels)
    if request.kind == "shapes":
        drawn = shapes.arrays(split)
        arrays, told = {k: drawn[k] for k in ("image", "label")}, f"shapes ({split})"
        if (image_size, channels) != (shapes.IMAGE_SIZE, 3):
            images = map(Image.fromarray, arrays["image"])
            arrays["image"] = np.stack([to_pixels(i, **request.shape) for i in images])
        return ArraySource(arrays, class_names=shapes.CLASSES, description=told)
    if request.kind == "sources":
        source = _open_given(asked.spec, split)
        image = source.take(np.array([0])).get("image", np.empty(0))
        has, wanted = image.shape[1:], (image_size, image_size, channels)
        told = f"{source.description} has images of shape {has}, not {wanted}"
        require(has == wanted, f"{told}: resize them")
    elif request.kind == "pictures":
        source = _open_pictures(request)
    else:
        source = _open_tables(request, asked)
    if asked.check or asked.skip_unreadable:
        source = checked(source, skip=asked.skip_unreadable, quiet=asked.quiet)
    return source


def open_stream(
    spec: Any, *, split: str = "train", image_size: int = 32, channels: int = 3
) -> Stream:
    """Open images by name to be read in a row, not by index: see `Stream`.

    Takes the tables that `open_source` takes; datasets of the hub are not copied to
    this machine first. There must be tables of both splits. On the hub labels need a
    column of type ClassLabel. Rows keep their order: mix a table sorted by class before
    it is written, or the first rows, on which a run is evaluated, are of a few classes.
    Raises `UserError` as `open_source` does, and without the split.
    """
    asked = spec if isinstance(spec, DataSpec) else DataSpec(spec)
    request = _locate(asked.spec, split, image_size, channels)
    told = f"{request.name} is at hand and read by index: leave out --stream, which is"
    told += " for parquet, saved datasets and the hub"
    require(request.kind in ("parquet", "saved", "hub"), told)
    told = "a stream is read once, in a row, and not checked beforehand: leave out"
    told += " --check and --skip-unreadable, or --stream"
    require(not (asked.check or asked.skip_unreadable), told)
    with bars(not asked.quiet):
        read = tables.read(request, streaming=True)
    test = next((s for s in ("test", "validation") if s in read.tables), "")
    missing = "train" if test else "test"
    told = f"{request.name} has no {missing} split, and a stream holds nothing out"
    remedy = f"add files whose names begin with {missing}, or leave out --stream"
    require(bool(test) and "train" in read.tables, f"{told}: {remedy}")
    table = read.tables["train" if split == "train" else test]
    columns = tables.columns_of(read, asked.image_column, asked.label_column)
    identity = (read.identity, "stream", split, columns[:3], image_size, channels)
    stream = Stream(table, columns, read.request, (*identity, PIXELS))
    classes = layout.counted(len(columns.class_names), "class")
    told = f"{request.name}: read in a row, {classes}"
    stream.summary = "; ".join([told, *columns.notes, *read.request.notes])
    return stream


def require_labels(source: Source | Stream) -> None:
    """Raise UserError unless the source knows at least two labels."""
    known = f"one label ({source.class_names[0]})" if source.class_names else "none"
    told = f"this needs images of at least two labels, and {source.description} has"
    remedy = "give each class a folder of its own, a label column, or class_names"
    require(source.num_classes > 1, f"{told} {known}: {remedy}")


def announce(source: Source | Stream) -> None:
    """Say on stderr, once, how many of what were found and what is not used."""
    if source.summary:
        _say(source.summary)


@lru_cache(maxsize=32)
def _say(told: str) -> None:
    print(f"minivim: {one_line(told, 4_000)}", file=sys.stderr)


def _locate(spec: Any, split: str, image_size: int, channels: int) -> Request:
    """Where the data are that a user asks for, if that is possible."""
    shape = {"image_size": image_size, "channels": channels}
    told = f"image_size {image_size} is impossible: choose a whole number from 1 to"
    require(1 <= image_size <= MAX_IMAGE_SIZE, f"{told} {MAX_IMAGE_SIZE}")
    told = f"channels {channels} is impossible: choose 3 (RGB) or 1 (grey)"
    require(channels in (1, 3), told)
    require(split in ("train", "test"), f"no split {split!r}: use 'train' or 'test'")
    if not isinstance(spec, str | os.PathLike):
        parts = list(spec.values()) if isinstance(spec, Mapping) else [spec]
        own = all(isinstance(part, Source) for part in parts)
        opened = all(type(part).__module__.startswith("datasets.") for part in parts)
        told = f"data of type {type(spec).__name__} cannot be read: give a name, a"
        told += " Source, a datasets.Dataset, or a dictionary of those by split"
        require(bool(parts) and (own or opened), told)
        return Request("the given data", split, shape, "sources" if own else "given")
    name = os.fspath(spec)
    told = "the data have an empty name, which would mean the folder you are in"
    require(bool(name.strip()), f"{told}: give . for it, or 'shapes'")
    request = partial(Request, name, split, shape)
    path = Path(name).expanduser()
    if name == "shapes":
        return request("shapes")
    if path.is_dir():
        return _locate_folder(path, name, request)
    if path.is_file() or glob.has_magic(name):
        return _locate_files(path, name, request)
    told = f"{name} does not exist: give 'shapes', a folder of images, parquet files,"
    told += " or a dataset of the hub as owner/name@revision"
    require(bool(HUB_ID.fullmatch(name)), told)
    return request("hub")


def _locate_files(path: Path, name: str, request: Callable[..., Request]) -> Request:
    matches = [path] if path.is_file() else glob.glob(str(path), recursive=True)
    found = sorted({f for f in map(Path, matches) if f.is_file()})
    for kind, ends in (("parquet", {".parquet"}), ("pictures", suffixes())):
        if fits := [f for f in found if f.suffix.lower() in ends]:
            root = Path(os.path.commonpath([f.parent for f in fits]))
            below = [f.relative_to(root).as_posix() for f in fits]
            left = layout.counted(len(found) - len(fits), "other file")
            notes = (f"not used: {left}",) if len(found) > len(fits) else ()
            return request(kind, root, below, notes)
    told = "is neither a parquet file nor a picture that can be read here"
    told = told if path.is_file() else "matches no parquet file and no picture"
    raise UserError(f"{name} {told}: give such a file or the folder that holds it")


def _locate_folder(path: Path, name: str, request: Callable[..., Request]) -> Request:
    told = f"{name} holds codes, which minivim train prior alone reads"
    require(not is_codes(path), f"{told}: give the images here")
    if any((path / f).is_file() for f in ("dataset_dict.json", "state.json")):
        arrow = [file for file in path.rglob("*.arrow") if file.is_file()]
        below = sorted(file.relative_to(path).as_posix() for file in arrow)
        return request("saved", path, below)
    pictures, found, labels, notes = files.look(path)
    if found:
        few = layout.counted(len(pictures), "picture")
        beside = (f"not used: {few} beside the tables",) if pictures else ()
        return request("parquet", path, found, notes + beside)
    told = f" ({'; '.join(notes)})" if notes else ""
    remedy = "give a folder with .jpg, .png or other files that Pillow reads"
    require(bool(pictures), f"{name} holds no images{told}: {remedy}, or parquet files")
    return request("pictures", path, pictures, notes, labels)


def _open_given(spec: Any, split: str) -> Source:
    """One of the user's own sources, a part of it where there is one alone."""
    parts, _ = tables.by_split(spec, "the data")
    labels = {
        name: np.broadcast_to(-1, len(part)) if part.labels is None else part.labels
        for name, part in parts.items()
    }
    name, rows, told = layout.choose_split(split, labels, "the given source")
    source = parts[name]
    source = Subset(source, rows, f", {split}") if len(rows) < len(source) else source
    source.summary = source.summary or f"{source.description}: {told}"
    return source


def _summed_up(
    source: Source, request: Request, labels: Mapping[str, Any], told: str, notes: Any
) -> Source:
    """The source with its summary; says if its pictures are those of training."""
    name, names = request.name, source.class_names
    if "too few" in told and request.split == "test":
        warning = f"warning: {name} has too few images to hold any out"
        _say(f"{warning}: test and training images are the same")
    count = layout.counted(sum(map(len, labels.values())), "picture")
    classes = f" in {layout.counted(len(names), 'class')}" if names else ", no labels"
    notes = dict.fromkeys([*notes, *request.notes])
    source.summary = "; ".join([f"{name}: {count}{classes}: {told}", *notes])
    return source


def _open_pictures(request: Request) -> Source:
    """Picture files, labelled by their folders or by a table beside them."""
    groups, notes = layout.by_folder(request.files, request.labels, request.name)
    texts = {split: list(group.values()) for split, group in groups.items()}
    names, labels, more = layout.classes(texts, request.name)
    split, rows, told = layout.choose_split(request.split, labels, request.name)
    paths = list(groups[split])
    # Sorted by a hash: by name, and hence by class, the first would be of a few.
    keys = [hashlib.sha256(os.fsencode(path)).hexdigest() for path in paths]
    rows = sorted(rows.tolist(), key=keys.__getitem__)
    found, sizes = [paths[row] for row in rows], []
    for file in found:
        with suppress(OSError):  # It is named when it is read.
            sizes.append((file, os.stat(request.root / file).st_size))
    identity = (sizes, names, sorted(request.shape.items()), PIXELS)
    source = Pictures(request, found, labels[split][rows], names, identity)
    return _summed_up(source, request, labels, told, notes + more)


def _open_tables(request: Request, asked: DataSpec) -> Source:
    with bars(not asked.quiet):
        read = tables.read(request, asked.spec)
    request = read.request
    columns = tables.columns_of(read, asked.image_column, asked.label_column)
    labels, names = columns.labels, columns.class_names
    split, rows, told = layout.choose_split(request.split, labels, request.name)
    identity, steps = read.identity, np.diff(labels[split][rows])
    # Sorted by class: the first rows would be of a few.
    if steps.any() and ((steps >= 0).all() or (steps <= 0).all()):
        rows, identity = np.random.default_rng(0).permutation(rows), (identity, "mixed")
    identity = (identity, request.split, len(rows), columns[:3], PIXELS)
    identity = (*identity, sorted(request.shape.items()))
    table = tables.encoded(read.tables[split], columns.image)
    source = Pictures(request, rows, labels[split][rows], names, identity, table)
    return _summed_up(source, request, labels, told, columns.notes)
