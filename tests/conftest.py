"""What all tests share."""

import gc
import os
from pathlib import Path

# XLA compiles several times faster so, which is most of the tests' time. Chapters and
# slow tests run optimized programs; JAX_DISABLE_MOST_OPTIMIZATIONS=0 makes all of them.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

from tests import environment  # noqa: F401  # isort: skip

import jax
import pytest

MAPS = Path("/proc/self/maps")


@pytest.fixture(scope="module")
def few_images():
    """Two images are enough for a distance: a hundred take longer than a test may."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minivim.metrics.judged.FEWEST", 2)
        yield


@pytest.fixture(scope="module", autouse=True)
def room_for_programs():
    """Forget compiled programs in time: each takes some of Linux's 65,530 mappings.

    Where none is left XLA ends the whole process with a segmentation fault.
    """
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()
