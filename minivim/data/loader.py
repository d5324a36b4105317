"""From a source of images to batches, in an order that can be stopped and resumed."""

import dataclasses
import functools
import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from minivim.errors import UserError

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]


class Source:
    """Labelled images by index; subclasses say how many there are and how to take some.

    Attributes:
        class_names: names of the labels in order, () without labels.
        description: where the images come from, for people (cards, logs).
        in_memory: whether taking a batch is too quick to be worth a thread.
    """

    class_names: tuple[str, ...] = ()
    description: str = ""
    in_memory: bool = False

    def __len__(self) -> int:
        raise NotImplementedError

    def take(self, indices: Int[np.ndarray, " n"]) -> Batch:
        """Items as stacked arrays: image uint8 [n, H, W, C], label int32 [n], or -1."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """A hash of the content, the same on every machine."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of a source of {len(self)}")
        return {k: v[0] for k, v in self.take(np.array([index % len(self)])).items()}


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


def hash_of(parts: Any) -> str:
    """16 hexadecimal digits that depend on the printed form of `parts` alone."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class _Order:
    """Row numbers of batch b, b = 0, 1, ...; each pass over the rows is a permutation.

    The order of epoch e is drawn from (seed, e), hence any batch can be found from its
    number alone. Whole batches of numbers are produced at once: grain's own `shuffle`
    and `batch` work row by row, which costs 2 ms for 64 rows.
    """

    rows: int
    batch_size: int
    seed: int
    shuffle: bool
    repeat: bool
    drop_remainder: bool

    def __len__(self) -> int:
        if self.repeat:
            return sys.maxsize
        spare = 0 if self.drop_remainder else self.batch_size - 1
        return (self.rows + spare) // self.batch_size

    def __getitem__(self, index: int) -> Int[np.ndarray, " n"]:
        first, end = index * self.batch_size, (index + 1) * self.batch_size
        if not self.repeat:
            end = min(end, self.rows)
        parts = []
        while first < end:
            epoch, start = divmod(first, self.rows)
            stop = min(self.rows, start + end - first)
            parts.append(_epoch_order(self, epoch)[start:stop])
            first += stop - start
        return np.concatenate(parts)


@functools.lru_cache(maxsize=8)
def _epoch_order(order: _Order, epoch: int) -> Int[np.ndarray, " rows"]:
    if not order.shuffle:
        return np.arange(order.rows)
    return np.random.default_rng([order.seed, epoch]).permutation(order.rows)


def batches(
    source: Source,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    repeat: bool = True,
    drop_remainder: bool = True,
    rows: Sequence[int] | None = None,
) -> "grain.DatasetIterator[Batch]":
    """Iterate over a source in a reproducible order.

    Every epoch has its own order, drawn from (seed, epoch). With `repeat` the epochs
    follow one another without a seam: a batch may span two, and no row is dropped;
    without it the last batch is short or, with `drop_remainder`, left out.

    Returns:
        A grain iterator of image float32 [B, H, W, C] in [0, 1], label int32 [B], and
        other columns as they are. `get_state()` is a JSON-able dictionary that names
        the next batch; after `set_state(state)` an iterator of the same source and
        arguments continues exactly there.

    Raises:
        UserError: batch_size below 1, or above the rows where no batch would be full.
    """
    import grain

    if batch_size < 1 or (not repeat and drop_remainder and batch_size > len(source)):
        raise UserError(
            f"batch_size {batch_size} does not fit {len(source)} images: "
            f"choose one from 1 to {len(source)}"
        )
    order = _Order(len(source), batch_size, seed, shuffle, repeat, drop_remainder)
    threads = 0 if source.in_memory else min(4, os.cpu_count() or 1)
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    numbers = grain.MapDataset.source(order)
    here = slice(None) if rows is None else np.asarray(rows)
    loaded = numbers.map(lambda batch: _as_floats(source.take(batch[here])))
    return iter(loaded.to_iter_dataset(reading))


def _as_floats(batch: Batch) -> Batch:
    if "image" not in batch or batch["image"].dtype != np.uint8:
        return batch
    return {**batch, "image": batch["image"].astype(np.float32) / 255}


def stack(source: Source, n: int | None = None) -> Batch:
    """The first n items (all by default) in order, image uint8 [n, H, W, C]."""
    n = len(source) if n is None else min(n, len(source))
    return source.take(np.arange(n))
