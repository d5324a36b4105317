"""Files that are written whole or not at all."""

import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from minivim.errors import UserError, explained, one_line


def regular(path: str | Path) -> int:
    """The size of a file; `ValueError` for pipes and devices, which may have no end."""
    info = os.stat(path)
    if not stat.S_ISREG(info.st_mode):
        raise ValueError("it is no regular file")
    return info.st_size


def inside(path: str, *roots: str | Path) -> str:
    """The real path of a file, from the first root; `ValueError` unless below one.

    What a snapshot of the hub links to lies below it.
    """
    real = [Path(os.path.realpath(root)) for root in roots]
    above = [place for root in real for place in root.parents]
    real += [place.parent / "blobs" for place in above if place.name == "snapshots"]
    odd = "\0" in path or "://" in path
    whole = "" if odd else os.path.realpath(os.path.join(roots[0], path))
    if not any(Path(whole).is_relative_to(root) for root in real):
        raise ValueError(f"names {one_line(path, 120)}, which is outside of {roots[0]}")
    return whole


def read_json(path: str | Path, most: int = 1) -> dict[str, Any]:
    """A dictionary of `most` MB; raises `ValueError` or `OSError` for all else."""
    if regular(path) > most * 2**20:
        raise ValueError(f"it has more than {most} MB")
    try:
        value = json.loads(Path(path).read_text())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("it holds no dictionary")
    return value


def claim(folder: Path) -> IO[str]:
    """Make a folder and keep other commands out until the file is closed.

    Raises `UserError` where another one has it or nothing can be written.
    """
    remedy = "choose another place or free it"
    with explained(f"cannot write to {folder}", remedy, OSError):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")  # noqa: SIM115
        print("of the command that writes here", file=file, flush=True)
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(file.fileno()).st_nlink:  # The other one has removed it.
            raise BlockingIOError
    except BlockingIOError as error:
        file.close()
        told = f"{folder} is in use by another command"
        raise UserError(f"{told}; wait for it or choose another place") from error
    except (ImportError, OSError):
        pass  # Neither Windows nor every network's file system has such locks.
    return file


def beside(path: str | Path) -> Path:
    """Where a file is written before it takes its place; a link stays a link."""
    file = Path(path).resolve()
    return file.with_name(f"{file.name}.part")


@contextmanager
def whole(*paths: Path) -> Iterator[list[Path]]:
    """Files to write to, which replace `paths` when all are complete, else vanish."""
    for path in filter(Path.is_dir, paths):
        raise UserError(f"{path} is a folder; remove it or choose another place")
    parts = [beside(path) for path in paths]
    try:
        yield parts
        for part, path in zip(parts, paths, strict=True):
            os.replace(part, path.resolve())
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to make, which becomes `path` when all is in it, else vanishes.

    It lies in one for what else is needed. A killed command leaves that, and the next
    one writes over it. Raises `UserError` unless `path` is free or an empty folder.
    """
    told, path = str(path), path.resolve()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{told} is there already: remove it or choose another place")
    if path == Path.cwd() or path.is_mount():
        raise UserError(f"{told} cannot be replaced; name a new folder in it")
    part = path.with_name(f".{path.name}.part")
    with claim(part):
        try:
            shutil.rmtree(part / "out", ignore_errors=True)
            yield part / "out"
            if path.is_dir():
                path.rmdir()  # Windows does not write over it.
            os.replace(part / "out", path)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def write(path: str | Path, content: bytes | str) -> None:
    """Write one file, whole or not at all."""
    with whole(Path(path)) as [part]:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    write(path, json.dumps(value, indent=1) + "\n")
