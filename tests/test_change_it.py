"""The tasks of the page "Change it": every solution is a script that runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "book" / "change_it.md").read_text("utf-8")
START, *TASKS = re.split(r"^## ", PAGE, flags=re.M)
SCRIPT = re.compile(r"```python\n(.*?)```", re.S)
# All in one process, but for what has to be set before JAX is imported.
RUN = "import runpy, sys; [runpy.run_path(name) for name in sys.argv[1:]]"
ALONE = "os.environ["


@pytest.fixture
def run(tmp_path):
    """Write solutions beside `small.py` and run them; returns what they print."""

    def run(solutions):
        [small] = SCRIPT.findall(START)
        (tmp_path / "small.py").write_text(small)
        names = [f"task{number}.py" for number in range(len(solutions))]
        for name, text in zip(names, solutions, strict=True):
            (tmp_path / name).write_text(text)
        words = [sys.executable, "-c", RUN, *names]
        env = os.environ | {"PYTHONPATH": f".{os.pathsep}{ROOT}"}
        how = {"cwd": tmp_path, "env": env | {"JAX_PLATFORMS": "cpu"}}
        done = subprocess.run(words, capture_output=True, text=True, **how)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def solutions():
    for task in TASKS:
        [text] = SCRIPT.findall(task)
        yield text


def test_every_task_has_its_parts():
    assert len(TASKS) == 5
    for task in TASKS:
        _, goal, rest = task.partition("**Task.** ")
        hints, solution, text = rest.partition("<details><summary>Solution</summary>")
        assert goal and solution and "**Where to look.** " in hints
        assert "assert " in text and text.rstrip().endswith("</details>")


def test_the_solutions_run(run):
    told = run([text for text in solutions() if ALONE not in text])
    assert "the same codes again" in told and "the same batches" in told
    assert "found: beta weighs the codebook's term" in told


@pytest.mark.slow  # tests/sharding compares one device with eight
def test_the_solution_for_eight_devices_runs(run):
    told = run([text for text in solutions() if ALONE in text])
    assert "matrix (48, 32) of which each device holds (12, 32)" in told
    assert "codebook (256, 8) of which each device holds (256, 8)" in told
