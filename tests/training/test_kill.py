"""A training command that is killed with -9 and started again, as a user would."""

import os
import signal
import subprocess
import sys
import time

from minivim.training import read_metrics
from tests import tiny

STEPS, CHECKPOINT = 1000, 100
SETTINGS = [
    *tiny.TOKENIZER_SETTINGS,
    f"steps={STEPS}", f"checkpoint_every={CHECKPOINT}", "log_every=20",
    "eval_every=500",
]  # fmt: skip


def command(folder, workdir):
    return [
        sys.executable, "-m", "minivim", "train", "tokenizer", "shapes", "--quiet",
        "--data", str(folder), "--workdir", str(workdir), "--set", *SETTINGS,
    ]  # fmt: skip


def last_step(workdir) -> int:
    if not (workdir / "metrics.jsonl").exists():
        return 0
    rows = read_metrics(workdir)
    return rows[-1]["step"] if rows else 0


def metrics(workdir):
    return [
        {k: v for k, v in row.items() if k != "steps_per_second"}
        for row in read_metrics(workdir)
    ]


def test_killed_and_restarted_equals_undisturbed(tmp_path):
    folder = tiny.pictures(tmp_path / "pictures")
    quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "NO_COLOR": "1"}}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(command(folder, killed), **quiet)
    try:
        deadline = time.monotonic() + 300
        while last_step(killed) < 2 * CHECKPOINT + 1:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "model.safetensors").exists()
    stopped_at = last_step(killed)
    assert stopped_at < STEPS
    for workdir in (killed, whole):
        done = subprocess.run(
            command(folder, workdir), check=False, stderr=subprocess.PIPE, text=True,
            **quiet,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert metrics(whole)[-1]["step"] == STEPS
    assert metrics(killed) == metrics(whole)
    one, other = (w / "model.safetensors" for w in (killed, whole))
    assert one.read_bytes() == other.read_bytes()
