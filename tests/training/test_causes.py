"""What is said of a disk, a cache or a table is what is wrong with it."""

import errno
import os
import subprocess
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from PIL import Image

from benchmarks import faults
from minivim import data
from minivim.errors import brief
from minivim.files import claim
from tests import tiny
from tests.tiny import message

FULL = OSError(errno.ENOSPC, "No space left on device", "there/a.npz")


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own, where one may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size, files):
        how = ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={files}", "x"]
        done = subprocess.run([*how, str(place)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("nothing may be mounted here")
        return place

    yield mount
    subprocess.run(["umount", str(place)], capture_output=True, check=False)


@pytest.mark.parametrize(
    ("files", "free", "told"),
    [(9, 0, "inodes"), (9, 1, "No space left"), (0, 0, "No space left")],
)
def test_a_disk_that_takes_no_more_files(monkeypatch, files, free, told):
    """Some file systems have no number of files at all."""
    found = SimpleNamespace(f_files=files, f_favail=free)
    monkeypatch.setattr(os, "statvfs", lambda place: found)
    assert told in brief(FULL)
    assert "inodes" not in brief(OSError(errno.EACCES, "Permission denied", "x"))
    assert told in brief(ValueError("RESOURCE: No space left on device"), "there")


def test_a_disk_without_inodes(disk):
    place = disk("1m", 3)
    for number in range(9):
        try:
            (place / str(number)).touch()
        except OSError:
            break
    assert "inodes of the disk are used up" in message(lambda: claim(place / "run"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "files", "told"),
    [("64k", 999, "No space left"), ("64m", 18, "inodes"), ("160k", 999, "No space")],
)
def test_a_run_on_a_full_disk_ends_in_one_line(disk, tmp_path, size, files, told):
    """Whatever orbax's threads had to say."""
    plan = faults.Plan(steps=40, checkpoint_every=10, log_every=10)
    pictures = tiny.pictures(tmp_path / "pictures")
    command = plan.command(pictures, disk(size, files) / "run")
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    found, *lines = done.stderr.splitlines()
    assert done.returncode == 2 and "30 pictures" in found
    assert len(lines) == 1 and told in lines[0], done.stderr


# --- the cache of `datasets` ---------------------------------------------------------


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    cell = {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}
    kinds = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    rows = {"image": [cell] * 30, "label": [0, 1] * 15}
    (tmp_path / "t").mkdir()
    datasets.Dataset.from_dict(rows, kinds).to_parquet(str(tmp_path / "t/a.parquet"))
    return tmp_path / "t"


@pytest.mark.parametrize("how", ["emptied", "cut", "removed"])
def test_a_damaged_cache_is_made_again(table, tmp_path, how):
    before = data.open_source(table)
    [file] = (tmp_path / "cache").rglob("*.arrow")
    raw = file.read_bytes()
    file.unlink() if how == "removed" else os.truncate(
        file, len(raw) // 2 if how == "cut" else 0
    )
    after = data.open_source(table)
    assert after.fingerprint == before.fingerprint
    assert file.stat().st_size == len(raw)


def test_a_record_of_the_cache_that_cannot_be_read(table, tmp_path):
    data.open_source(table)
    [file] = (tmp_path / "cache").rglob("dataset_info.json")
    file.write_text("{")
    told = message(lambda: data.open_source(table))
    assert told.endswith(f"or delete the cache {tmp_path / 'cache'}")


@pytest.mark.parametrize("error", [FULL, PermissionError(13, "denied", "there")])
def test_a_cache_that_cannot_be_written(table, tmp_path, monkeypatch, error):
    def fail(*_, **options):
        raise datasets.exceptions.DatasetGenerationError("An error") from error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    told = message(lambda: data.open_source(table))
    assert error.strerror in told and "An error" not in told
    remedy = f"free the cache {tmp_path / 'cache'}, or set HF_HOME to a folder"
    assert told.endswith(f"{remedy} that can be written")
