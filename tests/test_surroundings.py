"""Commands work, or say in one line why not, whatever the environment tells JAX."""

import os
import subprocess
import sys

import pytest

from minivim.runtime import keep_programs
from tests import tiny

FINE = [
    "MPLBACKEND=nonsense",
    "JAX_TRANSFER_GUARD=disallow",
    "JAX_ENABLE_X64=1",
    "JAX_NUMPY_DTYPE_PROMOTION=strict",
    "JAX_DEBUG_NANS=1",
]


def run(folder, *command, **changes):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **changes}
    words = [sys.executable, "-m", "minivim", *command, "--quiet"]
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_platform_without_a_device_is_one_line(tmp_path, platform):
    draw = ("sample", "shapes/prior", "--count", "1", "--out", "s.png")
    code, told = run(tmp_path, *draw, JAX_PLATFORMS=platform)
    assert code == 2 and told.count("\n") == 1
    assert f"error: JAX has no device for JAX_PLATFORMS={platform} (" in told
    assert "unset it, or install JAX for that platform" in told


@pytest.mark.parametrize("named", ["", "elsewhere"])
def test_where_programs_stay_is_the_user_s_to_say(tmp_path, monkeypatch, named):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", named)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_MAX_SIZE", raising=False)
    keep_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == named
    assert "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_compiled_programs_stay_for_the_next_command(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    place = tmp_path / "cache/minivim/programs"
    draw = ("sample", "shapes/prior", "--count", "1")
    told = []
    for name in ("a.png", "b.png"):
        found = run(tmp_path, *draw, "--out", name, XDG_CACHE_HOME=f"{tmp_path}/cache")
        told.append((found, {*place.glob("*-cache")}))
    assert told[0] == told[1] and told[0][0] == (0, "") and told[0][1]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    # Damaged, or where nothing can be written: compiled again, without a word.
    for file in told[0][1]:
        file.write_bytes(b"damaged")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/minivim").touch()
    for cache in ("cache", "taken"):
        how = {"XDG_CACHE_HOME": str(tmp_path / cache)}
        assert run(tmp_path, *draw, "--out", "c.png", **how) == (0, "")
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "c.png").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("setting", FINE)
def test_settings_of_jax_and_matplotlib(tmp_path, setting):
    name, value = setting.split("=")
    settings = ["--set", *tiny.TOKENIZER_SETTINGS, "steps=2", "codebook=ema"]
    train = ["train", "tokenizer", "shapes", "--data", "shapes", "--workdir", "t"]
    code, told = run(tmp_path, *train, *settings, **{name: value})
    assert code == 0, told
    draw = ["reconstruct", "t", "--data", "shapes", "--out", "r.png"]
    code, told = run(tmp_path, *draw, **{name: value})
    assert code == 0, told


LIBRARY = """
import tempfile
from dataclasses import replace
import jax, numpy as np, minivim
from minivim.runtime import keep_programs
from tests import tiny
key, images, codes = jax.random.key(0), tiny.images(4), np.zeros((2, 4), int)
model, prior = tiny.tokenizer(), tiny.prior()
how = {"temperature": 0.9, "top_p": 0.9, "top_k": 5, "guidance": 2.0}
minivim.sample(prior, key=key, labels=[0, 1], **how)
minivim.complete(prior, model, images, key=key, labels=[0, 1, 2, 0])
model.decode(model.encode(images)), model(images), prior(codes, codes[:, 0])
prior.features(codes), minivim.metrics.psnr(images, images[::-1])
minivim.load("shapes/tokenizer")
recipe = replace(tiny.TOKENIZER_RECIPE, run=replace(tiny.RUN, steps=2, eval_every=2))
folder = tempfile.mkdtemp()
minivim.train(recipe, tiny.source(30), folder, quiet=True, average=0.9)
"""


@pytest.mark.slow
@pytest.mark.parametrize("setting", [s for s in FINE if "GUARD" not in s])
def test_the_library_without_a_command(tmp_path, setting):
    """A transfer guard refuses even `jax.random.key(0)`, before minivim is asked."""
    name, value = setting.split("=")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", name: value}
    words = [sys.executable, "-c", LIBRARY]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
