"""The exceptions that a user is meant to read."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A mistake the user can mend: one line, what is wrong and what to do."""


class Stopped(Exception):
    """The run was asked to stop and did: all up to `step` is saved.

    `number` is the signal that asked.
    """

    def __init__(self, step: int, number: int = signal.SIGTERM):
        super().__init__(f"stopped at step {step}, saved; the same command goes on")
        self.step, self.number = step, number


@contextmanager
def explained(
    problem: str,
    remedy: str,
    kinds: type[Exception] | tuple[type[Exception], ...] = Exception,
) -> Iterator[None]:
    """Inside, a library's exception becomes "problem (its message): remedy"."""
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        raise UserError(f"{problem} ({brief(error)}): {remedy}") from error


def brief(error: BaseException) -> str:
    """The first line of an error's message, cut to a readable length."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 120 else lines[0][:117] + "..."
