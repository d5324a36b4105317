"""`help` shows what is ours, and not what Flax lends to a module."""

import inspect
import pydoc
import re
import subprocess
import sys

import pytest

import minivim
from minivim.classifier import Classifier

PUBLIC = ["complete", "load", "load_pair", "recipe", "register", "reject", "sample"]


def told(thing):
    return pydoc.render_doc(thing, renderer=pydoc.plaintext)


def test_of_the_package():
    text = told(minivim)
    assert len(text.splitlines()) < 360
    for name in (*PUBLIC, "train"):
        assert f"\n    {name}(" in text, name
    assert "class Tokenizer(" in text and "class Prior(" in text
    assert "Example usage::" not in text and "set_attributes" not in text
    assert set(minivim.__all__) <= set(dir(minivim))
    assert [name for name in minivim.__all__ if not hasattr(minivim, name)] == []


@pytest.mark.parametrize(
    "kind, own",
    [
        (minivim.Tokenizer, ["encode", "decode", "reconstruct", "pixels"]),
        (minivim.Prior, ["embed", "features", "empty_cache", "start", "step"]),
        (Classifier, ["check_shape"]),
    ],
)
def test_of_a_model(kind, own):
    text = told(kind)
    assert len(text.splitlines()) < 70
    assert re.search(rf"\n \|  {kind.__name__}\(config: \S+Config'?, \*, rngs: ", text)
    for name in (*own, "__call__", "__init__"):
        assert f"{name}(self" in text, name
    assert "card" in text
    for name in ("iter_modules", "perturb", "sow(", "set_attributes", "__setattr__"):
        assert name not in text
    assert list(inspect.signature(kind).parameters) == ["config", "rngs"]


def test_help_needs_no_trained_model_and_no_command():
    code = "import minivim, sys; assert 'minivim.trainer' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
