"""Two commands in one folder: the second is refused, and nothing is mixed."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from minivim import data
from minivim.errors import UserError
from minivim.files import claim
from minivim.training import Workdir
from minivim_lab import reproduce
from tests.tiny import message

CARD = data.CodesCard(
    tokenizer="x", tokenizer_hash="y", num_codes=4, grid=2, data="d", fingerprint="f"
)
HOLD = """
import sys, time
from pathlib import Path
from tests.training import test_lock as here

def hold(*_):
    print("held", flush=True)
    time.sleep(60)
    yield

here.reproduce.optimiser.main = lambda options: next(hold())
here.CLAIMS[sys.argv[1]](Path(sys.argv[2]), hold)
"""


def workdir(folder, work):
    with Workdir(folder, {"a": 1}):
        list(work())


def codes(folder, work):
    def rows():
        yield {"codes": np.zeros((3, 4), np.int32), "label": np.zeros(3, np.int32)}
        yield from work()

    data.write_codes(folder / "codes", {"train": (rows(), ("a", "b"))}, CARD)


def study(folder, work):
    reproduce.main("optimiser", reproduce.Options(out=folder))


CLAIMS = {"workdir": workdir, "codes": codes, "study": study}


@pytest.mark.parametrize("kind", CLAIMS)
def test_a_killed_command_frees_what_another_one_was_refused(
    tmp_path, kind, monkeypatch
):
    monkeypatch.setattr(reproduce.optimiser, "main", lambda options: "")
    command = [sys.executable, "-c", HOLD, kind, str(tmp_path)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment
    ) as held:
        assert held.stdout.readline() == "held\n"
        for _ in range(3):
            told = message(lambda: CLAIMS[kind](tmp_path, list))
            assert "is in use by another command; wait for it or choose" in told
        assert not (tmp_path / "codes").exists()
        held.send_signal(signal.SIGKILL)
    CLAIMS[kind](tmp_path, list)
    if kind == "codes":  # What the kill left is gone.
        assert {path.name for path in tmp_path.iterdir()} == {"codes"}
        assert len(data.open_codes(tmp_path / "codes")) == 3


def test_another_identity_is_not_written_by_one_that_was_refused(tmp_path):
    with Workdir(tmp_path, {"a": 1}):
        before = (tmp_path / "run.json").read_bytes()
        assert "in use by another" in message(lambda: Workdir(tmp_path, {"a": 2}))
        assert (tmp_path / "run.json").read_bytes() == before
    Workdir(tmp_path, {"a": 1}).close()


def test_one_that_was_refused_holds_nothing(tmp_path):
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="holds another run") as kept:
        Workdir(tmp_path, {"a": 1})
    (tmp_path / "run.json").write_text('{"a": 1}')
    Workdir(tmp_path, {"a": 1}).close()
    assert kept


def test_a_folder_that_is_removed_meanwhile_is_not_claimed(tmp_path, monkeypatch):
    """As by `write_codes`, once its folder has its name."""
    import fcntl

    real = fcntl.flock

    def late(file, how):
        shutil.rmtree(tmp_path / "a")
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert "in use by another command" in message(lambda: claim(tmp_path / "a"))


@pytest.mark.parametrize("number", [0, 1])
def test_codes_that_fail_leave_nothing(tmp_path, number):
    def broken():
        raise OSError("no disk")
        yield

    before = list if number else broken
    with pytest.raises(OSError, match="no disk"):
        codes(tmp_path, broken)
    with contextlib.suppress(OSError):
        codes(tmp_path, before)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == ({"codes"} if number else set())
