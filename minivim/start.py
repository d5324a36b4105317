"""How the process of a command starts: before anything large is imported."""

import errno
import io
import os
import signal
import sys
from contextlib import suppress


class Shown(io.TextIOWrapper):
    """A standard stream whose reader, or the disk behind it, may go away."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            # What a command was asked for may not be lost without a word.
            if self.fileno() == 1 and error.errno not in (errno.EPIPE, errno.EIO):
                error.filename = "what is printed"
                raise
            return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def ended(words: list[str]) -> str:
    """What is said of a command that was stopped before it had saved anything new."""
    goes_on = words[:1] in (["train"], ["reproduce"]) and words[1:2] != ["probe"]
    return f"stopped; the same command {'goes on' if goes_on else 'begins anew'}"


def interrupted(*_: object) -> None:
    """End the process in one line: `KeyboardInterrupt` gets lost in imports."""
    with suppress(OSError):
        os.write(2, f"minivim: {ended(sys.argv[1:])}\n".encode())
    os._exit(130)


def _hook(ignored: "sys.UnraisableHookArgs") -> None:
    """Not for what orbax's threads meet after a write that failed, which is told."""
    if "Event loop is closed" not in str(ignored.exc_value):
        sys.__unraisablehook__(ignored)


def prepare() -> None:
    """In commands Ctrl-C is one line, and no closed stream or full disk ends them."""
    name, words = sys.argv[0], sys.orig_argv
    module = name == "-m" and words[words.index(name) + 1] == "minivim"
    if not module and (os.path.basename(name) != "minivim" or name not in words):
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupted)
    if blocks := hasattr(signal, "pthread_sigmask"):
        # Until the process that is started anew has its handler, too.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    from minivim.runtime import keep_programs, restart_with_environment

    keep_programs()
    restart_with_environment()
    if blocks:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    sys.unraisablehook = _hook
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # A file that is opened later would get the number.
            os.open(os.devnull, os.O_RDWR)
    for number, stream in ((1, "stdout"), (2, "stderr")):
        raw = open(number, "wb", closefd=False)  # noqa: SIM115
        old = getattr(sys, stream)
        how = [getattr(old, name, None) for name in ("encoding", "errors")]
        setattr(sys, stream, Shown(raw, *how, line_buffering=True))


prepare()
