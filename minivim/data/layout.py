"""Rules for splits, classes, labels and columns, the same for every kind of data.

Names are compared in Unicode's composed form (NFC) and without regard to case.
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

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


def place(counts: Mapping[str, int], where: str) -> dict[str, tuple[str, str] | None]:
    """The split of each folder and its path without that; None beside the splits.

    A folder that is called like a split is one if no other beside it holds pictures
    (`counts`). One called train is a class if others do and it holds some itself.
    """
    # The folders on the way to each, itself included: "a", "a/b", "a/b/c".
    parts = {folder: filter(None, folder.split("/")) for folder in counts}
    chains = {f: list(accumulate(names, "{}/{}".format)) for f, names in parts.items()}
    below: dict[str, Counter] = defaultdict(Counter)  # pictures, by folder and child
    for folder, chain in chains.items():
        for parent, child in pairwise(["", *chain, ""]):
            below[parent][child] += counts[folder]
    splits: dict[str, str] = {}
    beside: set[str] = set()  # folders of splits: pictures in them are of none
    for parent, children in below.items():
        named = {c: split for c in children if (split := split_of(os.path.basename(c)))}
        rest = sorted(children.keys() - named.keys() - {""})
        many = children[""] * STRAY_SHARE > children.total()
        if named and not rest and not many:
            splits |= named
            beside.add(parent)
        deep = any(below[child].keys() - {""} for child in named)
        if named and (many or rest and (deep or {*named.values()} != {"train"})):
            other = rest[0] if rest else counted(children[""], "picture")
            told = f"{where} holds {', '.join(sorted(named))} beside {other}"
            told += ", so these may be splits or classes: move the splits into a folder"
            raise UserError(f"{told} without others, or give classes other names")
    placed: dict[str, tuple[str, str] | None] = {}
    for folder, chain in chains.items():
        found = {splits[part] for part in chain if part in splits}
        told = f"{where} has {folder}, in two splits at once"
        require(len(found) < 2, f"{told}: move or rename the inner folder")
        kept = "/".join(os.path.basename(part) for part in chain if part not in splits)
        placed[folder] = None if folder in beside else ("".join(found) or "train", kept)
    return placed


def by_folder(
    paths: Sequence[str], known: Mapping[str, str], where: str
) -> tuple[dict[str, dict[str, str | None]], list[str]]:
    """Pictures of each split with the names of their classes, and remarks.

    A class is what a table says (`known`), else the folder, without what all folders
    begin with. Few pictures beside folders are left out; many leave all without labels.
    """
    places = place(Counter(map(os.path.dirname, paths)), where)
    placed = {path: at for path in paths if (at := places[os.path.dirname(path)])}
    own = {kept for path, (_, kept) in placed.items() if kept and path not in known}
    base = len(os.path.commonpath(own)) if own else 0
    groups: dict[str, dict[str, str | None]] = defaultdict(dict)
    for path, (split, kept) in placed.items():
        inner = composed(kept[base:].removeprefix("/"))
        groups[split][path] = known.get(path) or inner or None
    several = len({n for g in groups.values() for n in g.values() if n}) > 1
    labelled, notes = several or bool(known), []
    for split, group in groups.items():
        loose = [path for path, name in group.items() if not name]
        if not (several and own and loose):
            continue
        told = f"{counted(len(loose), 'picture')} beside the folders ({loose[0]})"
        if len(loose) == len(group):
            notes.append(f"the {split} pictures have no labels")
        elif len(loose) * STRAY_SHARE <= len(group):
            notes.append(f"not used: {told}")
            groups[split] = {path: name for path, name in group.items() if name}
        elif not known:
            notes.append(f"no labels, with {told}")
            labelled = False
    if strays := [path for path in paths if path not in placed]:
        few = counted(len(strays), "picture")
        notes.append(f"not used: {few} beside the splits ({strays[0]})")
    if not labelled:
        return {split: dict.fromkeys(group) for split, group in groups.items()}, notes
    return groups, notes


def order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names sorted, by value where all are whole numbers."""
    names = set(names)
    key = (lambda name: (int(name), name)) if _numbers(names) else None
    return tuple(sorted(names, key=key))


def _numbers(names: Collection[str]) -> bool:
    return all(re.fullmatch(r"[+-]?\d{1,18}", name) for name in names)


def class_name(value: Any) -> str | None:
    """The class that a cell names, also in a dictionary; `NoLabels` for fractions."""
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
        cell = f"has a {type(value).__name__} in a cell"
        raise NoLabels("has fractions" if isinstance(value, float) else cell)
    return str(value)


def classes(
    values: Mapping[str, list[str | None]], where: str
) -> tuple[tuple[str, ...], dict[str, Int[np.ndarray, " rows"]], list[str]]:
    """Names of all classes, the numbers of each split's rows, and remarks.

    Raises `UserError` for too many, and where one split has numbers and another names.
    """
    # As on the hub, where the labels of a test split may all be -1.
    hidden = [split for split, v in values.items() if {*v} - {None} == {"-1"}]
    values = {s: [None] * len(v) if s in hidden else v for s, v in values.items()}
    found = {split: {t for t in v if t is not None} for split, v in values.items()}
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
    numbers: dict[str | None, int] = {name: i for i, name in enumerate(names)}
    rows = {s: [numbers.get(name, -1) for name in v] for s, v in values.items()}
    return names, {s: np.array(v, np.int32) for s, v in rows.items()}, notes


def kinds(features: Any) -> dict[str, str]:
    """What each column of a table may serve for, as `choose` has it."""
    import datasets

    def kind(feature: Any) -> str:
        cell = isinstance(feature, Mapping) and {"bytes", "path"} <= set(feature)
        if cell or isinstance(feature, datasets.Image):
            return "image"
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

    Kinds are "image", "class" (a type with class names), "path" (text or bytes),
    "value" and "" (of no use here). A column asked for by name must be there.
    """
    for name, option in ((image, "--image-column"), (label, "--label-column")):
        told = f"there is no column {name}, the columns are {', '.join(kinds)}"
        require(not name or name in kinds, f"{told}: give one of them to {option}")

    def called(words: str, *fits: str) -> list[str]:
        of_words = (n for word in words.split() for n in kinds if n.lower() == word)
        return [name for name in of_words if kinds[name] in fits]

    images = called(IMAGE_COLUMNS, "image") + [n for n in kinds if kinds[n] == "image"]
    images += called(IMAGE_COLUMNS, "path")
    chosen = image or next(iter(images), "")
    labels = called(LABEL_COLUMNS, "image", "class", "path", "value")
    labels += [n for n in kinds if kinds[n] == "class" and n not in labels]
    return chosen, [name for name in ([label] if label else labels) if name != chosen]


def choose_split(
    split: str, labels: Mapping[str, Int[np.ndarray, " rows"]], where: str
) -> tuple[str, Int[np.ndarray, " n"], str]:
    """The split and its rows that are to be read as train or test, and words for it.

    Validation serves where test is not there or has no labels; else some are held out.
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
        train, held = hold_out(labels["train"])
        rows = held if split == "test" else train
        told = f"{len(train):,} train, {len(held):,} held out to test"
        told = "too few to hold any out" if train is held else told
    told += "".join(f"; not used: {sizes[s]:,} {s}" for s in unused)
    return name, rows, told


def hold_out(labels: Int[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train and a fixed tenth to test, which are all where that has none.

    The last row of a class stays for training.
    """
    rows = np.arange(len(labels))
    most = min(HELD_OUT_MOST, len(rows) // HELD_OUT_SHARE)
    held = np.random.default_rng(0).permutation(len(rows))[:most]
    kinds, first = np.unique(labels[held], return_index=True)
    gone = ~np.isin(kinds, np.delete(labels, held))
    held = np.sort(np.delete(held, first[gone & (kinds >= 0)]))
    return (np.delete(rows, held), held) if len(held) else (rows, rows)
