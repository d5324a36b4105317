"""What all tests share."""

import gc
import os
from pathlib import Path

# XLA compiles several times faster so, which is most of the tests' time. Chapters and
# slow tests run optimized programs; JAX_DISABLE_MOST_OPTIMIZATIONS=0 makes all of them.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest

MAPS = Path("/proc/self/maps")


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory):
    """Keep compiled programs: several tests train the same tiny model anew.

    The workers of pytest-xdist share them. JAX_COMPILATION_CACHE_DIR keeps them longer.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        base = tmp_path_factory.getbasetemp()
        base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
        jax.config.update("jax_compilation_cache_dir", str(base / "compiled"))
        # Only a cache of limited size is locked while one of its files is written.
        jax.config.update("jax_compilation_cache_max_size", 2**33)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    yield
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="module", autouse=True)
def room_for_programs():
    """Forget compiled programs in time: each takes some of Linux's 65,530 mappings.

    Where none is left XLA ends the whole process with a segmentation fault.
    """
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()
