"""Rules for splits, classes, labels and columns, the same for every kind of data.

Names are compared in Unicode's composed form (NFC) and without regard to case.
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from minivim.config.checks import require
from minivim.errors import UserError

WORDS = {
    "train": "train|training|trn|trainval",
    "test": "test|testing|tst",
    "validation": "validation|valid|val|dev|develop|eval|evaluation|holdout",
}
_KINDS = "(?:sets?|images?|imgs?|pictures?|photos?|data|dataset|split|subset|fold)"
_AROUND = rf"(?:\d+|(?:ilsvrc\d+_)?{_KINDS})[ _.=-]+"
HELD_OUT_SHARE, HELD_OUT_MOST = 10, 2_000
# Of all pictures, those beside folders of classes or splits that may be left out.
STRAY_SHARE = 10
MOST_CLASSES = 100_000
IMAGE_COLUMNS = """image images img imgs picture pictures photo pixel_values jpg jpeg
png webp image_bytes bytes file_name filename file path filepath file_path image_path
image_id imageid"""
LABEL_COLUMNS = """label labels class classes category categories target targets y cls
fine_label label_name class_name category_name class_label label_id class_id category_id
species breed predictionstring coarse_label"""


def counted(count: int, what: str) -> str:
    """A number and what there is of it, such as "2 pictures"."""
    ends = {"class": "classes"}.get(what, f"{what}s")
    return f"{count:,} {what if count == 1 else ends}"


def composed(name: str) -> str:
    """A name in Unicode's composed form, in which bytes that are no UTF-8 show."""
    name = re.sub("[\ud800-\udc7f\udd00-\udfff]", "\ufffd", name)
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", name)


@cache
def split_of(folder: str) -> str:
    """The split that a folder's name says: train, test, validation or none ("")."""
    name = composed(folder).strip().lower()
    for split, words in WORDS.items():
        if re.fullmatch(rf"(?:{_AROUND})?(?:{words})[ _.-]*{_KINDS}?[ _.-]*\d*", name):
            return split
    return ""


def split_of_file(path: str) -> str:
    """The split that a table's path says, by a word of its name or a folder."""
    *folders, name = path.split("/")
    tokens = re.split(r"[^a-z]+", name.rpartition(".")[0].lower())
    found = {split_of(part) for part in (*folders, *filter(None, tokens))} - {""}
    told = f"{path} names the splits {' and '.join(sorted(found))}"
    require(len(found) < 2, f"{told}: let its name and folders say one")
    return found.pop() if found else ""


def splits_of_files(paths: Iterable[str], where: str) -> dict[str, list[str]]:
    """Tables by split; all are for training where no name says one."""
    groups: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        groups[split_of_file(path)].append(path)
    if (rest := groups.pop("", [])) and groups:
        named = ", ".join(files[0] for files in groups.values())
        told = f"{where} holds {rest[0]} beside {named}, and its name says no split"
        raise UserError(f"{told}: put train or test into it, or move it away")
    return dict(groups) or {"train": rest}


class NoLabels(UserError):
    """A column cannot be read as classes."""


class Placed(NamedTuple):
    """Where a picture is: its split, its folder without that of the split."""

    path: str
    split: str
    folder: str


def place(paths: Sequence[str], where: str) -> tuple[list[Placed], list[str]]:
    """Pictures by split and folder, and those that lie beside the folders of splits.

    A folder that is called like a split is one if no other folder beside it holds
    pictures. One called train is a class if others do and it holds pictures itself.
    Raises `UserError` where a folder may be either.
    """
    below: dict[str, Counter] = defaultdict(Counter)  # pictures, by folder and child
    deep: set[str] = set()  # folders that have folders with pictures
    for path in paths:
        folders = path.split("/")[:-1]
        for depth in range(len(folders)):
            parent, child = "/".join(folders[:depth]), "/".join(folders[: depth + 1])
            below[parent][child] += 1
            deep.add(parent)
        below["/".join(folders)][""] += 1
    kinds: dict[str, str] = {}  # folders that are splits
    beside: set[str] = set()  # folders of splits: pictures in them are of none
    for parent, children in below.items():
        named = {c: s for c in children if c and (s := split_of(os.path.basename(c)))}
        rest = sorted(children.keys() - named.keys() - {""})
        if not named:
            continue
        many = children[""] * STRAY_SHARE > children.total()
        if rest or many:
            other = rest[0] if rest else counted(children[""], "picture")
            if many or set(named.values()) != {"train"} or named.keys() & deep:
                told = f"{where} holds {', '.join(sorted(named))} beside {other}"
                told += ", so these may be splits or classes: move the splits into a"
                told += " folder without others, or give classes other names"
                raise UserError(told)
            continue
        kinds |= named
        beside.add(parent)
    placed, strays = [], []
    for path in paths:
        folder = os.path.dirname(path)
        parts = folder.split("/") if folder else []
        chain = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        found = {kinds[part] for part in chain if part in kinds}
        told = f"{where} has {folder}, in two splits at once"
        require(len(found) < 2, f"{told}: move or rename the inner folder")
        if folder in beside:
            strays.append(path)
            continue
        kept = "/".join(os.path.basename(part) for part in chain if part not in kinds)
        placed.append(Placed(path, found.pop() if found else "", kept))
    return placed, strays


def order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names sorted, by value where all are whole numbers."""
    names = set(names)
    key = (lambda name: (int(name), name)) if _numbers(names) else None
    return tuple(sorted(names, key=key))


def _numbers(names: Collection[str]) -> bool:
    return all(re.fullmatch(r"[+-]?\d{1,18}", name) for name in names)


def class_name(value: Any) -> str | None:
    """How the class of a table's cell is called, None if it has none.

    Whole numbers of any type, booleans, text, and dictionaries with a name or number in
    them; raises `NoLabels` for others, such as fractions and lists.
    """
    if isinstance(value, Mapping):
        inner = [v for v in value.values() if v is not None]
        inner.sort(key=lambda v: (not isinstance(v, str), not isinstance(v, int)))
        return class_name(inner[0]) if inner else None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if value is None or value != value:
        return None
    if isinstance(value, str):
        return composed(value).strip() or None
    if isinstance(value, list | tuple) and len(value) == 1:
        return class_name(value[0])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int):
        kind = type(value).__name__
        told = "fractions" if kind == "float" else f"a {kind} in a cell"
        raise NoLabels(f"has {told}")
    return str(value)


def classes(
    values: Mapping[str, list[str | None]], where: str
) -> tuple[tuple[str, ...], dict[str, Int[np.ndarray, " rows"]], list[str]]:
    """Names of all classes, the numbers of each split's rows, and remarks.

    A split whose only value is -1 has no labels. Raises `UserError` for too many
    classes, and where one split numbers its classes and the other names them.
    """
    found = {split: {t for t in v if t is not None} for split, v in values.items()}
    found = {split: v if v != {"-1"} else set() for split, v in found.items()}
    names = order(set().union(*found.values()))
    told = f"{where} has {len(names):,} different labels: choose a column of classes"
    require(len(names) <= MOST_CLASSES, f"{told} with --label-column")
    notes, known = [], found.get("train", set())
    for split, own in found.items():
        if known and (new := order(own - known)):
            told = f"{', '.join(new[:3])}{' ...' if len(new) > 3 else ''}"
            if 2 * len(new) > len(own) and _numbers(own) != _numbers(known):
                others = ", ".join(order(known)[:3])
                told = f"{where}: the classes of {split} ({told}) are not those of the "
                told += f"training pictures ({others} ...): name them alike"
                raise UserError(told)
            notes.append(f"no training pictures of {told}")
    if missing := sum(v.count(None) for v in values.values() if set(v) != {None}):
        notes.append(f"{missing:,} without a label")
    numbers = {name: number for number, name in enumerate(names)}
    rows = {
        split: np.array([numbers.get(v or "", -1) for v in own], np.int32)
        if found[split]
        else np.full(len(own), -1, np.int32)
        for split, own in values.items()
    }
    return names, rows, notes


def kinds(features: Any) -> dict[str, str]:
    """What each column of a table may serve for, see `choose`."""
    import datasets

    def kind(feature: Any) -> str:
        if isinstance(feature, datasets.Image):
            return "image"
        if isinstance(feature, Mapping):
            return "image" if {"bytes", "path"} <= set(feature) else "value"
        if isinstance(feature, datasets.ClassLabel):
            return "class"
        dtype = getattr(feature, "dtype", "")
        if dtype.endswith(("string", "binary")):
            return "path"
        return "" if dtype == "null" else "value"

    return {name: kind(feature) for name, feature in features.items()}


def choose(
    kinds: Mapping[str, str], *, image: str = "", label: str = ""
) -> tuple[str, list[str]]:
    """The column of images and those that may hold labels, the best one first.

    `kinds` says of each column "image", "class" (a type with class names), "path" (text
    or bytes), "value" or "" (of no use here). One asked for by name must be there.
    """
    for name, option in ((image, "--image-column"), (label, "--label-column")):
        told = f"there is no column {name}, the columns are {', '.join(kinds)}"
        require(not name or name in kinds, f"{told}: give one of them to {option}")
    lower = {name: name.lower() for name in kinds}

    def by_name(wanted: str, fits: Callable[[str], bool]) -> list[str]:
        found = [n for n in kinds if lower[n] in wanted.split() and fits(kinds[n])]
        return sorted(found, key=lambda name: wanted.split().index(lower[name]))

    typed = [name for name, kind in kinds.items() if kind == "image"]
    images = by_name(IMAGE_COLUMNS, lambda kind: kind == "image") + typed
    images += by_name(IMAGE_COLUMNS, lambda kind: kind == "path")
    chosen = image or next(iter(images), "")
    labels = by_name(LABEL_COLUMNS, bool)
    labels += [n for n, kind in kinds.items() if kind == "class" and n not in labels]
    labels = [label] if label else labels
    return chosen, [name for name in labels if name != chosen]


def by_folder(
    placed: Iterable[Placed], known: Mapping[str, str]
) -> tuple[dict[str, list[str]], dict[str, list[str | None]], list[str]]:
    """Pictures of each split, the names of their classes, and remarks.

    A class is what a table says (`known`), else the folder, without what all folders
    begin with. Few pictures beside folders are left out; many leave all without labels.
    """
    placed = list(placed)
    own = {p.folder for p in placed if p.folder and p.path not in known}
    base = os.path.commonpath(own) if own else ""
    base = f"{base}/" if base else ""

    def name(p: Placed) -> str | None:
        inner = p.folder[len(base) :] if p.folder.startswith(base) else ""
        return known.get(p.path) or composed(inner) or None

    groups: dict[str, list[Placed]] = defaultdict(list)
    for one in placed:
        groups[one.split or "train"].append(one)
    folders = len({name(p) for p in placed} - {None}) > 1
    notes, labelled = [], folders or bool(known)
    for split, group in groups.items():
        loose = [p.path for p in group if not name(p)]
        if not (folders and own and loose):
            continue
        told = f"{counted(len(loose), 'picture')} beside the folders ({loose[0]})"
        if len(loose) == len(group):
            notes.append(f"the {split} pictures have no labels")
        elif len(loose) * STRAY_SHARE <= len(group):
            notes.append(f"not used: {told}")
            groups[split] = [p for p in group if name(p)]
        elif not known:
            notes.append(f"no labels, with {told}")
            labelled = False
    files = {split: [p.path for p in group] for split, group in groups.items()}
    names = {s: [name(p) if labelled else None for p in g] for s, g in groups.items()}
    return files, names, notes


class Chosen(NamedTuple):
    """Rows of one split, of whichever splits there are."""

    split: str  # the one that has the rows
    rows: Int[np.ndarray, " n"]
    summary: str


def choose_split(
    split: str, labels: Mapping[str, Int[np.ndarray, " rows"]], where: str
) -> Chosen:
    """The rows to be read as train or test, where each split has the given labels.

    Validation serves where test is not there or has no labels. Without both a part is
    held out. Raises `UserError` where there is no row, or none for training.
    """
    found = [name for name in ("test", "validation") if name in labels]
    found.sort(key=lambda name: not (labels[name] >= 0).any())
    test, unused = "".join(found[:1]), found[1:]
    told = f"{where} has {test} pictures alone, and none to train on: give {test}"
    told += " another name, or add pictures for training"
    require("train" in labels or split != "train", told)
    name = test if test and split == "test" else "train"
    told = "has no rows" if name == "train" else f"has no rows for {name}"
    told = f"{where} {told}: give pictures or remove the empty part"
    require(len(labels[name]) > 0, told)
    rows = np.arange(len(labels[name]))
    sizes = {s: len(v) for s, v in labels.items()}
    told = ", ".join(f"{sizes[s]:,} {s}" for s in ("train", test) if s in sizes)
    if not test:
        rows = hold_out(sizes["train"], split, labels["train"])
        held = len(hold_out(sizes["train"], "test", labels["train"]))
        same = held == sizes["train"]
        left = f"{sizes['train'] - held:,} train, {held:,} held out to test"
        told = "too few to hold any out" if same else left
    told += "".join(f"; not used: {sizes[s]:,} {s}" for s in unused)
    return Chosen(name, rows, told)


def hold_out(
    count: int, split: str, labels: Int[np.ndarray, " rows"] | None = None
) -> Int[np.ndarray, " n"]:
    """Row numbers of a split where there is no other: a fixed tenth is "test".

    The last row of a class stays for training. Fewer than ten rows are both splits.
    """
    most = min(HELD_OUT_MOST, count // HELD_OUT_SHARE)
    held = np.random.default_rng(0).permutation(count)[:most]
    if labels is not None and most:
        left = Counter(labels.tolist())
        left.subtract(labels[held].tolist())
        empty = [label for label, number in left.items() if label >= 0 and not number]
        _, first = np.unique(labels[held], return_index=True)
        last = [place for place in first if labels[held[place]] in empty]
        held = np.delete(held, last)
    if not len(held):
        return np.arange(count)
    mask = np.isin(np.arange(count), held)
    return np.flatnonzero(mask if split == "test" else ~mask)
