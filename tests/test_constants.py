"""The record of changed constants: each was noticed, the control was not."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import constants

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "book" / "results" / "constants.json"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package that may be changed."""
    root = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("weights", "__pycache__")
    for part in ("minivim", "minivim_lab"):
        shutil.copytree(ROOT / part, root / part, ignore=ignored)
    return root


@pytest.mark.parametrize(
    "change", [*constants.CHANGES, constants.CONTROL], ids=lambda c: c.what
)
def test_every_change_can_still_be_made(change, package):
    file = change.file(package)
    before = file.read_text("utf-8")
    change.apply(package)
    after = file.read_text("utf-8")
    file.write_text(before, "utf-8")
    assert after != before
    assert (ROOT / "notebooks" / f"{change.chapter}.ipynb").exists()


def test_a_text_that_is_not_there_is_refused(package):
    gone = constants.Change("x", "08_probe", "probe.py", "no such", "")
    with pytest.raises(ValueError, match=r"probe.py holds 'no such' 0 times"):
        gone.apply(package)


def test_the_summary_is_read():
    output = (
        "FAILED notebooks/06_prior.ipynb::Cell 7\n"
        "FAILED notebooks/06_prior.ipynb::Cell 9\n2 failed, 30 passed in 9.9s\n"
    )
    assert constants.counted(output) == {"failed": 2, "passed": 30, "first": 7}
    assert constants.counted("12 passed in 3s")["first"] is None
    with pytest.raises(RuntimeError, match="not executed:\nno module"):
        constants.counted("no module")


def test_every_chapter_notices_its_change():
    found = json.loads(RECORD.read_text("utf-8"))
    *changes, control = found
    # Else: python -m benchmarks.constants --only CHAPTER
    assert [one["change"] for one in changes] == [*map(asdict, constants.CHANGES)]
    for one in found:
        text = (ROOT / f"notebooks/{one['change']['chapter']}.ipynb").read_text("utf-8")
        cells = [cell["cell_type"] for cell in json.loads(text)["cells"]]
        assert one["failed"] + one["passed"] == cells.count("code")
    assert len(changes) >= 10
    assert len({one["change"]["chapter"] for one in changes}) == 10
    assert all(one["failed"] and one["first"] is not None for one in changes)
    assert control["failed"] == 0 and control["passed"] > 10
    page = RECORD.with_suffix(".md").read_text("utf-8")
    assert page == constants.markdown(found)
