"""Files that are written whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def beside(path: str | Path) -> Path:
    """Where a file is written before it takes its place; a link stays a link."""
    file = Path(path).resolve()
    return file.with_name(f"{file.name}.part")


@contextmanager
def whole(*paths: Path) -> Iterator[list[Path]]:
    """Files to write to, which replace `paths` when all are complete, else vanish."""
    parts = [beside(path) for path in paths]
    try:
        yield parts
        for part, path in zip(parts, paths, strict=True):
            os.replace(part, path.resolve())
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def write(path: str | Path, content: bytes | str) -> None:
    """Write one file, whole or not at all."""
    with whole(Path(path)) as [part]:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    write(path, json.dumps(value, indent=1) + "\n")
