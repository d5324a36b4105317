"""Quantizers and recipes of one's own come back as themselves."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minivim import load, register, weights
from minivim.config import AnyQuantizerConfig, QuantizerConfig, as_dict, from_dict
from minivim.config.models import TokenizerConfig
from minivim.config.settings import REGISTERED
from minivim.recipes import RECIPES
from minivim.tokenizer import Quantizer, Tokenizer
from minivim.tokenizer.quantizer import QUANTIZERS
from tests import tiny
from tests.tiny import message
from tests.tokenizer.fsq import FSQ, FSQConfig

ROOT = Path(__file__).parents[1]
IMAGES = jnp.asarray(tiny.images(4), jnp.float32) / 255


@pytest.fixture(autouse=True)
def as_before():
    """Registries that a test may fill as it likes."""
    kept = [(table, dict(table)) for table in (REGISTERED, QUANTIZERS, RECIPES)]
    yield
    for table, values in kept:
        table.clear()
        table.update(values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(QuantizerConfig):
    """Settings of another quantizer with the fields of the codebook's."""


class Last(Quantizer):
    """The code that is farthest away, so that no code is as the built-in one's."""

    def __call__(self, features, *, key=None):
        y, aux = super().__call__(-features, key=key)
        return y, aux


def twice(sign):
    """A class that is defined anew at each call, as a cell that is run again does."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Again(QuantizerConfig):
        pass

    class Module(Quantizer):
        def __call__(self, features, *, key=None):
            return super().__call__(sign * features, key=key)

    register("again", Again, Module)
    return Again


def saved(folder, quantizer):
    tok = tiny.tokenizer(quantizer=quantizer)
    weights.save(folder, tok, card={"recipe": {}})
    return tok


def test_the_same_fields_are_no_reason_to_be_ours(tmp_path):
    register("mine", Mine, Last)
    settings = Mine(**vars(tiny.TOKENIZER.quantizer))
    tok, ours = saved(tmp_path, settings), tiny.tokenizer()
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["model"]["quantizer"]["class"] == "mine"
    loaded = load(tmp_path)
    assert type(loaded.quantizer) is Last and loaded.config.quantizer == settings
    np.testing.assert_array_equal(loaded.encode(IMAGES), tok.encode(IMAGES))
    assert not np.array_equal(ours.encode(IMAGES), tok.encode(IMAGES))
    assert weights.weights_hash(ours) != weights.weights_hash(tok)
    assert weights.weights_hash(loaded) == weights.weights_hash(tok)


def test_a_class_that_is_defined_again_replaces_the_old_one(tmp_path):
    old = saved(tmp_path, twice(1)(num_codes=24, code_dim=4))
    twice(-1)
    found = load(tmp_path)
    assert not np.array_equal(found.encode(IMAGES), old.encode(IMAGES))
    told = message(lambda: as_dict(old.config))
    assert "Again is not registered, or was replaced; call minivim.register" in told


def test_cards_without_a_name_mean_the_built_in_classes():
    register("mine", Mine, Last)
    values = json.loads(json.dumps(as_dict(tiny.TOKENIZER)))
    assert "class" not in values["quantizer"]
    assert type(from_dict(TokenizerConfig, values).quantizer) is QuantizerConfig
    cnn = dataclasses.replace(tiny.TOKENIZER, encoder=tiny.CNN)
    assert from_dict(TokenizerConfig, as_dict(cnn)) == cnn


def test_what_nobody_registered_is_named(tmp_path):
    saved(tmp_path, FSQConfig(levels=(4, 3, 3)))
    del REGISTERED["fsq"]
    told = message(lambda: load(tmp_path))
    assert "'fsq' is registered by no module that was imported" in told
    assert "--import" in told
    del QUANTIZERS[FSQConfig]
    told = message(lambda: tiny.tokenizer(quantizer=FSQConfig(levels=(3, 3, 3))))
    assert "FSQConfig is not registered; call minivim.register" in told


@dataclasses.dataclass(frozen=True, kw_only=True)
class Careless(FSQConfig):
    """Inherits a count of parameters."""


class Flat(FSQ):
    def __call__(self, features, *, key=None):
        y, aux = super().__call__(features, key=key)
        return y, aux | {"codes": aux["codes"].ravel()}


class Float(FSQ):
    def __call__(self, features, *, key=None):
        y, aux = super().__call__(features, key=key)
        return y, aux | {"codes": aux["codes"] * 1.0}

    def embed(self, codes):
        return super().embed(codes.astype(jnp.int32))


class Long(FSQ):
    def __call__(self, features, *, key=None):
        y, aux = super().__call__(features, key=key)
        return y, aux | {"vq_loss": jnp.zeros(3)}


class Scaled(FSQ):
    def __init__(self, config, **widths):
        super().__init__(config, **widths)
        self.scale = nnx.Param(jnp.ones(7))


@pytest.mark.parametrize(
    "module, told",
    [
        (Flat, "Flat: codes of features (2, 3, 16) has shape (6,); return (2, 3)"),
        (Float, "the codes of Careless are float32; return whole numbers"),
        (Long, "Long: vq_loss of features (2, 3, 16) has shape (3,); return ()"),
        (Scaled, "Careless.parameters says 115, but Scaled has 122; count them in"),
    ],
)
def test_a_quantizer_that_breaks_its_word_is_told_when_it_is_built(module, told):
    register("careless", Careless, module)
    assert told in message(lambda: tiny.tokenizer(quantizer=Careless(levels=(4, 3, 3))))


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda: register("x", Tokenizer, FSQ), "Tokenizer is not registered"),
        (lambda: register("x", Mine), "Mine is not registered; give settings that"),
        (lambda: register("x", lambda: tiny.TOKENIZER_RECIPE), "use one name"),
    ],
)
def test_what_cannot_be_registered(call, told):
    assert told in message(call)
    assert issubclass(Mine, AnyQuantizerConfig) and "x" not in REGISTERED


# What chapter 5 has imported before its exercise, and a recipe of one's own.
PLUGIN = """
import math
from dataclasses import dataclass, replace

import jax.numpy as jnp
from flax import nnx

import minivim
from minivim.config import AnyQuantizerConfig, with_overrides
from minivim.tokenizer import straight_through
from minivim.transformer import linear

{code}


def fsq_toy():
    recipe = with_overrides(minivim.recipe("tokenizer", "shapes"), {settings})
    model = replace(recipe.model, quantizer=FSQConfig(levels=(4, 3, 3)))
    return replace(recipe, name="fsq-toy", model=model)


minivim.register("fsq-toy", fsq_toy)
"""


@pytest.fixture
def plugin(tmp_path):
    """The solution of chapter 5's exercise as a module, and a way to run commands."""
    text = (ROOT / "notebooks/05_codebook_usage.md").read_text()
    cells = re.findall(r"```\{code-cell\}.*?\n\n(.*?)```", text, re.S)
    [code] = [cell for cell in cells if "class FSQConfig" in cell]
    filled = PLUGIN.format(code=code, settings=tiny.TOKENIZER_SETTINGS)
    (tmp_path / "exercise.py").write_text(filled)

    def run(*words, plugin=("--import", "exercise"), module="minivim"):
        command = [sys.executable, "-m", module, *map(str, words), *plugin]
        path = f"{tmp_path}{os.pathsep}{ROOT}"
        env = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
        return subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True
        )

    return run


def test_a_module_that_fails_is_one_line(plugin, tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    for name, says in [
        ("broken", "ZeroDivisionError: division by zero"),
        ("nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
    ]:
        done = plugin("recipes", plugin=("--import", name))
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"error: --import {name}: {says}; mend or" in done.stderr
    info = tmp_path / "own-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: own\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[minivim.plugins]\nown = exercise\n")
    done = plugin("recipes", plugin=())
    assert done.returncode == 0 and "fsq-toy" in done.stdout


@pytest.mark.slow
def test_the_exercise_of_chapter_5_from_training_to_sampling(plugin, tmp_path):
    """Saved, loaded by another process, a prior trained over it, pictures sampled."""
    data = ("--data", "shapes", "--quiet")
    prior = [*tiny.PRIOR_SETTINGS, "num_codes=36", "num_classes=8", "tokenizer=t"]
    for words in (
        ["train", "tokenizer", "fsq-toy", *data, "--workdir", "t"],
        ["reconstruct", "t", *data, "--out", "r.png"],
        ["train", "prior", "shapes", *data, "--workdir", "p", "--set", *prior],
        ["sample", "p", "--out", "s.png", "--count", "4", "--quiet"],
    ):
        done = plugin(*words)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "s.png").stat().st_size and (tmp_path / "r.png").stat().st_size
    card = json.loads((tmp_path / "t" / "card.json").read_text())
    assert card["model"]["quantizer"] == {"levels": [4, 3, 3], "class": "fsq"}
    assert card["recipe"]["model"]["quantizer"]["class"] == "fsq"
    done = plugin("sample", "p", "--out", "n.png", "--quiet", plugin=())
    assert done.returncode == 2 and "'fsq' is registered by no module" in done.stderr


def test_the_script_of_the_book(plugin, tmp_path):
    """Own pictures, quantizer, optimizer, loop and loss, as the page has them."""
    text = (ROOT / "book/own_code.md").read_text()
    *scripts, _ = re.findall(r"```python\n(.*?)```", text, re.S)
    (tmp_path / "exercise.py").rename(tmp_path / "fsq.py")
    (tmp_path / "script.py").write_text("\n".join(scripts))
    done = plugin(plugin=(), module="script")
    assert done.returncode == 0, done.stderr
    *steps, row = done.stdout.splitlines()
    assert "'step': 4" in row and "'loss_edges'" in row
    steps = [line.split() for line in steps]
    assert [step for step, _ in steps] == ["1", "2", "3", "4"]
    card = json.loads((tmp_path / "runs/edges/card.json").read_text())
    assert (card["losses"], card["average"]) == ({"edges": 0.1}, 0.9)
    losses = [float(loss) for _, loss in steps]
    assert losses[-1] < losses[0]
