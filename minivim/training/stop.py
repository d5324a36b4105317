"""Being asked to stop: SIGTERM, which precedes the end of a preempted machine."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils

# Of the step just done: is it the one after which to save and stop?
Asked = Callable[[int], bool]


@contextmanager
def stop_signal() -> Iterator[Asked]:
    """Inside, SIGTERM does not end the process; `asked(step)` says that one came.

    With several processes `jax.distributed` has taken the signal already, and tells all
    of them the same step, whichever of them got it; each must ask after every step. A
    thread other than the main one may not handle signals: there nothing changes.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    came = False

    def note(number: int, frame: object) -> None:
        nonlocal came
        came = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda step: came
    finally:
        # None stands for a handler that was not set from Python.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
