"""Checkpoints: written behind the run's back, whole or not there, checked when read."""

import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time  # noqa: F401
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from minivim.errors import UserError
from minivim.training import TrainState, Workdir
from minivim.training.checkpoint import digest
from tests import tiny

ROOT = Path(__file__).parents[2]
IDENTITY = {"stage": "toy"}
# Reads that orbax gives up leave coroutines behind that nobody waits for.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:coroutine .* was never awaited:RuntimeWarning",
)


def state_of(step: int, size: int = 40_000) -> TrainState:
    """Arrays of several types, one so large that the format has no checksum for it."""
    rng = np.random.default_rng(step)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(size // 100, 100)), jnp.float32),
        "half": jnp.asarray(rng.normal(size=(4, 6)), jnp.bfloat16),
    }
    moments = {
        "int8": jnp.asarray(rng.integers(-128, 128, 300), jnp.int8),
        "flag": jnp.asarray(rng.random(9) < 0.5),
    }
    return TrainState(jnp.int32(step), params, moments)


def position_of(step: int) -> dict:
    return {"next_index": 7 * step, "epochs": [step]}


def save(folder: Path, *steps: int, keep: int = 2) -> Workdir:
    workdir = Workdir(folder, IDENTITY, keep=keep)
    for step in steps:
        workdir.save(state_of(step), position_of(step))
    return workdir


def steps_in(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


# --- digests -----------------------------------------------------------------------


def by_words(x) -> int:
    """The digest in NumPy, by 32-bit words of unbounded integers."""
    raw = np.asarray(x)
    width = {8: 4}.get(raw.dtype.itemsize, raw.dtype.itemsize)
    words = np.frombuffer(raw.tobytes(), f"<u{width}")
    return sum((2 * i + 1) * int(word) for i, word in enumerate(words)) % 2**32


def test_a_digest_is_what_it_says():
    for name, value in jax.tree.leaves_with_path(state_of(3, size=1000)):
        assert int(digest(value)) == by_words(value), name


@pytest.mark.parametrize("bit", [0, 1, 7, 22, 23, 30, 31])
def test_a_digest_sees_every_bit(bit):
    x = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    before = int(digest(jnp.asarray(x)))
    for place in range(x.size):
        other = x.copy()
        other.view(np.uint32).flat[place] ^= np.uint32(1 << bit)
        assert int(digest(jnp.asarray(other))) != before


def test_a_digest_sees_order_and_sign_of_zero():
    x = jnp.asarray([1.0, 2.0, 0.0])
    assert int(digest(x)) != int(digest(x[::-1]))
    assert int(digest(x)) != int(digest(jnp.asarray([1.0, 2.0, -0.0])))


# --- saving ------------------------------------------------------------------------


@partial(jax.jit, donate_argnums=0)
def overwrite(state: TrainState) -> TrainState:
    return jax.tree.map(lambda x: jnp.zeros_like(x), state)


def test_the_next_step_may_have_the_buffers_at_once(tmp_path):
    workdir = Workdir(tmp_path, IDENTITY)
    for step in (1, 2, 3):
        state = state_of(step, size=1_000_000)
        workdir.save(state, position_of(step))
        for _ in range(3):
            state = overwrite(state)
        jax.block_until_ready(state)
        found, position = workdir.restore(state)
        tiny.assert_same(found, state_of(step, size=1_000_000))
        assert position == position_of(step)
    workdir.close()


def test_saving_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    workdir = save(tmp_path, 1)
    workdir.wait()
    manager, opened, done = workdir._manager, threading.Event(), []
    finish = manager._finalize

    def late(*arguments):
        done.append(opened.wait(timeout=30))
        finish(*arguments)

    monkeypatch.setattr(manager, "_finalize", late)
    workdir.save(state_of(2), position_of(2))
    assert done == []  # still being written
    opened.set()
    workdir.close()
    assert done == [True]
    assert steps_in(tmp_path) == {"1", "2"}


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_are_kept(tmp_path, keep):
    save(tmp_path, 1, 2, 3, 4, keep=keep).close()
    assert steps_in(tmp_path) == {"1", "2", "3", "4"} - set("1234"[: 4 - keep])


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    save(tmp_path, 1).close()
    part = tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "1", part)
    workdir = Workdir(tmp_path, IDENTITY)
    found, _ = workdir.restore(state_of(9))
    assert int(found.step) == 1
    workdir.save(state_of(2), position_of(2))
    workdir.close()
    assert steps_in(tmp_path) == {"1", "2"}


@pytest.fixture
def full_disk():
    """No file may become larger than a few kilobytes, as on a disk without space."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(on: bool):
        size = 20_000 if on else before[0]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    limit(False)


@pytest.mark.parametrize("call", ["save", "wait", "close", "restore"])
def test_a_write_that_fails_is_told_at_the_next_call(tmp_path, full_disk, caplog, call):
    workdir = save(tmp_path, 1)
    workdir.wait()
    full_disk(True)
    workdir.save(state_of(2), {})  # the write behind it fails
    workdir.settle()
    full_disk(False)
    arguments = {"save": (state_of(3), {}), "restore": (state_of(0),)}.get(call, ())
    with pytest.raises(UserError) as error:
        getattr(workdir, call)(*arguments)
    message = str(error.value)
    assert f"cannot write a checkpoint to {tmp_path} (File too large); free" in message
    assert "run the same command" in message and "\n" not in message
    # asyncio may speak of its lost task whenever that is collected.
    assert [record for record in caplog.records if record.name == "absl"] == []
    if call != "close":
        # Said once; what was there still is, and the next write is a new one.
        found, _ = workdir.restore(state_of(0))
        tiny.assert_same(found, state_of(1))
        workdir.save(state_of(3), position_of(3))
        workdir.close()
        assert {"1", "3"} <= steps_in(tmp_path)


def test_an_error_inside_is_the_one_that_is_told(tmp_path, full_disk):
    with pytest.raises(UserError, match="of its own"), save(tmp_path, 1) as workdir:
        workdir.wait()
        full_disk(True)
        workdir.save(state_of(2), {})
        workdir.settle()
        full_disk(False)
        raise UserError("a mistake of its own")


# --- reading -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    workdir = save(folder, 5, 10)
    for step in (5, 8, 10):
        workdir.log({"step": step, "loss": 0.1 * step})
    workdir.close()
    return folder


def flipped(raw: bytes, at: float = 0.5) -> bytes:
    place = int(at * (len(raw) - 1))
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


DAMAGE = {
    "empty": lambda raw: b"",
    "truncated": lambda raw: raw[: len(raw) // 2],
    "a byte short": lambda raw: raw[:-1],
    "a byte longer": lambda raw: raw + b"x",
    "flipped": flipped,
    "first flipped": partial(flipped, at=0),
    "last flipped": partial(flipped, at=1),
    "zeros": lambda raw: bytes(len(raw)),
    "a list": lambda raw: b"[]",
    "a number": lambda raw: b"3",
    "nothing": lambda raw: b"null",
    "nested": lambda raw: b'{"a": ' + b"[" * 20_000,
    "another's": lambda raw: b'{"item_handlers": {}, "tree_metadata": {"a": 1}}',
}
# What stands in the place of a file, or of the whole checkpoint.
INSTEAD = {
    "missing": lambda place: None,
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to nowhere": lambda place: place.symlink_to("nowhere"),
    "a link in a circle": lambda place: place.symlink_to(place.name),
}


def copied(saved: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(saved, folder))


def damage(file: Path, how: str) -> None:
    if how in DAMAGE:
        file.write_bytes(DAMAGE[how](file.read_bytes()))
        return
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    INSTEAD[how](file)


def files_of(folder: Path, step: int) -> list[Path]:
    found = (folder / "checkpoints" / str(step)).rglob("*")
    return sorted(path for path in found if path.is_file())


# The others do what these do, to more bytes or fewer.
QUICK = ["truncated", "flipped", "missing", "a pipe", "a list"]
SLOW = [
    pytest.param(how, marks=pytest.mark.slow)
    for how in (DAMAGE | INSTEAD).keys() - set(QUICK)
]


@pytest.mark.parametrize("how", [*QUICK, *sorted(SLOW, key=str)])
def test_no_damage_to_any_file_goes_through(saved, tmp_path, capfd, how):
    """Whichever file it is, the state is one that was saved, to the bit."""
    fell_back = []
    for file in files_of(saved, 10):
        folder = copied(saved, tmp_path / "copy")
        damage(folder / file.relative_to(saved), how)
        if how == "a pipe":
            told = tiny.message(lambda: Workdir(folder, IDENTITY))  # noqa: B023
            assert f"{file.name} is no regular file; delete it and run" in told
            (folder / file.relative_to(saved)).unlink()
        workdir = Workdir(folder, IDENTITY)
        state, position = workdir.restore(state_of(0))
        workdir.close()
        step = int(state.step)
        tiny.assert_same(state, state_of(step))
        assert position == position_of(step)
        said = capfd.readouterr().err
        if step == 10:
            assert "minivim" not in said
            continue
        fell_back.append(file)
        assert step == 5
        [line] = [line for line in said.splitlines() if line.startswith("minivim")]
        assert "the checkpoint of step 10 is damaged (" in line
        assert "damaged-10; going on from step 5" in line
    assert len(fell_back) >= 4
    if how == "flipped":
        assert max(files_of(saved, 10), key=lambda f: f.stat().st_size) in fell_back


NAMES = ["10 (copy)", "10.bak", "ten", "0010", "11", "-10", "1e1", "9" * 20, "\u0661"]


WHOLE = [(what, how) for what in ("state", "data", ".") for how in INSTEAD]


@pytest.mark.parametrize(("what", "how"), [*WHOLE, *((n, "renamed") for n in NAMES)])
def test_no_damage_to_a_folder_goes_through(saved, tmp_path, capfd, what, how):
    """It is refused in a line, or the run goes on from the one before and saves."""
    folder = copied(saved, tmp_path / "copy")
    whole = folder / "checkpoints" / "10"
    if how == "renamed":
        whole.rename(whole.with_name(what))
    else:
        damage(whole / what, how)
    refused = how == "a pipe" or what == "." and how.startswith("a link")
    if refused:
        told = tiny.message(lambda: Workdir(folder, IDENTITY))
        assert told.endswith("; delete it and run the same command")
        (whole / what).unlink()
    with Workdir(folder, IDENTITY) as workdir:
        tiny.assert_same(workdir.restore(state_of(0))[0], state_of(5))
        assert len(workdir.metrics_path.read_text().splitlines()) == 1
        workdir.save(state_of(10), position_of(10))
        workdir.wait()
        tiny.assert_same(workdir.restore(state_of(0))[0], state_of(10))
    said = capfd.readouterr().err.splitlines()
    assert all(line.startswith("minivim: warning: the check") for line in said), said


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.json", "checkpoints"])
def test_pipes_beside_checkpoints_are_not_waited_for(saved, tmp_path, name):
    folder = copied(saved, tmp_path / "copy")
    damage(folder / name, "a pipe")
    told = tiny.message(lambda: Workdir(folder, IDENTITY))
    assert f"{folder / name} is " in told


def largest(folder: Path, step: int) -> Path:
    return max(files_of(folder, step), key=lambda file: file.stat().st_size)


def test_the_run_goes_on_from_the_one_before(saved, tmp_path, capfd):
    folder = copied(saved, tmp_path / "copy")
    damage(largest(folder, 10), "flipped")
    workdir = Workdir(folder, IDENTITY)
    workdir.restore(state_of(0))
    said = capfd.readouterr().err
    assert "the numbers of .params['kernel'] are not those that were saved" in said
    # Metrics are those of the older step; the damaged one is aside, not lost.
    rows = workdir.metrics_path.read_text().splitlines()
    assert len(rows) == 1
    assert files_of(folder, 10) == [] and (folder / "damaged-10").is_dir()
    # The same step can be written again, and is the newest then.
    workdir.save(state_of(10), position_of(10))
    workdir.close()
    again = Workdir(folder, IDENTITY)
    tiny.assert_same(again.restore(state_of(0))[0], state_of(10))
    again.close()
    assert steps_in(folder) == {"5", "10"}
    assert "warning" not in capfd.readouterr().err


READ = """
import sys
from minivim.training import Workdir
from tests.training.test_checkpoint import IDENTITY, state_of
with Workdir(sys.argv[1], IDENTITY) as workdir:
    print(int(workdir.restore(state_of(0))[0].step))
with Workdir(sys.argv[2], IDENTITY):
    sys.exit("a mistake")
"""


def test_a_process_says_one_line_of_damage_and_leaves_no_thread_behind(saved, tmp_path):
    """Neither does a run that ends before it began."""
    folder = copied(saved, tmp_path / "copy")
    for file in files_of(folder, 10):
        if file.parent.name == "d":  # all arrays at once
            damage(file, "truncated")
    done = subprocess.run(
        [sys.executable, "-c", READ, folder, tmp_path / "new"], env=environment(1),
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "5\n")
    warning, mistake = done.stderr.splitlines()
    assert mistake == "a mistake"
    assert warning.startswith(
        "minivim: warning: the checkpoint of step 10 is damaged ("
    )


def test_a_position_that_was_changed_is_damage(saved, tmp_path, capfd):
    folder = copied(saved, tmp_path / "copy")
    file = folder / "checkpoints" / "10" / "data" / "metadata"
    text = file.read_text()
    assert '"next_index": 70' in text.replace('":', '": ').replace("  ", " ")
    file.write_text(text.replace("70", "71", 1))  # still JSON
    workdir = Workdir(folder, IDENTITY)
    state, position = workdir.restore(state_of(0))
    workdir.close()
    assert (int(state.step), position) == (5, position_of(5))
    assert "the data position is not what was saved" in capfd.readouterr().err


def test_a_checkpoint_under_another_step_is_damage(saved, tmp_path, capfd):
    folder = copied(saved, tmp_path / "copy")
    checkpoints = folder / "checkpoints"
    (checkpoints / "10").rename(checkpoints / "15")
    workdir = Workdir(folder, IDENTITY)
    assert int(workdir.restore(state_of(0))[0].step) == 5
    workdir.close()
    assert "step 15 is damaged (it is of another step)" in capfd.readouterr().err


def test_nothing_is_touched_if_none_can_be_read(saved, tmp_path, capfd):
    folder = copied(saved, tmp_path / "copy")
    for step in (5, 10):
        damage(largest(folder, step), "truncated")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    workdir = Workdir(folder, IDENTITY)
    with pytest.raises(UserError) as error:
        workdir.restore(state_of(0))
    workdir.close()
    message = str(error.value)
    assert "no checkpoint in" in message and "(step 10: " in message
    assert "choose another --workdir, or delete" in message
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert "Traceback" not in capfd.readouterr().err


def test_a_state_of_another_shape_is_not_forced_into_it(saved, tmp_path):
    folder = copied(saved, tmp_path / "copy")
    workdir = Workdir(folder, IDENTITY)
    other = state_of(0)
    other = other._replace(params={**other.params, "more": jnp.zeros(3)})
    with pytest.raises(UserError, match="no checkpoint"):
        workdir.restore(other)
    workdir.close()
    assert steps_in(folder) == {"5", "10"}


# --- meshes and processes ----------------------------------------------------------


def laid_out(state: TrainState, sizes: dict[str, int]) -> TrainState:
    """The state over a mesh, every axis of an array split where it can be."""
    mesh = jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes)
    )

    def one(x):
        names = [
            name if size % sizes[name] == 0 else None
            for name, size in zip(sizes, x.shape, strict=False)
        ]
        host, sharding = np.asarray(x), NamedSharding(mesh, P(*names))
        return jax.make_array_from_callback(x.shape, sharding, lambda i: host[i])

    return jax.tree.map(one, state)


def assert_same_shards(found: TrainState, wanted: TrainState) -> None:
    """Bit for bit and device for device."""
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert x.sharding == y.sharding
        for part, other in zip(x.addressable_shards, y.addressable_shards, strict=True):
            np.testing.assert_array_equal(np.asarray(part.data), np.asarray(other.data))


MESHES = """
import sys
import jax
from minivim.training import Workdir
from minivim.training.checkpoint import digests
from tests.training.test_checkpoint import *

assert jax.device_count() == 8
plain = state_of(4, size=6400)
data = laid_out(plain, {"data": 8})
wide = laid_out(plain, {"fsdp": 2, "tensor": 4})
assert not wide.params["kernel"].is_fully_replicated
assert digests(plain) == digests(data) == digests(wide)
workdir = Workdir(sys.argv[1], IDENTITY)
given = laid_out(plain, {"data": 8})
workdir.save(given, position_of(4))
for _ in range(3):
    given = overwrite(given)
jax.block_until_ready(given)
for wanted in (wide, data, plain):
    like = jax.tree.map(lambda x: 0 * x, wanted)
    like = jax.device_put(like, jax.tree.map(lambda x: x.sharding, wanted))
    found, position = workdir.restore(like)
    assert_same_shards(found, wanted)
    assert position == position_of(4)
workdir.close()
print("same")
"""


def environment(devices: int) -> dict[str, str]:
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def test_another_mesh_may_read_what_one_wrote(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MESHES, tmp_path], env=environment(8), cwd=ROOT,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["same"], done.stderr


PROCESSES = """
import os, signal, sys
import jax
port, me, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=me)
from minivim.config import RunConfig
from minivim.errors import Stopped, UserError
from minivim.training import Workdir, fit, read_metrics
from minivim.training.processes import agreed, gathered, on_first
from tests.training.test_checkpoint import *

assert jax.process_count() == 2 and jax.device_count() == 4
assert agreed("") == "" and agreed(f"from {me}") == "from 0"
assert agreed("only the last" if me == 1 else "") == "only the last"
assert gathered("x" * 3000 * me) == ["", "x" * 3000]

sizes = {"data": 2, "fsdp": 2}
folder = Path(folder)
workdir = Workdir(folder, IDENTITY)
for step in (5, 10):
    workdir.save(laid_out(state_of(step, size=6400), sizes), position_of(step))
workdir.log({"step": 5, "loss": 1.0})
workdir.wait()
assert len(read_metrics(folder)) == 1  # not one from each

like = laid_out(state_of(0, size=6400), sizes)
found, position = workdir.restore(like)
assert_same_shards(found, laid_out(state_of(10, size=6400), sizes))
assert position == position_of(10)
# Only one process reads the damaged file, and both fall back.
part = folder / "checkpoints/10/state/ocdbt.process_1/d"
on_first(lambda: damage(max(part.iterdir(), key=lambda f: f.stat().st_size), "empty"))
found, position = workdir.restore(like)
assert int(found.step) == 5, found.step
assert_same_shards(found, laid_out(state_of(5, size=6400), sizes))
try:
    Workdir(folder, {"stage": "another"})
except UserError as error:  # for the first process alone can tell
    assert "in use by another command" in str(error)
else:
    raise AssertionError

class Numbers:
    def __next__(self): return {}
    def get_state(self): return {}
    def set_state(self, state): pass

def step(state, batch, *, at):
    jax.block_until_ready(state)
    time.sleep(0.05)
    if at == 8 and me == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return state._replace(step=state.step + 1), dict.fromkeys(
        ("loss", "grad_norm", "lr"), np.float32(at))

shutil.rmtree(folder / "checkpoints/5") if me == 0 else None
agreed("")
workdir._manager.reload()
run = RunConfig(steps=1000, batch_size=1, log_every=1000, checkpoint_every=1000)
start = laid_out(state_of(0, size=6400), sizes)
try:
    fit(start, step, Numbers(), run, workdir=workdir, quiet=True)
except Stopped as stop:
    print("stopped", stop.step)
workdir.close()
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_two_processes_act_as_one(tmp_path):
    port, script = str(free_port()), tmp_path / "run.py"
    script.write_text(PROCESSES)
    both = [
        subprocess.Popen(
            [sys.executable, str(script), port, str(number), str(tmp_path / "run")],
            env={**environment(2), "PYTHONPATH": str(ROOT)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=240) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], said
    # Beside what Gloo has to say.
    first, second = (re.findall(r"^stopped (\d+)$", out, re.M) for out, _ in said)
    assert len(first) == 1 and first == second
    step = int(first[0])
    assert 9 <= step < 1000
    assert steps_in(tmp_path / "run") == {str(step)}
    errors = (line for _, err in said for line in err.splitlines())
    [warning] = [line for line in errors if "minivim: warning" in line]
    assert "going on from step 5" in warning
