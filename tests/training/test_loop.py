"""The loop: rows, evaluation, checkpoints, and a loss that is no number."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minivim.config import RunConfig
from minivim.data import ArraySource, batches
from minivim.errors import UserError
from minivim.training import Workdir, fit, make_step, new_state, read_metrics
from tests import tiny

RUN = RunConfig(
    steps=10, batch_size=2, log_every=4, eval_every=8, checkpoint_every=5
)  # fmt: skip


class Toy(nnx.Module):
    """One weight."""

    def __init__(self):
        self.w = nnx.Param(jnp.ones(1))


def toy_loss(model, batch, context, *, key):
    """Finite for x >= 0; the gradient is none for x = 0, nor the loss for x < 0."""
    x = jnp.mean(batch["x"])
    return jnp.sum(jnp.sqrt(model.w[...] ** 2 * x)), {"rows": jnp.int32(2)}


MODEL = Toy()
STEP = make_step(MODEL, toy_loss, tiny.OPTIM, steps=10, key=jax.random.key(0))


def toy_batches(bad_step: int | None = None, value: float = -1.0):
    x = np.ones(20, np.float32)
    if bad_step is not None:
        x[2 * bad_step - 2 : 2 * bad_step] = value
    return batches(ArraySource({"x": x}), batch_size=2, shuffle=False)


def run(workdir=None, data=None, settings=RUN, **options):
    return fit(
        new_state(MODEL, tiny.OPTIM, steps=10),
        STEP,
        data or toy_batches(),
        settings,
        workdir=workdir or tiny.Nowhere(),
        quiet=True,
        **options,
    )


@pytest.fixture
def workdir(tmp_path):
    folder = Workdir(tmp_path / "run", {"stage": "toy"})
    yield folder
    folder.close()


def test_rows_come_when_asked_for_and_before_checkpoints(workdir):
    state, rows = run(workdir, evaluate=lambda params: {"score": 1.5})
    assert int(state.step) == 10
    assert [row["step"] for row in rows] == [4, 5, 8, 10]
    assert [row["step"] for row in rows if "eval_score" in row] == [8, 10]
    assert rows == read_metrics(workdir.path)
    # Means of numbers, sums of counts.
    assert [row["rows"] for row in rows] == [8, 2, 6, 4]
    assert all(0 < row["loss"] <= 1 for row in rows)
    assert {"lr", "grad_norm", "steps_per_second"} <= set(rows[0])


def test_evaluations_need_no_log_line_beside_them():
    settings = RunConfig(
        steps=10, batch_size=2, log_every=4, eval_every=3, checkpoint_every=10
    )
    plain, without = run(settings=settings)
    state, rows = run(settings=settings, evaluate=lambda params: {"score": 1.5})
    assert [row["step"] for row in without] == [4, 8, 10]
    assert [row["step"] for row in rows] == [3, 4, 6, 8, 9, 10]
    assert [row["step"] for row in rows if "eval_score" in row] == [3, 6, 9, 10]
    tiny.assert_same(plain, state)


def test_describe_turns_counts_into_figures():
    _, rows = run(describe=lambda summary: {"per_row": float(summary["rows"]) / 2})
    assert [row["per_row"] for row in rows] == [4, 1, 3, 2]
    assert "loss" not in rows[0]


def newest(workdir):
    found = workdir.restore(new_state(MODEL, tiny.OPTIM, steps=10))
    assert found is not None
    return found[0]


@pytest.mark.parametrize("bad_step", [7, 8, 10])
def test_a_nan_loss_stops_and_keeps_the_last_good_checkpoint(workdir, bad_step):
    with pytest.raises(UserError) as error:
        run(workdir, toy_batches(bad_step))
    message = str(error.value)
    assert f"the loss became nan at step {bad_step}" in message
    assert "optim.peak_lr" in message
    state = newest(workdir)
    assert int(state.step) == 5
    assert np.isfinite(jax.tree.leaves(state.params)[0]).all()
    assert all(np.isfinite(row["loss"]) for row in read_metrics(workdir.path))


def test_a_nan_gradient_is_not_saved_as_a_checkpoint(workdir):
    # The loss of step 5 is still a number, but the update of that step is not.
    with pytest.raises(UserError, match="gradient became nan at step 5"):
        run(workdir, toy_batches(5, value=0.0))
    assert workdir.restore(new_state(MODEL, tiny.OPTIM, steps=10)) is None


def test_a_finished_run_is_not_trained_again(workdir):
    run(workdir)
    before = read_metrics(workdir.path)
    state, rows = run(workdir)
    assert int(state.step) == 10
    assert rows == []
    assert read_metrics(workdir.path) == before


def test_metrics_are_cut_back_to_the_checkpoint(workdir):
    run(workdir)
    with workdir.metrics_path.open("a") as file:
        file.write(json.dumps({"step": 12, "loss": 0.5}) + "\n")
        file.write('{"step": 14, "lo')  # as a kill leaves it
    assert [row["step"] for row in read_metrics(workdir.path)] == [4, 5, 8, 10, 12]
    newest(workdir)
    text = workdir.metrics_path.read_text()
    assert [json.loads(line)["step"] for line in text.splitlines()] == [4, 5, 8, 10]
    assert text.endswith("}\n")


def test_rows_without_any_checkpoint_are_cut_away(workdir):
    workdir.log({"step": 3, "loss": 1.0})
    assert workdir.restore(new_state(MODEL, tiny.OPTIM, steps=10)) is None
    assert read_metrics(workdir.path) == []


def test_every_row_is_logged_where_one_asks(workdir):
    told = []
    with workdir:
        _, rows = run(workdir, log=told.append)
    assert [row["step"] for row in rows] == [4, 5, 8, 10] and told == rows
    assert read_metrics(workdir.path) == rows


def test_another_run_is_refused(tmp_path):
    with Workdir(tmp_path / "run", {"stage": "toy"}) as workdir:
        run(workdir)
    Workdir(workdir.path, {"stage": "toy"}).close()  # the same is not
    with pytest.raises(UserError) as error:
        Workdir(workdir.path, {"stage": "toy", "model.width": 32})
    message = str(error.value)
    assert "(model.width was None, now 32)" in message
    assert "choose another --workdir" in message


def test_a_run_without_a_checkpoint_may_become_another(tmp_path):
    """As after a broken picture was removed."""
    for data in ("103b", "ef79"):
        Workdir(tmp_path, {"data": data}).close()
    assert json.loads((tmp_path / "run.json").read_text()) == {"data": "ef79"}
    # But not over the weights of one that ended, whose checkpoints were removed.
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="its pictures have changed.*and pictures"):
        Workdir(tmp_path, {"data": "103b"})
    assert json.loads((tmp_path / "run.json").read_text()) == {"data": "ef79"}


def test_all_settings_that_differ_are_named(tmp_path):
    settings = dict.fromkeys("abcde", 1)
    with Workdir(tmp_path, settings | {"data": "x"}) as workdir:
        run(workdir)

    def refusal(**changes):
        with pytest.raises(UserError) as error:
            Workdir(tmp_path, settings | {"data": "x"} | changes)
        return str(error.value)

    assert "(a was 1, now 2, b was 1, now 3)" in refusal(a=2, b=3)
    assert "(a was 1, now 2, its pictures have changed)" in refusal(a=2, data="y")
    three = "(a was 1, now 2, b was 1, now 2, c was 1, now 2"
    assert f"{three})" in refusal(a=2, b=2, c=2)
    assert f"{three} and 2 more)" in refusal(**dict.fromkeys("abcde", 2))


def test_only_the_newest_checkpoints_are_kept(workdir):
    settings = RunConfig(steps=10, batch_size=2, log_every=5, checkpoint_every=2)
    run(workdir, settings=settings)
    saved = {int(p.name) for p in (workdir.path / "checkpoints").iterdir()}
    assert saved == {8, 10}


def test_progress_is_shown_unless_quiet(capsys):
    state = new_state(MODEL, tiny.OPTIM, steps=10)
    fit(state, STEP, toy_batches(), RUN, workdir=tiny.Nowhere(), title="toy run")
    shown = capsys.readouterr().err
    assert "toy run" in shown
    assert "10/10" in shown
    assert "loss=" in shown
    run()
    assert capsys.readouterr().err == ""
