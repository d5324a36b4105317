"""How a process is started: what has to be set before JAX or glibc look at it."""

from __future__ import annotations

import os
import platform
import sys

from minivim.errors import UserError


def _memory() -> int:
    """Physical memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def environment() -> dict[str, str]:
    """Variables for a process that trains on a CPU; empty where they mean nothing.

    XLA's CPU client gives every temporary back after each step and takes the page
    faults again in the next. These glibc settings, which are read before `main`, let
    the process keep its memory, up to half of what the machine has.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return {}
    keep = _memory() // 2
    return {
        "GLIBC_TUNABLES": ":".join(
            (
                "glibc.malloc.hugetlb=1",
                # Other arenas than the first give what is above 64 MB back always.
                "glibc.malloc.arena_max=1",
                f"glibc.malloc.mmap_threshold={keep // 2}",
                f"glibc.malloc.trim_threshold={keep}",
                f"glibc.malloc.top_pad={min(2**28, keep // 16)}",
            )
        )
    }


def join_processes() -> None:
    """Make this process one of several that train together, before JAX is used.

    On a TPU slice, under Slurm and the like JAX finds the others by itself; elsewhere
    they are named by JAX_COORDINATOR_ADDRESS (host:port of the first),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID. Raises `UserError` where neither is so.
    """
    import jax

    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    address, count, index = (os.environ.get(name, "") for name in names)
    if any((address, count, index)) and not (
        address and count.isdigit() and index.isdigit()
    ):
        raise UserError(
            f"--distributed needs all of {', '.join(names)}, the last two whole "
            "numbers; set them, or none of them on a TPU slice"
        )
    try:
        if address:
            jax.distributed.initialize(address, int(count), int(index))
        else:
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"--distributed cannot join the other processes ({str(error).strip()}); "
            f"set {', '.join(names)}, or leave --distributed out for one process"
        ) from error


def one_thread() -> None:
    """Have XLA compute on one core, whose sums do not depend on how many there are.

    Before JAX is used; `NPROC` is what its CPU client goes by, and one that is set
    stays. On another kind of processor sums may still round otherwise.
    """
    os.environ.setdefault("NPROC", "1")


def restart_with_environment() -> None:
    """Start this command again with `environment()`, once; what is set stays."""
    missing = {k: v for k, v in environment().items() if k not in os.environ}
    if missing and "MINIVIM_RESTARTED" not in os.environ:
        os.environ.update(missing, MINIVIM_RESTARTED="1")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
