"""What a source of images is, and the source over a table."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from minivim.data.pixels import decode
from minivim.errors import UserError

Batch = dict[str, np.ndarray]
# Of a table: the column of images, that of labels if any, and what these are called.
Columns = tuple[str, str | None, tuple[str, ...]]


class Images:
    """What sources and streams have in common."""

    class_names: tuple[str, ...] = ()  # of the labels in order; () without labels
    description: str = ""  # where the images come from, for cards and logs
    fingerprint: str = ""  # a hash of the content, the same on every machine

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


class Source(Images):
    """Labelled images by index; subclasses implement `__len__` and `take`."""

    in_memory: bool = False  # whether taking some is too quick to be worth a thread

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
    kind: str  # "shapes", "folder" (of pictures), "saved", "parquet" or "hub"
    root: Path = Path()
    files: Sequence[str] = ()  # below root


class Table(Images):
    """Images and labels in a Hugging Face table, encoded until they are read."""

    def __init__(self, table: Any, columns: Columns, request: Request, identity: tuple):
        import datasets

        self._image, self._label, self.class_names = columns
        table = table.select_columns([name for name in columns[:2] if name])
        self.table = table.cast_column(self._image, datasets.Image(decode=False))
        self.name, self._shape = request.name, request.shape
        self.description = f"{self.name} ({request.split})"
        self.fingerprint = hash_of(identity)

    def batch(self, rows: dict, names: Iterable[str], pool: Any = None) -> Batch:
        """Columns of rows as arrays; errors call the pictures `names`."""
        images = rows[self._image]
        pixels = (pool.map if pool else map)(self._pixels, images, names)
        labels = rows[self._label] if self._label else [None] * len(images)
        numbers = [-1 if number is None else number for number in labels]
        return {"image": np.stack(list(pixels)), "label": np.array(numbers, np.int32)}

    def _pixels(self, image: dict | None, name: str) -> UInt8[np.ndarray, "H W C"]:
        data, path = (image["bytes"], image["path"] or "") if image else (None, "")
        if not (data or path):
            raise UserError(f"{name} has no image: remove the row")
        if data is None:
            return decode(path, path, **self._shape)
        where = f"{path}, {name}," if path else name
        return decode(io.BytesIO(data), where, **self._shape)


class TableSource(Table, Source):
    """The given rows of a table, in this order."""

    def __init__(self, *table: Any, rows: Int[np.ndarray, " n"]):
        super().__init__(*table)
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Int[np.ndarray, " n"]) -> Batch:
        rows = self.rows[indices].tolist()
        names = [f"row {row} of {self.name}" for row in rows]
        return self.batch(self.table[rows], names)


def hash_of(parts: Any) -> str:
    """16 hexadecimal digits that depend on the printed form of `parts` alone."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
