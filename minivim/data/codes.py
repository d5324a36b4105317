"""A code cache: the codes of images as a `datasets` folder, with a card beside them."""

import dataclasses
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from minivim.data.base import Batch, Source, hash_of
from minivim.errors import Stopped, UserError, brief

if TYPE_CHECKING:
    import datasets
    import pyarrow

CARD = "codes.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodesCard:
    """Where codes come from: the tokenizer, the images, how these were augmented."""

    # What a prior's card will say: a shipped name, a folder or a hub id.
    tokenizer: str
    tokenizer_hash: str
    num_codes: int
    grid: int
    data: str
    # Of the training images, or of those of the one split.
    fingerprint: str
    # Of each training image; view 0 is the image as it is.
    views: int = 1
    flip: bool = False
    crop: float = 1.0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class CodeRows:
    """The rows of one split to be: codes int [n, N] or [n, V, N] and label int [n]."""

    batches: Iterable[Batch]
    class_names: tuple[str, ...] = ()
    views: int = 1


class EncodingStopped(Stopped):
    """The writing of codes was asked to stop and did: nothing of them is kept."""

    def __init__(self, folder: str | os.PathLike[str]):
        Exception.__init__(
            self, f"stopped, nothing is kept of {folder}; the same command begins anew"
        )


class CodeSource(Source):
    """Codes of a folder that `write_codes` wrote, read as they are asked for.

    Attributes:
        card: where the codes come from.
    """

    def __init__(self, table: "datasets.Dataset", card: CodesCard, split: str):
        import datasets

        self._table, self.card, self._split = table.with_format("arrow"), card, split
        feature = table.features["label"]
        if isinstance(feature, datasets.ClassLabel):
            self.class_names = tuple(feature.names)
        self.description = f"codes of {card.data} ({split})"

    def __len__(self) -> int:
        return len(self._table)

    def take(self, indices: Int[np.ndarray, " n"]) -> Batch:
        rows: Any = self._table[indices.tolist()]
        codes, shape = rows["codes"].combine_chunks(), [len(rows)]
        # Arrow's own types: the way through Python lists is 30 times as slow.
        while hasattr(codes.type, "list_size"):
            shape.append(codes.type.list_size)
            codes = codes.flatten()
        return {
            "codes": codes.to_numpy().astype(np.int32).reshape(shape),
            "label": rows["label"].to_numpy().astype(np.int32),
        }

    @property
    def fingerprint(self) -> str:
        card = sorted(dataclasses.asdict(self.card).items())
        return hash_of((card, self._split, len(self), self.class_names))


def is_codes(spec: str | os.PathLike[str]) -> bool:
    """Whether `spec` names a folder of codes."""
    return bool(os.fspath(spec).strip()) and (Path(spec).expanduser() / CARD).is_file()


def open_codes(folder: str | os.PathLike[str], split: str = "train") -> CodeSource:
    """The codes of a split, "train" or "test".

    Raises:
        UserError: a damaged folder, or one without this split.
    """
    import datasets

    path = Path(folder).expanduser()
    try:
        card = CodesCard(**json.loads((path / CARD).read_text()))
        tables: Any = datasets.load_from_disk(str(path))
        found = {name: table.features["codes"] for name, table in tables.items()}
    except Exception as error:  # Each kind of damage has an exception of its own.
        raise UserError(
            f"{folder} cannot be read as codes ({brief(error)}): encode them again"
        ) from error
    if split not in found:
        raise UserError(
            f"{folder} holds codes of the split {' and '.join(found)} and not of "
            f"{split}: run minivim encode without --split"
        )
    return CodeSource(tables[split], card, split)


def write_codes(
    folder: str | os.PathLike[str], splits: Mapping[str, CodeRows], card: CodesCard
) -> Path:
    """Write a `datasets` folder, all of it or nothing, a batch in memory at a time.

    `datasets.load_from_disk` reads it: a dictionary of the splits with features "codes"
    (lists of N integers, or V such lists) and "label". It takes twice its size while it
    is written.

    Raises:
        UserError: the folder is there already, or cannot be written.
        EncodingStopped: SIGTERM came.
    """
    with _stoppable(folder), new_folder(folder) as part:
        import datasets

        parts, out = part / ".rows", part / "out"
        parts.mkdir()
        tables: Any = {
            split: datasets.Dataset.from_file(str(_write(parts / split, rows, card)))
            for split, rows in splits.items()
        }
        with _no_bars():
            datasets.DatasetDict(tables).save_to_disk(str(out))
        values = json.dumps(dataclasses.asdict(card), indent=1)
        (out / CARD).write_text(values + "\n")
        tables.clear()
        shutil.rmtree(parts)
        os.replace(out, Path(folder).expanduser())
    return Path(folder)


@contextmanager
def _stoppable(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Inside, SIGTERM raises `EncodingStopped`, so that what was begun is removed.

    Only the main thread may handle signals; in another one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        # A second one would end the removal.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise EncodingStopped(folder)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        # None stands for a handler that was not set from Python.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextmanager
def new_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside one that is not there yet, removed at the end."""
    path = Path(folder).expanduser()
    if path.exists():
        raise UserError(f"{folder} is there already: remove it or choose another place")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {folder} ({error.strerror}); choose another place"
        ) from error
    try:
        yield Path(part)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(path: Path, rows: CodeRows, card: CodesCard) -> Path:
    """Batches to one Arrow file, whose schema tells `datasets` the features."""
    import datasets
    import pyarrow

    kind = "int16" if card.num_codes <= 2**15 else "int32"
    codes: Any = datasets.Sequence(datasets.Value(kind), length=card.grid**2)
    if rows.views > 1:
        codes = datasets.Sequence(codes, length=rows.views)
    names = list(rows.class_names)
    label: Any = datasets.ClassLabel(names=names) if names else datasets.Value("int32")
    schema = datasets.Features(codes=codes, label=label).arrow_schema
    with (
        pyarrow.OSFile(str(path), "wb") as file,
        pyarrow.ipc.new_stream(file, schema) as writer,
    ):
        for batch in rows.batches:
            columns = [_nested(batch["codes"], kind), pyarrow.array(batch["label"])]
            columns = [c.cast(f.type) for c, f in zip(columns, schema, strict=True)]
            writer.write_batch(pyarrow.record_batch(columns, schema=schema))
    return path


def _nested(codes: np.ndarray, kind: str) -> "pyarrow.FixedSizeListArray":
    import pyarrow

    found: Any = pyarrow.array(np.ascontiguousarray(codes.astype(kind)).ravel())
    for size in reversed(codes.shape[1:]):
        found = pyarrow.FixedSizeListArray.from_arrays(found, size)
    return found


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the progress bars of `datasets`, which copies faster than it is drawn."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
