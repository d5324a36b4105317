"""Which files below a folder are pictures, tables or tables of labels."""

import csv
import errno
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from minivim.data import layout
from minivim.data.pixels import suffixes
from minivim.errors import explained
from minivim.files import inside, read_json, regular

LABEL_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


@contextmanager
def bars(shown: bool) -> Iterator[None]:
    """Inside, `datasets` draws progress bars only if `shown`."""
    import datasets

    hides = not shown and datasets.is_progress_bar_enabled()
    if hides:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if hides:
            datasets.enable_progress_bars()


def look(folder: Path) -> tuple[list[str], list[str], dict[str, str], tuple[str, ...]]:
    """A folder's pictures, tables that hold pictures, labels of pictures, and remarks.

    Names have / between their parts. Hidden files and folders are left out. Links are
    followed, and each folder that they lead to is read once.
    """
    pictures, tables, others, odd = [], [], [], Counter()
    for name, entry in _walk(folder, odd):
        suffix = os.path.splitext(name)[1].lower()
        dangling = entry.is_symlink() and not os.path.exists(entry.path)
        if not dangling and not entry.is_file():
            odd["pipe, socket or device"] += 1
        elif suffix in suffixes():
            pictures.append(name)  # A dangling one is named when it is read.
        elif suffix in LABEL_TABLES:
            others.append(name)
        else:
            odd[f"{suffix} file" if suffix else "file without a suffix"] += 1
    labels, notes = dict[str, str](), []
    for name in others:
        table = name.lower().endswith(".parquet")
        if table and (not pictures or _holds_pictures(folder / name)):
            tables.append(name)
            continue
        found = {}
        with suppress(Exception):  # A table may be of anything.
            found = _labels(folder, name, pictures) if pictures else {}
        labels |= found
        if not found:
            odd[os.path.splitext(name)[1].lower() + " file"] += 1
        notes += [f"labels of {len(found):,} from {name}"] if found else []
    unused = [f"{count:,} x {what}" for what, count in odd.most_common()]
    more = f" and {len(unused) - 5} other kinds" if len(unused) > 5 else ""
    notes += [f"not used: {', '.join(unused[:5])}{more}"] if unused else []
    return sorted(pictures), sorted(tables), labels, tuple(notes)


def _walk(folder: Path, odd: Counter) -> Iterator[tuple[str, os.DirEntry]]:
    """Names of files, below real folders first, then below linked ones."""
    seen: set[tuple[int, int]] = set()
    real, linked = [("", str(folder))], []
    while real or linked:
        prefix, path = real.pop() if real else linked.pop(0)
        with explained(f"{path} cannot be read", "allow reading it", OSError):
            info = os.stat(path)
            if (info.st_dev, info.st_ino) in seen:
                odd["folder linked again"] += 1
                continue
            seen.add((info.st_dev, info.st_ino))
            shown = (e for e in os.scandir(path) if not e.name.startswith("."))
            entries = [(e, _is_folder(e)) for e in sorted(shown, key=lambda e: e.name)]
        for entry, is_folder in entries:
            name = f"{prefix}{entry.name}"
            if is_folder:
                below = linked if entry.is_symlink() else real
                below.append((f"{name}/", entry.path))
            else:
                yield name, entry


def _is_folder(entry: Any) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False  # As a link that leads nowhere.
        raise


def _holds_pictures(file: Path) -> bool:
    """Whether a table's columns have pictures in them."""
    import datasets

    _, features = described(file)
    binary = datasets.Value("binary")
    return "image" in layout.kinds(features).values() or binary in features.values()


def described(file: str | Path) -> tuple[int, Any]:
    """Rows and columns of a parquet file; categories are as what they stand for."""
    import datasets
    import pyarrow.parquet as pq

    told = f"{file} is not a readable parquet file"
    with explained(told, "fetch or write it again"), open(file, "rb") as opened:
        table = pq.ParquetFile(opened)
        features = datasets.Features.from_arrow_schema(table.schema_arrow)
        return table.metadata.num_rows, features


def saved(folder: Path) -> dict[str, Any]:
    """Tables by split, of `save_to_disk`; raises if its records lead out of it."""
    import datasets

    records, splits = ("dataset_info.json", "state.json"), [""]
    if not all((folder / name).is_file() for name in records):
        splits = read_json(folder / "dataset_dict.json")["splits"]
    for split in splits:
        # `datasets` reads a::b as an address.
        place = inside(split.replace("::", "://"), folder)
        _, state = (read_json(Path(place, name), most=16) for name in records)
        for part in state["_data_files"]:
            regular(inside(os.path.join(split, part["filename"]), folder))
    found: Any = datasets.load_from_disk(str(folder))
    tables = found if isinstance(found, dict) else {"train": found}
    for table in tables.values():
        table.data.validate(full=True)  # False offsets would end the process.
    return tables


def _labels(folder: Path, table: str, pictures: list[str]) -> dict[str, str]:
    """Class names of pictures from a table above or beside them.

    A cell has a path from the table, or a name, with or without suffix, of only one.
    """
    rows = _rows(folder / table)
    image, label = layout.choose(dict.fromkeys(rows[0], "path") if rows else {})
    if not image or not label:
        return {}
    base = table[: -len(os.path.basename(table))]
    exact = {p.removeprefix(base): p for p in pictures if p.startswith(base)}
    short: dict[str, list[str]] = defaultdict(list)
    for path in exact.values():
        last = os.path.basename(path)
        for name in {last, os.path.splitext(last)[0]}:
            short[name].append(path)
    names = {name: paths[0] for name, paths in short.items() if len(paths) == 1} | exact
    found = {}
    for row in rows:
        path = os.path.normpath(str(row.get(image) or "")).replace(os.sep, "/")
        value = row.get(label[0])
        if label[0].lower() == "predictionstring":  # ImageNet's own: class and box
            value = str(value).split()[0]
        if path in names and (name := layout.class_name(value)):
            found[names[path]] = name
    return found


def _rows(file: Path) -> list[dict]:
    if file.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        with open(file, "rb") as opened:
            return pq.read_table(opened).to_pylist()
    text = file.read_text("utf-8-sig", "surrogateescape").splitlines()
    if file.suffix.lower() == ".jsonl":
        return [json.loads(line) for line in text if line.strip()]
    return list(csv.DictReader(text, delimiter="," if file.suffix == ".csv" else "\t"))
