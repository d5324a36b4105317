"""A folder of pictures as a source."""

from pathlib import Path

import numpy as np
from jaxtyping import Int

from minivim.data.loader import Batch, Source, hash_of
from minivim.data.pixels import decode
from minivim.data.splits import (
    SPLIT_NAMES,
    files_under,
    hold_out,
    mixed,
    name_and_size,
)
from minivim.errors import UserError

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
    | {".pbm", ".pgm", ".pnm", ".ppm"}
)


class _FolderSource(Source):
    def __init__(
        self,
        root: Path,
        files: list[Path],
        labels: np.ndarray,
        class_names: tuple[str, ...],
        *,
        description: str,
        image_size: int,
        channels: int,
    ):
        self.class_names, self.description = class_names, description
        self._root, self._files, self._labels = root, files, labels
        self._shape = {"image_size": image_size, "channels": channels}

    def __len__(self) -> int:
        return len(self._files)

    def take(self, indices: Int[np.ndarray, " n"]) -> Batch:
        images = [
            decode(self._files[i], str(self._files[i]), **self._shape) for i in indices
        ]
        return {"image": np.stack(images), "label": self._labels[indices]}

    @property
    def fingerprint(self) -> str:
        listing = [name_and_size(file, self._root) for file in self._files]
        return hash_of((listing, self.class_names, sorted(self._shape.items())))


def open_folder(
    name: str, path: Path, split: str, *, image_size: int, channels: int
) -> Source:
    """Pictures below a folder, labelled by their sub-folders: see `open_source`."""
    roots = {s: _split_folder(path, s) for s in SPLIT_NAMES}
    root = roots["train"] or path
    if not (files := files_under(root, SUFFIXES)):
        raise UserError(
            f"{root} holds no images: give a folder with {', '.join(sorted(SUFFIXES))} "
            "files, directly or in sub-folders"
        )
    class_names = _folder_classes(root, files)
    if roots["train"] and roots["test"]:
        if split == "test":
            root = roots["test"]
            if not (files := files_under(root, SUFFIXES)):
                raise UserError(f"{root} holds no images: fill it or remove it")
    else:
        files = [files[i] for i in hold_out(len(files), split, name)]
    # Sorted by name they were sorted by class, and the first of them of a few alone.
    files = mixed(files, root)
    numbers = {label: number for number, label in enumerate(class_names)}
    labels = [numbers.get(_folder_of(file, root), -1) for file in files]
    if class_names and -1 in labels:
        stray = files[labels.index(-1)]
        raise UserError(
            f"{stray} is of no class that the training images have: "
            f"put it in one of {', '.join(class_names[:10])}"
        )
    return _FolderSource(
        root,
        files,
        np.array(labels, np.int32),
        class_names,
        description=f"{name} ({split})",
        image_size=image_size,
        channels=channels,
    )


def _split_folder(path: Path, split: str) -> Path | None:
    candidates = (path / name for name in SPLIT_NAMES[split])
    return next((folder for folder in candidates if folder.is_dir()), None)


def _folder_of(file: Path, root: Path) -> str:
    return file.parent.relative_to(root).as_posix()


def _folder_classes(root: Path, files: list[Path]) -> tuple[str, ...]:
    folders = sorted({_folder_of(file, root) for file in files})
    return () if len(folders) < 2 or "." in folders else tuple(folders)
