"""Training commands that are killed and started again, as a user would.

`python -m benchmarks.faults` is the long form, with 20 kills.
"""

import os
import signal
import subprocess

import pytest

from benchmarks import faults

PLAN = faults.Plan(steps=200, checkpoint_every=20, kills=1, seed=3)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A kill during a write; compiled programs are kept between starts, which spares
    half of the time."""
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        yield folder, faults.measure(PLAN, folder)


def test_killed_and_restarted_equals_undisturbed(ended):
    folder, found = ended
    [kill] = (faults.Kill(**kill) for kill in found["kills"])
    assert kill.writing
    assert 0 < kill.step < PLAN.steps and kill.checkpoint < PLAN.steps
    assert found["weights_identical"] and found["rows_identical"]
    assert found["rows"] == 20
    left = {path.name for path in (folder / "killed" / "checkpoints").iterdir()}
    assert left == {"180", "200"}


@pytest.mark.slow  # tests/training/test_stop.py does it in one process
def test_sigterm_saves_and_the_same_command_goes_on(ended):
    folder, _ = ended
    workdir = folder / "stopped"
    command = PLAN.command(folder / "pictures", workdir)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for _ in faults.polls(process):
            if faults.last_step(workdir) >= 50:
                break
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=faults.PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 143, said
    step = faults.newest(workdir)
    assert 50 <= step < PLAN.steps
    found, last = said.splitlines()
    assert "27 train, 3 held out to test" in found
    assert last == f"minivim: stopped at step {step}, saved; the same command goes on"
    assert not (workdir / "model.safetensors").exists()
    faults.finish(command)
    assert faults.outcome(workdir) == faults.outcome(folder / "whole")


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="halts a process as POSIX does")
def test_a_process_goes_on_unless_it_halted_in_a_write(tmp_path):
    process = subprocess.Popen(["sleep", "60"])
    try:
        assert not faults.stopped_while_writing(process, tmp_path)
        (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
        assert faults.stopped_while_writing(process, tmp_path)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
