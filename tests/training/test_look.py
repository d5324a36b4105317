"""Runs that have not finished, and earlier checkpoints of those that have."""

import json
import re
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

import minivim
from minivim import cli, weights
from minivim.config import (
    ClassifierConfig,
    ClassifierRecipe,
    DiscriminatorConfig,
    LossConfig,
    with_overrides,
)
from minivim.files import claim
from minivim.training import Workdir
from minivim.training.checkpoint import _checksum
from tests import tiny
from tests.tiny import message

# Reads that orbax gives up leave coroutines behind that nobody waits for.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:coroutine .* was never awaited:RuntimeWarning",
)
CRITIC = DiscriminatorConfig(width=4, max_width=8)
RECIPES = {
    "tokenizer": with_overrides(
        tiny.TOKENIZER_RECIPE, ["codebook=ema", "revive_after=5"]
    ),
    "gan": replace(
        tiny.TOKENIZER_RECIPE, loss=LossConfig(adversarial=0.1), discriminator=CRITIC
    ),
    "prior": tiny.PRIOR_RECIPE,
    "classifier": ClassifierRecipe(
        name="tiny", optim=tiny.OPTIM, run=tiny.RUN, image_size=8,
        model=ClassifierConfig(kind="residual", num_classes=3, width=8),
    ),
}  # fmt: skip


class Killed(Exception):
    """Ends a run between two steps."""


def arrays(state):
    kinds = nnx.filter_state(state, nnx.Param), nnx.filter_state(state, nnx.BatchStat)
    return jax.tree.map(np.array, [nnx.to_pure_dict(kind) for kind in kinds])


def seen(folder, recipe, pictures, *, until=(12,)):
    """Train until before a row is written; what every checkpoint holds."""
    kept, save, log = {}, Workdir.save, Workdir.log

    def saved(workdir, state, data):
        kept[int(state.step)] = arrays(state.variables)
        save(workdir, state, data)

    def logged(workdir, row):
        if row["step"] in until:
            raise Killed
        log(workdir, row)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workdir, "save", saved)
        patch.setattr(Workdir, "log", logged)
        try:
            minivim.train(recipe, str(pictures), folder, quiet=True)
        except Killed:
            assert until
    return kept


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run of every kind, killed after step 10 of 12, and what it had saved."""
    home = tmp_path_factory.mktemp("look")
    tiny.pictures(home / "pictures")
    found = {}
    for name, recipe in RECIPES.items():
        if name == "prior":
            recipe = replace(recipe, tokenizer=str(home / "tokenizer"))
        found[name] = seen(home / name, recipe, home / "pictures")
    return home, found


def files(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != ".lock"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_is_looked_into_while_it_goes_on(home, capsys, name):
    home, found = home
    before = files(home / name)
    for step in (None, 5, 10):
        with claim(home / name):
            model = minivim.load(home / name, step=step)
        wanted = found[name][step or 10]
        if name == "gan":
            wanted = [part.get("tokenizer", {}) for part in wanted]
        tiny.assert_same(arrays(nnx.state(model)), wanted)
        assert jax.tree.leaves(wanted)
        card = model.card
        assert card["steps"] == (step or 10) and card["kind"] in ("tokenizer", name)
        assert ("loss" in card["figures"]) and "step" not in card["figures"]
        assert card["recipe"]["run"]["steps"] == 12
        err = capsys.readouterr().err
        assert f"note: {home / name} has not finished: step {step or 10} of 12\n" in err
    assert files(home / name) == before
    if name == "tokenizer":
        assert np.any(wanted[1]["quantizer"]["counts"])


def test_a_step_that_is_not_kept_is_refused(home):
    home, _ = home
    told = message(lambda: minivim.load(home / "tokenizer", step=7))
    assert told.endswith("tokenizer keeps no checkpoint of step 7; use 5 or 10")
    told = message(lambda: minivim.load("shapes/tokenizer", step=7))
    assert "tokenizer keeps no checkpoint; " in told


def test_what_is_damaged_is_passed_by(home, tmp_path, capsys):
    run = shutil.copytree(home[0] / "tokenizer", tmp_path / "run")
    for file in (run / "checkpoints/10").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:9])
    assert minivim.load(run).card["steps"] == 5
    err = capsys.readouterr().err
    assert "the checkpoint of step 10 in" in err and "step 5 of 12" in err
    assert all(line.startswith("minivim: note:") for line in err.splitlines()), err
    assert "no checkpoint in" in message(lambda: minivim.load(run, step=10))
    shutil.rmtree(run / "checkpoints/5")
    assert "no checkpoint in" in message(lambda: minivim.load(run))
    shutil.rmtree(run / "checkpoints")
    assert "keeps no checkpoint; train it further" in message(lambda: minivim.load(run))


def test_numbers_that_were_not_saved_are_damage(home, tmp_path):
    """The digests of what is read, though the optimizer's are not asked for."""
    run = shutil.copytree(home[0] / "tokenizer", tmp_path / "run")
    file = run / "checkpoints/10/data/metadata"
    record = json.loads(file.read_text())
    name = next(n for n in record["digests"] if n.startswith(".params"))
    record["digests"][name] ^= 1
    del record["seal"]
    record["seal"] = _checksum(record)
    file.write_text(json.dumps(record))
    assert minivim.load(run).card["steps"] == 5
    assert "the numbers of .params" in message(lambda: minivim.load(run, step=10))
    (run / "metrics.jsonl").unlink()
    assert minivim.load(run).card["figures"] == {}


def test_the_commands(home, tmp_path, capsys):
    home, _ = home
    tok, prior, pictures = (str(home / n) for n in ("tokenizer", "prior", "pictures"))
    data = ["--data", pictures]
    out = str(tmp_path / "a.png")
    for command in (
        ["reconstruct", tok, *data, "--out", out],
        ["sample", prior, "--out", out, "--count", "1"],
        ["complete", prior, pictures, "--label", "0", "--first", "1", "--out", out],
        ["evaluate", tok, *data],
        ["encode", tok, *data, "--out", str(tmp_path / "codes")],
    ):
        assert cli.main([*command, "--step", "5", "--quiet"]) == 0
        err = capsys.readouterr().err
        assert f"{command[1]} has not finished: step 5 of 12" in err
    assert cli.main([*command, "--step", "3"]) == 2
    assert "keeps no checkpoint of step 3; use 5 or 10" in capsys.readouterr().err


def test_a_run_of_before_drafts_says_what_to_do(home, tmp_path):
    run = shutil.copytree(home[0] / "tokenizer", tmp_path / "run")
    (run / weights.DRAFT).unlink()
    told = message(lambda: minivim.load(run))
    assert "has not finished; start it again with its command" in told


def test_a_finished_run_keeps_its_earlier_steps(home, tmp_path, capsys):
    run = shutil.copytree(home[0] / "tokenizer", tmp_path / "run")
    found = seen(run, RECIPES["tokenizer"], home[0] / "pictures", until=())
    assert not (run / weights.DRAFT).exists()
    capsys.readouterr()
    last, kept = minivim.load(run), minivim.load(run, step=12)
    assert weights.weights_hash(last) == weights.weights_hash(kept)
    earlier = minivim.load(run, step=10)
    tiny.assert_same(arrays(nnx.state(earlier)), home[1]["tokenizer"][10])
    assert earlier.card["steps"] == 10 and last.card["steps"] == 12
    assert earlier.card["figures"] != last.card["figures"] == kept.card["figures"]
    assert capsys.readouterr().err == ""
    assert list(found) == [12]


def test_training_starts_from_an_unfinished_run(home, tmp_path):
    recipe = with_overrides(RECIPES["tokenizer"], ["steps=1"])
    how = {"start": home[0] / "tokenizer", "quiet": True}
    pictures = str(home[0] / "pictures")
    model, _ = minivim.train(recipe, pictures, tmp_path / "a", **how)
    wanted = weights.weights_hash(minivim.load(home[0] / "tokenizer"))
    assert model.card["start"]["hash"] == wanted
    assert re.fullmatch("[0-9a-f]{64}", wanted)
