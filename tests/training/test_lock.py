"""Two commands in one workdir: the second is refused, and nothing is mixed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from minivim.errors import UserError
from minivim.training import Workdir

HOLD = """
import sys, time
from minivim.training import Workdir
with Workdir(sys.argv[1], {"a": 1}):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_workdir_has_one_command_at_a_time(tmp_path):
    told = pytest.raises(UserError, match="in use by another command; wait for it")
    with Workdir(tmp_path, {"a": 1}), told:
        Workdir(tmp_path, {"a": 1})
    Workdir(tmp_path, {"a": 1}).close()


def test_one_that_was_refused_holds_nothing(tmp_path):
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="holds another run") as kept:
        Workdir(tmp_path, {"a": 1})
    (tmp_path / "run.json").write_text('{"a": 1}')
    Workdir(tmp_path, {"a": 1}).close()
    assert kept


def test_a_killed_command_frees_its_workdir(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment
    ) as held:
        assert held.stdout.readline() == "held\n"
        before = (tmp_path / "run.json").read_bytes()
        with pytest.raises(UserError, match="in use by another command"):
            Workdir(tmp_path, {"a": 2})
        assert (tmp_path / "run.json").read_bytes() == before
        held.send_signal(signal.SIGKILL)
    time.sleep(0.1)
    Workdir(tmp_path, {"a": 1}).close()
