"""Runs that go on with more steps than they were started with."""

import json

import numpy as np
import pytest

import minivim
from minivim import trainer, weights
from minivim.config import with_overrides
from minivim.trainer import _extends, _identity
from minivim.training import Workdir, read_metrics
from tests import tiny
from tests.tiny import message

RECIPE = with_overrides(tiny.TOKENIZER_RECIPE, ["schedule=constant", "steps=6"])


class Source:
    fingerprint, unreadable = "x", ()


def run(home, out, recipe, *settings, **how):
    recipe = with_overrides(recipe, [*settings])
    return minivim.train(recipe, str(home / "pictures"), out, quiet=True, **how)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Pictures, and a run of ten steps."""
    folder = tmp_path_factory.mktemp("longer")
    tiny.pictures(folder / "pictures")
    run(folder, folder / "long", RECIPE, "steps=10")
    return folder


def test_a_finished_run_goes_on_bit_for_bit(home, tmp_path, monkeypatch):
    """With optimizer and data position; while it does, it has not finished."""
    out, begun = tmp_path / "a", []
    run(home, out, RECIPE)
    fit = trainer.training.fit

    def watched(*arguments, **options):
        begun.append(minivim.load(out).card["steps"])
        return fit(*arguments, **options)

    monkeypatch.setattr(trainer.training, "fit", watched)
    told = []
    model, rows = run(home, out, RECIPE, "steps=10", log=told.append)
    assert begun == [6] and not (out / weights.DRAFT).exists()
    assert [row["step"] for row in rows] == [8, 10] and told == rows
    assert [row["step"] for row in read_metrics(out)] == [2, 4, 5, 6, 8, 10]
    wanted = minivim.load(home / "long")
    tiny.assert_same(weights.flat_weights(model), weights.flat_weights(wanted))
    assert model.card["steps"] == 10 == json.loads(
        (out / "run.json").read_text()
    )["run.steps"]  # fmt: skip
    told = message(lambda: run(home, out, RECIPE))
    assert "run.steps was 10, now 6" in told
    assert "(from its weights: --from OLD --workdir NEW)" in told


@pytest.mark.parametrize(
    ("before", "now", "done", "fits"),
    [
        ("schedule=constant steps=6", "schedule=constant steps=9", 6, True),
        ("schedule=constant steps=9", "schedule=constant steps=6", 6, False),
        ("schedule=cosine steps=6", "schedule=cosine steps=9", 6, False),
        ("schedule=cosine steps=6", "schedule=cosine steps=9", 3, True),
        ("schedule=cosine steps=6", "schedule=cosine steps=9", 4, False),
        ("schedule=cosine steps=6", "schedule=cosine steps=9 decay_end=6", 6, True),
        ("schedule=cosine steps=6", "schedule=cosine steps=9 decay_end=7", 6, False),
        ("steps=6 decay_end=5", "steps=9 decay_end=5", 6, True),
        ("schedule=exponential steps=6", "schedule=exponential steps=9", 6, False),
        ("decay_start=4 steps=6", "decay_start=4 steps=9", 5, True),
        ("schedule=constant steps=6", "schedule=constant steps=9 seed=1", 6, False),
        ("peak_lr=0.1 steps=6", "peak_lr=0.2 steps=9", 1, False),
    ],
)
def test_which_runs_may_have_more_steps(before, now, done, fits):
    old, new = (
        with_overrides(tiny.TOKENIZER_RECIPE, text.split()) for text in (before, now)
    )
    known, wanted = (_identity(one, None, Source, Source) for one in (old, new))
    assert _extends(new, wanted, json.loads(json.dumps(known)), done) is fits


def test_the_refusal_names_the_ways(tmp_path):
    (tmp_path / "checkpoints" / "6").mkdir(parents=True)
    (tmp_path / "run.json").write_text('{"run.steps": 6}')
    told = message(lambda: Workdir(tmp_path, {"run.steps": 9}))
    assert "holds another run (run.steps was 6, now 9)" in told
    assert "--from OLD --workdir NEW" in told and "set optim.decay_end=6 to go" in told
    asked = []

    def extends(old, done):
        asked.append((old, done))
        return True

    Workdir(tmp_path, {"run.steps": 9}, extends=extends).close()
    assert asked == [({"run.steps": 6}, 6)]
    assert json.loads((tmp_path / "run.json").read_text()) == {"run.steps": 9}


def test_a_run_without_checkpoints_has_nothing_to_go_on_with(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(np.zeros(1).tobytes())
    (tmp_path / "run.json").write_text('{"run.steps": 6}')
    with pytest.raises(minivim.UserError, match="holds another run"):
        Workdir(tmp_path, {"run.steps": 9}, extends=lambda old, done: True)
