"""Images read in a row, from files that are too many to be copied to this machine."""

import itertools
import json
import os
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from minivim.config.checks import require
from minivim.data.arrays import unit_images, whole_labels
from minivim.data.base import Batch, Images, Request, hash_of, open_cell
from minivim.data.layout import class_name
from minivim.data.pixels import decode
from minivim.data.tables import Columns, encoded
from minivim.errors import explained

SHUFFLE_BUFFER = 1_000  # rows that wait to be drawn from, encoded, in each process
SAVED_SHARDS = 16  # per process, of a saved dataset, whose rows can be cut anywhere
CAVEAT = (
    f"a stream resumes without the rows in its shuffle buffer (up to {SHUFFLE_BUFFER:,}"
    " a process), so not bit for bit, and in as many processes as before; it is mixed "
    "within that buffer alone, and how many steps an epoch has is not known"
)


class Stream(Images):
    """Labelled images without index or length: see `open_stream`.

    Each process reads its own files, as many as any other, also after a restart. Rows
    are mixed within the shuffle buffer, and those in it when a state is saved are lost
    to that epoch. Processes with fewer rows begin the next epoch earlier.
    """

    def __init__(self, table: Any, columns: Columns, request: Request, identity: tuple):
        self.table = encoded(table, columns.image, columns.label)
        self._columns, self._request, self.name = columns, request, request.name
        self._decode = partial(decode, **request.shape)
        self.class_names = columns.class_names
        self.description = f"{self.name} ({request.split})"
        self.fingerprint = hash_of(identity)

    def first(self, n: int | None) -> Batch:
        """The first n images in order, uint8 [n, H, W, C], and labels."""
        require(n is not None, f"{self.description} has no known length: say how many")
        rows = list(itertools.islice(self.table, n))
        require(bool(rows), f"{self.description} has no rows: give one with images")
        return self.decode(rows)

    def decode(self, rows: list[dict], pool: ThreadPoolExecutor | None = None) -> Batch:
        """Rows as arrays: image uint8 [n, H, W, C], label int32 [n], -1 for none."""
        columns, where = self._columns, f"an image of {self.name}"
        cells = [open_cell(row[columns.image], where, self._request) for row in rows]
        pixels = (pool.map if pool else map)(self._decode, *zip(*cells, strict=True))
        labels = [row[columns.label] if columns.label else None for row in rows]
        if (numbers := columns.numbers) is not None:
            labels = [numbers.get(class_name(label) or "") for label in labels]
        labels = [-1 if label is None else label for label in labels]
        labels = whole_labels(labels, self.num_classes, -1)
        return {"image": np.stack(list(pixels)), "label": labels}

    def share(self, index: int, count: int, *, seed: int) -> Any:
        """One of `count` equal parts of the shards, shuffled, as an iterable."""
        from datasets.distributed import split_dataset_by_node

        rows = self.table
        if hasattr(rows, "to_iterable_dataset"):  # a saved one, with known rows
            shards = count * max(1, min(SAVED_SHARDS, len(rows) // count))
            rows = rows.to_iterable_dataset(num_shards=min(shards, len(rows)))
        files = rows.num_shards
        told = f"{self.name} has {files} files, which {count} processes cannot"
        remedy = f"use a number of them that divides {files}, or write more files"
        require(files % count == 0, f"{told} share equally: {remedy}")
        mixed = rows.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        return split_dataset_by_node(mixed, rank=index, world_size=count)


class StreamIterator(Iterator[Batch]):
    """Batches of one process' share, which is one of equal blocks, one read ahead."""

    def __init__(self, stream: Stream, batch_size: int, rows: np.ndarray, seed: int):
        self._count = count = len(rows)
        fits = count and batch_size % count == 0
        blocks = np.arange(batch_size).reshape(-1, count).tolist() if fits else []
        told = f"a stream gives each process one of equal blocks of the {batch_size}"
        remedy = "change batch_size or the mesh, or leave out --stream"
        require(rows.tolist() in blocks, f"{told} rows of a batch: {remedy}")
        self._stream, self._share = stream, blocks.index(rows.tolist())
        self._shares = len(blocks)
        self._table = partial(stream.share, self._share, self._shares, seed=seed)
        self._table()  # A share that cannot be is refused here, not in a thread.
        self._start(epoch=0, rows=None)

    def _start(self, **position: Any) -> None:
        self._position, self._reading = position, self._read(**position)
        # One reads, the others decode.
        self._threads = ThreadPoolExecutor(1 + min(4, os.cpu_count() or 1))
        self._ahead: Future | None = None

    def __next__(self) -> Batch:
        ahead = self._ahead or self._threads.submit(next, self._reading)
        batch, self._position = ahead.result()
        self._ahead = self._threads.submit(next, self._reading)
        return batch

    def _read(self, epoch: int, rows: Any) -> Generator[tuple[Batch, dict], None, None]:
        """Batches, each with the position behind it."""
        name, part = self._stream.description, []
        problem = f"{name} cannot be read on"
        remedy = "check the connection and run the same command"
        while True:
            table = self._table()
            table.set_epoch(epoch)
            if rows is not None:
                table.load_state_dict(rows)
            # After a restart the rest of an epoch may be empty, a whole one may not.
            empty = rows is None
            with explained(problem, remedy, (OSError, ValueError)):
                for row in table:
                    empty = False
                    part.append(row)
                    if len(part) == self._count:
                        batch = self._stream.decode(part, self._threads)
                        batch["image"] = unit_images(batch["image"])
                        yield batch, {"epoch": epoch, "rows": table.state_dict()}
                        part = []
            require(not empty, f"a share of {name} has no rows: use fewer processes")
            epoch, rows = epoch + 1, None

    def get_state(self) -> dict[str, Any]:
        """The positions of all shares; every process must ask for it at once."""
        from minivim.training.processes import gathered

        positions = {str(self._share): self._position}
        if self._shares > 1:
            for text in gathered(json.dumps(positions)):
                positions |= json.loads(text)
        return {"shares": self._shares, "positions": positions}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on behind the last batch before `state`, less what was in the buffer."""
        was, now = state.get("shares"), self._shares
        told = f"the stream was read in {was} shares and now is in {now}"
        remedy = "use as many processes as before, or choose another --workdir"
        require(was == now, f"{told}: {remedy}")
        self.close()
        self._start(**state["positions"][str(self._share)])

    def close(self) -> None:
        """End the threads. `datasets` waits 10 s here to let go of parquet files."""
        self._threads.shutdown(cancel_futures=True)
        self._reading.close()
