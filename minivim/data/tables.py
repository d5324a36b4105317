"""Columns and splits of tables: parquet files, saved datasets, the hub, or at hand."""

import glob
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minivim.data import files, layout
from minivim.data.base import Request
from minivim.errors import UserError, explained

# The chunks of a column of a split, by their names; None where nobody can know them.
Column = Callable[[str, str], list[Any] | None]


class Read(NamedTuple):
    """Tables by split, their label columns, and what identifies them anywhere."""

    request: Request
    tables: dict[str, Any]
    column: Column
    identity: Any
    unused: Sequence[str] = ()

    @property
    def remarks(self) -> list[str]:
        """On splits that are neither for training nor for testing."""
        return [f"not used: the split {name}" for name in self.unused]


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
    if first.features is None:
        raise UserError(f"{name} has no rows: give a dataset with images")
    kinds = layout.kinds(first.features)
    forced = bool(label)
    image, candidates = layout.choose(kinds, image=image, label=label)
    if not image or kinds[image] not in ("image", "path"):
        told = f"{name} has no image column (its columns: {', '.join(kinds)})"
        remedy = "store the images with the type datasets.Image, or give --image-column"
        raise UserError(f"{told}: {remedy}")
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
    labels = {s: np.full(_rows(t), -1, np.int32) for s, t in read.tables.items()}
    names, numbers = (), None
    if found:
        names, numbers, labels, more = found
        notes += [f"labels from the column {label}", *more]
    label = label if found else ""
    others = [column for column in kinds if column not in (image, label)]
    if others:
        shown = ", ".join(others[:8])
        told = "" if label else " (see --label-column)"
        notes.append(f"columns not used: {shown}{told}")
    return Columns(image, label, names, numbers, labels, notes)


def _rows(table: Any) -> int:
    return len(table) if hasattr(table, "__len__") else 0


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


def by_split(parts: Mapping[str, Any], name: str) -> tuple[dict[str, Any], list[str]]:
    """Parts by their splits, and the names of those that are none."""
    splits = {key: layout.split_of_file(f"{key}.") for key in parts}
    if len(parts) == 1 and not any(splits.values()):
        return {"train": next(iter(parts.values()))}, []
    found = {split: parts[key] for key, split in splits.items() if split}
    unused = [key for key, split in splits.items() if not split]
    if not found or len(found) + len(unused) < len(parts):
        told = "two splits of one kind" if found else "no split for training"
        remedy = "call one of them train, another test"
        raise UserError(f"{name} has {told} ({', '.join(parts)}): {remedy}")
    return found, unused


def read_given(request: Request, spec: Any) -> Read:
    """Datasets that a user has opened."""
    parts = spec if isinstance(spec, dict) else {"": spec}
    found, unused = by_split(parts, request.name)
    identity = [(split, table._fingerprint) for split, table in found.items()]
    return Read(request._replace(root=None), found, _at_hand(found), identity, unused)


def _at_hand(tables: Mapping[str, Any]) -> Column:
    def column(split: str, name: str) -> list[Any] | None:
        if not hasattr(tables[split], "_indices"):
            return None  # A stream of the hub.
        return tables[split].select_columns([name]).with_format("arrow")[:][name].chunks

    return column


def read(request: Request, streaming: bool = False) -> Read:
    """The splits of parquet files, of a saved dataset or of one of the hub."""
    import datasets
    import pyarrow.parquet as pq
    from datasets import config as settings

    name, root = request.name, request.root or Path()
    if request.kind == "hub":
        return _read_hub(request, streaming)
    sizes = [(file, (root / file).stat().st_size) for file in request.files]
    if request.kind == "saved":
        remedy = "fetch or write it again"
        with explained(f"{name} cannot be read as a saved dataset", remedy):
            parts = files.saved(root)
        found, unused = by_split(parts, name)
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
    remedy = "check that its files agree in column types and that the disk has room"
    settings.HF_UPDATE_DOWNLOAD_COUNTS = False  # It would ask the hub.
    with explained(f"{name} cannot be read as one dataset", remedy):
        load: Any = datasets.load_dataset
        how = {"data_files": escaped, "features": features, "streaming": streaming}
        tables = dict(load("parquet", **how))
    return Read(request, tables, column, sizes)


def _same_columns(groups: Mapping[str, list[str]], name: str) -> Any:
    """The columns that all files have; each split must have a row."""
    first: Any = None
    for split, paths in groups.items():
        every = [files.described(Path(path)) for path in paths]
        if not any(rows for rows, _ in every):
            told = f"{name} has no rows" + f" to {split}" * (len(groups) > 1)
            raise UserError(f"{told}: give a dataset with images")
        first = first or (paths[0], every[0][1])
        for path, (_, features) in zip(paths, every, strict=True):
            if set(features) != set(first[1]):
                told = f"{path} has columns {', '.join(features)} and"
                told = f"{told} {Path(first[0]).name} has {', '.join(first[1])}"
                raise UserError(f"{told}: give files of one dataset")
    return first[1]


def _read_hub(request: Request, streaming: bool) -> Read:
    import datasets
    import huggingface_hub
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
    request = request._replace(name=pinned, root=None)
    return Read(request, found, _at_hand(found), pinned, unused)
