"""What a source of images is, and the sources over files and over a table."""

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from minivim.data.pixels import decode
from minivim.errors import UserError, explained, one_line
from minivim.files import inside

Batch = dict[str, np.ndarray]


class Images:
    """What sources and streams have in common."""

    class_names: tuple[str, ...] = ()  # of the labels in order; () without labels
    description: str = ""  # where the images come from, for cards and logs
    fingerprint: str = ""  # a hash of the content, the same on every machine
    summary: str = ""  # how many of what were found, and what is not used
    unreadable: tuple[str, ...] = ()  # pictures that were left out

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


class Source(Images):
    """Labelled images by index; subclasses implement `__len__` and `take`."""

    in_memory: bool = False  # whether taking some is too quick to be worth a thread
    unchecked: bool = False  # whether `files` has pictures that nobody has looked at
    labels: Int[np.ndarray, " n"] | None = None  # of all rows, where they are at hand

    def __len__(self) -> int:
        raise NotImplementedError

    def take(self, indices: Int[np.ndarray, " n"]) -> Batch:
        """Image uint8 [n, H, W, C] or codes int32 [n, (views,) N]; label int32 [n]."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = range(len(self))[index]
        return {k: v[0] for k, v in self.take(np.array([row])).items()}


class Request(NamedTuple):
    """What was asked for and where it is."""

    name: str
    split: str
    shape: dict[str, int]  # image_size and channels
    kind: str  # "shapes", "pictures", "saved", "parquet", "hub", "sources" or "given"
    root: Path = Path()
    files: Sequence[str] = ()  # below root
    notes: tuple[str, ...] = ()  # on what is not used
    labels: Mapping[str, str] = {}  # of pictures, from a table beside them
    caches: tuple[Path, ...] = ()  # where paths in cells may lead besides root


class Pictures(Source):
    """Pictures decoded when they are taken: files by name, or rows of a table."""

    labels: Int[np.ndarray, " n"]
    unchecked = True

    def __init__(
        self,
        request: Request,
        places: Any,
        labels: Int[np.ndarray, " n"],
        class_names: tuple[str, ...],
        identity: tuple,
        table: Any = None,
    ):
        self.labels, self.class_names, self.request = labels, class_names, request
        self._places, self._table, self.root = places, table, request.root
        self.description = f"{request.name} ({request.split})"
        self.fingerprint = hash_of(identity)

    def __len__(self) -> int:
        return len(self.labels)

    def files(self, indices: Int[np.ndarray, " n"]) -> list[tuple[Any, str]]:
        """Paths or open files, and what errors call them."""
        name, root = self.request.name, str(self.request.root)
        if self._table is None:
            paths = [os.path.join(root, self._places[i]) for i in indices]
            return [(path, path) for path in paths]
        rows = self._places[indices].tolist()
        with explained(f"{name} cannot be read", "fetch or write it again"):
            (cells,) = self._table[rows].values()
        named = zip(cells, rows, strict=True)
        return [open_cell(c, f"row {r} of {name}", self.request) for c, r in named]

    def take(self, indices: Int[np.ndarray, " n"]) -> Batch:
        files, shape = self.files(indices), self.request.shape
        pixels = [decode(file, where, **shape) for file, where in files]
        return {"image": np.stack(pixels), "label": self.labels[indices]}


class Subset(Source):
    """Some rows of a source: a split (`what`), or those that can be read."""

    def __init__(self, source: Source, rows: Int[np.ndarray, " n"], what: str = ""):
        self.source, self.rows, self.root = source, rows, getattr(source, "root", "")
        self.labels = None if source.labels is None else source.labels[rows]
        self.in_memory, self.unchecked = source.in_memory, source.unchecked
        self.class_names = source.class_names
        self.description, self.summary = f"{source.description}{what}", source.summary
        # Whether pictures may be left out is asked beside the fingerprint.
        parts = (source.fingerprint, what, len(rows))
        self.fingerprint = hash_of(parts) if what else source.fingerprint

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Int[np.ndarray, " n"]) -> Batch:
        return self.source.take(self.rows[indices])

    def files(self, indices: Int[np.ndarray, " n"]) -> list[tuple[Any, str]]:
        return self.source.files(self.rows[indices])  # type: ignore[attr-defined]


def open_cell(cell: dict | None, where: str, request: Request) -> tuple[Any, str]:
    """The bytes or path in a table's cell, and the name of the picture for errors."""
    data, path = (cell["bytes"], cell["path"] or "") if cell else (None, "")
    name = f"{one_line(path, 120)}, {where}," if path else where
    if data is not None:
        return io.BytesIO(data), name
    if not path:
        raise UserError(f"{where} has no image: remove the row")
    if request.kind == "given":  # The user's own may lead anywhere.
        return path, name
    try:
        return inside(path, request.root, *request.caches), name
    except ValueError as error:
        remedy = "put the pictures into the folder of the table, or leave out --stream"
        raise UserError(f"{where} {error}: {remedy}") from error


def hash_of(parts: Any) -> str:
    """16 hexadecimal digits that depend on the printed form of `parts` alone."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
