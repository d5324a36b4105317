"""What all tests share."""

import gc
from pathlib import Path

import jax
import pytest

MAPS = Path("/proc/self/maps")


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory):
    """Keep compiled programs: several tests train the same tiny model anew."""
    folder = tmp_path_factory.mktemp("compiled")
    jax.config.update("jax_compilation_cache_dir", str(folder))
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
