"""Pictures as files that other programs read: numbered PNGs, or one .npz."""

from __future__ import annotations

import csv
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minivim.files import whole, whole_folder

Add = Callable[[np.ndarray, Any], None]


def rounded(images: np.ndarray) -> np.ndarray:
    """Floats, clipped to [0, 1], as the nearest of 256 levels, in uint8."""
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)


def to_uint8(image: Any) -> np.ndarray:
    """Pixels [H, W], [H, W, 1] or [H, W, 3] as uint8 [H, W, 3], floats `rounded`.

    Raises ValueError for any other shape or type.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise ValueError(f"a picture is [H, W], [H, W, 1] or [H, W, 3]: {image.shape}")
    if image.dtype.kind == "f":
        image = rounded(image)
    elif image.dtype != np.uint8:
        raise ValueError(f"pixels are uint8 or floats in [0, 1], not {image.dtype}")
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


@contextmanager
def saved(
    out: Path, *, npz: bool, side: int, count: int, sets: Sequence[str] = ("images",),
    class_names: Sequence[str] = (),
) -> Iterator[Callable[..., None]]:  # fmt: skip
    """Write `count` pictures of each set as they come; at the end all is kept, or none.

    Yields a function that takes labels, -1 for none (they are left out where classes
    have no names), and by name of the set pictures [..., side, side, C]; others are
    ignored. The first set is `out`, others are beside it as `out-NAME.npz`; folders are
    `out/NAME` where there are several. Raises `UserError` where `out` cannot be written
    or is a folder that is not empty, and `Stopped` after a batch where a signal came.
    """
    from minivim.training.processes import nothing_kept

    shape, written, make = (count, side, side, 3), Counter(), _npz if npz else _folder
    with ExitStack() as stack:
        if npz:
            files = [out, *(out.with_stem(f"{out.stem}-{name}") for name in sets[1:])]
            places = stack.enter_context(whole(*files))
        else:
            folder = stack.enter_context(whole_folder(out))
            places = [folder / name for name in sets] if sets[1:] else [folder]
        enter = stack.enter_context
        adds = [enter(make(place, shape, class_names)) for place in places]
        go_on = enter(nothing_kept(out))

        def add(labels: Any, **arrays: np.ndarray) -> None:
            for name, one in zip(sets, adds, strict=True):
                flat = arrays[name].reshape(-1, *arrays[name].shape[-3:])
                one(np.stack([to_uint8(image) for image in flat]), labels)
                written[name] += len(flat)
            go_on()

        yield add
        if any(written[name] != count for name in sets):
            raise ValueError(f"{dict(written)} pictures, and not {count} of each set")


@contextmanager
def _folder(place: Path, shape: tuple, class_names: Sequence[str]) -> Iterator[Add]:
    """PNG files with their number for a name, and `index.csv`."""
    place.mkdir(parents=True)
    numbers, digits = iter(range(shape[0])), max(6, len(str(shape[0] - 1)))
    how: Any = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
    with open(place / "index.csv", "w", **how) as file:
        table = csv.writer(file, lineterminator="\n")
        named: dict[int | None, list] = {i: [i, n] for i, n in enumerate(class_names)}
        named |= {-1: ["", ""]} if class_names else {}
        table.writerow(["file", *(["label", "class_name"] if class_names else [])])

        def add(pixels: np.ndarray, labels: Any) -> None:
            given = [None] * len(pixels) if labels is None else labels
            for picture, label in zip(pixels, given, strict=True):
                name = f"{next(numbers):0{digits}}.png"
                Image.fromarray(picture).save(place / name)
                table.writerow([name, *named.get(label, [])])

        yield add


@contextmanager
def _npz(place: Path, shape: tuple, class_names: Sequence[str]) -> Iterator[Add]:
    """`arr_0` with the pictures, header first, then `arr_1` with the labels."""
    kept: list[int] = []
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with zipfile.ZipFile(place, "w") as archive:
        info = zipfile.ZipInfo("arr_0.npy")
        with archive.open(info, "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)

            def add(pixels: np.ndarray, labels: Any) -> None:
                member.write(pixels.tobytes())
                kept.extend(labels if class_names else ())

            yield add
        if class_names:
            with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as member:
                np.lib.format.write_array(member, np.array(kept, np.int64))
