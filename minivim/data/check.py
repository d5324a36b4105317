"""All pictures of a source looked at once, and the broken ones left out or named."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from minivim.data.base import Source, Subset
from minivim.data.pixels import decode, header
from minivim.errors import UserError

NAMED = 20  # broken pictures in an error; more are counted
LOOKED_AT = 64  # pictures whose brightest pixel is looked for
DARK = 32  # below an eighth of the range
CHUNK = 256


def checked(
    source: Source, *, headers: bool = False, skip: bool = False, quiet: bool = True
) -> Source:
    """The source, less its unreadable pictures with `skip`, with remarks added.

    Decodes every picture, or reads `headers` alone. Raises one `UserError` that names
    all unreadable pictures, unless they are skipped or none is left.
    """
    if not source.unchecked:
        return source  # Arrays, pictures that somebody else reads, or known ones.
    bad, several = dict[int, tuple[str, str]](), 0
    for row, (pages, name, problem) in enumerate(_looked_at(source, headers, quiet)):
        several += pages
        if problem:
            bad[row] = name, problem
    if bad and (not skip or len(bad) == len(source)):
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        problems = [problem.rpartition(": ")[0] for _, problem in bad.values()]
        count = f"{len(bad):,} of {len(source):,} pictures of {source.description}"
        told = f"{count} cannot be read: {'; '.join(problems[:NAMED])}{more}"
        remedy = "repair or remove them, or leave them out with --skip-unreadable"
        raise UserError(f"{told}: {remedy}")
    notes = []
    if several:
        notes.append(f"{several:,} with several frames or pages: the first is taken")
    if bad:
        rows = np.delete(np.arange(len(source)), list(bad))
        names = tuple(name for name, _ in bad.values())
        shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        notes.append(f"left out as unreadable: {len(bad):,} ({shown})")
        source = Subset(source, rows)
        source.unreadable = names
    spread = np.unique(np.linspace(0, len(source) - 1, LOOKED_AT).astype(int))
    with suppress(UserError):
        brightest = int(source.take(spread)["image"].max())
        if brightest < DARK:
            told = f"the brightest pixel of {len(spread)} pictures is"
            notes.append(f"{told} {brightest} of 255: are these all their bits?")
    source.summary += "".join(f"; {note}" for note in notes)
    source.unchecked = False
    return source


def _looked_at(source: Any, headers: bool, quiet: bool) -> Iterator[tuple]:
    """Of every row: whether it has several pages, its name, what is wrong with it."""

    def one(row: int) -> tuple[bool, str, str]:
        name = f"row {row}"  # where a cell is empty or leads out of the folder
        try:
            ((file, where),) = source.files(np.array([row]))
            name = where.removeprefix(f"{source.root}{os.sep}")
            several = header(file, where)
            if not headers:
                getattr(file, "seek", int)(0)
                decode(file, where, image_size=8, channels=3)
            return several, name, ""
        except UserError as error:
            return False, name, str(error)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        bar: Any = {"desc": "check", "unit": "part", "disable": quiet, "delay": 1}
        for first in tqdm(range(0, len(source), CHUNK), **bar):
            yield from pool.map(one, range(first, min(first + CHUNK, len(source))))
