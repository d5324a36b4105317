"""What a source of images is, and the sources in memory and over a table."""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from minivim.data.pixels import decode
from minivim.errors import UserError

Batch = dict[str, np.ndarray]


class Images:
    """What sources and streams have in common.

    Attributes:
        class_names: names of the labels in order, () without labels.
        description: where the images come from, for people (cards, logs).
        fingerprint: a hash of the content, the same on every machine.
    """

    class_names: tuple[str, ...] = ()
    description: str = ""
    fingerprint: str = ""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


class Source(Images):
    """Labelled images by index; subclasses say how many there are and how to take some.

    `in_memory`: whether taking a batch is too quick to be worth a thread or process.
    """

    in_memory: bool = False

    def __len__(self) -> int:
        raise NotImplementedError

    def take(self, indices: Int[np.ndarray, " n"]) -> Batch:
        """Items as stacked arrays: image uint8 [n, H, W, C], label int32 [n], or -1.

        Cached codes instead: codes int32 [n, N], or [n, V, N] with V views of an image.
        """
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = range(len(self))[index]
        return {k: v[0] for k, v in self.take(np.array([row])).items()}


class ArraySource(Source):
    """A source over arrays in memory that share their first axis.

    Raises:
        UserError: no arrays, no rows, or arrays of unequal length.
    """

    in_memory = True

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        *,
        class_names: Sequence[str] = (),
        description: str = "arrays",
    ):
        self.arrays = {name: np.asarray(array) for name, array in arrays.items()}
        lengths = {name: len(array) for name, array in self.arrays.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise UserError(f"arrays must be of one length, at least 1: got {lengths}")
        self.class_names = tuple(class_names)
        self.description = description
        self._length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._length

    def take(self, indices: Int[np.ndarray, " n"]) -> Batch:
        return {name: array[indices] for name, array in self.arrays.items()}

    @functools.cached_property
    def fingerprint(self) -> str:
        parts: list[Any] = [self.class_names]
        for name, array in sorted(self.arrays.items()):
            digest = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
            parts.append((name, str(array.dtype), array.shape, digest))
        return hash_of(parts)


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of a table that are read, and the shape of pixels they become."""

    image: str
    label: str | None
    class_names: tuple[str, ...]
    shape: dict[str, int]

    def select(self, table: Any) -> Any:
        """The table with these columns alone, its pictures still encoded."""
        import datasets

        table = table.select_columns([c for c in (self.image, self.label) if c])
        return table.cast_column(self.image, datasets.Image(decode=False))

    def batch(
        self, rows: dict, names: Sequence[str], pool: ThreadPoolExecutor | None = None
    ) -> Batch:
        """Columns of rows as arrays; errors call the pictures `names`."""
        each = pool.map if pool else map
        pixels = list(each(self._pixels, rows[self.image], names))
        labels = rows[self.label] if self.label else [None] * len(names)
        numbers = [-1 if label is None else label for label in labels]
        return {"image": np.stack(pixels), "label": np.array(numbers, np.int32)}

    def _pixels(self, image: dict | None, name: str) -> UInt8[np.ndarray, "H W C"]:
        if image is None or not (image["bytes"] or image["path"]):
            raise UserError(f"{name} has no image: remove the row")
        data, path = image["bytes"], image["path"]
        if data is None:
            return decode(path, path, **self.shape)
        where = f"{path}, {name}," if path else name
        return decode(io.BytesIO(data), where, **self.shape)


class TableSource(Source):
    """Rows of a Hugging Face dataset; pictures stay encoded until they are taken."""

    def __init__(
        self,
        table: Any,
        rows: Int[np.ndarray, " n"],
        columns: Columns,
        *,
        name: str,
        split: str,
        identity: tuple,
    ):
        self._table, self._rows, self._columns = columns.select(table), rows, columns
        self._name, self.description = name, f"{name} ({split})"
        self.class_names = columns.class_names
        shape = sorted(columns.shape.items())
        self.fingerprint = hash_of((*identity, self.class_names, shape))

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, indices: Int[np.ndarray, " n"]) -> Batch:
        rows = self._rows[indices].tolist()
        names = [f"row {row} of {self._name}" for row in rows]
        return self._columns.batch(self._table[rows], names)


def hash_of(parts: Any) -> str:
    """16 hexadecimal digits that depend on the printed form of `parts` alone."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
