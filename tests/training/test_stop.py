"""SIGTERM, Ctrl-C: the run saves, stops, and ends as if it had not been stopped."""

import json
import signal
import threading
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from minivim import cli, trainer
from minivim.config import RunConfig
from minivim.data import ArraySource, batches
from minivim.errors import Stopped, UserError
from minivim.training import Workdir, new_state, read_metrics
from minivim.training.loop import Window
from minivim.training.processes import stop_signal
from tests import tiny
from tests.training import test_loop as toy

# Rows at 2, 4, 5, 6, 8, 10, checkpoints at 5 and 10.
RUN = RunConfig(steps=10, batch_size=2, log_every=2, eval_every=4, checkpoint_every=5)


@pytest.fixture
def handler():
    """A handler of the caller's, which must be there again afterwards."""
    calls = []

    def ours(number, frame):
        calls.append(number)

    before = signal.signal(signal.SIGTERM, ours)
    yield calls
    assert signal.getsignal(signal.SIGTERM) is ours
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def python_handler():
    """Python's own, as in a command and in a notebook's cell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


class Signalling:
    """Batches; signals come while the batch of step `at` is fetched."""

    def __init__(self, batches, at, signals=(signal.SIGTERM,)):
        self._batches, self._at, self._signals = batches, at, signals

    def __next__(self):
        if self._at == 1:
            for number in self._signals:
                signal.raise_signal(number)
        self._at -= 1
        return next(self._batches)

    def get_state(self):
        return self._batches.get_state()

    def set_state(self, state):
        self._batches.set_state(state)


def trained(folder, at=0):
    """Ten steps on shuffled data, stopped in step `at`; returns its last checkpoint."""
    x = np.random.default_rng(0).random(24, np.float32)
    data = Signalling(batches(ArraySource({"x": x}), batch_size=2, seed=1), at)
    with Workdir(folder, {"stage": "toy"}) as workdir:
        toy.run(workdir, data, RUN, evaluate=lambda variables: {"score": 1.5})
        return workdir.restore(new_state(toy.MODEL, tiny.OPTIM, steps=10))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, trained(folder)


def without_times(folder):
    return [
        {k: v for k, v in row.items() if k != "steps_per_second"}
        for row in read_metrics(folder)
    ]


# In the first step; at a checkpoint; within a window.
@pytest.mark.parametrize("at", [1, 5, 9])
def test_a_stopped_run_ends_as_an_undisturbed_one(whole, tmp_path, handler, at):
    folder, (state, position) = whole
    with pytest.raises(Stopped, match=f"stopped at step {at}, saved") as stopped:
        trained(tmp_path, at=at)
    assert stopped.value.step == at
    assert handler == []
    saved = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert max(saved) == at
    # No row for the sake of the stop: those of an undisturbed run up to here.
    steps = [row["step"] for row in without_times(folder) if row["step"] <= at]
    there = (tmp_path / "metrics.jsonl").exists()
    assert [row["step"] for row in (read_metrics(tmp_path) if there else [])] == steps
    other, other_position = trained(tmp_path)
    tiny.assert_same(state, other)
    assert position == other_position
    assert without_times(tmp_path) == without_times(folder)


def test_being_stopped_twice_within_one_window(whole, tmp_path, handler):
    folder, (state, _) = whole
    for after in (7, 1):  # 7, then 8: the row of step 8 spans three processes
        with pytest.raises(Stopped):
            trained(tmp_path, at=after)
    tiny.assert_same(state, trained(tmp_path)[0])
    assert without_times(tmp_path) == without_times(folder)


def test_the_last_step_ends_the_run_instead(whole, tmp_path, handler):
    folder, (state, _) = whole
    tiny.assert_same(state, trained(tmp_path, at=10)[0])
    assert without_times(tmp_path) == without_times(folder)


@pytest.fixture
def workdir(tmp_path):
    folder = Workdir(tmp_path / "run", {"stage": "toy"})
    yield folder
    folder.close()


def test_a_state_that_is_no_number_is_not_saved_on_the_way_out(workdir, handler):
    data = Signalling(toy.toy_batches(bad_step=7), 7)
    with pytest.raises(UserError, match="nan at step 7"):
        toy.run(workdir, data)
    assert int(toy.newest(workdir).step) == 5


def test_ctrl_c_saves_as_sigterm_does(workdir, python_handler):
    data = Signalling(toy.toy_batches(), 7, [signal.SIGINT])
    with pytest.raises(Stopped, match="stopped at step 7, saved") as stopped:
        toy.run(workdir, data)
    assert stopped.value.number == signal.SIGINT
    assert int(toy.newest(workdir).step) == 7


def test_a_second_ctrl_c_ends_it_within_the_step(workdir, python_handler):
    data = Signalling(toy.toy_batches(), 7, [signal.SIGINT] * 2)
    with pytest.raises(KeyboardInterrupt):
        toy.run(workdir, data)
    assert int(toy.newest(workdir).step) == 5


# `timeout` sends its signal to the process and then to its group.
def test_sigterm_twice_is_once(workdir, handler, python_handler):
    data = Signalling(toy.toy_batches(), 7, [signal.SIGTERM] * 2)
    with pytest.raises(Stopped) as stopped:
        toy.run(workdir, data)
    assert stopped.value.number == signal.SIGTERM


def test_ctrl_c_in_the_last_step_is_not_lost(workdir, python_handler):
    """What comes after the run, the next stage of a demo, must not begin."""
    with pytest.raises(KeyboardInterrupt):
        toy.run(workdir, Signalling(toy.toy_batches(), 10, [signal.SIGINT]))
    assert int(toy.newest(workdir).step) == 10


@pytest.mark.parametrize("theirs", [signal.SIG_IGN, lambda *arguments: None])
def test_ctrl_c_that_a_caller_handles_is_the_callers(workdir, theirs):
    before = signal.signal(signal.SIGINT, theirs)
    try:
        state, _ = toy.run(workdir, Signalling(toy.toy_batches(), 3, [signal.SIGINT]))
        assert signal.getsignal(signal.SIGINT) is theirs
    finally:
        signal.signal(signal.SIGINT, before)
    assert int(state.step) == 10


def test_after_the_run_the_signal_is_the_callers(workdir, handler):
    toy.run(workdir)
    signal.raise_signal(signal.SIGTERM)
    assert handler == [signal.SIGTERM]


def test_a_failed_save_is_not_said_to_be_saved(workdir, handler, monkeypatch):
    def fail(*arguments):
        raise ValueError("DATA_LOSS: no space")

    toy.run(workdir, settings=replace(toy.RUN, steps=2))
    monkeypatch.setattr(workdir._manager, "_finalize", fail)
    with pytest.raises(UserError, match="no space"):
        toy.run(workdir, Signalling(toy.toy_batches(), 1))


def test_another_thread_may_train(workdir, handler):
    found = []
    thread = threading.Thread(target=lambda: found.append(toy.run(workdir)))
    thread.start()
    thread.join(timeout=60)
    [(state, _)] = found
    assert int(state.step) == 10


def test_a_handler_that_was_not_set_from_python_becomes_the_default(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    real = signal.signal
    answers = iter([None])
    monkeypatch.setattr(
        signal, "signal", lambda *a: next(answers, None) if real(*a) else None
    )
    with stop_signal() as asked:
        assert not asked(1)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    real(signal.SIGTERM, before)


def test_a_window_survives_json_to_the_bit():
    rng = np.random.default_rng(0)
    steps = [
        {
            "loss": jnp.float32(rng.normal()),
            "grad_norm": jnp.float32(rng.random()),
            "codes": jnp.asarray(rng.integers(0, 9, 5), jnp.int32),
        }
        for _ in range(7)
    ]
    whole, first = Window(), Window()
    for metrics in steps:
        whole.add(metrics)
    for metrics in steps[:3]:
        first.add(metrics)
    packed = json.loads(json.dumps(first.pack()))
    second = Window.unpack(packed)
    assert second.pack()["seconds"] >= packed["seconds"] > 0
    for metrics in steps[3:]:
        second.add(metrics)
    one, other = whole.summary(), second.summary()
    assert {k: (v.dtype, v.tolist()) for k, v in one.items()} == {
        k: (v.dtype, v.tolist()) for k, v in other.items()
    }
    assert second.count == 7
    empty = Window.unpack(json.loads(json.dumps(Window().pack())))
    assert (empty.count, empty.total) == (0, {})


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_the_command_says_where_it_stopped(capsys, monkeypatch, number, code):
    def stop(*arguments, **options):
        raise Stopped(17, number)

    monkeypatch.setattr(trainer, "train", stop)
    command = ["train", "tokenizer", "shapes", "--data", "shapes", "--workdir", "x"]
    assert cli.main(command) == code
    said = capsys.readouterr().err
    assert said == "minivim: stopped at step 17, saved; the same command goes on\n"
