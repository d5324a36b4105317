"""`python -m benchmarks.takeaway --count 2000`: samples as files, their time and size.

Draws a quarter of the samples, a half and all of them, as a folder of PNGs and as .npz,
each by the command in a process of its own. What is written is removed. Memory, the
peak of resident pages, should not grow with the count once there are several parts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds of a command, and its peak memory in MB (VmHWM of `/proc`)."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def size_of(path: Path) -> float:
    """MB of a file, or of all in a folder."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) / 1e6


def main() -> None:
    """Print a line for each form and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="of all labels")
    parser.add_argument("--prior", default="cifar10/prior")
    parser.add_argument("--labels", type=int, default=10, help="that the prior has")
    options = parser.parse_args()
    print("form     count  seconds  per second  peak MB  MB written")
    for suffix in ("/", ".npz"):
        for count in (options.count // 4, options.count // 2, options.count):
            with tempfile.TemporaryDirectory() as folder:
                out = f"{folder}/samples{suffix}"
                command = [sys.executable, "-m", "minivim", "sample", options.prior]
                command += ["--count", str(count // options.labels), "--out", out]
                seconds, peak = measured([*command, "--quiet"])
                row = f"{seconds:7.0f}  {count / seconds:10.1f}  {peak:7.0f}"
                form = "folder" if suffix == "/" else suffix
                print(f"{form:6}  {count:6,}  {row}  {size_of(Path(out)):10.1f}")


if __name__ == "__main__":
    main()
