"""Datasets with columns as sources: parquet files, and the Hugging Face hub."""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int, UInt8

from minivim.data.loader import Batch, Source, hash_of
from minivim.data.pixels import brief, decode
from minivim.data.splits import SPLIT_NAMES, files_under, hold_out, name_and_size
from minivim.errors import UserError

if TYPE_CHECKING:
    import datasets


class _TableSource(Source):
    """Rows of a Hugging Face dataset; pictures stay encoded until they are taken."""

    def __init__(
        self,
        table: "datasets.Dataset",
        rows: np.ndarray,
        columns: tuple[str, str | None],
        class_names: tuple[str, ...],
        *,
        name: str,
        split: str,
        identity: Any,
        image_size: int,
        channels: int,
    ):
        import datasets

        self._image, self._label = columns
        kept = [column for column in columns if column is not None]
        encoded = datasets.Image(decode=False)
        self._table = table.select_columns(kept).cast_column(self._image, encoded)
        self._rows, self._name, self._identity = rows, name, identity
        self.class_names, self.description = class_names, f"{name} ({split})"
        self._split = split
        self._shape = {"image_size": image_size, "channels": channels}

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, indices: Int[np.ndarray, " n"]) -> Batch:
        rows = self._rows[indices].tolist()
        taken = self._table[rows]
        images = [
            decode_cell(cell, f"row {row} of {self._name}", **self._shape)
            for row, cell in zip(rows, taken[self._image], strict=True)
        ]
        labels = taken[self._label] if self._label else [None] * len(rows)
        return {"image": np.stack(images), "label": label_array(labels)}

    @property
    def fingerprint(self) -> str:
        shape = sorted(self._shape.items())
        return hash_of(
            (self._identity, self._split, len(self), self.class_names, shape)
        )


def decode_cell(
    cell: dict | None, where: str, **shape: int
) -> UInt8[np.ndarray, "size size channels"]:
    """The pixels of an image column's cell, which holds a file or its path."""
    if cell is None or not (cell["bytes"] or cell["path"]):
        raise UserError(f"{where} has no image: remove the row")
    data = cell["bytes"]
    file = io.BytesIO(data) if data is not None else cell["path"]
    return decode(file, where, **shape)


def label_array(labels: Sequence[int | None]) -> Int[np.ndarray, " n"]:
    """Labels as they are in batches: -1 for none."""
    return np.array([-1 if label is None else label for label in labels], np.int32)


def is_saved(path: Path) -> bool:
    """Whether a folder is one that `save_to_disk` of `datasets` wrote."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def read_saved(name: str, path: Path) -> tuple[dict[str, "datasets.Dataset"], Any]:
    """The splits of such a folder, and what identifies it on any machine."""
    import datasets

    try:
        tables: Any = datasets.load_from_disk(str(path))
    except Exception as error:  # Each kind of damage has an exception of its own.
        raise UserError(
            f"{name} cannot be read as a saved dataset ({brief(error)}): "
            "fetch or write it again"
        ) from error
    files = [name_and_size(file, path) for file in files_under(path, {".arrow"})]
    return dict(tables) if isinstance(tables, dict) else {"train": tables}, files


def open_saved(name: str, path: Path, split: str, **shape: int) -> Source:
    """Rows of a folder that `save_to_disk` wrote: see `open_source`."""
    tables, identity = read_saved(name, path)
    return _open_tables(name, tables, split, identity, **shape)


def read_parquet(
    name: str, root: Path, files: list[Path], *, streaming: bool = False
) -> tuple[Any, Any]:
    """The splits of parquet files, and what identifies them on any machine."""
    import datasets
    from datasets.exceptions import DatasetGenerationError

    _check_files(files)
    groups = _split_files(files) if len(files) > 1 else {"train": files}
    names = {s: [str(file) for file in group] for s, group in groups.items()}
    try:
        tables: Any = datasets.load_dataset(
            "parquet", data_files=names, streaming=streaming
        )
    except (DatasetGenerationError, ValueError, OSError) as error:
        raise UserError(
            f"{name} cannot be read as one dataset ({brief(error)}): "
            "check that its files agree in column types and that the disk has room"
        ) from error
    return tables, [name_and_size(file, root) for file in files]


def open_parquet(
    name: str, root: Path, files: list[Path], split: str, **shape: int
) -> Source:
    """Rows of parquet files: see `open_source`."""
    tables, identity = read_parquet(name, root, files)
    return _open_tables(name, tables, split, identity, **shape)


def _check_files(files: list[Path]) -> None:
    """Every file must be readable and have the columns of the first."""
    import pyarrow
    import pyarrow.parquet

    first: list[str] = []
    for file in files:
        try:
            columns = pyarrow.parquet.read_schema(file).names
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(
                f"{file} is not a readable parquet file ({brief(error)}): "
                "fetch or write it again"
            ) from error
        first = first or columns
        if set(columns) != set(first):
            raise UserError(
                f"{file} has columns {', '.join(columns)} and {files[0].name} has "
                f"{', '.join(first)}: give files of one dataset"
            )


def _split_files(files: list[Path]) -> dict[str, list[Path]]:
    groups = {}
    for split, prefixes in SPLIT_NAMES.items():
        for prefix in prefixes:
            if chosen := [f for f in files if f.name.lower().startswith(prefix)]:
                groups[split] = chosen
                break
    return groups if "train" in groups else {"train": files}


def _open_tables(
    name: str, tables: dict[str, Any], split: str, identity: Any, **shape: int
) -> Source:
    own = own_splits(tables)
    train = tables[own["train"] or next(iter(tables))]
    columns = image_column(name, train), label_column(train)
    class_names = _table_classes(name, tables, columns[1])
    if own["train"] and own["test"]:
        table = tables[own[split] or split]
        rows = np.arange(len(table))
    else:
        table, rows = train, hold_out(len(train), split, name)
    if not len(rows):
        raise UserError(f"{name} has no rows: give a dataset with images")
    if mix := _sorted_by_class(table, columns[1]):
        rows = np.random.default_rng(0).permutation(rows)
    return _TableSource(
        table,
        rows,
        columns,
        class_names,
        name=name,
        split=split,
        # Of other tables what it was before there was a mixed order.
        identity=(identity, "mixed") if mix else identity,
        **shape,
    )


def _sorted_by_class(table: Any, column: str | None) -> bool:
    """Whether labels only rise or only fall, so that the first rows are of a few."""
    if column is None:
        return False
    cells = table.select_columns([column]).with_format("arrow")[:][column]
    steps = np.diff(cells.fill_null(-1).to_numpy().astype(np.int64))
    return bool(steps.any() and ((steps >= 0).all() or (steps <= 0).all()))


def own_splits(tables: Iterable[str]) -> dict[str, str | None]:
    """What a dataset calls the splits train and test, None where it has none."""
    found = set(tables)
    return {
        split: next((name for name in names if name in found), None)
        for split, names in SPLIT_NAMES.items()
    }


def image_column(name: str, table: Any) -> str:
    """The column of images; raises `UserError` for a table without any."""
    import datasets

    for column, feature in table.features.items():
        encoded = isinstance(feature, dict) and {"bytes", "path"} <= set(feature)
        if isinstance(feature, datasets.Image) or encoded:
            return column
    raise UserError(
        f"{name} has no image column (its columns: {', '.join(table.column_names)}): "
        "store the images with the feature type datasets.Image"
    )


def label_column(table: Any) -> str | None:
    """The column of labels, None without any."""
    import datasets

    features = table.features
    classes = [c for c, f in features.items() if isinstance(f, datasets.ClassLabel)]
    if classes:
        return "label" if "label" in classes else classes[0]
    kind = getattr(features.get("label"), "dtype", "")
    return "label" if re.match(r"u?int", kind) else None


def _table_classes(
    name: str, tables: dict[str, Any], column: str | None
) -> tuple[str, ...]:
    import datasets
    import pyarrow.compute

    compute: Any = pyarrow.compute

    if column is None:
        return ()
    first = next(iter(tables.values()))
    feature = first.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names)
    largest = smallest = -1
    for table in tables.values():
        bounds = compute.min_max(table.data.column(column)).as_py()
        largest = max(largest, bounds["max"] if bounds["max"] is not None else -1)
        smallest = min(smallest, bounds["min"] if bounds["min"] is not None else -1)
    if smallest < -1 or largest >= 100_000:
        raise UserError(
            f"{name} has labels from {smallest} to {largest}: number the classes from 0"
        )
    return tuple(str(number) for number in range(largest + 1))


def read_hub(name: str, *, streaming: bool = False) -> tuple[Any, str]:
    """The splits of the hub's dataset owner/name@revision, and its commit."""
    import datasets
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    repository, _, revision = name.partition("@")
    try:
        # Asked once beforehand: it resolves the revision to a commit, and without a
        # connection `load_dataset` would retry, noisily, for half a minute.
        api = huggingface_hub.HfApi()
        info = api.dataset_info(repository, revision=revision or None, timeout=20)
        revision = info.sha or revision
    except OfflineModeIsEnabled:
        pass  # A copy on this machine may serve.
    except Exception as error:  # Which one depends on the HTTP library in use.
        raise UserError(
            f"{name} is neither a path here nor a dataset that the hub gives now "
            f"({brief(error)}): check the name and the connection, or set "
            "HF_HUB_OFFLINE=1 to use a copy downloaded before"
        ) from error
    try:
        tables: Any = datasets.load_dataset(
            repository, revision=revision or None, streaming=streaming
        )
    except Exception as error:  # Each builder has exceptions of its own.
        raise UserError(
            f"the hub's dataset {name} cannot be loaded ({brief(error)}): "
            "download its parquet files and give their folder"
        ) from error
    return tables, f"{repository}@{revision}" if revision else repository


def open_hub(name: str, split: str, **shape: int) -> Source:
    """Rows of the hub's dataset owner/name@revision: see `open_source`."""
    tables, pinned = read_hub(name)
    return _open_tables(pinned, tables, split, pinned, **shape)
