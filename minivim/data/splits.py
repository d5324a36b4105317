"""Which files and rows belong to a split."""

import hashlib
import os
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Int

from minivim.errors import UserError

SPLIT_NAMES = {"train": ("train",), "test": ("test", "validation", "valid", "val")}
HELD_OUT_SHARE, HELD_OUT_MOST = 10, 2_000


def check_split(split: str) -> None:
    """Raise UserError for a name that is no split's."""
    if split not in SPLIT_NAMES:
        raise UserError(f"there is no split {split!r}: use 'train' or 'test'")


def hold_out(count: int, split: str, name: str) -> Int[np.ndarray, " rows"]:
    """Row numbers of a split where the source `name` has none of its own."""
    most = min(HELD_OUT_MOST, count // HELD_OUT_SHARE)
    order = np.random.default_rng(0).permutation(count)
    if most == 0:
        if split == "test":
            _warn_of_few(name)
        return np.arange(count)
    return np.sort(order[:most] if split == "test" else order[most:])


@cache
def _warn_of_few(name: str) -> None:
    """Once for each source."""
    print(
        f"minivim: warning: {name} has fewer than {HELD_OUT_SHARE} images, too few to "
        "hold any out: test and training images are the same",
        file=sys.stderr,
    )


def files_under(path: Path, suffixes: Iterable[str]) -> list[Path]:
    """Files with one of the suffixes, hidden ones left out, sorted by relative name."""
    found = []
    for folder, below, names in os.walk(path):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                found.append(Path(folder, name))
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def mixed(files: Iterable[Path], root: Path) -> list[Path]:
    """Files in an order of their relative names that knows nothing of folders."""

    def digest(file: Path) -> str:
        return hashlib.sha256(file.relative_to(root).as_posix().encode()).hexdigest()

    return sorted(files, key=digest)


def name_and_size(file: Path, root: Path) -> tuple[str, int]:
    """What identifies a file on any machine."""
    return file.relative_to(root).as_posix(), file.stat().st_size
