"""Ctrl-C at any moment is one line; what happens to a terminal does not end a run."""

import errno
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import faults
from minivim.start import Shown
from tests import tiny

STOPPED = "minivim: stopped; the same command {}\n"
PLAN = faults.Plan(steps=20, checkpoint_every=10, log_every=5)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return tiny.pictures(tmp_path_factory.mktemp("data") / "pictures")


def commands(pictures, out):
    run = [sys.executable, "-m", "minivim"]
    shapes = ["--data", "shapes", "--out", str(out)]
    picture = ["--out", str(out / "a.png")]
    return {
        "train": faults.Plan(steps=10**6).command(pictures, out / "run"),
        "encode": [*run, "encode", "shapes/tokenizer", *shapes],
        "sample": [*run, "sample", "shapes/prior", *picture],
        "evaluate": [*run, "evaluate", "shapes/tokenizer"],
        "recipes": [*run, "recipes"],
    }


# Nothing can be done before Python has read its own modules, 0.1 s where it is quick.
MOMENTS = [
    *(("train", after) for after in (0.3, 1.3, 2.7)),
    ("encode", 2.0),
    *(
        pytest.param(name, after, marks=pytest.mark.slow)
        # The others may be at their end by then, where Python itself takes over.
        for name in ("train", "encode")
        for after in (0.2, 0.4, 0.7, 1.0, 1.6, 2.0, 2.3, 2.6, 3.0, 4.0)
    ),
]


def heard():
    """In a new process: Ctrl-C counts, also where the tests run in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("name", "after"), MOMENTS)
def test_ctrl_c_before_the_work_begins(pictures, tmp_path, name, after):
    command = commands(pictures, tmp_path / "out")[name]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=heard,
    ) as process:  # fmt: skip
        try:
            time.sleep(after)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    if name == "recipes" and process.returncode == 0:
        pytest.skip("it was quicker")
    if after < 1 and "KeyboardInterrupt" in said and "minivim import data" not in said:
        pytest.skip("Python was reading its own modules")
    assert process.returncode == 130, said
    # A bar may have begun, and what was found been told.
    found = ("held out to test", "%|")
    lines = [
        t for t in said.splitlines(True) if t.strip() and not any(f in t for f in found)
    ]
    assert len(lines) == 1, said
    ends = "goes on" if name == "train" else "begins anew"
    assert lines[0] == STOPPED.format(ends) or f"the same command {ends}" in lines[0]
    assert "stopped" in lines[0]
    assert not list(tmp_path.rglob("*.part"))


def test_ctrl_c_that_is_ignored_stays_ignored(tmp_path):
    """As in the background of a script."""
    command = ["sh", "-c", f"trap '' INT; exec {sys.executable} -m minivim recipes"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert "tokenizer" in process.communicate(timeout=60)[0]
    assert process.returncode == 0


# A shell's redirections, the exit code, and what is said of it.
STREAMS = {
    ">&- 2>&- <&-": 0,
    "2>/dev/full": 0,
    "2>&1 | head -c 1": 0,
    "2>&-": 0,
    ">&-": 0,
    ">/dev/full 2>&-": 2,
    "| true": 0,
}
SLOWER = [pytest.param(s, marks=pytest.mark.slow) for s in [*STREAMS][3:]]


@pytest.mark.parametrize("streams", [*[*STREAMS][:3], *SLOWER])
def test_a_stream_that_fails_ends_no_command(tmp_path, streams):
    first, *pipe = streams.split("|")
    rc = tmp_path / "rc"
    command = f"{{ {sys.executable} -m minivim recipes {first}; echo $? >{rc}; }}"
    command += "".join(f" |{part}" for part in pipe)
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=False
    )
    assert int(rc.read_text()) == STREAMS[streams]
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("streams", STREAMS)
def test_a_stream_that_fails_ends_no_run(pictures, tmp_path, streams):
    whole = tmp_path.parent / "whole"
    if not whole.exists():
        faults.finish(PLAN.command(pictures, whole))
    words = PLAN.command(pictures, tmp_path / "run")
    words.remove("--quiet")
    rc, (first, *pipe) = tmp_path / "rc", streams.split("|")
    command = f"{{ {' '.join(words)} {first}; echo $? >{rc}; }}"
    command += "".join(f" |{part}" for part in pipe)
    subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    # With a full disk behind the figures that are printed in the end.
    assert int(rc.read_text()) == STREAMS[streams]
    assert faults.outcome(tmp_path / "run") == faults.outcome(whole)


def test_a_full_disk_behind_what_is_printed_is_told():
    command = f"{sys.executable} -m minivim recipes >/dev/full"
    done = subprocess.run(
        ["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False
    )
    [line] = done.stderr.splitlines()
    assert "No space left on device: 'what is printed'); free the disk" in line
    assert done.returncode == 2


def shown(number):
    return Shown(open(number, "wb", closefd=False), "utf-8", line_buffering=True)


def test_a_terminal_that_has_gone_is_none():
    ours, theirs = pty.openpty()
    stream = shown(theirs)
    stream.write("here\n")
    os.close(ours)
    for _ in range(3):
        stream.write("gone\n" * 10_000)  # more than is kept until it can be written
        stream.flush()
    os.close(theirs)


def test_only_what_is_printed_must_arrive(monkeypatch):
    with open("/dev/full", "wb") as full:
        stream = shown(full.fileno())
        assert stream.write("lost\n") == 5
        monkeypatch.setattr(stream, "fileno", lambda: 1)
        with pytest.raises(OSError) as told:
            stream.write("lost\n")
        assert told.value.errno == errno.ENOSPC
        stream.flush()
