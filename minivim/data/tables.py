"""Columns and splits of tables: parquet files, saved datasets, the hub, or at hand."""

import glob
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minivim.config.checks import require
from minivim.data import files, layout
from minivim.data.base import Request
from minivim.errors import UserError, brief, explained


class Read(NamedTuple):
    """Tables by split, and what identifies them anywhere."""

    request: Request
    tables: dict[str, Any]
    identity: Any
    files: Mapping[str, list[str]] = {}  # of parquet, by split

    def column(self, split: str, name: str) -> list[Any] | None:
        """The chunks of a column, None where nobody knows them: a stream of the hub."""
        import pyarrow.parquet as pq

        if split in self.files:
            chunks = []
            for path in self.files[split]:
                with open(path, "rb") as file:
                    chunks += pq.read_table(file, columns=[name])[name].chunks
            return chunks
        if not hasattr(self.tables[split], "num_rows"):
            return None
        table = self.tables[split].select_columns([name]).with_format("arrow")
        return table[:][name].chunks


class Columns(NamedTuple):
    """What is read of a table, and the number of each class."""

    image: str
    label: str
    class_names: tuple[str, ...]
    numbers: Mapping[str, int] | None  # None where labels are numbers already
    labels: dict[str, np.ndarray]  # of each split
    notes: list[str]


def encoded(table: Any, image: str, label: str = "") -> Any:
    """These columns of a table, whose pictures come as bytes and paths."""
    import datasets

    table = table.select_columns([name for name in (image, label) if name])
    return table.with_format(None).cast_column(image, datasets.Image(decode=False))


def columns_of(read: Read, image: str, label: str) -> Columns:
    """The columns to read, and the labels of every split."""
    name, (first, *_) = read.request.name, read.tables.values()
    if first.features is None:  # Some formats tell the types with the first row.
        first = first._resolve_features()
    require(first.features is not None, f"{name} has no rows: give one with images")
    kinds, forced = layout.kinds(first.features), bool(label)
    image, candidates = layout.choose(kinds, image=image, label=label)
    told = f"{name} has no image column (its columns: {', '.join(kinds)})"
    remedy = "store the images with the type datasets.Image, or give --image-column"
    require(kinds.get(image) in ("image", "path"), f"{told}: {remedy}")
    notes = []
    for label in candidates:
        try:
            names, numbers, labels, more = _labels(read, label, first.features[label])
        except layout.NoLabels as error:
            if forced:
                raise
            notes.append(str(error))
            continue
        if names or numbers is None:
            notes += [f"labels from the column {label}", *more]
            break
    else:
        label, names, numbers = "", (), None
        sizes = {s: getattr(table, "num_rows", 0) for s, table in read.tables.items()}
        labels = {split: np.full(size, -1, np.int32) for split, size in sizes.items()}
    if others := [column for column in kinds if column not in (image, label)]:
        told = "" if label else " (see --label-column)"
        notes.append(f"columns not used: {', '.join(others[:8])}{told}")
    return Columns(image, label, names, numbers, labels, notes)


def _labels(read: Read, label: str, feature: Any) -> Any:
    """Class names, their numbers, the labels of every split, and remarks."""
    columns = {split: read.column(split, label) for split in read.tables}
    name, labels = read.request.name, {}
    if hasattr(feature, "names"):  # ClassLabel: nulls are no label
        for split, chunks in columns.items():
            whole = [chunk.fill_null(-1).to_numpy() for chunk in chunks or ()]
            labels[split] = np.concatenate([np.empty(0), *whole]).astype(np.int32)
        every, count = np.concatenate(list(labels.values())), len(feature.names)
        low, high = int(every.min(initial=0)), int(every.max(initial=-1))
        told = f"{name} has labels from {low} to {high} and names for {count}"
        require(low >= -1 and high < count, f"{told}: write the dataset again")
        return tuple(feature.names), None, labels, []
    texts = {s: _texts(c, label) for s, c in columns.items() if c is not None}
    if not texts:
        told = f"the column {label} is not used: a stream of the hub needs the type"
        raise layout.NoLabels(f"{told} ClassLabel")
    names, labels, notes = layout.classes(texts, f"{name}, column {label}")
    return names, {n: i for i, n in enumerate(names)}, labels, notes


def _texts(chunks: list[Any], label: str) -> list[str | None]:
    import pyarrow as pa

    texts: list[str | None] = []
    for chunk in chunks:
        lists = pa.types.is_nested(chunk.type)  # They have no hash.
        name = layout.class_name if lists else cache(layout.class_name)
        try:
            texts += map(name, chunk.to_pylist())
        except layout.NoLabels as error:
            told = f"the column {label} {error} and gives no labels: choose another"
            raise layout.NoLabels(f"{told} with --label-column") from error
    return texts


def by_split(parts: Any, name: str) -> tuple[dict[str, Any], list[str]]:
    """Parts by their splits, or one alone, and remarks on those that are none."""
    parts = parts if isinstance(parts, Mapping) else {"": parts}
    splits = {key: layout.split_of_file(f"{key}.") for key in parts}
    if len(parts) == 1 and not any(splits.values()):
        return {"train": next(iter(parts.values()))}, []
    found = {split: parts[key] for key, split in splits.items() if split}
    unused = [f"not used: the split {k}" for k, split in splits.items() if not split]
    kind = "two splits of one kind" if found else "no split for training"
    told = f"{name} has {kind} ({', '.join(parts)}): call one of them train, another"
    require(bool(found) and len(found) + len(unused) == len(parts), f"{told} test")
    return found, unused


def read(request: Request, given: Any = None, streaming: bool = False) -> Read:
    """The splits of a dataset that is given, of parquet files, saved or of the hub."""
    name, identity = request.name, None
    sizes = [(file, (request.root / file).stat().st_size) for file in request.files]
    if request.kind == "parquet":
        tables, files_of = _of_parquet(request, streaming)
        return Read(request, tables, sizes, files_of)
    if request.kind == "hub":
        request, given = _of_the_hub(request, streaming)
        identity = request.name
    if request.kind == "saved":
        told, identity = f"{name} cannot be read as a saved dataset", sizes
        with explained(told, "fetch or write it again"):
            given = files.saved(request.root)
    found, unused = by_split(given, name)
    request = request._replace(notes=(*request.notes, *unused))
    prints = [(split, getattr(t, "_fingerprint", "")) for split, t in found.items()]
    return Read(request, found, identity or prints)


def _of_parquet(request: Request, streaming: bool) -> tuple[Any, dict[str, list[str]]]:
    """Tables and their files; all have the same columns, and each split has a row."""
    name, groups = request.name, layout.splits_of_files(request.files, request.name)
    groups = {s: [str(request.root / f) for f in part] for s, part in groups.items()}
    every = {file: files.described(file) for part in groups.values() for file in part}
    first, (_, columns) = next(iter(every.items()))
    for split, part in groups.items():
        told = f"{name} has no rows" + f" to {split}" * (len(groups) > 1)
        rows = sum(every[file][0] for file in part)
        require(rows > 0, f"{told}: give a dataset with images")
    for file, (_, found) in every.items():
        told = f"{file} has columns {', '.join(found)} and {os.path.basename(first)}"
        told += f" has {', '.join(columns)}: give files of one dataset"
        require(set(found) == set(columns), told)
    escaped = {split: list(map(glob.escape, part)) for split, part in groups.items()}
    how = {"data_files": escaped, "features": columns, "streaming": streaming}
    return _loaded(name, how), groups


def _loaded(name: str, how: dict[str, Any]) -> dict[str, Any]:
    """Tables as `datasets` has them in its cache, made again where that is damaged."""
    import datasets
    from datasets import config as settings

    settings.HF_UPDATE_DOWNLOAD_COUNTS = False  # It would ask the hub.
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


def _of_the_hub(request: Request, streaming: bool) -> tuple[Request, Any]:
    """A request that names the commit, and the splits there."""
    import datasets
    import huggingface_hub
    from datasets import config as settings
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import OfflineModeIsEnabled

    name = request.name
    repository, _, revision = name.partition("@")
    # Asked beforehand: it resolves the revision to a commit, and without connection
    # `load_dataset` would retry for half a minute. Offline a copy here may serve.
    told = f"{name} is neither a path here nor a dataset that the hub gives now"
    remedy = "check the name and the connection, or set HF_HUB_OFFLINE=1 for a copy"
    with explained(told, remedy), suppress(OfflineModeIsEnabled):
        ask = huggingface_hub.HfApi().dataset_info
        info = ask(repository, revision=revision or None, timeout=20)
        revision = info.sha or revision
    how: Any = {"revision": revision or None, "streaming": streaming}
    remedy = "download its parquet files and give their folder"
    with explained(f"the hub's dataset {name} cannot be loaded", remedy):
        tables = datasets.load_dataset(repository, **how)
    pinned = f"{repository}@{revision}" if revision else repository
    caches = (Path(settings.DOWNLOADED_DATASETS_PATH),)
    return request._replace(name=pinned, root=Path(HF_HUB_CACHE), caches=caches), tables
