"""`python -m benchmarks.takeaway --count 2000`: samples as files, their time and size.

Draws a quarter of the samples, a half and all of them, as a folder of PNGs and as .npz,
each by the command in a process of its own, and reads them back as other programs do:
NumPy, and PIL over the sorted files of a folder, as pytorch-fid reads one. What is
written is removed, unless `--keep` names a folder. Resident memory is noted every two
seconds. It should not grow with the count once there are several parts: `later` is by
how much the second half of a run goes beyond the first. What a run has from the start
depends on whether its programs were compiled or come from the cache of them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

EVERY = 2.0  # seconds between two looks at the memory


def measured(command: list[str]) -> tuple[float, float, list[float]]:
    """Seconds of a command, those of processors, and resident MB over time."""
    began, resident = time.perf_counter(), []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while True:
        with contextlib.suppress(OSError, IndexError):
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            resident.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        time.sleep(EVERY)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"failed: {' '.join(command)}")
    seconds = time.perf_counter() - began
    return seconds, usage.ru_utime + usage.ru_stime, [x for x in resident if x]


def size_of(path: Path) -> float:
    """MB of a file, or of all in a folder."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) / 1e6


def pictures(path: Path) -> Iterator[np.ndarray]:
    """What is in a folder of PNGs, sorted by name, or in an .npz; uint8 [H, W, 3]."""
    if not path.is_dir():
        with np.load(path) as archive:
            yield from archive["arr_0"]
        return
    for file in sorted(path.glob("*.png")):
        with Image.open(file) as image:
            yield np.asarray(image.convert("RGB"))


def classes(path: Path) -> np.ndarray:
    """How many pictures there are of each class."""
    if not path.is_dir():
        with np.load(path) as archive:
            return np.unique(archive["arr_1"], return_counts=True)[1]
    table = np.loadtxt(path / "index.csv", str, delimiter=",", skiprows=1)
    return np.unique(table[:, 1], return_counts=True)[1]


def check(path: Path, *, count: int, labels: int) -> None:
    """Fail unless all pictures are there, of one size, as many of each class."""
    found = 0
    for picture in pictures(path):
        assert picture.dtype == np.uint8 and picture.shape[2] == 3, picture.shape
        found += 1
    of_each = classes(path).tolist()
    assert found == count and of_each == [count // labels] * labels, (found, of_each)


def main() -> None:
    """Print a line for each form and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="of all labels")
    parser.add_argument("--once", action="store_true", help="no quarter, no half")
    parser.add_argument("--prior", default="cifar10/prior")
    parser.add_argument("--labels", type=int, default=10, help="that the prior has")
    parser.add_argument("--keep", help="a folder that what is written stays in")
    options = parser.parse_args()
    print("form     count  seconds  per 1,000  processor  peak MB  later  MB written")
    for suffix in ("/", ".npz"):
        for parts in (1,) if options.once else (4, 2, 1):
            count = options.count // parts // options.labels * options.labels
            with tempfile.TemporaryDirectory() as folder:
                out = f"{options.keep or folder}/samples-{count}{suffix}"
                command = [sys.executable, "-m", "minivim", "sample", options.prior]
                command += ["--count", str(count // options.labels), "--out", out]
                seconds, processor, resident = measured([*command, "--quiet"])
                check(Path(out), count=count, labels=options.labels)
                half = len(resident) // 2
                later = max(resident[half:]) - max(resident[: half + 1])
                row = f"{seconds:7.0f}  {seconds / count * 1000:9.1f}"
                row += f"  {processor / count * 1000:9.1f}  {max(resident):7.0f}"
                form = "folder" if suffix == "/" else suffix
                size = size_of(Path(out))
                print(f"{form:6}  {count:6,}  {row}  {later:5.0f}  {size:10.1f}")


if __name__ == "__main__":
    main()
