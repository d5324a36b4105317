"""The exceptions and notes that a user is meant to read."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

# What ends a line, steers a terminal or has no coding: names in files hold anything.
CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class UserError(ValueError):
    """A mistake the user can mend: one line, what is wrong and what to do."""

    def __init__(self, message: str):
        super().__init__(one_line(message, 4_000))


class Stopped(Exception):
    """Signal `number` asked the run to stop, and it did: all up to `step` is saved."""

    def __init__(self, step: int, number: int, told: str = ""):
        goes_on = f"stopped at step {step}, saved; the same command goes on"
        super().__init__(told or goes_on)
        self.step, self.number = step, number


@contextmanager
def explained(problem: str, remedy: str, kinds: Any = Exception) -> Iterator[None]:
    """Inside, a library's exception becomes "problem (its message): remedy"."""
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        raise UserError(f"{problem} ({brief(error)}): {remedy}") from error


def one_line(text: str, most: int) -> str:
    """Text with its controls written out, and without its middle where it is long."""
    text = CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)
    half = most // 2 - 3
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def brief(error: BaseException, place: Any = None) -> str:
    """The first line of an error's message, cut to a readable length."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    with suppress(OSError, AttributeError):  # Not every system can tell.
        place = place or os.path.dirname(getattr(error, "filename", None) or "")
        full = os.statvfs(place or ".")
        if os.strerror(errno.ENOSPC) in lines[0] and full.f_files and not full.f_favail:
            return "No room for more files: the inodes of the disk are used up"
    return lines[0] if len(lines[0]) <= 120 else lines[0][:117] + "..."


def note(text: str) -> None:
    """Say something in passing, on stderr."""
    print(f"minivim: note: {text}", file=sys.stderr)
