"""Tables, saved datasets and the hub lead nowhere outside of what the user named."""

import json
import os
import shutil

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from minivim.data import CodesCard, open_codes, open_source, open_stream, stack
from minivim.data import write_codes as write
from tests.tiny import message


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / ".cache")


@pytest.fixture
def secret(tmp_path):
    """A picture that no data set may lead to."""
    Image.new("L", (8, 8), 77).save(tmp_path / "secret.png")
    return tmp_path / "secret.png"


def table(value=9, count=12) -> datasets.Dataset:
    pictures = [Image.new("L", (8, 8), value)] * count
    columns = {"image": pictures, "label": ["a", "b"] * (count // 2)}
    kinds = datasets.Features(image=datasets.Image(), label=datasets.Value("string"))
    return datasets.Dataset.from_dict(columns, features=kinds)


def named(path: str) -> datasets.Dataset:
    """A table whose cells are a path."""
    return datasets.Dataset.from_dict({"image": [path] * 4})


# --- cells -------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Opens owner/name as the hub would give it, with the cells of a table."""
    place = tmp_path / "hub"
    blobs, snapshot = (
        place / "datasets--owner--name" / name for name in ("blobs", "snapshots/c0ffee")
    )
    for folder in (blobs, snapshot, tmp_path / "down/extracted/12"):
        folder.mkdir(parents=True)
    Image.new("L", (8, 8), 33).save(blobs / "ab12", "png")
    os.symlink("../../blobs/ab12", snapshot / "one.png")
    shutil.copy(blobs / "ab12", tmp_path / "down/extracted/12/one.png")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place))
    down = tmp_path / "down"
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", down)
    info = type("Info", (), {"sha": "c0ffee"})
    ask = {"dataset_info": lambda *_, **__: info}
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: type("Api", (), ask))

    def opened(path):
        def load(name, revision, streaming):
            rows = named(path)
            parts = {"train": rows, "test": rows}
            if streaming:
                streams = {k: v.to_iterable_dataset() for k, v in parts.items()}
                return datasets.IterableDatasetDict(streams)
            return datasets.DatasetDict(parts)

        monkeypatch.setattr(datasets, "load_dataset", load)
        return open_source("owner/name", image_size=8)

    return opened


@pytest.mark.parametrize(
    "place", ["hub/datasets--owner--name/snapshots/c0ffee", "down/extracted/12"]
)
def test_cells_of_the_hub_name_what_was_fetched(tmp_path, hub, place):
    assert stack(hub(str(tmp_path / place / "one.png")))["image"][0, 0, 0, 0] == 33


@pytest.mark.parametrize(
    "path",
    ["{}/secret.png", "{}/hub/../secret.png", "{}/hub/out.png", "{}/missing.png",
     "../secret.png", "/dev/zero", "/etc/passwd", "a\0b.png", "{}/down.png"],
)  # fmt: skip
def test_cells_of_the_hub_name_nothing_else_here(tmp_path, hub, secret, path):
    os.symlink(secret, tmp_path / "hub/out.png")
    source = hub(path.format(tmp_path))
    text = message(lambda: stack(source))
    assert "row 0 of owner/name@c0ffee names" in text
    assert "which is outside of" in text
    stream = open_stream("owner/name", image_size=8)
    text = message(lambda: stream.first(2))
    assert "which is outside of" in text and "leave out --stream" in text


def test_whether_a_file_is_there_is_not_told(tmp_path, hub, secret):
    paths = [secret, tmp_path / "nothing", tmp_path, tmp_path / "secret.png/x"]
    texts = [message(lambda path=path: stack(hub(str(path)))) for path in paths]
    told = {text.replace(f"{p},", "it,") for text, p in zip(texts, paths, strict=True)}
    assert len(told) == 1 and "names it, which" in told.pop()


@pytest.mark.parametrize("path", ["hf://datasets/a/b/c.png", "http://x.example/c.png"])
def test_addresses_in_cells_are_not_asked(hub, path):
    stream = (hub(path), open_stream("owner/name", image_size=8))[1]
    text = message(lambda: stream.first(2))
    assert f"names {path}, which is outside of" in text
    assert "leave out --stream" in text


def test_cells_of_an_opened_table_are_the_users_own(tmp_path, secret, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (str(secret), "secret.png"):
        assert stack(open_source(named(path)))["image"][0, 0, 0, 0] == 77
    os.mkfifo("pipe.png")
    assert "is a pipe" in message(lambda: stack(open_source(named("pipe.png"))))
    text = message(lambda: stack(open_source(named("http://x.example/c.png"))))
    assert "is missing" in text


@pytest.mark.parametrize("path", ["a\nb.png", "x" * 5_000, "a\0b.png", "../" * 99])
def test_odd_paths_are_told_in_one_short_line(tmp_path, path):
    pq.write_table(pa.table({"image": [path] * 3}), tmp_path / "x.parquet")
    assert len(message(lambda: stack(open_source(tmp_path)))) < 700


def test_a_snapshot_of_the_hub_may_link_to_its_blobs(tmp_path):
    """The hub's client lays out a folder of links, which users name as data."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots/c0ffee"
    (snapshot / "data").mkdir(parents=True)
    blobs.mkdir()
    Image.new("L", (8, 8), 33).save(blobs / "ab12", "png")
    os.symlink(blobs / "ab12", snapshot / "data/one.png")
    pq.write_table(pa.table({"image": ["one.png"] * 3}), snapshot / "data/x.parquet")
    found = open_source(snapshot / "data/x.parquet")
    assert stack(found)["image"][0, 0, 0, 0] == 33
    table().save_to_disk(snapshot / "saved")
    file = next((snapshot / "saved").glob("*.arrow"))
    shutil.move(file, blobs / "cd34")
    os.symlink(blobs / "cd34", file)
    assert len(open_source(snapshot / "saved")) == 11


# --- saved datasets ----------------------------------------------------------------


@pytest.fixture(params=["one", "dict"])
def saved(request, tmp_path):
    """A saved dataset, and the folder of its records."""
    whole = {"one": table(), "dict": datasets.DatasetDict(train=table(), test=table())}
    whole[request.param].save_to_disk(tmp_path / "s")
    return tmp_path / "s", tmp_path / "s" / ("train" * (request.param == "dict"))


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refused(folder, monkeypatch, *parts):
    """One line, before `datasets` is asked to open anything."""
    monkeypatch.setattr(datasets, "load_from_disk", lambda *_: pytest.fail("opened"))
    for opened in (open_source, open_stream):
        text = message(lambda opened=opened: opened(folder))
        assert "cannot be read as a saved dataset" in text and len(text) < 700
        for part in parts:
            assert part in text


@pytest.mark.parametrize("where", ["../{}", "{}", "../s/../{}", "./../../s/../{}", "l"])
def test_the_files_of_a_saved_dataset_lie_in_it(saved, tmp_path, monkeypatch, where):
    folder, place = saved
    other = tmp_path / "other.arrow"
    shutil.copy(next(place.glob("*.arrow")), other)
    relative = os.path.relpath(other, place)
    name = {"../{}": relative, "{}": str(other)}.get(where, where.format(relative))
    if where == "l":
        os.symlink(other, place / "l")
    change(place / "state.json", _data_files=[{"filename": name}])
    refused(folder, monkeypatch, "(names ")


@pytest.mark.parametrize(
    "split",
    ["../o", "{}/o", "train::http://x.example", "http://x.example", "a/../../o"],
)
def test_the_splits_of_a_saved_dataset_lie_in_it(tmp_path, monkeypatch, split):
    table(33).save_to_disk(tmp_path / "o")
    (tmp_path / "s").mkdir()
    split = split.format(tmp_path)
    if "x" in split:
        shutil.copytree(tmp_path / "o", tmp_path / "s" / split)
    (tmp_path / "s/dataset_dict.json").write_text(json.dumps({"splits": [split]}))
    refused(tmp_path / "s", monkeypatch, "(names ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("state.json", "[]"), ("state.json", '{"_data_files": 3}'), ("state.json", ""),
        ("state.json", '{"_data_files": [{"filename": 3}]}'), ("state.json", "{}"),
        ("state.json", '{"_data_files": [{"filename": "gone.arrow"}]}'),
        ("state.json", '{"_data_files": [{"filename": ""}]}'),
        ("state.json", "[" * 20_000), ("state.json", '{"a": "%s"}' % ("x" * 2**24)),
        ("dataset_info.json", "3"), ("dataset_info.json", " " * (2**24 + 1)),
        ("dataset_info.json", "\0"), ("dataset_info.json", '{"a": ' + "[" * 9999),
    ],
)  # fmt: skip
def test_records_that_are_none(saved, monkeypatch, name, text):
    (saved[1] / name).write_text(text)
    refused(saved[0], monkeypatch)


def test_splits_that_are_none(tmp_path, monkeypatch):
    (tmp_path / "s").mkdir()
    for text in (
        "",
        "[]",
        "{}",
        '{"splits": 3}',
        '{"splits": [3]}',
        '{"splits": ["x"]}',
    ):
        (tmp_path / "s/dataset_dict.json").write_text(text)
        refused(tmp_path / "s", monkeypatch)


def test_pipes_and_devices_in_a_saved_dataset(saved, monkeypatch):
    folder, place = saved
    os.mkfifo(place / "pipe.arrow")
    change(place / "state.json", _data_files=[{"filename": "pipe.arrow"}])
    refused(folder, monkeypatch, "it is no regular file")


@pytest.mark.parametrize("kind", ["numpy", "pandas", "arrow"])
def test_formats_of_saved_datasets(tmp_path, kind):
    both = {name: table().with_format(kind) for name in ("train", "test")}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "s")
    assert stack(open_source(tmp_path / "s"))["image"].max() == 9
    assert open_stream(tmp_path / "s").first(3)["image"].max() == 9


@pytest.mark.parametrize(
    "info",
    [{"features": 3}, {"features": {"image": {"_type": "os"}}}, {"splits": [1]},
     {"features": {"image": {"_type": "Image", "decode": "no"}, "label": 1}}],
)  # fmt: skip
def test_what_datasets_itself_refuses_is_one_line(saved, info):
    change(saved[1] / "dataset_info.json", **info)
    assert "cannot be read as a saved dataset" in message(lambda: open_source(saved[0]))


def test_codes_lie_in_their_folder(tmp_path):
    rows = [{"codes": np.zeros((3, 4), np.int32), "label": np.zeros(3, np.int32)}]
    card = CodesCard(
        tokenizer="x",
        tokenizer_hash="y",
        num_codes=4,
        grid=2,
        data="d",
        fingerprint="f",
    )
    folder = write(tmp_path / "codes", {"train": (rows, ("a", "b"))}, card)
    assert len(open_codes(folder)) == 3
    shutil.move(next(folder.glob("train/*.arrow")), tmp_path / "x.arrow")
    files = [{"filename": "../../x.arrow"}]
    change(folder / "train/state.json", _data_files=files)
    text = message(lambda: open_codes(folder))
    assert "cannot be read as codes (names train/../../x.arrow" in text
