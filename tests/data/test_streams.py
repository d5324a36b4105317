"""Streams: shares, positions, what is lost, and what users are told."""

import itertools
import json

import datasets
import numpy as np
import pytest
from PIL import Image

from minivim.data import batches, open_source, open_stream, require_labels, stack
from minivim.data import streams as module
from minivim.training import processes
from tests.tiny import message

NAMES = ["no", "yes"]
SHARDS, EACH = 4, 15


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / ".cache")
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    monkeypatch.setattr(module, "SHUFFLE_BUFFER", 8)


def table(first: int, count: int, **columns) -> datasets.Dataset:
    """Images of one colour, whose red and green are the number of the row."""
    numbers = range(first, first + count)
    pixels = [np.full((3, 3, 3), (n // 16 * 16, n % 16 * 16, 0)) for n in numbers]
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=NAMES)
    )
    rows = {
        "image": [Image.fromarray(p.astype(np.uint8)) for p in pixels],
        "label": [n % 2 for n in numbers],
    }
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture
def folder(tmp_path):
    """Four files of 15 rows for training, one of 5 to test."""
    for shard in range(SHARDS):
        rows = table(EACH * shard, EACH)
        rows.to_parquet(tmp_path / f"train-{shard}.parquet")
    table(200, 5).to_parquet(tmp_path / "test-0.parquet")
    return tmp_path


def numbers(batch) -> list[int]:
    """The rows that a batch is made of; its labels must be theirs."""
    pixels = np.rint(np.asarray(batch["image"])[:, 0, 0] * 255).astype(int)
    found = pixels[:, 0] // 16 * 16 + pixels[:, 1] // 16
    np.testing.assert_array_equal(batch["label"], found % 2)
    return found.tolist()


def read(iterator, count) -> list[int]:
    return list(itertools.chain(*(numbers(next(iterator)) for _ in range(count))))


# --- what is read ------------------------------------------------------------------


def test_a_stream_gives_batches_as_a_source_does(folder):
    stream = open_stream(folder, image_size=4)
    iterator = batches(stream, batch_size=6, seed=1)
    batch = next(iterator)
    iterator.close()
    other = next(batches(open_source(folder, image_size=4), batch_size=6))
    assert {k: (v.dtype, v.shape) for k, v in batch.items()} == {
        k: (v.dtype, v.shape) for k, v in other.items()
    }
    assert stream.class_names == tuple(NAMES)
    require_labels(stream)
    again = open_stream(folder, image_size=4)
    assert stream.fingerprint == again.fingerprint
    prints = [
        open_stream(folder, image_size=8), open_stream(folder, channels=1),
        open_stream(folder, split="test"), open_source(folder, image_size=4),
    ]  # fmt: skip
    assert stream.fingerprint not in {p.fingerprint for p in prints}


def test_the_first_rows_in_order(folder):
    test = open_stream(folder, split="test", image_size=4)
    rows = stack(test, 3)
    assert rows["image"].dtype == np.uint8
    assert numbers({**rows, "image": rows["image"] / 255}) == [200, 201, 202]
    assert len(stack(test, 100)["label"]) == 5


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_shares_are_disjoint_and_together_complete(folder, processes):
    """In each epoch, which are mixed differently."""
    stream, each = open_stream(folder, image_size=4), 3
    shares = []
    for p in range(processes):
        rows = slice(p * each, (p + 1) * each)
        iterator = batches(stream, batch_size=each * processes, seed=5, rows=rows)
        shares.append(read(iterator, 2 * SHARDS * EACH // (each * processes)))
        iterator.close()
    whole = SHARDS * EACH // processes
    for epoch in range(2):
        parts = [share[epoch * whole : (epoch + 1) * whole] for share in shares]
        assert sorted(itertools.chain(*parts)) == list(range(SHARDS * EACH))
    assert shares[0][:whole] != shares[0][whole:]
    assert shares[0][:whole] != sorted(shares[0][:whole])


def test_the_seed_makes_the_order(folder):
    def order(seed):
        iterator = batches(open_stream(folder), batch_size=10, seed=seed)
        found = read(iterator, 3)
        iterator.close()
        return found

    assert order(1) == order(1) != order(2)


# --- resume ------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [0, 1, 4, 9])
@pytest.mark.parametrize("share", [0, 1])
def test_a_resumed_stream_repeats_nothing_and_loses_a_buffer_at_most(
    folder, taken, share
):
    def start():
        rows = slice(3 * share, 3 * share + 3)
        return batches(open_stream(folder), batch_size=6, seed=5, rows=rows)

    stopped = start()
    before = read(stopped, taken)
    state = json.loads(json.dumps(stopped.get_state()))
    stopped.close()
    resumed = start()
    read(resumed, 2)
    resumed.set_state(state)
    share_rows = set(before)
    after: list[int] = []
    while True:
        batch = read(resumed, 1)
        if (epoch := resumed.get_state()["positions"][str(share)]["epoch"]) > 0:
            break
        after += batch
    resumed.close()
    assert epoch == 1
    assert not share_rows & set(after)
    assert len(set(after)) == len(after)
    # A batch may have begun in this epoch and ended in the next.
    lost = SHARDS * EACH // 2 - len(before) - len(after)
    assert 0 <= lost <= 8 + 3
    assert bool(taken) or lost < 3


def test_what_was_read_ahead_is_not_lost(folder, monkeypatch):
    """Without a buffer a resumed stream goes on exactly."""
    monkeypatch.setattr(module, "SHUFFLE_BUFFER", 1)
    one = batches(open_stream(folder), batch_size=7, seed=2)
    read(one, 3)
    state = one.get_state()
    expected = read(one, 4)
    one.close()
    other = batches(open_stream(folder), batch_size=7, seed=2)
    other.set_state(state)
    assert read(other, 4) == expected
    other.close()


def test_a_position_holds_those_of_all_processes(folder, monkeypatch):
    seen = []

    def gathered(own):
        seen.append(json.loads(own))
        return [own, json.dumps({"1": "theirs"})]

    monkeypatch.setattr(processes, "gathered", gathered)
    one = batches(open_stream(folder), batch_size=6, rows=slice(0, 3))
    assert one.get_state()["positions"]["1"] == "theirs"
    assert list(seen[0]) == ["0"]
    one.close()
    alone = batches(open_stream(folder), batch_size=6)
    alone.get_state()
    alone.close()
    assert len(seen) == 1


# --- other places ------------------------------------------------------------------


def test_a_folder_of_datasets_by_index_and_in_a_row(tmp_path):
    splits = {"train": table(0, 20), "validation": table(200, 5)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    source = open_source(tmp_path / "saved", image_size=4)
    rows = stack(source)
    assert numbers({**rows, "image": rows["image"] / 255}) == list(range(20))
    assert len(open_source(tmp_path / "saved", split="test")) == 5
    found = []
    for p in range(3):  # Cut anywhere: no number of processes is refused.
        stream = open_stream(tmp_path / "saved", image_size=4)
        one = batches(stream, batch_size=3, rows=slice(p, p + 1))
        for _ in range(6):
            found += read(one, 1)
        one.close()
    assert len(set(found)) == 18 and set(found) <= set(range(20))
    test = open_stream(tmp_path / "saved", split="test", image_size=4)
    assert len(stack(test, 9)["label"]) == 5
    table(0, 20).save_to_disk(tmp_path / "one")
    assert len(open_source(tmp_path / "one")) == 18


def test_the_hub_is_streamed_at_the_commit_it_resolves(monkeypatch, folder):
    import huggingface_hub

    class Info:
        sha = "c0ffee"

    asked = []
    load = datasets.load_dataset

    def hub(name, revision, streaming):
        asked.append((name, revision, streaming))
        files = {"train": [str(folder / "train-0.parquet")],
                 "validation": [str(folder / "test-0.parquet")]}  # fmt: skip
        return load("parquet", data_files=files, streaming=True)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: Info)
    monkeypatch.setattr(datasets, "load_dataset", hub)
    stream = open_stream("owner/name@main", split="test", image_size=4)
    assert asked == [("owner/name", "c0ffee", True)]
    assert stream.description == "owner/name@c0ffee (test)"
    assert stack(stream, 2)["label"].tolist() == [0, 1]


# --- what users are told -----------------------------------------------------------


def test_files_that_processes_cannot_share(folder):
    stream = open_stream(folder)
    text = message(lambda: batches(stream, batch_size=6, rows=slice(0, 2)))
    assert "has 4 files, which 3 processes cannot share equally" in text
    assert "divides 4" in text


@pytest.mark.parametrize(
    "rows", [slice(0, 8, 2), slice(2, 6), np.array([0, 2]), np.array([1, 0]), slice(0)]
)
def test_rows_that_are_no_block(folder, rows):
    text = message(lambda: batches(open_stream(folder), batch_size=8, rows=rows))
    assert "one of equal blocks of the 8 rows" in text


def test_another_number_of_processes(folder):
    one = batches(open_stream(folder), batch_size=4)
    state = one.get_state()
    one.close()
    two = batches(open_stream(folder), batch_size=4, rows=slice(2, 4))
    text = message(lambda: two.set_state(state))
    assert "read in 1 shares and now is in 2" in text and "as before" in text
    assert "as before" in message(lambda: two.set_state({"batch": 4}))
    two.close()


def test_a_stream_without_a_test_split(folder):
    (folder / "test-0.parquet").unlink()
    text = message(lambda: open_stream(folder, split="test"))
    assert "has no test split, and a stream holds nothing out" in text
    assert text.endswith("leave out --stream")


def test_what_is_no_stream(tmp_path, folder):
    assert "leave out --stream" in message(lambda: open_stream("shapes"))
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (3, 3)).save(tmp_path / "pictures" / "one.png")
    assert "leave out --stream" in message(lambda: open_stream(tmp_path / "pictures"))
    assert "no split 'dev'" in message(lambda: open_stream(folder, split="dev"))
    stream = open_stream(folder)
    assert "--workers or --stream" in message(
        lambda: batches(stream, batch_size=2, workers=2)
    )
    assert "no known length: say how many" in message(lambda: stack(stream))


def test_labels_of_any_type_are_counted_beforehand(tmp_path):
    rows = table(0, 4).cast_column("label", datasets.Value("int64"))
    rows.to_parquet(tmp_path / "train-0.parquet")
    rows.to_parquet(tmp_path / "test-0.parquet")
    stream = open_stream(tmp_path, split="test")
    assert stream.class_names == ("0", "1")
    assert stack(stream, 2)["label"].tolist() == [0, 1]


def test_a_corrupt_row_and_a_share_without_rows(tmp_path):
    rows = {"image": [{"bytes": b"nonsense", "path": None}], "label": [0]}
    features = table(0, 1).features
    bad = datasets.Dataset.from_dict(rows, features=features)
    bad.to_parquet(tmp_path / "train-0.parquet")
    table(0, 0).to_parquet(tmp_path / "train-1.parquet")
    table(0, 1).to_parquet(tmp_path / "test-0.parquet")
    told = []
    for p in range(2):
        one = batches(open_stream(tmp_path), batch_size=2, rows=slice(p, p + 1))
        told.append(message(lambda one=one: next(one)))
        one.close()
    assert any("is not a readable image" in text for text in told)
    assert any("has no rows: use fewer processes" in text for text in told)


@pytest.mark.parametrize("only", ["test", "validation"])
def test_the_only_split_is_not_both(tmp_path, only):
    rows = datasets.DatasetDict({only: table(0, 20)})
    rows.save_to_disk(str(tmp_path / "saved"))
    text = message(lambda: open_stream(tmp_path / "saved", split="test"))
    assert "has no train split, and a stream holds nothing out" in text
    text = message(lambda: open_source(tmp_path / "saved"))
    assert f"has {only} pictures alone, and none to train on" in text
    assert len(open_source(tmp_path / "saved", split="test")) == 20
