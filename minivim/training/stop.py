"""Stopping on SIGTERM, which precedes a machine's end, and on Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils

# The signal for which to save and stop after the given step, or 0.
Asked = Callable[[int], int]


@contextmanager
def stop_signal(active: bool = True) -> Iterator[Asked]:
    """Inside, SIGTERM and the first SIGINT are noted; `asked(step)` says which came.

    The second SIGINT raises `KeyboardInterrupt` at once, and so does leaving after one
    that nobody asked for, as after the last step. SIGINT is taken only from Python's
    own handler. With several processes `jax.distributed` has taken SIGTERM already and
    tells all of them the same step; each must ask after every step. Nothing changes
    unless `active`, nor in any but the main thread, which alone may handle signals.
    """
    if active and jax.process_count() > 1:
        reached = multihost_utils.reached_preemption_sync_point
        yield lambda step: signal.SIGTERM if reached(step) else 0
        return
    if not active or threading.current_thread() is not threading.main_thread():
        yield lambda step: 0
        return
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        if number == signal.SIGINT in came:
            raise KeyboardInterrupt
        came.append(number)

    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    taken = (signal.SIGTERM, signal.SIGINT) if ours else (signal.SIGTERM,)
    before = {number: signal.signal(number, note) for number in taken}
    try:
        yield lambda step: came[0] if came else 0
    finally:
        for number, handler in before.items():
            # None stands for a handler that was not set from Python.
            signal.signal(number, handler or signal.SIG_DFL)
    if signal.SIGINT in came:
        raise KeyboardInterrupt
