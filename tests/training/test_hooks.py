"""Losses of one's own, ramps, averaged weights, and what is told of a run meanwhile."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import minivim
from minivim import cli, trainer, training, weights
from minivim.config import DiscriminatorConfig, LossConfig
from minivim.context import LOSSES, Context
from minivim.sharding import MeshShape, make_mesh, shardings_of
from minivim.training.checkpoint import kept_steps
from tests import tiny
from tests.tiny import message

RUN = replace(tiny.RUN, steps=4, eval_every=2, checkpoint_every=2)
RECIPE = replace(tiny.TOKENIZER_RECIPE, run=RUN)
PRIOR = replace(tiny.PRIOR_RECIPE, run=RUN, tokenizer="tok")
OWN = {"losses": {"edges": 0.5}, "ramps": {"edges": 3, "l2": 2}}


def edges(outputs, batch):
    """Differences of neighbouring pixels, away from those of the image."""
    sides = (jnp.diff(x, axis=1) for x in (outputs["recon"], batch["image"]))
    return jnp.mean(jnp.abs(next(sides) - next(sides)))


def confident(outputs, batch):
    assert outputs["logits"].shape[:2] == batch["codes"].shape
    return jnp.mean(jnp.square(outputs["logits"]))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr("minivim.plugins.LOSSES", LOSSES)
    minivim.register("edges", loss=edges)
    minivim.register("confident", loss=confident)
    yield
    LOSSES.clear()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run with all of them, what it said meanwhile, and its pictures."""
    minivim.register("edges", loss=edges)
    folder = tmp_path_factory.mktemp("hooks")
    tiny.pictures(folder / "pictures")
    rows, seen = [], []

    def watch(step, model):
        seen.append((step, np.array(model.quantizer.codebook[...])))

    how = OWN | {"average": 0.9, "log": rows.append, "watch": watch}
    model, told = run(folder, folder / "own", **how)
    assert told == rows
    return SimpleNamespace(folder=folder, model=model, rows=rows, seen=seen)


def run(folder, out, recipe=RECIPE, **how):
    return minivim.train(recipe, str(folder / "pictures"), out, quiet=True, **how)


def test_run_and_card_name_them(home):
    out = home.folder / "own"
    said = OWN | {"average": 0.9}
    for name in ("run.json", "card.json"):
        found = json.loads((out / name).read_text())
        assert {key: found[key] for key in said} == said
    for how, told in [
        ({}, "holds another run (average was 0.9, now None"),
        (OWN, "holds another run (average was 0.9, now None)"),
        (
            said | {"losses": {"edges": 1.0}},
            "losses was {'edges': 0.5}, now {'edges': 1",
        ),
    ]:
        assert told in message(lambda how=how: run(home.folder, out, **how))
    assert run(home.folder, out, **said)[1] == []
    LOSSES.clear()
    told = message(lambda: run(home.folder, out, **said))
    assert told == (
        "no loss is registered as 'edges'; call minivim.register('edges', "
        "loss=FUNCTION), in a module of --import"
    )


def test_a_run_without_them_is_what_it_was(home, tmp_path):
    model, rows = run(home.folder, tmp_path / "a")
    for name in ("run.json", "card.json"):
        found = json.loads((tmp_path / "a" / name).read_text())
        assert not found.keys() & {"losses", "ramps", "average"}
    assert not any(name.startswith("loss_") for name in rows[0])
    whole = tiny.ready(RECIPE).state()
    assert whole.average is None and len(jax.tree.leaves(whole)) == len(
        jax.tree.leaves(whole._replace(average=None))
    )
    told = message(lambda: run(home.folder, tmp_path / "a", **OWN))
    assert "holds another run (losses was None, now {'edges': 0.5}" in told


def test_watch_and_log_are_told(home):
    assert [row["step"] for row in home.rows] == [2, 4]
    assert all(row["loss_edges"] > 0 for row in home.rows)
    assert [step for step, _ in home.seen] == [2, 4]
    # What is shown is what is written: the average.
    written = np.asarray(home.model.quantizer.codebook[...])
    np.testing.assert_array_equal(home.seen[-1][1], written)
    loaded = weights.load(home.folder / "own")
    np.testing.assert_array_equal(loaded.quantizer.codebook[...], written)


def test_an_unfinished_run_loads_its_average(home, tmp_path):
    class Enough(Exception):
        pass

    def stop(row):
        raise Enough

    def seen(step, model):
        kept.append(np.array(model.quantizer.codebook[...]))
        raise Enough

    kept = []
    with pytest.raises(Enough):
        run(home.folder, tmp_path / "a", average=0.9, watch=seen)
    assert kept_steps(tmp_path / "a/checkpoints") == [2]
    found = weights.load(tmp_path / "a").quantizer.codebook[...]
    np.testing.assert_array_equal(found, kept[0])
    # The same command ends as a run that nobody stopped, but for its own terms.
    model, _ = run(home.folder, tmp_path / "a", average=0.9)
    whole, _ = run(home.folder, tmp_path / "b", average=0.9)
    assert weights.weights_hash(model) == weights.weights_hash(whole)
    raw, _ = run(home.folder, tmp_path / "c")
    assert weights.weights_hash(raw) != weights.weights_hash(whole)


@pytest.mark.parametrize("freeze", [(), ("encoder",)])
def test_the_average_is_that_of_all_steps(freeze):
    recipe, decay = RECIPE, 0.8
    ready = tiny.ready(recipe)
    state = training.new_state(
        ready.parts.model, ready.parts.optim, steps=4, average=decay
    )
    jax.tree.map(np.testing.assert_array_equal, state.params, state.average)
    step, passed = ready.step(average=decay, freeze=freeze), []
    for _ in range(4):
        state, _ = step(state, next(ready.batches))
        passed.append(jax.tree.map(np.array, state.params))
    shares = np.array([decay ** (3 - i) for i in range(4)])
    shares = shares * (1 - decay) / (1 - decay**4)
    assert shares.sum() == pytest.approx(1)

    def check(found, *values):
        wanted = sum(w * np.float64(x) for w, x in zip(shares, values, strict=True))
        np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-7)

    jax.tree.map(check, state.average, *passed)
    jax.tree.map(np.testing.assert_array_equal, state.variables, state.average)


def test_the_average_lies_like_the_parameters():
    ready = tiny.ready(RECIPE)
    how = {"steps": 4, "average": 0.9}
    shapes = training.step.abstract_state(ready.parts.model, ready.parts.optim, **how)
    mesh = make_mesh(MeshShape(data=1), devices=jax.devices()[:1])
    where = shardings_of(shapes, mesh)
    assert jax.tree.leaves(where.average) == jax.tree.leaves(where.params)
    told = message(lambda: ready.step(average=0.9)(ready.state(), next(ready.batches)))
    assert "the state keeps no average; give new_state the same average" in told


@pytest.mark.parametrize("stage", ["tokenizer", "adversarial", "prior", "classifier"])
def test_a_ramp_grows_in_a_line(stage):
    """`loss` minus the terms whose weights stay, over what a ramp leads to."""
    context = Context(step=jnp.int32(3), ramps={"a": 4, "b": 2})
    assert float(context.share("a")) == 0.75 and float(context.share("b")) == 1
    assert context.share("c") == 1.0
    assert float(context.share("a", {"a": 2})) == 0.25
    assert float(context.share("a", {"a": 9})) == 0
    batch, key = {"image": jnp.asarray(tiny.images(4), jnp.float32) / 255}, KEY
    batch |= {"label": jnp.arange(4) % 3, "codes": jnp.arange(16).reshape(4, 4)}
    loss, model, own = parts_of(stage)
    name = "adversarial" if stage == "adversarial" else own
    plain = loss(model, batch, Context(step=5), key=key)
    values = {}
    for step in (0, 1, 2, 4, 9):
        how = {"own": {own: 0.5}, "ramps": {name: 4}}
        total, terms = loss(model, batch, Context(step=step, **how), key=key)
        values[step] = float(total), terms
    term = values[9][1][name if stage == "adversarial" else f"loss_{own}"]
    slope = float(term) * (0.1 if stage == "adversarial" else 0.5)
    assert abs(slope) > 1e-4
    first = values[0][0]
    assert [values[s][0] - first for s in (1, 2, 4, 9)] == pytest.approx(
        [slope / 4, slope / 2, slope, slope], rel=1e-3, abs=1e-6
    )
    if stage != "adversarial":
        assert first == pytest.approx(float(plain[0]), rel=1e-6)


KEY = jax.random.key(0)


def parts_of(stage):
    """A stage's loss, compiled, its model and the name of a term."""
    recipe, model, own = RECIPE, tiny.tokenizer(), "edges"
    if stage == "prior":
        recipe, model, own = PRIOR, tiny.prior(), "confident"
    if stage == "adversarial":
        critic = DiscriminatorConfig(width=4, max_width=8, r1_gamma=0.0)
        recipe = replace(RECIPE, loss=LossConfig(adversarial=0.1), discriminator=critic)
        model = trainer.build(recipe)
    if stage == "classifier":
        from minivim.classifier import classifier_loss
        from minivim.config import ClassifierConfig

        config = ClassifierConfig(kind="cnn", num_classes=3, width=4)
        model = trainer.classifier.build(config, rngs=trainer.nnx.Rngs(0))
        minivim.register("size", loss=lambda out, batch: jnp.mean(out["logits"] ** 2))
        return classifier_loss, model, "size"
    return trainer.setup(recipe, model).loss, model, own


@pytest.mark.parametrize(
    "how, told",
    [
        ({"losses": {"nobody": 1.0}}, "no loss is registered as 'nobody'; call"),
        ({"losses": {"edges": float("nan")}}, "loss edges is not a finite number"),
        ({"ramps": {"adversarial": 5}}, "no term called 'adversarial' has a weight "
         "that a ramp could lead to; use vq or l2"),
        ({"ramps": {"l2": 0}}, "the ramp l2=0 must be a whole number of steps above"),
        ({"average": 1.0}, "average=1.0 is not in [0, 1); use 0.999, or 0 for none"),
        ({"losses": {"vector": 1.0}}, "the loss 'vector' has shape (8,); return a"),
    ],
)  # fmt: skip
def test_what_is_refused(home, tmp_path, how, told):
    minivim.register(
        "vector", loss=lambda out, batch: out["recon"].mean(axis=(1, 2, 3))
    )
    assert told in message(lambda: run(home.folder, tmp_path / "a", **how))


@pytest.mark.parametrize(
    "call",
    [
        lambda: minivim.register("l2", loss=edges),
        lambda: minivim.register("a b", loss=edges),
        lambda: minivim.register("x"),
    ],
)
def test_names_that_losses_cannot_have(call):
    assert "loss=FUNCTION" in message(call)


def test_the_command(home, tmp_path, capsys):
    command = [
        "train", "tokenizer", "shapes", "--quiet", "--workdir", str(tmp_path / "a"),
        "--data", str(home.folder / "pictures"), "--set", *tiny.TOKENIZER_SETTINGS,
        "--loss", "edges=0.5", "--ramp", "edges=3", "l2=2", "--average", "0.9",
    ]  # fmt: skip
    assert cli.main(command) == 0, capsys.readouterr().err
    card = json.loads((tmp_path / "a/card.json").read_text())
    assert {name: card[name] for name in OWN} == OWN and card["average"] == 0.9
    assert cli.main([*command, "--ramp", "l2"]) == 2
    assert "l2 must be a name and a number, such as l1=0.5" in capsys.readouterr().err


def test_tensorboard_reads_it(home, tmp_path, capsys, monkeypatch):
    """A run and its repetition from step 4 on; and a machine without the package."""
    events = pytest.importorskip("tensorboardX.proto.event_pb2")
    command = [
        "train", "tokenizer", "shapes", "--quiet", "--workdir", str(tmp_path / "a"),
        "--data", str(home.folder / "pictures"), "--set", *tiny.TOKENIZER_SETTINGS,
        "--tensorboard", str(tmp_path / "board/1"),
    ]  # fmt: skip
    assert cli.main(command) == 0, capsys.readouterr().err
    log = training.tensorboard(tmp_path / "board/2")
    for row in training.read_metrics(tmp_path / "a")[1:]:
        log(row)
    found, purged = {}, []
    for file in sorted(tmp_path.glob("board/*/*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = events.Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16
            purged += [event.step] if event.HasField("session_log") else []
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(event.step)
    assert purged == [2, 3] and found["loss"] == [2, 3, 4, 6, 3, 4, 6]
    assert {"grad_norm", "lr", "usage", "eval_psnr"} < found.keys()
    assert not found.keys() & {"step"}


def test_a_machine_without_tensorboard(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    where = ["--data", "shapes", "--workdir", str(tmp_path), "--tensorboard", "b"]
    assert cli.main(["train", "tokenizer", "shapes", *where]) == 2
    told = "tensorboardX is not installed; run pip install -e '.[tensorboard]'\n"
    assert capsys.readouterr().err == f"minivim: error: {told}"
