"""What tests, chapters and the processes that they start find in their environment.

Compiled programs are kept in `.cache`, for most of the time goes into compiling: all
processes share them, and so does the next run. A program is found again by its text,
the compiler's version and the processor.
"""

import os
import shutil
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".cache" / "compiled"
LIMIT = 4e9  # bytes; jax's own limit reads the whole folder at every write
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(FOLDER))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# A thread for each worker: more of them wait for each other on programs this small.
os.environ.setdefault("NPROC", "1")
used = sum(file.stat().st_size for file in FOLDER.glob("*"))
if used > LIMIT and "PYTEST_XDIST_WORKER" not in os.environ:
    shutil.rmtree(FOLDER)
