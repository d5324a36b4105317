"""Cards, weights and records that a stranger made or an accident left."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks import strangers
from minivim import data, weights
from minivim.errors import UserError
from minivim.tokenizer.perceptual import LPIPS, PerceptualConfig
from minivim.training import Workdir, read_metrics, train_seconds
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
    ("model.grid", {}, "grid={} is not a whole number"),
    ("model.grid", "a\nb", r"grid=a\nb is not a whole number"),
    ("model.grid", "x" * 5_000, "xxx ... xxx"),
    ("model.grid", json.loads("[" * 900 + "]" * 900), " ... "),
    ("model.num_codes", 10**30, "does not fit its card"),
    ("model.stack.norm_eps", 10**400, "card.json cannot be read"),
    ("model.stack.a\u2028b", 1, r"StackConfig has no a\u2028b"),
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
    weights.save(tmp_path / "p", tiny.prior(), card={"recipe": {}})
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


def test_a_header_of_a_million_names(prior):
    names = {f"x{i}": np.zeros(0, np.float32) for i in range(30_000)}
    save_file(names, prior / "model.safetensors")
    assert "its header has more than 1 MB" in message(lambda: weights.load(prior))


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
    weights.save(tmp_path, tiny.prior(), card={}, storage=kind)
    assert weights.load(tmp_path).config == tiny.PRIOR


def test_rows_of_metrics_that_are_none(tmp_path):
    lines = ['{"step": 1, "loss": 2}', "", "3", "[1]", "null", LONG, '{"loss": 1}',
             '{"step": 2', "\0", '{"step": 3}', '{"step": "4"}', '{"step": 5.0}',
             '{"step": true}', '{"step": 6, "loss": "a"}', '{"step": 7, "loss": null}',
             '{"step": %s}' % ("9" * 400)]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 3]


def test_seconds_of_rows_without_a_pace():
    paces = [{"steps_per_second": 4.0}, {}, {"steps_per_second": 0.0},
             {"steps_per_second": [1]}, {"steps_per_second": 2}]  # fmt: skip
    rows = [{"step": step, **pace} for step, pace in zip((2, 4, 6, 8, 9), paces)]  # noqa: B905
    assert train_seconds(rows) == 2 / 4 + 1 / 2


def test_a_record_of_a_run_with_other_types(tmp_path):
    (tmp_path / "run.json").write_text('{"unreadable": 3}')
    (tmp_path / "model.safetensors").touch()
    assert "run.json is damaged" in message(lambda: Workdir(tmp_path, {"data": "a"}))


def test_layers_without_an_end(tmp_path):
    """More of them than the file has arrays: nothing is built."""
    cnn = tiny.tokenizer(encoder=tiny.CNN, decoder=tiny.CNN)
    lpips = tiny.build(LPIPS, PerceptualConfig(widths=(4, 8), convs=(1, 1)))
    weights.save(tmp_path / "cnn", cnn, card={})
    weights.save(tmp_path / "lpips", lpips, card={})
    changed(tmp_path / "cnn", "model.decoder.res_blocks", 10**9)
    changed(tmp_path / "lpips", "model.convs", [1, 10**9])
    for name in ("cnn", "lpips"):
        told = message(lambda name=name: weights.load(tmp_path / name))
        assert "layers cannot be in the" in told and "describes no model" in told


def test_messages_are_one_line_that_can_be_printed():
    text = str(UserError("a\nb\x1b[31m\x85\u2028\ud800\udc80 ä漢"))
    assert text == r"a\nb\x1b[31m\x85\u2028\ud800\udc80 ä漢"
    assert len(str(UserError("a" * 10_000))) < 4_000


def test_the_page_says_what_was_found():
    record = Path(__file__).parents[1] / "book" / "results" / "strangers.json"
    found = json.loads(record.read_text("utf-8"))
    assert record.with_suffix(".md").read_text("utf-8") == strangers.markdown(found)
    assert not any(row[way] for row in found["rows"].values() for way in strangers.BAD)


def test_a_mutated_few(tmp_path):
    """`python -m benchmarks.strangers` tries many more."""
    command = [sys.executable, "-m", "benchmarks.strangers", "--cases", "200"]
    command += ["--seed", "2", "--processes", "1", "--keep", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, f"{done.stdout}{done.stderr}"


def test_records_of_codes(tmp_path):
    card = {
        "tokenizer": "x", "tokenizer_hash": "y", "num_codes": 4, "grid": 2,
        "data": "d", "fingerprint": "f",
    }  # fmt: skip
    codes = [{"codes": np.ones((3, 4), np.int32), "label": np.zeros(3, np.int32)}]
    splits = {"train": (codes, ("a", "b"))}
    folder = tmp_path / "codes"
    data.write_codes(folder, splits, data.CodesCard(**card))
    (folder / "codes.json").write_text(json.dumps(card | {"extra": 1}))
    assert "cannot be read as codes" in message(lambda: data.open_codes(folder))
    shutil.copy("/dev/null", folder / "codes.json")
    assert "cannot be read as codes" in message(lambda: data.open_codes(folder))
    for changes, wrong in ({"grid": 3}, "9 numbers"), ({"num_codes": 1}, "from 0 to 0"):
        (folder / "codes.json").write_text(json.dumps(card | changes))
        assert wrong in message(lambda: data.open_codes(folder))


@pytest.mark.parametrize(
    "text", ["file_name,predictionstring\n0.png,\n", "file_name,label\n0.png,%s\n"]
)
def test_tables_of_labels_that_are_none(tmp_path, text):
    tiny.pictures(tmp_path, labels=1, each=2)
    (tmp_path / "class0" / "a.csv").write_text(text.replace("%s", "x" * 200_000))
    row = {"file_name": "1.png", "label": json.loads("[" * 900 + "]" * 900)}
    (tmp_path / "class0" / "b.jsonl").write_text(json.dumps(row))
    assert "not used: 1 x .csv file, 1 x .jsonl" in data.open_source(tmp_path).summary


@pytest.mark.parametrize(
    "path, told", [(b"\0a.png", "row 0 of"), (b"a\xff.png", "cannot be read")]
)
def test_cells_whose_path_is_none(tmp_path, path, told):
    text = pa.array([path]).view(pa.string())
    cells = pa.StructArray.from_arrays(
        [pa.nulls(1, pa.binary()), text], ["bytes", "path"]
    )
    pq.write_table(pa.table({"image": cells}), tmp_path / "a.parquet")
    source = data.open_source(tmp_path)
    assert told in message(lambda: source.take(np.array([0])))


def test_tables_whose_offsets_are_false(tmp_path):
    """Reading the cells would end the process."""
    rows = {"image": [b"abc", b"defg"], "label": [0, 1]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path)
    (file,) = tmp_path.glob("*.arrow")
    offsets = np.array([0, 3, 7], np.int32).tobytes()
    whole = file.read_bytes()
    assert whole.count(offsets) == 1
    false = np.array([0, 2**30, 7], np.int32).tobytes()
    file.write_bytes(whole.replace(offsets, false))
    told = message(lambda: data.open_source(tmp_path))
    assert "cannot be read as a saved dataset" in told


def main(folder) -> None:
    """Print what is told of each case."""
    weights.save(folder, tiny.prior(), card={"recipe": {}})
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
