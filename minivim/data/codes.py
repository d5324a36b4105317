"""A code cache: the codes of images as a `datasets` folder, with a card beside them."""

import dataclasses
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from minivim.config.checks import Config, require
from minivim.data.arrays import whole_labels
from minivim.data.base import Batch, Source, hash_of
from minivim.data.files import bars, saved
from minivim.errors import explained
from minivim.files import read_json, whole_folder

CARD, ROWS = "codes.json", 10_000  # rows that are checked at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodesCard(Config):
    """Where codes come from: the tokenizer, the images, how these were augmented."""

    tokenizer: str  # a shipped name, a folder or a hub id, for a prior's card
    tokenizer_hash: str
    num_codes: int
    grid: int
    data: str
    fingerprint: str  # of the training images, or of those of the one split
    views: int = 1  # of each training image; view 0 is the image as it is
    flip: bool = False
    crop: float = 1.0
    seed: int = 0


class CodeSource(Source):
    """Codes of a folder that `write_codes` wrote, read as they are asked for."""

    def __init__(self, table: Any, card: CodesCard, split: str):
        self._table, self.card = table.with_format("arrow"), card
        self.class_names = tuple(getattr(table.features["label"], "names", ()))
        self.description = f"codes of {card.data} ({split})"
        parts = sorted(dataclasses.asdict(card).items())
        self.fingerprint = hash_of((parts, split, len(table), self.class_names))

    def __len__(self) -> int:
        return len(self._table)

    def take(self, indices: Int[np.ndarray, " n"]) -> Batch:
        tokens, last = self.card.grid**2, self.card.num_codes - 1
        told = f"{self.description} are not {tokens} numbers from 0 to {last}"
        with explained(told, "encode them again"):
            rows: Any = self._table[indices.tolist()]
            codes, shape = rows["codes"].combine_chunks(), [len(rows)]
            # Arrow's own types: the way through Python lists is 30 times as slow.
            while hasattr(codes.type, "list_size"):
                shape.append(codes.type.list_size)
                codes = codes.flatten()
            codes = codes.to_numpy().reshape(shape)
            inside = codes.min() >= 0 and codes.max() <= last
        fits = shape[-1] == tokens and codes.dtype.kind in "iu" and bool(inside)
        require(fits, f"{told}: encode them again")
        labels = whole_labels(rows["label"].to_numpy(), self.num_classes or 2**31, -1)
        return {"codes": codes.astype(np.int32), "label": labels}


def is_codes(spec: Any) -> bool:
    """Whether `spec` names a folder of codes."""
    if not isinstance(spec := getattr(spec, "spec", spec), str | os.PathLike):
        return False
    return bool(os.fspath(spec).strip()) and (Path(spec).expanduser() / CARD).is_file()


def open_codes(folder: str | os.PathLike[str], split: str = "train") -> CodeSource:
    """The codes of a split; `UserError` for a damaged folder or one without it."""
    path = Path(folder).expanduser()
    with explained(f"{folder} cannot be read as codes", "encode them again"):
        card = CodesCard(**read_json(path / CARD))
        tables = saved(path)
        found = [name for name in tables if "codes" in tables[name].features]
    told = f"{folder} holds codes of the split {' and '.join(found)} and not of {split}"
    require(split in found, f"{told}: run minivim encode without --split")
    source = CodeSource(tables[split], card, split)
    for rows in np.split(np.arange(len(source)), range(ROWS, len(source), ROWS)):
        source.take(rows)
    return source


def write_codes(
    folder: str | os.PathLike[str],
    splits: Mapping[str, tuple[Iterable[Batch], Sequence[str]]],
    card: CodesCard,
) -> Path:
    """Write a folder that `datasets.load_from_disk` reads, all of it or nothing.

    Each split is batches of codes int [n, N] or [n, V, N] and label int [n], and the
    names of its classes. Writing takes twice the space. Raises `UserError` where the
    folder is there or cannot be written, and `Stopped` at SIGTERM or SIGINT.
    """
    import datasets
    from datasets.arrow_writer import ArrowWriter

    from minivim.training.processes import nothing_kept

    with whole_folder(Path(folder).expanduser()) as out, nothing_kept(folder) as go_on:
        tables: Any = datasets.DatasetDict()
        for split, (batches, names) in splits.items():
            rows: Any = iter(batches)
            file, first = str(out.with_name(split)), next(rows)
            codes: Any = datasets.Value("int16" if card.num_codes <= 2**15 else "int32")
            for size in reversed(first["codes"].shape[1:]):
                codes = datasets.Sequence(codes, length=size)
            label: Any = datasets.ClassLabel(names=list(names)) if names else None
            kinds = {"codes": codes, "label": label or datasets.Value("int32")}
            with ArrowWriter(features=datasets.Features(kinds), path=file) as writer:
                for batch in itertools.chain([first], rows):
                    writer.write_batch(batch)
                    go_on()
                writer.finalize()
            tables[split] = datasets.Dataset.from_file(file)
        with bars(False):  # It is written faster than a bar is drawn.
            tables.save_to_disk(str(out))
        (out / CARD).write_text(json.dumps(dataclasses.asdict(card), indent=1) + "\n")
    return Path(folder)
