"""From a source of images to batches, in an order that can be stopped and resumed."""

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int
from tqdm.auto import tqdm

from minivim.config.checks import require
from minivim.data.arrays import unit_images
from minivim.data.base import Batch, Source
from minivim.data.streams import Stream, StreamIterator


def batches(
    source: Source | Stream,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    rows: slice | Sequence[int] | Int[np.ndarray, " n"] = slice(None),
    workers: int = 0,
) -> "BatchIterator | StreamIterator":
    """Iterate over a source without an end, in a reproducible order.

    The order of an epoch is drawn from (seed, epoch), or is that of the rows without
    `shuffle`; batches span epochs. A `Stream` promises less. Where codes have several
    views of an image, a batch holds a random one, drawn from (seed, batch). Of the
    `batch_size` rows of a whole batch, over all processes, this one reads those at the
    positions `rows`. The `workers` are processes that read and decode, threads for 0;
    batches do not depend on them.

    Gives image float32 [B, H, W, C] in [0, 1], label int32 [B], and other columns as
    they are. `get_state()`, ready for JSON, names the next batch; after
    `set_state(state)` an iterator of the same source continues exactly there.
    """
    positions = np.arange(batch_size)[rows]
    if isinstance(source, Stream):
        problem = "a stream is shuffled and read by one process"
        require(shuffle and not workers, f"{problem}: leave out --workers or --stream")
        return StreamIterator(source, batch_size, positions, seed)
    require(batch_size > 0, f"batch_size {batch_size} is impossible: choose 1 or more")
    require(workers >= 0, f"workers {workers} is impossible: choose 0 or more")
    endless = _Endless(source, batch_size, seed if shuffle else None, positions)
    return BatchIterator(endless, workers)


def in_order(
    source: Source,
    *,
    count: int | None = None,
    batch_size: int = 256,
    workers: int = 0,
    desc: str = "",
    quiet: bool = True,
) -> Generator[Batch, None, None]:
    """The first `count` rows once, as `batches` gives them, the last batch short."""
    count = len(source) if count is None else min(count, len(source))
    size = max(1, min(batch_size, count))
    starts = range(0, count, size)
    numbered = _Endless(source, size, None, np.arange(size))
    with contextlib.closing(BatchIterator(numbered, workers, len(starts))) as reader:
        for first in tqdm(starts, desc=desc, unit="batch", disable=quiet):
            yield {k: v[: count - first] for k, v in next(reader).items()}


@dataclasses.dataclass(frozen=True)
class _Endless:
    """The rows at some positions of batch 0, 1, ..., which needs only its number."""

    # grain's own `shuffle` and `batch` work row by row: 2 ms for 64 rows.
    source: Source
    batch_size: int
    seed: int | None
    positions: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Batch:
        count, first = len(self.source), index * self.batch_size
        epochs, rows = np.divmod(first + self.positions, count)
        if self.seed is not None:
            for epoch in np.unique(epochs).tolist():
                mine = epochs == epoch
                rows[mine] = _order(count, self.seed, epoch)[rows[mine]]
        batch = self.source.take(rows)
        codes = batch.get("codes")
        if codes is None or codes.ndim == 2:
            return batch
        rng = np.random.default_rng([self.seed or 0, index, 1])
        views = rng.random(self.batch_size)[self.positions] * codes.shape[1]
        return {**batch, "codes": codes[np.arange(len(codes)), views.astype(int)]}


@functools.lru_cache(maxsize=8)
def _order(rows: int, seed: int, epoch: int) -> Int[np.ndarray, " rows"]:
    return np.random.default_rng([seed, epoch]).permutation(rows)


class BatchIterator(Iterator[Batch]):
    """Batches whose position is one number, read ahead from the first one asked for."""

    def __init__(self, numbered: _Endless, workers: int, end: int | None = None):
        self._numbered, self._workers = numbered, workers
        self._next, self._end = 0, end
        self._pipeline: Any = None

    def __next__(self) -> Batch:
        self._pipeline = self._pipeline or self._open()
        batch = next(self._pipeline)
        self._next += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        return {"batch": self._next}

    def set_state(self, state: dict[str, Any]) -> None:
        self.close()
        self._next = int(state["batch"])

    def close(self) -> None:
        """End threads and worker processes; the next batch starts them again."""
        if self._pipeline is not None:
            self._pipeline.close()
        self._pipeline = None

    def _open(self) -> Iterator[Batch]:
        import grain
        from absl import flags

        memory = self._numbered.source.in_memory
        rest = grain.MapDataset.source(self._numbered)[self._next : self._end]
        if memory or not self._workers:
            threads = 0 if memory else min(4, os.cpu_count() or 1)
            options = grain.ReadOptions(threads, prefetch_buffer_size=2 * threads)
            return iter(rest.map(_finished).to_iter_dataset(options))
        # grain reads an absl flag here, which a program without absl never parses.
        flags.FLAGS.mark_as_parsed()
        # Pictures pass from process to process as bytes, a quarter of their floats.
        options = grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=2)
        read = rest.to_iter_dataset(grain.ReadOptions(0, 0))
        read = read.mp_prefetch(options, worker_init_fn=_start_worker)
        return iter(read.map(_finished))


def _finished(batch: Batch) -> Batch:
    """Pictures as floats; a copy, for a worker takes the memory of its batch back."""
    batch = {name: np.array(array) for name, array in batch.items()}
    if "image" in batch and batch["image"].dtype == np.uint8:
        batch["image"] = unit_images(batch["image"])
    return batch


def _start_worker(*_: int) -> None:
    """Make a worker process leave the accelerator alone and end with its parent."""
    jax.config.update("jax_platforms", "cpu")
    # A signal to the whole group is for the parent to answer, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent: Any = multiprocessing.parent_process()

    def follow() -> None:  # After kill -9 nobody else would end this process.
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def padded(rows: np.ndarray, count: int) -> np.ndarray:
    """Repeat the last row up to `count`, so that one program serves every batch."""
    missing = count - len(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, 0)]) if missing else rows


def stack(source: Source | Stream, n: int | None = None) -> Batch:
    """The first n items (all by default) in order, image uint8 [n, H, W, C]."""
    if isinstance(source, Stream):
        return source.first(n)
    return source.take(np.arange(len(source))[:n])
