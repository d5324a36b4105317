"""Several processes, one run: the first acts for all, and all fail together."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from minivim.errors import UserError

_LONGEST = 2048  # bytes of a message, cut beyond


def agreed(message: str) -> str:
    """The message of the lowest process that has one; every process must call it."""
    if jax.process_count() == 1:
        return message
    mine = np.zeros(_LONGEST, np.uint8)
    text = message.encode()[:_LONGEST]
    mine[: len(text)] = np.frombuffer(text, np.uint8)
    every = np.asarray(multihost_utils.process_allgather(mine))
    texts = (row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in every)
    return next(filter(None, texts), "")


def on_first(act: Callable[[], object]) -> None:
    """`act()` on the first process alone; its `UserError` is raised on every one."""
    message = ""
    if jax.process_index() == 0:
        try:
            act()
        except UserError as error:
            if jax.process_count() == 1:
                raise
            message = str(error)
    if message := agreed(message):
        raise UserError(message)
