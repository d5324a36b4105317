"""Programs that need JAX alone: what they compute, elsewhere and for any rows."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export as programs

import minivim
from minivim import cli, fast, portable, weights
from minivim.tokenizer import Tokenizer
from minivim_lab.igpt import Palette
from tests import tiny
from tests.tiny import message

pytest.importorskip("flatbuffers")
HOW = {"temperature": 0.9, "top_k": 20, "top_p": 0.95, "guidance": 1.5}
IMAGES = tiny.images(5).astype(np.float32) / 255
LABELS = np.array([0, 2, 1, 1, 0], np.int32)
# A process that has nothing of ours.
ELSEWHERE = """
import json, sys
import jax, numpy as np
given, found = dict(np.load("given.npz")), {}
for folder in ("tokenizer", "prior"):
    card = json.load(open(f"{folder}/program.json"))
    for name, about in card["functions"].items():
        program = jax.export.deserialize(open(f"{folder}/{name}.jax", "rb").read())
        assert program.platforms == tuple(card["platforms"])
        for rows in (2, 5):
            called = [x[:rows] if x.ndim else x for x in map(given.get, WHAT[name])]
            found[f"{name}{rows}"] = jax.jit(program.call)(*called)
assert not [name for name in sys.modules if name.startswith(("minivim", "flax"))]
np.savez("found.npz", **found)
"""
WHAT = {
    "encode": ["images"], "decode": ["codes"], "reconstruct": ["images"],
    "sample": ["seed", "labels"], "logits": ["codes", "labels"],
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A pair as folders, as the command line has them."""
    folder = tmp_path_factory.mktemp("pair")
    weights.save(folder / "tok", tiny.tokenizer(), card={"licence": "Apache-2.0"})
    card = {"tokenizer": "../tok", "class_names": ["a", "b", "c"], "recipe": {}}
    weights.save(folder / "prior", tiny.prior(), card=card)
    return folder


@pytest.mark.parametrize(
    "platforms", [pytest.param("", marks=pytest.mark.slow), "cpu,cuda,tpu"]
)
def test_programs_compute_elsewhere_what_the_model_does(models, tmp_path, platforms):
    tokenizer, prior = weights.load_pair(models / "prior")
    common = ["--platforms", platforms] if platforms else []
    drawn = [f"--{k.replace('_', '-')}={v}" for k, v in HOW.items()]
    for name, more in (("tok", []), ("prior", drawn)):
        out = str(tmp_path / {"tok": "tokenizer"}.get(name, name))
        command = ["export", str(models / name), "--out", out, *common, *more]
        assert cli.main(command) == 0
    codes = np.asarray(tokenizer.encode(IMAGES))
    given = {"images": IMAGES, "codes": codes, "labels": LABELS, "seed": np.int32(7)}
    np.savez(tmp_path / "given.npz", **given)
    done = subprocess.run(
        [sys.executable, "-c", f"WHAT = {WHAT!r}{ELSEWHERE}"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    for rows in (2, 5):
        key, labels = jax.random.key(7), LABELS[:rows]
        same = {"encode": codes[:rows]}
        same["sample"] = minivim.sample(prior, key=key, labels=labels, **HOW)
        close = dict.fromkeys(("decode", "reconstruct"), tokenizer.decode(codes[:rows]))
        close["logits"], _ = tiny.call(prior, codes[:rows], labels)
        for name, wanted in same.items():
            np.testing.assert_array_equal(found[f"{name}{rows}"], wanted)
        for name, wanted in close.items():
            np.testing.assert_allclose(found[f"{name}{rows}"], wanted, atol=1e-5)


def test_the_script_of_the_book(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[1] / "book/own_code.md").read_text()
    [command] = re.findall(r"^    minivim (export .*)$", text, re.M)
    *_, script = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    assert cli.main(command.split()) == 0
    exec(script, {})
    assert capsys.readouterr().out.endswith("\n(3, 64) (3, 32, 32, 3)\n")


def test_the_card_tells_what_a_program_takes(models, tmp_path):
    prior = weights.load(models / "prior")
    folder = minivim.export(prior, tmp_path / "out", platforms=["tpu"], top_k=3)
    card = json.loads((folder / portable.CARD).read_text())
    takes = {"sample": ["int32[]", "int32[b]"], "logits": ["int32[b,4]", "int32[b]"]}
    gives = {"sample": ["int32[b,4]"], "logits": ["float32[b,4,24]"]}
    assert card == {
        "functions": {n: {"takes": takes[n], "gives": gives[n]} for n in takes},
        "platforms": ["tpu"], "kind": "prior", "options": {"top_k": 3},
        "class_names": ["a", "b", "c"], "label_for_none": 3,
        "source": {"name": "prior", "hash": weights.weights_hash(prior)},
        "licence": None, "jax": jax.__version__,
    }  # fmt: skip
    assert {p.name for p in folder.iterdir()} == {
        "program.json", "sample.jax", "logits.jax"
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["cnn", "palette", "unlabelled"])
def test_other_models(tmp_path, kind):
    cnn = replace(tiny.TOKENIZER, encoder=tiny.CNN, decoder=tiny.CNN)
    make = {
        "cnn": lambda: tiny.build(Tokenizer, cnn),
        "palette": lambda: tiny.build(Palette, tiny.PALETTE),
        # Drawn in two parts.
        "unlabelled": lambda: tiny.prior(num_classes=0, grid=9),
    }
    model = make[kind]()
    folder = minivim.export(model, tmp_path / "out")
    name = "sample" if kind == "unlabelled" else "encode"
    call = programs.deserialize((folder / f"{name}.jax").read_bytes()).call
    if kind == "unlabelled":
        found = call(3, np.zeros(5, np.int32))
        wanted = minivim.sample(model, key=jax.random.key(3), num_samples=5)
    else:
        found, wanted = call(IMAGES), model.encode(IMAGES)
    np.testing.assert_array_equal(found, wanted)


def test_the_form_is_right_for_all_platforms():
    """And what was traced for one is not taken for another."""
    argmax = jax.jit(lambda x: fast.argmax(x))
    for platforms, ours in (
        (["cpu"], True), (["cuda"], False), (["tpu", "cpu"], False),
        (["cpu", "cuda"], False),
    ):  # fmt: skip
        with fast.traced_for(platforms):
            assert fast.ours() == ours
            primitives = str(jax.make_jaxpr(argmax)(np.zeros((2, 3))))
        assert ("argmax[" in primitives) != ours


def test_what_cannot_be_exported_is_one_line(models, tmp_path, monkeypatch, capsys):
    tok, prior, out = str(models / "tok"), str(models / "prior"), str(tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/note.txt").touch()
    for command, part in (
        ([tok, "--out", str(tmp_path / "full")], "full is there already: remove it"),
        ([tok, "--out", out, "--platforms", "gpu"], "platforms gpu: choose some of"),
        ([tok, "--out", out, "--platforms", "cpu,cpu"], "each once"),
        ([tok, "--out", out, "--top-k", "3"], "draws nothing; leave out top_k"),
        ([prior, "--out", out, "--top-k", "99"], "top_k=99 is out of range"),
        ([prior, "--out", out, "--temperature", "0"], "temperature=0.0 must be"),
        (["shapes/judge", "--out", out], "a Judge is no tokenizer and no prior"),
        (["/no/where", "--out", out], "there are no weights at"),
    ):
        assert cli.main(["export", *command]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("minivim: error: ") and part in line
    monkeypatch.setattr(portable, "MOST_BYTES", 100)
    assert "use the weights with" in message(lambda: minivim.export(tiny.prior(), out))
    monkeypatch.setattr(portable, "find_spec", lambda name: None)
    assert "pip install flatb" in message(lambda: minivim.export(tiny.prior(), out))
    assert not os.path.exists(out)


def test_own_parts_that_ask_for_the_number_of_rows(tmp_path, monkeypatch):
    model = tiny.tokenizer()
    monkeypatch.setattr(type(model), "_decode", lambda self, x: x * len(x))
    told = message(lambda: minivim.export(model, tmp_path / "out"))
    assert "decode of this Tokenizer cannot be exported" in told and "len(x)" in told
    assert not any(tmp_path.iterdir())
