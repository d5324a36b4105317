"""Training that starts from weights, and parts that keep theirs."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

import minivim
from minivim import cli, config, trainer, weights
from minivim.config import with_overrides
from minivim.weights.warm_start import start_from
from tests import tiny
from tests.tiny import message

RECIPE = tiny.TOKENIZER_RECIPE


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A finished tokenizer run, and its pictures."""
    folder = tmp_path_factory.mktemp("start")
    tiny.pictures(folder / "pictures")
    minivim.train(RECIPE, str(folder / "pictures"), folder / "tok", quiet=True)
    return folder


def run(home, out, recipe=RECIPE, **how):
    """A run of no more than a few steps, quietly."""
    return minivim.train(recipe, str(home / "pictures"), out, quiet=True, **how)[0]


def arrays(model):
    return {k: np.asarray(v) for k, v in weights.flat_weights(model).items()}


def test_a_run_starts_from_weights(home, tmp_path, monkeypatch):
    ref, seen = home / "tok", []
    monkeypatch.setattr(
        trainer.training, "new_state",
        lambda model, *a, **o: seen.append(arrays(model)) or [][0],
    )  # fmt: skip
    with pytest.raises(IndexError):
        run(home, tmp_path / "a", start=ref)
    jax.tree.map(np.testing.assert_array_equal, seen[0], arrays(weights.load(ref)))


def test_card_and_identity_name_the_source(home, tmp_path):
    ref, out = home / "tok", tmp_path / "a"
    model = run(home, out, start=ref, freeze=("encoder", "quantizer"))
    before, after = arrays(weights.load(ref)), arrays(model)
    for name, value in after.items():
        kept = name.split(".")[0] in ("encoder", "quantizer")
        assert np.array_equal(value, before[name]) == kept, name
    card = json.loads((out / "card.json").read_text())
    wanted = weights.weights_hash(weights.load(ref))
    assert card["start"] == {"name": str(ref), "hash": wanted}
    assert card["freeze"] == ["encoder", "quantizer"]
    told = message(lambda: run(home, out))
    assert "holds another run" in told
    assert run(home, out, start=ref, freeze=("quantizer", "encoder")) is not None


def test_statistics_of_a_frozen_codebook_stay(home, tmp_path):
    settings = ["codebook=ema", "revive_after=1"]
    recipe = with_overrides(RECIPE, settings)
    ready = tiny.ready(recipe)
    kinds = (nnx.Param, nnx.BatchStat)
    before = jax.tree.map(np.array, nnx.state(ready.parts.model, kinds))
    step, state = ready.step(freeze=("quantizer",)), ready.state()
    for _ in range(2):
        state, _ = step(state, next(ready.batches))
    after = dict(nnx.to_flat_state(state.variables))
    for path, leaf in nnx.to_flat_state(before):
        same = np.array_equal(leaf[...], after[path][...])
        assert same == (path[0] == "quantizer"), path


@pytest.mark.parametrize(
    "how, told",
    [
        (
            {"freeze": ("encode",)},
            "there is no 'encode' to freeze; use decoder, encoder, quantizer",
        ),
        ({"start": "shapes/prior"}, "shapes/prior is a prior; start from a tokenizer"),
        ({"start": "shapes/tokenizer"}, "does not fit the recipe, for instance at"),
        ({"start": "nowhere/at/all"}, "there are no weights at 'nowhere/at/all'"),
    ],
)
def test_what_a_run_cannot_start_from(home, tmp_path, how, told):
    assert told in message(lambda: run(home, tmp_path / "a", **how))


def test_other_classes_start_anew(home, tmp_path, capsys):
    small = tiny.prior(num_classes=2)
    weights.save(tmp_path / "p", small, card={"recipe": {}})
    model = nnx.clone(tiny.prior())
    start_from(model, weights.load(tmp_path / "p"))
    err = capsys.readouterr().err
    assert "had other settings than num_classes=3" in err
    [line] = [line for line in err.splitlines() if "start anew" in line]
    anew = set(line.partition("anew: ")[2].split(", "))
    old, new = arrays(small), arrays(model)
    for name, value in new.items():
        assert (name in anew) or np.array_equal(value, old[name])
    assert 0 < len(anew) < len(new) / 2


def test_a_schedule_that_never_ends_is_named(home, tmp_path, capsys):
    recipe = with_overrides(RECIPE, ["schedule=cosine", "decay_end=40"])
    run(home, tmp_path / "a", recipe)
    told = "falls until step 40, and the run ends at 12; optim.decay_end=0 ends both"
    assert told in capsys.readouterr().err
    run(home, tmp_path / "b", with_overrides(recipe, ["decay_end=0"]))
    assert "falls until" not in capsys.readouterr().err


def test_the_command(home, tmp_path, capsys):
    shown = config.leaves(RECIPE)
    assert shown and dataclasses.is_dataclass(RECIPE)
    command = [
        "train", "tokenizer", "shapes", "--quiet", "--data", str(home / "pictures"),
        "--workdir", str(tmp_path / "a"), "--set", *tiny.TOKENIZER_SETTINGS,
    ]  # fmt: skip
    how = ["--from", str(home / "tok"), "--freeze", "encoder"]
    code = cli.main([*command, *how])
    err = capsys.readouterr().err
    assert code == 0, err
    assert json.loads((tmp_path / "a/card.json").read_text())["freeze"] == ["encoder"]
