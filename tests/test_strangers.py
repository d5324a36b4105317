"""Cards, weights and records that a stranger made or an accident left."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minivim import data, weights
from minivim.errors import UserError
from minivim.training import read_metrics
from tests import tiny
from tests.tiny import message

LONG = "[" * 20_000
CASES = [
    ("model.stack.blocks", 4.0, "describes no model: blocks=4.0 is not a whole"),
    ("model.stack.blocks", True, "blocks=True is not a whole number"),
    ("model.stack.unroll", 3.5, "unroll=3.5 is not a whole number"),
    ("model.stack.norm_eps", float("inf"), "norm_eps=inf is not a finite number"),
    ("model.stack.norm_eps", float("nan"), "norm_eps=nan is not a finite number"),
    ("model.stack.dropout", "no", "dropout=no is not a finite number"),
    ("model.stack", None, "stack=None is no StackConfig"),
    ("model.stack", 3, "stack=3 is no StackConfig"),
    ("model.grid", "2", "grid=2 is not a whole number"),
    ("model.num_codes", 10**9, "does not fit its card at 'codes'"),
    ("model.stack.width", 10**9, "does not fit its card"),
    ("model", [1], "its model is no dict"),
    ("kind", ["prior"], "its kind is no str"),
    ("kind", "program", "a program is no kind of weights"),
    ("format", 99, "is of format 99, newer than 1; install a newer minivim"),
    ("class_names", 5, "its class_names is no list"),
    ("class_names", [1, 2], "its class_names are not all text"),
    ("tokenizer", 5, "its tokenizer is no str"),
    ("recipe", 3, "its recipe is no dict"),
    ("note", "x" * 2**20, "it has more than 1 MB"),
]


@pytest.fixture
def prior(tmp_path):
    weights.save(tmp_path / "p", tiny.prior(), kind="prior", card={"recipe": {}})
    return tmp_path / "p"


def changed(folder, path, value):
    card = json.loads((folder / "card.json").read_text())
    *parents, last = path.split(".")
    part = card
    for name in parents:
        part = part[name]
    part[last] = value
    (folder / "card.json").write_text(json.dumps(card))


@pytest.fixture(scope="module")
def told_of_cards(tmp_path_factory):
    """The messages of `CASES`, in a process whose signatures nobody checks."""
    command = [sys.executable, "-m", __name__, str(tmp_path_factory.mktemp("cards"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_settings_and_cards_of_wrong_types(told_of_cards, case):
    assert CASES[case][2] in told_of_cards[case] and "\n" not in told_of_cards[case]


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "{", LONG, '{"kind": ' + LONG, "\0\0", '{"kind": null}']
)
def test_cards_that_are_none(prior, text):
    (prior / "card.json").write_text(text)
    assert "card.json cannot be read" in message(lambda: weights.load(prior))


@pytest.mark.parametrize("name", ["card.json", "model.safetensors"])
def test_pipes_are_not_waited_for(prior, name):
    (prior / name).unlink()
    os.mkfifo(prior / name)
    assert "it is no regular file" in message(lambda: weights.load(prior))


def test_a_card_without_an_end(prior):
    (prior / "card.json").unlink()
    os.symlink("/dev/zero", prior / "card.json")
    assert "it is no regular file" in message(lambda: weights.load(prior))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(prior, value):
    arrays = load_file(prior / "model.safetensors")
    arrays["codes"][0, 0] = value
    save_file(arrays, prior / "model.safetensors")
    assert "'codes' of" in message(lambda: weights.load(prior))
    assert "holds NaN or infinity" in message(lambda: weights.load(prior))


@pytest.mark.parametrize("kind", [np.int32, np.uint8, np.bool_, np.complex64])
def test_weights_of_other_types(prior, kind):
    arrays = load_file(prior / "model.safetensors")
    arrays["codes"] = arrays["codes"].astype(kind)
    save_file(arrays, prior / "model.safetensors")
    assert "does not fit its card at 'codes'" in message(lambda: weights.load(prior))


def test_weights_with_others_besides(prior):
    arrays = load_file(prior / "model.safetensors")
    many = {f"extra{i}": np.zeros(0, np.float32) for i in range(10_000)}
    save_file(arrays | many, prior / "model.safetensors")
    assert "it has besides 'extra0'" in message(lambda: weights.load(prior))
    del arrays["codes"]
    save_file(arrays, prior / "model.safetensors")
    assert "it lacks 'codes'" in message(lambda: weights.load(prior))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
def test_types_that_weights_may_have(tmp_path, kind):
    weights.save(tmp_path, tiny.prior(), kind="prior", card={}, storage=kind)
    assert weights.load(tmp_path).config == tiny.PRIOR


def test_rows_of_metrics_that_are_none(tmp_path):
    lines = ['{"step": 1, "loss": 2}', "", "3", "[1]", "null", LONG, '{"loss": 1}',
             '{"step": 2', "\0", '{"step": 3}']  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 3]


def test_records_of_codes(tmp_path):
    card = {
        "tokenizer": "x", "tokenizer_hash": "y", "num_codes": 4, "grid": 2,
        "data": "d", "fingerprint": "f",
    }  # fmt: skip
    codes = [{"codes": np.zeros((3, 4), np.int32), "label": np.zeros(3, np.int32)}]
    splits = {"train": (codes, ("a", "b"))}
    folder = tmp_path / "codes"
    data.write_codes(folder, splits, data.CodesCard(**card))
    (folder / "codes.json").write_text(json.dumps(card | {"extra": 1}))
    assert "cannot be read as codes" in message(lambda: data.open_codes(folder))
    shutil.copy("/dev/null", folder / "codes.json")
    assert "cannot be read as codes" in message(lambda: data.open_codes(folder))


def main(folder) -> None:
    """Print what is told of each case."""
    weights.save(folder, tiny.prior(), kind="prior", card={"recipe": {}})
    whole, messages = (folder / "card.json").read_text(), []
    for path, value, _ in CASES:
        changed(folder, path, value)
        try:
            weights.load(folder)
            messages.append("")
        except UserError as error:
            messages.append(str(error))
        (folder / "card.json").write_text(whole)
    print(json.dumps(messages))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
