"""Weights on disk: round trips, damage, and priors that do not belong."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from minivim import weights
from minivim.classifier import build as build_classifier
from minivim.config import ClassifierConfig
from minivim.errors import UserError
from minivim.tokenizer import Tokenizer
from minivim.weights.warm_start import start_from
from tests import tiny

MODELS = {
    "tokenizer": tiny.tokenizer,
    "prior": tiny.prior,
    "classifier": lambda: tiny.build(
        build_classifier, ClassifierConfig(kind="residual", num_classes=3, width=8)
    ),
}


def state(model):
    return weights.flat_weights(model)


@pytest.fixture
def saved(tmp_path):
    return weights.save(tmp_path / "tok", tiny.tokenizer(), card={"seed": 7})


@pytest.fixture
def pair(tmp_path):
    """A tokenizer and a prior over its codes, as training leaves them."""
    tokenizer = tiny.tokenizer()
    first = weights.save(tmp_path / "tok", tokenizer, card={})
    card = {
        "tokenizer": str(first),
        "tokenizer_hash": weights.weights_hash(tokenizer),
    }
    second = weights.save(tmp_path / "prior", tiny.prior(), card=card)
    return first, second


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_round_trips(tmp_path, kind):
    model = MODELS[kind]()
    folder = weights.save(tmp_path / kind, model, card={"seed": 7})
    loaded = weights.load(folder)
    assert type(loaded) is type(model) and loaded.card["kind"] == kind
    assert loaded.config == model.config
    tiny.assert_same(state(model), state(loaded))
    assert loaded.card["seed"] == 7
    count = sum(value.size for value in state(model).values())
    assert loaded.card["parameters"] == count
    assert weights.weights_hash(loaded) == weights.weights_hash(model)


def test_what_is_no_model_of_ours_is_not_saved(tmp_path):
    for model in (nnx.Linear(2, 2, rngs=nnx.Rngs(0)), tiny.prior().stack):
        told = tiny.message(lambda model=model: weights.save(tmp_path, model, card={}))
        assert f"{type(model).__name__} has no such settings; give a model" in told
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_statistics_are_in_the_file(tmp_path, storage):
    config = replace(
        tiny.TOKENIZER,
        quantizer=replace(tiny.TOKENIZER.quantizer, codebook="ema", revive_after=5),
    )
    new = Tokenizer(config, rngs=nnx.Rngs(0))
    trained = nnx.clone(new)
    images = jnp.asarray(tiny.images(3), jnp.float32) / 255
    tiny.call(trained, images, key=jax.random.key(0))
    folder = weights.save(tmp_path, trained, card={}, storage=storage)
    file = str(folder / weights.WEIGHTS)
    known, stats = load_file(file), weights.flat_weights(trained, nnx.BatchStat)
    assert len(stats) == 3 and all(np.any(x) for x in stats.values())
    assert known.keys() == state(trained).keys() | stats.keys()
    loaded = weights.load(folder)
    tiny.assert_same(weights.flat_weights(loaded, nnx.BatchStat), stats)
    count = sum(x.size for x in state(trained).values())
    assert loaded.card["parameters"] == count
    if storage == "float32":
        tiny.assert_same(state(loaded), state(trained))
        assert weights.weights_hash(loaded) == weights.weights_hash(trained)
        model = nnx.clone(new)
        start_from(model, loaded)
        tiny.assert_same(nnx.state(model), nnx.state(loaded))
    # A file from before they were in there.
    save_file({k: v for k, v in known.items() if k not in stats}, file)
    older = weights.load(folder)
    tiny.assert_same(*(nnx.state(m, nnx.BatchStat) for m in (older, new)))
    tiny.assert_same(state(older), state(loaded))
    for change in (lambda x: x[1:], lambda x: x.astype(np.float32), lambda x: x * 1.5):
        save_file(known | {"quantizer.idle": change(known["quantizer.idle"])}, file)
        told = tiny.message(lambda: weights.load(folder))
        assert "does not fit its card at 'quantizer.idle'" in told
    save_file(known | {"quantizer.sums": known["quantizer.sums"] * np.nan}, file)
    assert "holds NaN or inf" in tiny.message(lambda: weights.load(folder))
    tiny.call(loaded, images, key=jax.random.key(0))  # and it can go on


def test_a_loaded_model_computes_the_same(saved):
    images = jnp.asarray(tiny.images(3), jnp.float32) / 255
    loaded = weights.load(saved)
    codes = tiny.tokenizer().encode(images)
    np.testing.assert_array_equal(codes, loaded.encode(images))
    np.testing.assert_array_equal(tiny.tokenizer().decode(codes), loaded.decode(codes))


def test_half_precision_on_disk_is_float32_in_memory(tmp_path, saved):
    folder = weights.save(
        tmp_path / "half", tiny.tokenizer(), card={},
        storage="float16",
    )  # fmt: skip
    sizes = [(f / weights.WEIGHTS).stat().st_size for f in (folder, saved)]
    assert sizes[0] < 0.7 * sizes[1]
    loaded = weights.load(folder)
    assert loaded.card["storage"] == "float16"
    for name, value in state(tiny.tokenizer()).items():
        found = state(loaded)[name]
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, np.float16(value).astype(np.float32))


def test_hash_depends_on_every_parameter():
    model = tiny.prior()
    before = weights.weights_hash(model)
    assert before == weights.weights_hash(tiny.prior())
    assert before != weights.weights_hash(tiny.prior(seed=1))
    model.head.bias[...] = model.head.bias[...].at[-1].add(1e-6)
    assert before != weights.weights_hash(model)


def test_truncated_weights_are_refused(saved):
    file = saved / weights.WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged or cut short.*export it again"):
        weights.load(saved)


def test_missing_weights_are_refused(saved):
    (saved / weights.WEIGHTS).unlink()
    with pytest.raises(UserError, match="fetch or export it again"):
        weights.load(saved)


def test_a_missing_tensor_is_named(saved):
    tensors = load_file(str(saved / weights.WEIGHTS))
    del tensors["quantizer.codebook"]
    save_file(tensors, str(saved / weights.WEIGHTS))
    with pytest.raises(UserError, match=r"it lacks 'quantizer\.codebook'"):
        weights.load(saved)


def test_weights_of_another_size_are_refused(saved):
    card = json.loads((saved / weights.CARD).read_text())
    card["model"]["quantizer"]["num_codes"] = 48
    (saved / weights.CARD).write_text(json.dumps(card))
    with pytest.raises(UserError, match="does not fit its card"):
        weights.load(saved)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"kind": "painting"}',
        '{"kind": "tokenizer"}',
        '{"kind": "tokenizer", "model": {}}',
        '{"kind": "tokenizer", "model": {"rotary": 1}}',
        '{"kind": "tokenizer", "model": 3}',
    ],
)
def test_an_unreadable_card_is_refused(saved, text):
    (saved / weights.CARD).write_text(text)
    with pytest.raises(UserError, match="again|install that one") as error:
        weights.load(saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["nothing-here", "runs/never", "./never", "/no/where"])
def test_an_unknown_name_lists_what_there_is(name):
    with pytest.raises(UserError, match="shipped are .* folder of a finished run"):
        weights.load(name)


def test_an_unknown_shipped_name_is_not_looked_for_on_the_hub(monkeypatch):
    monkeypatch.setattr(weights, "shipped", lambda: ["shapes/tokenizer"])
    with pytest.raises(UserError, match="shipped are shapes/tokenizer"):
        weights.load("shapes/tokeniser")


def test_a_folder_without_card_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no card\.json"):
        weights.load(tmp_path)


def test_an_unfinished_run_is_told_apart(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="has not finished; start it again"):
        weights.load(tmp_path)


def test_a_prior_finds_its_tokenizer(pair):
    tokenizer, prior = weights.load_pair(pair[1])
    assert weights.weights_hash(tokenizer) == prior.card["tokenizer_hash"]
    assert weights.load(pair[1]).card["tokenizer"] == str(pair[0])


def test_a_prior_on_another_tokenizer_is_refused(pair, tmp_path):
    other = weights.save(tmp_path / "other", tiny.tokenizer(seed=1), card={})
    with pytest.raises(UserError, match="codes of another tokenizer.*load that one"):
        weights.load_pair(pair[1], other)
    with pytest.raises(UserError, match="codes of another tokenizer"):
        weights.load(pair[1], tokenizer=weights.load(other))
    # The tokenizer that the card names was replaced under its name.
    shutil.rmtree(pair[0])
    other.rename(pair[0])
    with pytest.raises(UserError, match="codes of another tokenizer"):
        weights.load_pair(pair[1])


def test_a_prior_loads_without_its_tokenizer_at_hand(pair):
    shutil.rmtree(pair[0])
    prior = weights.load(pair[1])
    tiny.assert_same(state(prior), state(tiny.prior()))
    with pytest.raises(UserError, match="no weights at"):
        weights.load_pair(pair[1])


def test_loading_a_prior_fetches_nothing_unasked(tmp_path, saved, monkeypatch):
    asked = []

    def fetch(name, **options):
        asked.append(name)
        return str(saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    hashed = weights.weights_hash(tiny.tokenizer())
    card = {"tokenizer": "someone/tok", "tokenizer_hash": hashed}
    folder = weights.save(tmp_path / "prior", tiny.prior(), card=card)
    weights.load(folder)
    assert weights.read_card(folder)["tokenizer"] == "someone/tok"
    assert asked == []
    with pytest.raises(UserError, match="no weights at 'someone/tok'"):
        weights.load_pair(folder)
    assert asked == []
    weights.load_pair(folder, "someone/tok")
    assert set(asked) == {"someone/tok"}


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        ({}, ""),
        ({"recipe": {"loss": {"perceptual": 0.0}}}, ""),
        ({"recipe": {"stack": {}}}, ""),
        ({"labels_seen": "ImageNet"}, "ImageNet"),
        # From before the field.
        ({"recipe": {"loss": {"perceptual": 0.1}}}, "a perceptual loss"),
    ],
)
def test_a_card_says_whether_labels_were_seen(card, reason):
    assert weights.Card("", card).labels_seen == reason


def test_what_the_studies_have_is_imported_when_it_is_asked_for():
    program = (
        "import sys; from minivim import weights; "
        "assert not [m for m in sys.modules if m.startswith('minivim_lab')]; "
        "weights.abstract('inception', weights.resolve_name("
        "weights.KINDS['inception'][0])())"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_tokenizer_is_no_prior(pair):
    with pytest.raises(UserError, match="is a tokenizer, not a prior"):
        weights.load_pair(pair[0])


def test_a_prior_whose_card_names_no_tokenizer(tmp_path):
    folder = weights.save(tmp_path / "prior", tiny.prior(), card={})
    with pytest.raises(UserError, match="whose card names None.*name one"):
        weights.load_pair(folder)


def test_hub_weights_are_fetched_at_a_revision(saved, monkeypatch):
    asked = []

    def fetch(name, *, revision, allow_patterns):
        asked.append((name, revision, set(allow_patterns)))
        return str(saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    files = {weights.WEIGHTS, weights.CARD}
    files |= {f"tokenizer/{file}" for file in files}
    for ref, revision in (("someone/tok@abc123", "abc123"), ("someone/tok", None)):
        loaded = weights.load(ref)
        tiny.assert_same(state(loaded), state(tiny.tokenizer()))
        assert asked.pop() == ("someone/tok", revision, files)


@pytest.mark.parametrize("kind", ["missing", "offline", "disk", "name"])
def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch, kind):
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    error = {
        "missing": LocalEntryNotFoundError("no copy\nand no connection"),
        "offline": ConnectionError("no route"),
        "disk": OSError(28, "No space left on device"),
        "name": HFValidationError("bad name"),
    }[kind]

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(UserError, match="cannot fetch.*give a local folder") as found:
        weights.load("someone/tok")
    assert "\n" not in str(found.value)


def test_a_hub_folder_without_our_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *a, **k: str(tmp_path)
    )
    with pytest.raises(UserError, match="holds no card|cannot be read"):
        weights.load("someone/else")


@pytest.mark.skipif(not weights.shipped(), reason="no weights are shipped yet")
@pytest.mark.parametrize("name", weights.shipped())
def test_shipped_weights_load_and_their_cards_are_complete(name):
    model = weights.load(name)
    card = model.card
    for key in (
        "recipe", "seed", "data", "steps", "machine", "figures",
        "licence", "command", "parameters",
    ):  # fmt: skip
        assert card.get(key) not in (None, "", {}), key
    assert card.get("wall_seconds") or card.get("train_seconds")
    for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)):
        assert leaf.dtype == jnp.float32
        assert bool(jnp.isfinite(leaf).all())


@pytest.mark.skipif(not weights.shipped(), reason="no weights are shipped yet")
def test_shipped_weights_fit_their_limits():
    for family, limit in (("shapes", 10e6), ("cifar10", 20e6)):
        files = (f for f in (weights.HERE / family).rglob("*") if f.is_file())
        assert sum(f.stat().st_size for f in files) <= limit
    priors = [n for n in weights.shipped() if "/prior" in n]
    for name in priors:
        tokenizer, prior = weights.load_pair(name)
        assert prior.card["tokenizer_hash"] == weights.weights_hash(tokenizer)


def test_shipped_weights_load_on_an_old_processor():
    """XLA has no float16 for x86 before F16C, which is how `shapes` is stored."""
    program = (
        "import minivim, jax; from flax import nnx; "
        "model = minivim.load('shapes/classifier'); "
        "print({str(x.dtype) for x in jax.tree.leaves(nnx.state(model))})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{'float32'}"
