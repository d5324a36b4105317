"""Several processes, one run: the first acts for all, and all fail or stop together."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from minivim.errors import Stopped, UserError
from minivim.start import interrupted

_UNIT = 2048  # bytes: few lengths of messages, hence few compiled programs
# The signal for which to save and stop after the given step, or 0.
Asked = Callable[[int], int]


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


@contextmanager
def stop_signal() -> Iterator[Asked]:
    """Inside, SIGTERM, SIGHUP and the first SIGINT are noted; `asked` says which came.

    The second SIGINT raises `KeyboardInterrupt` at once, and so does leaving after one
    that nobody asked for. SIGINT is taken only from Python's own handler or the
    command's. With several processes `jax.distributed` has taken SIGTERM and tells all
    the same step; each must ask after every step. Only in the main thread.
    """
    if jax.process_count() > 1:
        reached = multihost_utils.reached_preemption_sync_point
        yield lambda step: signal.SIGTERM if reached(step) else 0
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: 0
        return
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        if number == signal.SIGINT in came:
            raise KeyboardInterrupt
        came.append(number)

    ours = signal.getsignal(signal.SIGINT) in (signal.default_int_handler, interrupted)
    taken = [signal.SIGTERM, *([signal.SIGINT] if ours else [])]
    # Not under nohup, which ignores it.
    closed = getattr(signal, "SIGHUP", None)
    taken += [closed] if closed and signal.getsignal(closed) == signal.SIG_DFL else []
    before = {number: signal.signal(number, note) for number in taken}
    try:
        yield lambda step: came[0] if came else 0
    finally:
        for number, handler in before.items():
            # None stands for a handler that was not set from Python.
            signal.signal(number, handler or signal.SIG_DFL)
    if signal.SIGINT in came:
        raise KeyboardInterrupt


@contextmanager
def nothing_kept(place: object) -> Iterator[Callable[[], None]]:
    """Inside, what is yielded raises `Stopped` after a signal to stop has come."""
    with stop_signal() as asked:

        def go_on() -> None:
            if number := asked(0):
                told = f"stopped, nothing is kept of {place}"
                raise Stopped(0, number, f"{told}; the same command begins anew")

        yield go_on
