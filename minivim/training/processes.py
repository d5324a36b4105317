"""Several processes, one run: the first acts for all, and all fail together."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from minivim.errors import UserError

_UNIT = 2048  # bytes: few lengths of messages, hence few compiled programs


def gathered(text: str) -> list[str]:
    """The texts of all processes, in their order; every process must call it."""
    if jax.process_count() == 1:
        return [text]
    own = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(own)))
    units = 1 + int(np.max(lengths)) // _UNIT
    own = np.pad(own, (0, units * _UNIT - len(own)))
    every = np.asarray(multihost_utils.process_allgather(own))
    return [row.tobytes().rstrip(b"\0").decode() for row in every]


def agreed(message: str) -> str:
    """The message of the lowest process that has one; every process must call it."""
    return next(filter(None, gathered(message)), "")


def on_first(act: Callable[[], object]) -> None:
    """`act()` on the first process alone; its `UserError` is raised on every one."""
    message = ""
    if jax.process_index() == 0:
        try:
            act()
        except UserError as error:
            message = str(error)
    if message := agreed(message):
        raise UserError(message)
