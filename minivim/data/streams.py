"""Images read in a row, from files that are too many to be copied to this machine."""

import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from minivim.data.loader import Batch, hash_of
from minivim.data.pixels import brief
from minivim.data.tables import (
    decode_cell,
    image_column,
    label_array,
    label_column,
    own_splits,
)
from minivim.errors import UserError

if TYPE_CHECKING:
    import datasets

# Rows that wait to be drawn from, still encoded, in each process.
SHUFFLE_BUFFER = 1_000
# Of a folder of datasets, for each process: rows there can be cut anywhere.
SAVED_SHARDS = 16
CAVEAT = (
    f"a stream resumes without the rows in its shuffle buffer (up to {SHUFFLE_BUFFER:,}"
    " a process), so not bit for bit, and in as many processes as before; it is mixed "
    "within that buffer alone, and how many steps an epoch has is not known"
)


class Stream:
    """Labelled images without index or length: see `open_stream`.

    Each process reads its own shards (files); their number must be a multiple of the
    number of processes. What a stream cannot promise, and a `Source` can:

    - A resumed run is not the undisturbed one. Rows that wait in the shuffle buffer
      when the state is saved are lost to that epoch; none is read twice.
    - The number of processes may not change in between.
    - Rows are mixed within the buffer and the order of shards, not over the whole set.
    - An epoch has no known length, and processes with shorter shards begin the next one
      earlier.
    - Nothing can be held out: there must be a train and a test split.

    Attributes:
        class_names: names of the labels in order, () without labels.
        description: where the images come from, for people (cards, logs).
    """

    def __init__(
        self,
        name: str,
        tables: dict[str, Any],
        identity: Any,
        *,
        split: str,
        image_size: int,
        channels: int,
    ):
        import datasets

        own = own_splits(tables)
        train, test = own["train"] or next(iter(tables)), own["test"]
        # The only split there is would be both.
        missing = "test" if not test else "train" if not own["train"] else None
        if split == "test" and missing:
            raise UserError(
                f"{name} has no {missing} split, and a stream holds nothing out: add "
                f"files whose names begin with {missing}, or leave out --stream"
            )
        self._name = name = identity if isinstance(identity, str) else name
        table = _with_features(name, tables[train])
        self._image, self._label = image_column(name, table), label_column(table)
        label = table.features[self._label] if self._label else None
        names = label.names if isinstance(label, datasets.ClassLabel) else ()
        self._label = self._label if names else None
        self.class_names: tuple[str, ...] = tuple(names)
        self.description = f"{name} ({split})"
        self._table = self._encoded(tables[test] if test and split == "test" else table)
        self._shape = {"image_size": image_size, "channels": channels}
        parts = (identity, "stream", split, self.class_names, *self._shape.values())
        self.fingerprint = hash_of(parts)

    def _encoded(self, table: Any) -> Any:
        import datasets

        kept = [column for column in (self._image, self._label) if column]
        encoded = datasets.Image(decode=False)
        return table.select_columns(kept).cast_column(self._image, encoded)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def first(self, n: int | None) -> Batch:
        """The first n images in order, uint8 [n, H, W, C], and labels."""
        if n is None:
            raise UserError(f"{self.description} has no known length: say how many")
        rows = list(itertools.islice(iter(self._table), n))
        if not rows:
            raise UserError(f"{self.description} has no rows: give one with images")
        return self.decode(rows)

    def decode(self, rows: list[dict], pool: ThreadPoolExecutor | None = None) -> Batch:
        """Rows as stacked arrays: image uint8 [n, H, W, C], label int32 [n], or -1."""

        def one(row: dict) -> np.ndarray:
            where = f"an image of {self._name}"
            if row[self._image] and row[self._image]["path"]:
                where = f"{row[self._image]['path']} of {self._name}"
            return decode_cell(row[self._image], where, **self._shape)

        images = list((pool.map if pool else map)(one, rows))
        labels = [row[self._label] if self._label else None for row in rows]
        return {"image": np.stack(images), "label": label_array(labels)}

    def share(self, index: int, count: int, *, seed: int) -> "datasets.IterableDataset":
        """One of `count` parts of the rows, shuffled; its position is saved by itself.

        Raises `UserError` unless the number of shards is a multiple of `count`.
        """
        import datasets
        from datasets.distributed import split_dataset_by_node

        rows: Any = self._table
        if isinstance(self._table, datasets.Dataset):
            shards = count * max(1, min(SAVED_SHARDS, len(rows) // count))
            rows = rows.to_iterable_dataset(num_shards=min(shards, len(rows)))
        if (shards := getattr(rows, "num_shards", 1)) % count:
            raise UserError(
                f"{self._name} has {shards} files, which {count} processes cannot "
                f"share equally: use a number of processes that divides {shards}, or "
                "write the data as more files"
            )
        mixed = rows.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        return split_dataset_by_node(mixed, rank=index, world_size=count)

    def batches(
        self, *, batch_size: int, seed: int, rows: Any = None
    ) -> "StreamIterator":
        """See `minivim.data.batches`; `rows` must be one of equal blocks of a batch."""
        whole = np.arange(batch_size)
        positions = whole if rows is None else whole[rows]
        count = len(positions)
        if not count or batch_size % count or positions[0] % count:
            raise UserError(_UNEVEN.format(batch_size))
        if not np.array_equal(positions, np.arange(count) + positions[0]):
            raise UserError(_UNEVEN.format(batch_size))
        return StreamIterator(
            self,
            count,
            share=int(positions[0]) // count,
            shares=batch_size // count,
            seed=seed,
        )


_UNEVEN = (
    "a stream gives each process one of equal blocks of the {} rows of a batch, not "
    "other ones: change batch_size or the mesh, or leave out --stream"
)


class StreamIterator(Iterator[Batch]):
    """Batches of one process' share of a stream, one of them read ahead."""

    def __init__(
        self, stream: Stream, count: int, *, share: int, shares: int, seed: int
    ):
        self._stream, self._count, self._seed = stream, count, seed
        self._share, self._shares = share, shares
        self._table: Any
        self._rows: Any
        # Refused here rather than in a thread.
        self._stream.share(share, shares, seed=seed)
        self._position: dict[str, Any] = {"epoch": 0, "rows": None}
        self._start()

    def _start(self) -> None:
        self._epoch = int(self._position["epoch"])
        self._opened, self._table, self._rows = False, None, None
        self._ahead: Future | None = None
        self._reader = ThreadPoolExecutor(1)
        self._decoders = ThreadPoolExecutor(min(4, os.cpu_count() or 1))

    def __next__(self) -> Batch:
        ahead = self._ahead or self._reader.submit(self._read)
        batch, self._position = ahead.result()
        self._ahead = self._reader.submit(self._read)
        return batch

    def _read(self) -> tuple[Batch, dict[str, Any]]:
        """The next batch, and the position behind it."""
        if not self._opened:
            self._open(self._position["rows"])
        rows: list[dict] = []
        dry = 0
        while len(rows) < self._count:
            try:
                rows.append(next(self._rows))
                dry = 0
            except StopIteration:
                # The rest of an epoch may be empty, after a restart; not a whole one.
                dry += 1
                if dry > 2:
                    raise UserError(
                        f"a share of {self._stream.description} has no rows: use "
                        "fewer processes"
                    ) from None
                self._epoch += 1
                self._open(None)
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{self._stream.description} cannot be read on ({brief(error)}): "
                    "check the connection and run the same command"
                ) from error
        position = {"epoch": self._epoch, "rows": self._table.state_dict()}
        batch = self._stream.decode(rows, self._decoders)
        return {**batch, "image": batch["image"].astype(np.float32) / 255}, position

    def _open(self, position: Any) -> None:
        self._table = self._stream.share(self._share, self._shares, seed=self._seed)
        self._table.set_epoch(self._epoch)
        if position is not None:
            self._table.load_state_dict(position)
        self._rows, self._opened = iter(self._table), True

    def get_state(self) -> dict[str, Any]:
        """The positions of all shares; every process must ask for it at once."""
        positions = {str(self._share): self._position}
        if self._shares > 1:
            positions = _of_all_processes(positions)
        return {"shares": self._shares, "positions": positions}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on behind the last batch before `state`, less what was in the buffer."""
        if (shares := state.get("shares")) != self._shares:
            raise UserError(
                f"the stream was read in {shares} shares and now is in {self._shares}: "
                "go on with as many processes as before, or choose another --workdir"
            )
        self.close()
        self._position = state["positions"][str(self._share)]
        self._start()

    def close(self) -> None:
        """End the threads; the iterator is of no use after it.

        `datasets` waits ten seconds here, as at the end of an epoch, before it lets go
        of several parquet files.
        """
        for pool in (self._reader, self._decoders):
            pool.shutdown(cancel_futures=True)
        if self._opened:
            self._rows.close()


def _of_all_processes(own: dict[str, Any]) -> dict[str, Any]:
    """The dictionaries of all processes in one, the same in each."""
    import jax

    if jax.process_count() == 1:
        return own
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(own).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(len(text))))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(text)] = text
    texts = np.asarray(multihost_utils.process_allgather(padded))
    found: dict[str, Any] = {}
    for line, size in zip(texts, sizes.ravel(), strict=True):
        found |= json.loads(line[:size].tobytes())
    return found


def _with_features(name: str, table: Any) -> Any:
    """The table with its columns' types, which some have only once a row was read."""
    if table.features is None:
        table = table._resolve_features()
    if table.features is None:
        raise UserError(f"{name} has no rows: give a dataset with images")
    return table
