"""Columns and splits of tables: parquet files, saved datasets, the hub, or at hand."""

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minivim.config.checks import require
from minivim.data import files, layout
from minivim.data.base import Request
from minivim.errors import UserError, brief, explained

# The chunks of a column of a split, by their names; None where nobody can know them.
Column = Callable[[str, str], list[Any] | None]


class Read(NamedTuple):
    """Tables by split, their label columns, and what identifies them anywhere."""

    request: Request
    tables: dict[str, Any]
    column: Column
    identity: Any
    remarks: Sequence[str] = ()  # on splits that are not used


class Columns(NamedTuple):
    """What is read of a table, and the number of each class."""

    image: str
    label: str
    class_names: tuple[str, ...]
    numbers: Mapping[str, int] | None  # None where labels are numbers already
    labels: dict[str, np.ndarray]  # of each split
    notes: list[str]


def encoded(table: Any, image: str) -> Any:
    """A table whose pictures come as bytes and paths."""
    import datasets

    return table.with_format(None).cast_column(image, datasets.Image(decode=False))


def columns_of(read: Read, image: str, label: str) -> Columns:
    """The columns to read, and the labels of every split."""
    name, (first, *_) = read.request.name, read.tables.values()
    if first.features is None:  # Some formats tell the types with the first row.
        first = first._resolve_features()
    require(first.features is not None, f"{name} has no rows: give one with images")
    kinds = layout.kinds(first.features)
    forced = bool(label)
    image, candidates = layout.choose(kinds, image=image, label=label)
    told = f"{name} has no image column (its columns: {', '.join(kinds)})"
    remedy = "store the images with the type datasets.Image, or give --image-column"
    require(kinds.get(image) in ("image", "path"), f"{told}: {remedy}")
    notes, found, label = [], None, ""
    for label in candidates:
        try:
            found = _label_column(read, label, kinds[label], first.features[label])
        except layout.NoLabels as error:
            if forced:
                raise
            notes.append(str(error))
        if found:
            break
    sizes = {s: getattr(table, "num_rows", 0) for s, table in read.tables.items()}
    labels = {split: np.full(size, -1, np.int32) for split, size in sizes.items()}
    names, numbers = (), None
    if found:
        names, numbers, labels, more = found
        notes += [f"labels from the column {label}", *more]
    label = label if found else ""
    if others := [column for column in kinds if column not in (image, label)]:
        told = "" if label else " (see --label-column)"
        notes.append(f"columns not used: {', '.join(others[:8])}{told}")
    return Columns(image, label, names, numbers, labels, notes)


def _label_column(read: Read, label: str, kind: str, feature: Any) -> Any:
    """Class names, their numbers, the labels of every split, and remarks."""
    arrays = {split: read.column(split, label) for split in read.tables}
    name = read.request.name
    if kind == "class":
        names = tuple(feature.names)
        labels = {s: _numbers(a, len(names), name) for s, a in arrays.items()}
        return names, None, labels, []
    texts = {s: _texts(a, label) for s, a in arrays.items() if a is not None}
    if not texts:
        told = f"the column {label} is not used"
        raise layout.NoLabels(f"{told}: a stream of the hub needs the type ClassLabel")
    names, labels, notes = layout.classes(texts, f"{name}, column {label}")
    if not names:
        return None
    return names, {n: i for i, n in enumerate(names)}, labels, notes


def _numbers(chunks: list[Any] | None, count: int, name: str) -> np.ndarray:
    """Labels of type ClassLabel, -1 for none; no rows where nobody knows them."""
    whole = [chunk.fill_null(-1).to_numpy() for chunk in chunks or ()]
    labels = np.concatenate([np.empty(0), *whole]).astype(np.int32)
    if len(labels) and not -1 <= labels.min() <= labels.max() < count:
        told = f"{name} has labels from {labels.min()} to {labels.max()}"
        raise UserError(f"{told} and names for {count}: write the dataset again")
    return labels


def _texts(chunks: list[Any], label: str) -> list[str | None]:
    """The class name in every cell of a column."""
    import pyarrow as pa

    texts: list[str | None] = []
    for chunk in chunks:
        if pa.types.is_dictionary(chunk.type):
            chunk = chunk.cast(chunk.type.value_type)
        try:
            if pa.types.is_nested(chunk.type):
                texts += map(layout.class_name, chunk.to_pylist())
                continue
            chunk = chunk.dictionary_encode()
            names = [*map(layout.class_name, chunk.dictionary.to_pylist()), None]
        except layout.NoLabels as error:
            told = f"the column {label} {error} and gives no labels"
            remedy = "choose another with --label-column"
            raise layout.NoLabels(f"{told}: {remedy}") from error
        texts += [names[i] for i in chunk.indices.fill_null(-1).to_pylist()]
    return texts


def by_split(parts: Any, name: str) -> tuple[dict[str, Any], list[str]]:
    """Parts by their splits, or one alone, and remarks on those that are none."""
    parts = parts if isinstance(parts, Mapping) else {"": parts}
    splits = {key: layout.split_of_file(f"{key}.") for key in parts}
    if len(parts) == 1 and not any(splits.values()):
        return {"train": next(iter(parts.values()))}, []
    found = {split: parts[key] for key, split in splits.items() if split}
    unused = [f"not used: the split {k}" for k, split in splits.items() if not split]
    told = "two splits of one kind" if found else "no split for training"
    told = (
        f"{name} has {told} ({', '.join(parts)}): call one of them train, another test"
    )
    require(bool(found) and len(found) + len(unused) == len(parts), told)
    return found, unused


def read_given(request: Request, spec: Any) -> Read:
    """Datasets that a user has opened."""
    found, unused = by_split(spec, request.name)
    identity = [(split, table._fingerprint) for split, table in found.items()]
    return Read(request, found, _at_hand(found), identity, unused)


def _at_hand(tables: Mapping[str, Any]) -> Column:
    def column(split: str, name: str) -> list[Any] | None:
        if not hasattr(tables[split], "_indices"):
            return None  # A stream of the hub.
        return tables[split].select_columns([name]).with_format("arrow")[:][name].chunks

    return column


def read(request: Request, streaming: bool = False) -> Read:
    """The splits of parquet files, of a saved dataset or of one of the hub."""
    import pyarrow.parquet as pq
    from datasets import config as settings

    name, root = request.name, request.root
    if request.kind == "hub":
        return _read_hub(request, streaming)
    sizes = [(file, (root / file).stat().st_size) for file in request.files]
    if request.kind == "saved":
        remedy = "fetch or write it again"
        with explained(f"{name} cannot be read as a saved dataset", remedy):
            found, unused = by_split(files.saved(root), name)
        return Read(request, found, _at_hand(found), sizes, unused)
    groups = {
        split: [str(root / file) for file in group]
        for split, group in layout.splits_of_files(request.files, name).items()
    }

    def column(split: str, label: str) -> list[Any]:
        chunks = []
        for path in groups[split]:
            with open(path, "rb") as file:
                chunks += pq.read_table(file, columns=[label])[label].chunks
        return chunks

    features = _same_columns(groups, name)
    escaped = {split: list(map(glob.escape, group)) for split, group in groups.items()}
    settings.HF_UPDATE_DOWNLOAD_COUNTS = False  # It would ask the hub.
    how = {"data_files": escaped, "features": features, "streaming": streaming}
    tables = _loaded(name, how)
    return Read(request, tables, column, sizes)


def _loaded(name: str, how: dict[str, Any]) -> dict[str, Any]:
    """Tables as `datasets` has them in its cache, made again where that is damaged."""
    import datasets
    from datasets import config as settings

    load: Any = datasets.load_dataset
    with suppress(Exception):
        return dict(load("parquet", **how))
    try:
        return dict(load("parquet", download_mode="force_redownload", **how))
    except Exception as error:
        cause: Any = error
        while cause.__cause__ or cause.__context__:  # what `datasets` met
            cause = cause.__cause__ or cause.__context__
        place = f"the cache {settings.HF_DATASETS_CACHE}"
        remedy = f"write its files again, with the same columns, or delete {place}"
        if isinstance(cause, OSError):
            remedy = f"free {place}, or set HF_HOME to a folder that can be written"
        told = f"{name} cannot be read as one dataset ({brief(cause)})"
        raise UserError(f"{told}: {remedy}") from error


def _same_columns(groups: Mapping[str, list[str]], name: str) -> Any:
    """The columns that all files have; each split must have a row."""
    every = {file: files.described(file) for part in groups.values() for file in part}
    first, (_, columns) = next(iter(every.items()))
    for split, part in groups.items():
        told = f"{name} has no rows" + f" to {split}" * (len(groups) > 1)
        rows = sum(every[file][0] for file in part)
        require(rows > 0, f"{told}: give a dataset with images")
    for file, (_, found) in every.items():
        told = (
            f"{file} has columns {', '.join(found)} and {os.path.basename(first)} has"
        )
        told = f"{told} {', '.join(columns)}: give files of one dataset"
        require(set(found) == set(columns), told)
    return columns


def _read_hub(request: Request, streaming: bool) -> Read:
    import datasets
    import huggingface_hub
    from datasets import config as settings
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import OfflineModeIsEnabled

    name, load = request.name, datasets.load_dataset
    repository, _, revision = name.partition("@")
    # Asked beforehand: it resolves the revision to a commit, and without connection
    # `load_dataset` would retry for half a minute. Offline a copy here may serve.
    told = f"{name} is neither a path here nor a dataset that the hub gives now"
    remedy = "check the name and the connection, or set HF_HUB_OFFLINE=1 for a copy"
    with explained(told, remedy), suppress(OfflineModeIsEnabled):
        ask = huggingface_hub.HfApi().dataset_info
        info = ask(repository, revision=revision or None, timeout=20)
        revision = info.sha or revision
    remedy = "download its parquet files and give their folder"
    with explained(f"the hub's dataset {name} cannot be loaded", remedy):
        tables: Any = load(repository, revision=revision or None, streaming=streaming)
    pinned = f"{repository}@{revision}" if revision else repository
    found, unused = by_split(tables, name)
    caches = (Path(settings.DOWNLOADED_DATASETS_PATH),)
    request = request._replace(name=pinned, root=Path(HF_HUB_CACHE), caches=caches)
    return Read(request, found, _at_hand(found), pinned, unused)
