"""How a process is started: what has to be set before JAX or glibc look at it."""

from __future__ import annotations

import os
import platform
import sys


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


def restart_with_environment() -> None:
    """Start this command again with `environment()`, once; what is set stays."""
    missing = {k: v for k, v in environment().items() if k not in os.environ}
    if missing and "MINIVIM_RESTARTED" not in os.environ:
        os.environ.update(missing, MINIVIM_RESTARTED="1")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
