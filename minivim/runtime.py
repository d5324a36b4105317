"""How a process is started: what has to be set before JAX or glibc look at it."""

import os
import platform
import sys
from contextlib import suppress
from typing import Any

from minivim.errors import explained


def environment() -> dict[str, str]:
    """Variables for a process that trains on a CPU; none without glibc.

    XLA's CPU client frees all temporary memory after each step, and the next step takes
    the page faults again. With these settings, which are read before `main`, a process
    keeps its memory, up to half of what the machine has.
    """
    if platform.libc_ver()[0] != "glibc":
        return {}
    keep = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    settings = {"hugetlb": 1, "mmap_threshold": keep // 2, "trim_threshold": keep}
    # Arenas other than the first always return blocks above 64 MB.
    settings |= {"arena_max": 1, "top_pad": min(2**28, keep // 16)}
    tunables = [f"glibc.malloc.{name}={value}" for name, value in settings.items()]
    return {"GLIBC_TUNABLES": ":".join(tunables)}


def keep_programs() -> None:
    """Have JAX keep compiled programs for the next command, up to 1 GB of them.

    Does nothing if JAX_COMPILATION_CACHE_DIR is set (empty: keep none) or the folder
    cannot be written. To be called before JAX is imported.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(caches, "minivim", "programs")
    with suppress(OSError):
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            os.makedirs(folder, exist_ok=True)
            if os.access(folder, os.W_OK):
                os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
                os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**30))


def join_processes() -> None:
    """Make this process one of several that train together, before JAX is used.

    On a TPU slice, under Slurm and the like JAX finds the others by itself; elsewhere
    they are named by JAX_COORDINATOR_ADDRESS (host:port of the first),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID. Raises `UserError` where neither is so.
    """
    import jax

    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = [os.environ.get(name, "") for name in names]
    remedy = f"set all of {', '.join(names)}, the last two whole numbers, or none on"
    remedy += " a TPU slice; or leave --distributed out for one process"
    problem = "--distributed cannot join the other processes"
    with explained(problem, remedy, (RuntimeError, ValueError)):
        named: Any = (given[0], *map(int, given[1:])) if any(given) else ()
        jax.distributed.initialize(*named)


def settle(*, alone: bool) -> None:
    """What a command needs of Matplotlib and JAX, whatever the environment says.

    Raises `UserError` where JAX has no device of the platform that is asked for, if the
    process trains `alone`; others may not look before they have met.
    """
    import jax

    os.environ.pop("MPLBACKEND", None)
    jax.config.update("jax_transfer_guard", "allow")
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    if (wanted := os.environ.get("JAX_PLATFORMS", "cpu")) != "cpu" and alone:
        problem = f"JAX has no device for JAX_PLATFORMS={wanted}"
        with explained(problem, "unset it, or install JAX for that platform"):
            jax.devices()


def one_thread() -> None:
    """Have XLA compute on one core, whose sums do not depend on the number of cores.

    To be called before JAX, whose CPU client reads `NPROC`, is used.
    """
    os.environ.setdefault("NPROC", "1")


def restart_with_environment() -> None:
    """Start this command again with `environment()`, once; what is set stays."""
    missing = {k: v for k, v in environment().items() if k not in os.environ}
    if missing and "MINIVIM_RESTARTED" not in os.environ:
        os.environ.update(missing, MINIVIM_RESTARTED="1")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
