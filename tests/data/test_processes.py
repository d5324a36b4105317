"""Batches over several processes and from worker processes: the same, bit for bit."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivim.data import ArraySource, Source, batches
from minivim.errors import UserError


class Remote(Source):
    """A source that tells where it was read."""

    def __init__(self, rows=23, damaged=-1):
        self.rows, self.damaged = rows, damaged

    def __len__(self):
        return self.rows

    def take(self, indices):
        if self.damaged in indices:
            raise UserError(f"image {self.damaged} is not readable: remove it")
        jax, bridge = (sys.modules.get(n) for n in ("jax", "jax._src.xla_bridge"))
        # What may take an accelerator: a backend, or that one could be had.
        taken = bool(bridge and bridge._backends)
        allowed = jax.config.jax_platforms if jax else os.environ["JAX_PLATFORMS"]
        grey = (indices * 7).astype(np.uint8)[:, None, None, None]
        return {
            "image": np.tile(grey, (1, 2, 2, 3)),
            "label": indices.astype(np.int32),
            "process": np.full(len(indices), os.getpid()),
            "tame": np.full(len(indices), not taken and allowed == "cpu"),
        }


def numbered(rows: int) -> ArraySource:
    return ArraySource({"label": np.arange(rows, dtype=np.int32)})


def labels(iterator, count):
    return [next(iterator)["label"] for _ in range(count)]


# --- processes ---------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 30),
    each=st.integers(1, 4),
    processes=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    block=st.booleans(),
)
def test_the_shares_of_processes_are_the_batch(rows, each, processes, seed, block):
    """As blocks or dealt in turns, together they are what one process reads."""
    size = each * processes
    read = partial(batches, numbered(rows), batch_size=size, seed=seed)
    shares = [
        slice(p * each, (p + 1) * each) if block else np.arange(p, size, processes)
        for p in range(processes)
    ]
    whole = labels(read(), 5)
    parts = [labels(read(rows=share), 5) for share in shares]
    for number, batch in enumerate(whole):
        for share, part in zip(shares, parts, strict=True):
            np.testing.assert_array_equal(part[number], batch[share])


@settings(max_examples=40, deadline=None)
@given(
    before=st.integers(0, 9),
    old=st.sampled_from([1, 2, 3, 6]),
    new=st.sampled_from([1, 2, 3, 6]),
)
def test_the_number_of_processes_may_change_at_a_restart(before, old, new):
    """Nothing is lost or read twice, whichever process saved the position."""
    read = partial(batches, numbered(17), batch_size=6, seed=4)
    whole = labels(read(), before + 4)
    stopped = [read(rows=slice(p, None, old)) for p in range(old)]
    for one in stopped:
        labels(one, before)
    states = [one.get_state() for one in stopped]
    assert all(state == {"batch": before} for state in states)
    started = [read(rows=slice(p, None, new)) for p in range(new)]
    for one in started:
        one.set_state(states[-1])
    parts = [labels(one, 4) for one in started]
    for number, batch in enumerate(whole[before:]):
        for p, part in enumerate(parts):
            np.testing.assert_array_equal(part[number], batch[p::new])


def test_positions_outside_of_a_batch_are_refused():
    with pytest.raises(IndexError):
        batches(numbered(9), batch_size=4, rows=np.array([4]))


# --- views -------------------------------------------------------------------------


def views(rows=12, count=3) -> ArraySource:
    """Codes that say of which row and view they are."""
    codes = np.arange(rows)[:, None, None] * 10 + np.arange(count)[:, None]
    codes = np.broadcast_to(codes, (rows, count, 4)).astype(np.int32)
    return ArraySource({"codes": codes, "label": np.arange(rows, dtype=np.int32)})


def test_one_view_of_each_row_is_drawn_anew_for_each_batch():
    found = [next(it) for it in [batches(views(), batch_size=12)] for _ in range(60)]
    codes = np.stack([b["codes"][np.argsort(b["label"])] for b in found])
    assert codes.shape == (60, 12, 4)
    drawn = codes[..., 0] % 10
    np.testing.assert_array_equal(codes[..., 0] // 10, np.tile(np.arange(12), (60, 1)))
    np.testing.assert_array_equal(codes, codes[..., :1].repeat(4, -1))
    # 720 draws of three views: four standard errors around a third.
    shares = np.bincount(drawn.ravel(), minlength=3) / drawn.size
    assert len(shares) == 3 and np.abs(shares - 1 / 3).max() < 0.07
    assert len({tuple(row) for row in drawn}) == 60


def test_views_are_the_same_after_a_restart_in_any_number_of_processes():
    whole = [next(it) for it in [batches(views(), batch_size=6, seed=3)]
             for _ in range(5)]  # fmt: skip
    for p in range(2):
        one = batches(views(), batch_size=6, seed=3, rows=slice(p, None, 2))
        one.set_state({"batch": 2})
        for batch in whole[2:]:
            np.testing.assert_array_equal(next(one)["codes"], batch["codes"][p::2])
    other = next(batches(views(), batch_size=6, seed=4))["codes"]
    assert (other % 10 != whole[0]["codes"] % 10).any()


# --- workers -----------------------------------------------------------------------


def test_workers_change_nothing_but_the_process(monkeypatch):
    """Order, bits, restarts between workers and threads; none takes an accelerator."""
    read = partial(batches, Remote(), batch_size=5, seed=2, rows=slice(1, 5))
    threads = read()
    expected = [next(threads) for _ in range(8)]
    reader = read(workers=2)
    reader.set_state({"batch": 1})
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    found = [next(reader) for _ in range(5)]
    state = reader.get_state()
    assert state == {"batch": 6}
    reader.close()
    assert not multiprocessing.active_children()
    threads.set_state(state)
    for batch, other in zip([*found, next(threads)], expected[1:7], strict=True):
        assert batch["image"].dtype == np.float32
        for name in ("image", "label"):
            np.testing.assert_array_equal(batch[name], other[name])
    seen = {int(batch["process"][0]) for batch in found}
    assert len(seen) == 2 and os.getpid() not in seen
    assert all(batch["tame"].all() for batch in found)


def test_an_error_in_a_worker_reaches_the_user():
    reader = batches(Remote(damaged=3), batch_size=23, workers=1)
    with pytest.raises(UserError, match="image 3 is not readable"):
        next(reader)
    reader.close()


def test_a_source_in_memory_needs_no_workers():
    """They would each take a copy of it."""
    reader = batches(numbered(9), batch_size=3, workers=2)
    next(reader)
    assert not multiprocessing.active_children()
    with pytest.raises(UserError, match="workers -1 is impossible: choose 0 or more"):
        batches(numbered(9), batch_size=3, workers=-1)


KILLED = """
import os, sys
from tests.data.test_processes import Remote
from minivim.data import batches
if __name__ == "__main__":
    reader = batches(Remote(), batch_size=5, workers=1)
    print(next(reader)["process"][0], flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(KILLED)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])},
    )  # fmt: skip
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    os.kill(worker, signal.SIGTERM)  # As if sent to the whole group: not its to answer.
    time.sleep(0.2)
    os.kill(worker, 0)
    parent.kill()
    parent.wait()
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    raise AssertionError("the worker outlives its parent")
