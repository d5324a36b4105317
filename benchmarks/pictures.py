"""`python -m benchmarks.pictures --count 100000`: damaged pictures, and what is said.

Small files of many formats are damaged: bits flipped, ends cut off, parts of two files
put together, lengths overwritten. Each has to become an array or a `UserError` that
names it, in bounded time and memory. Processes do it, so that a decoder that crashes
is noticed; what went wrong is kept in `--keep`. Every case has a number, from which it
can be made again. A few also go through the workers that decode for training.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minivim.data.pixels import decode, header
from minivim.errors import UserError
from minivim_lab.tables import markdown_table

FORK = multiprocessing.get_context("fork")
SIZE = {"image_size": 16, "channels": 3}
NAME = "this picture"
OUTCOMES = ("untried", "array", "named", "WRONG", "DIED", "TOO LONG")
UNTRIED, ARRAY, NAMED, WRONG, DIED, LATE = range(6)
SECONDS = 60  # for one picture, on a busy machine
MEMORY = 6 << 30  # addresses of a process: a picture of 178 megapixels needs a third
EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)


def seeds() -> dict[str, list[bytes]]:
    """Undamaged files of 24 x 20 pixels, by format."""
    rng = np.random.default_rng(0)
    noise = np.repeat(rng.integers(0, 256, (20, 6, 4), np.uint8), 4, 1)
    colour = Image.fromarray(noise[..., :3])
    clear, grey, palette = (
        Image.fromarray(noise),
        colour.convert("L"),
        colour.quantize(9),
    )
    deep = Image.fromarray(noise[..., 0].astype(np.uint16) * 200)
    cmyk, bits = colour.convert("CMYK"), colour.convert("1")
    exif, profile = Image.Exif(), srgb()
    exif[274], exif[271] = 6, "a maker"
    told: dict[str, Any] = {"exif": exif.tobytes(), "icc_profile": profile}
    more: dict[str, Any] = {"save_all": True}
    plan: dict[str, list[tuple[Image.Image, dict[str, Any]]]] = {
        "PNG": [(colour, told), (clear, {}), (deep, {"transparency": 200}), (bits, {}),
                (palette, {"transparency": b"\0\x80"}), (colour, more)],
        "JPEG": [(colour, told), (grey, {"progressive": True}), (cmyk, {})],
        "MPO": [(colour, more)],
        "GIF": [(palette, {"transparency": 1}), (colour, more), (grey, {})],
        "TIFF": [(colour, told), (deep, {}), (clear, {"compression": "tiff_lzw"}),
                 (palette, {"compression": "packbits"}), (cmyk, more),
                 (colour, {"compression": "jpeg"}), (bits, {"compression": "group4"}),
                 (colour.convert("LAB"), {"compression": "tiff_deflate"})],
        "WEBP": [(colour, told), (clear, {"lossless": True}), (colour, more)],
        "AVIF": [(colour, told), (clear, {})],
        "BMP": [(colour, {}), (clear, {}), (palette, {}), (bits, {})],
        "JPEG2000": [(colour, {}), (deep, {"irreversible": False}), (clear, {})],
        "PPM": [(colour, {}), (grey, {}), (deep, {}), (bits, {})],
        "ICO": [(clear, {}), (clear, {"bitmap_format": "bmp"})],
        "ICNS": [(clear, {})],
        "TGA": [(colour, {}), (clear, {"compression": "tga_rle"}), (palette, {})],
        "QOI": [(colour, {}), (clear, {})],
        "DDS": [(clear, {}), (colour, {"pixel_format": "DXT1"})],
        "SGI": [(colour, {}), (grey, {})],
        "PCX": [(colour, {}), (palette, {}), (bits, {})],
        "XBM": [(bits, {})],
        "IM": [(colour, {}), (palette, {})],
        "MSP": [(bits, {})],
        "BLP": [(palette, {})],
    }  # fmt: skip
    Image.init()
    return {
        kind: [saved(image, kind, options) for image, options in images]
        for kind, images in plan.items()
        if kind in Image.SAVE
    }


def srgb() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def saved(image: Image.Image, kind: str, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    if options.get("save_all"):
        options = {"save_all": True, "append_images": [image.rotate(180)]}
    image.copy().save(file, kind, **options)  # Saving leaves settings behind.
    return file.getvalue()


def flip(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    # Headers are short, and most of what can go wrong is there.
    reach = len(data) if rng.random() < 0.5 else min(len(data), 100)
    for place in rng.integers(0, max(1, reach), rng.integers(1, 9)):
        if data:
            data[place] ^= 1 << rng.integers(8)
    return data


def cut(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    return data[: rng.integers(len(data) + 1)]


def splice(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    """The beginning of one, and the end of another or of itself."""
    donor = other if rng.random() < 0.5 else bytes(data)
    at, end = rng.integers(len(data) + 1), rng.integers(len(donor) + 1)
    return data[:at] + donor[end:]


def overwrite(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    """A number of 1, 2 or 4 bytes, as lengths, sizes and offsets are."""
    width = int(rng.choice([1, 2, 4]))
    reach = len(data) if rng.random() < 0.3 else min(len(data), 200)
    at = int(rng.integers(max(1, reach)))
    small = rng.random() < 0.3
    value = int(rng.integers(400)) if small else EXTREMES[rng.integers(len(EXTREMES))]
    order = "little" if rng.random() < 0.5 else "big"
    data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, order)
    return data


def checked(data: bytes) -> bytes:
    """With the checksums of a PNG's chunks right again: else nothing behind is read."""
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + length]
        if len(body) < 4 + length:
            break
        parts += [data[at : at + 4], body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + length
    return b"".join([*parts, data[at:]])


def damaged(number: int, files: dict[str, list[bytes]]) -> tuple[str, bytes]:
    """The format and bytes of a case."""
    rng = np.random.default_rng(number)
    kinds = sorted(files)
    kind, donor = kinds[number % len(kinds)], kinds[rng.integers(len(kinds))]
    if rng.random() < 0.7:
        donor = kind
    other = files[donor][rng.integers(len(files[donor]))]
    data = bytearray(files[kind][rng.integers(len(files[kind]))])
    for _ in range(rng.integers(1, 4)):
        damage = (flip, cut, splice, overwrite)[rng.choice(4, p=[0.35, 0.1, 0.15, 0.4])]
        data = damage(data, other, rng)
    repaired = kind == "PNG" and rng.random() < 0.8
    return kind, checked(bytes(data)) if repaired else bytes(data)


def outcome(read: Any, name: str = NAME) -> int:
    """What becomes of a picture that `read` reads; errors have to name it."""
    try:
        found = read()
    except UserError as error:
        text = str(error)
        return NAMED if name in text and len(text.splitlines()) == 1 else WRONG
    except Exception:
        return WRONG
    whole = found.shape == (16, 16, 3) and found.dtype == np.uint8
    return ARRAY if whole else WRONG


def work(files: dict, count: int, outcomes: Any, at: Any, step: int) -> None:
    """Try every `step`-th case from `at`."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in range(at.value, count, step):
        at.value = number
        data = damaged(number, files)[1]
        found = outcome(lambda data=data: decode(io.BytesIO(data), NAME, **SIZE))
        try:
            header(io.BytesIO(data), NAME)
        except UserError as error:
            # What the header shows is not hidden from `decode`.
            found = found if found == NAMED and NAME in str(error) else WRONG
        except Exception:
            found = WRONG
        outcomes[number] = found
    at.value = count


def supervised(
    work: Callable[[Any, int], None],
    count: int,
    processes: int,
    *,
    patience: float,
    lost: Callable[[int, int], None],
) -> None:
    """Have `count` cases tried by processes; one that dies or gets stuck is replaced.

    work(at, step) tries every `step`-th case from `at.value`, where it says how far it
    is. lost(number, outcome) hears at which case a process died or was late, in seconds
    of `patience`; it is left out.
    """
    places = [FORK.Value("q", i, lock=False) for i in range(processes)]

    def start(place: Any) -> Any:
        process = FORK.Process(target=work, args=(place, processes), daemon=True)
        process.start()
        return process

    running, told, began = [start(place) for place in places], 0, time.monotonic()
    seen = [(place.value, began) for place in places]
    while any(place.value < count for place in places):
        time.sleep(0.1)
        for i, (process, place) in enumerate(zip(running, places, strict=True)):
            now = place.value
            if now != seen[i][0]:
                seen[i] = (now, time.monotonic())
            if now < count and now // 1_000 > told:
                told = now // 1_000
                print(f"{told},000 after {seen[i][1] - began:.0f} s", flush=True)
            late = now >= 0 and time.monotonic() - seen[i][1] > patience
            if now < count and (late or not process.is_alive()):
                process.kill()
                process.join()
                lost(now, LATE if late else DIED)
                place.value = min(count, now + processes)
                running[i] = start(place)
    for process in running:
        process.join()


def fuzz(count: int, processes: int, files: dict[str, list[bytes]]) -> list[int]:
    """The outcome of every case."""
    outcomes = FORK.Array("b", count, lock=False)
    part, lost = partial(work, files, count, outcomes), outcomes.__setitem__
    supervised(part, count, processes, patience=SECONDS, lost=lost)
    return list(outcomes)


def through_workers(number: int, files: dict[str, list[bytes]]) -> int:
    """The outcome of a case as the only picture of a folder, read by a worker."""
    from minivim.data import batches, open_source

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{NAME}.png").write_bytes(damaged(number, files)[1])

        def read() -> np.ndarray:
            source = open_source(folder, image_size=16)
            iterator = batches(source, batch_size=1, workers=1)
            try:
                return (next(iterator)["image"][0] * 255).round().astype(np.uint8)
            finally:
                iterator.close()

        return outcome(read)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pictures", description=__doc__
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=0, help="cases that go through")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, default=Path("runs/pictures"))
    chosen = parser.parse_args()
    files, start = seeds(), time.monotonic()
    found = fuzz(chosen.count, chosen.processes, files)
    rows = Counter()
    for number, result in enumerate(found):
        kind, data = damaged(number, files)
        rows[kind, result] += 1
        if result not in (ARRAY, NAMED):
            chosen.keep.mkdir(parents=True, exist_ok=True)
            (chosen.keep / f"{number}.{kind.lower()}").write_bytes(data)
    lines = ([kind, *(rows[kind, o] for o in range(1, 6))] for kind in files)
    print(markdown_table(["format", *OUTCOMES[1:]], lines))
    print(
        f"{chosen.count:,} in {time.monotonic() - start:.0f} s, kept in {chosen.keep}"
    )
    ways = Counter(through_workers(number, files) for number in range(chosen.workers))
    print("through workers:", {OUTCOMES[way]: ways[way] for way in sorted(ways)})
    bad = [o for o in [*found, *ways] if o not in (ARRAY, NAMED)]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
