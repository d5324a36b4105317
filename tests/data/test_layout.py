"""Splits, classes, labels and columns: what strangers' folders and tables mean."""

import io
import json
import os
from collections import Counter

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minivim.data import (
    ArraySource,
    DataSpec,
    Source,
    checked,
    layout,
    open_source,
    open_stream,
    stack,
)
from tests.tiny import message


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / ".cache")


def png(number: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (number % 256, 200, 0)).save(file, "PNG")
    return file.getvalue()


def tree(root, *files):
    for number, file in enumerate(files):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return root


def grid(*parts, count=12):
    """Files `part/0.png`, `part/1.png`, ... of every part."""
    return [f"{part}/{i}.png" for part in parts for i in range(count)]


def table(path, count=12, **columns):
    cell = {"bytes": png(), "path": None}
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"image": [cell] * count, **columns}
    with open(os.fsencode(path), "wb") as file:
        pq.write_table(pa.table(columns), file)
    return path


def counts(spec, split):
    """How many pictures of each class a split has."""
    source = open_source(spec, split=split, image_size=4)
    names = (*source.class_names, None)
    return dict(Counter(names[label] for label in stack(source)["label"]))


# --- splits ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[(n, "train") for n in ("train", "Train", "TRAINING", "training_set")],
        *[(n, "train") for n in ("train2017", "images-train", "train images", "trn")],
        *[(n, "train") for n in ("split=train", "ILSVRC2012_img_train", "01_train")],
        *[(n, "test") for n in ("test", "Testing", "test_set", "test-data", "tst")],
        *[(n, "validation") for n in ("val", "VALID", "validation", "dev", "val2017")],
        *[(n, "") for n in ("steam_train", "train_station", "testament", "vale")],
        *[(n, "") for n in ("trains", "attest", "retrain", "eval_notes", "cat")],
    ],
)
def test_what_a_folder_is_called(name, split):
    assert layout.split_of(name) == split


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("data/cifar10_test.parquet", "test"),
        ("default/validation/0000.parquet", "validation"),
        ("split=Train/part.0.parquet", "train"),
        ("my.train.parquet", "train"),
        ("contest-results.parquet", ""),
    ],
)
def test_what_a_table_is_called(path, split):
    assert layout.split_of_file(path) == split


@pytest.mark.parametrize(
    ("train", "test"),
    [("Train", "Test"), ("training_set", "test_set"), ("TRAIN", "val"), ("trn", "tst")],
)
@pytest.mark.parametrize("outside", ["", "deep/er/"])
@pytest.mark.parametrize("inner", [False, True])
def test_splits_by_any_name_anywhere_in_the_path(tmp_path, train, test, outside, inner):
    """Above the classes or, with `inner`, inside each of them."""
    for split in (train, test):
        for name in "ab":
            parts = (name, split) if inner else (split, name)
            tree(tmp_path, *grid(outside + "/".join(parts), count=3))
    for split in ("train", "test"):
        assert counts(tmp_path, split) == {"a": 3, "b": 3}


def test_a_class_called_train(tmp_path):
    tree(tmp_path, *grid("boat", "bus", "train"))
    assert set(counts(tmp_path, "train")) == {"boat", "bus", "train"}


def test_a_class_called_train_inside_of_splits(tmp_path):
    parts = [f"{s}/{c}" for s in ("train", "test") for c in ("boat", "bus", "train")]
    tree(tmp_path, *grid(*parts, count=2))
    assert counts(tmp_path, "test") == {"boat": 2, "bus": 2, "train": 2}


@pytest.mark.parametrize(
    "parts",
    [
        ("train", "test", "extra"),
        ("cat", "dog", "test"),
        ("train/cat", "train/dog", "unsorted"),
        ("val", "cat"),
        ("cat/train", "cat/test", "dog/train", "dog/test", "dog/more"),
    ],
)
def test_splits_beside_other_folders_are_ambiguous(tmp_path, parts):
    tree(tmp_path, *grid(*parts))
    for split in ("train", "test"):
        text = message(lambda split=split: open_source(tmp_path, split=split))
        assert "so these may be splits or classes: move the splits" in text


def test_pictures_beside_splits(tmp_path):
    tree(tmp_path, *grid("train/a", "train/b", "test/a", "test/b"), "overview.png")
    source = open_source(tmp_path)
    assert len(source) == 24
    assert "not used: 1 picture beside the splits (overview.png)" in source.summary
    tree(tmp_path, *(f"{i}.png" for i in range(20)))
    assert "beside 21 pictures" in message(lambda: open_source(tmp_path))


def test_a_split_of_a_split(tmp_path):
    tree(tmp_path, *grid("train/train/a", "test/test/a", count=3))
    assert len(open_source(tmp_path)) == 3
    tree(tmp_path / "x", *grid("train/val/a", "test/a", count=3))
    assert "train/val/a, in two splits at once" in message(
        lambda: open_source(tmp_path / "x")
    )


@pytest.mark.parametrize("only", ["test", "val", "Validation_set"])
def test_test_pictures_alone_are_never_trained_on(tmp_path, only):
    tree(tmp_path, *grid(f"{only}/a", f"{only}/b"))
    assert "none to train on" in message(lambda: open_source(tmp_path))
    assert counts(tmp_path, "test") == {"a": 12, "b": 12}
    table(tmp_path / f"t/{only}.parquet")
    assert "none to train on" in message(lambda: open_source(tmp_path / "t"))


def test_three_splits(tmp_path):
    tree(tmp_path, *grid("train", "val", "test", count=3))
    source = open_source(tmp_path, split="test")
    assert source.summary.endswith("3 train, 3 test; not used: 3 validation")


def test_tables_split_by_folder_or_name(tmp_path):
    for split, label in (("train", [0, 1, 2]), ("validation", [0, 2, 2])):
        table(tmp_path / f"a/default/{split}/0000.parquet", label=label * 4)
        table(tmp_path / f"b/split={split}/x.parquet", label=label * 4)
        table(tmp_path / f"c/pets_{split}.parquet", label=label * 4)
    for name in "abc":
        assert counts(tmp_path / name, "train") == {"0": 4, "1": 4, "2": 4}
        assert counts(tmp_path / name, "test") == {"0": 4, "2": 8}
    table(tmp_path / "d/train.parquet", label=[0, 1] * 6)
    table(tmp_path / "d/test.parquet", label=[7, 1] * 6)
    source = open_source(tmp_path / "d")
    assert source.class_names == ("0", "1", "7")
    assert "no training pictures of 7" in source.summary
    table(tmp_path / "d/test.parquet", label=["zero", "one"] * 6)
    text = message(lambda: open_source(tmp_path / "d"))
    assert "the classes of test (one, zero) are not those of the training" in text


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            ("train.parquet", "test.parquet", "more.parquet"),
            "holds more.parquet beside",
        ),
        (("test.parquet", "0.parquet"), "holds 0.parquet beside test.parquet"),
        (("train/test-0.parquet",), "names the splits test and train"),
    ],
)
def test_tables_of_no_split_or_two(tmp_path, files, told):
    for file in files:
        table(tmp_path / file)
    assert told in message(lambda: open_source(tmp_path))


def test_labels_decide_between_test_and_validation(tmp_path):
    """As on the hub, where the labels of ImageNet's test pictures are all -1."""
    for split, label in (("train", [0, 1]), ("validation", [1, 0]), ("test", [-1, -1])):
        table(tmp_path / f"{split}-0.parquet", label=label * 6)
    source = open_source(tmp_path, split="test")
    assert source.class_names == ("0", "1") and set(source.labels) == {0, 1}
    assert source.summary.count("not used: 12 test") == 1


# --- holding out -------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(-1, 12), min_size=1, max_size=150),
    seed=st.integers(0, 5),
)
def test_holding_out_never_takes_the_last_of_a_class(labels, seed):
    labels = np.random.default_rng(seed).permutation(labels)
    train, test = layout.hold_out(labels)
    assert {*labels[train]} >= {*labels[labels >= 0]}
    if len(train) < len(labels):
        assert sorted([*train, *test]) == list(range(len(labels)))
        assert len(test) <= len(labels) // 10
    else:
        assert train.tolist() == test.tolist() == list(range(len(labels)))


def test_without_labels_it_is_the_same_tenth_as_ever():
    order = np.random.default_rng(0).permutation(300)
    for labels in (np.full(300, -1), np.arange(300) % 3):
        _, held = layout.hold_out(labels)
        np.testing.assert_array_equal(held, np.sort(order[:30]))


# --- classes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ([-1, 1], ("-1", "1")),
        (np.array([3, 250], np.uint8), ("3", "250")),
        ([True, False], ("False", "True")),
        (["dog", "cat"], ("cat", "dog")),
        (["cafe\u0301", "caf\u00e9"], ("caf\u00e9",)),
        ([10.0, 2.0], ("2", "10")),
        (["10", "9"], ("9", "10")),
        ([900, 7], ("7", "900")),
        ([{"id": 4, "name": "b"}, {"id": 5, "name": "a"}], ("a", "b")),
        ([{"id": 4}, {"id": 5}], ("4", "5")),
        ([b"x", b"y"], ("x", "y")),
        (pa.array(["u", "v"]).dictionary_encode(), ("u", "v")),
        (pa.array([7, 5]).dictionary_encode(), ("5", "7")),
        ([["only"], ["one"]], ("one", "only")),
        (["a", None], ("a",)),
        ([1.0, float("nan")], ("1",)),
    ],
)
def test_values_that_are_classes(tmp_path, column, names):
    one = column if isinstance(column, pa.Array) else pa.array(column)
    table(tmp_path / "a.parquet", label=pa.concat_arrays([one] * 6))
    source = open_source(tmp_path, image_size=4)
    assert source.class_names == names
    missing = names in (("a",), ("1",))
    assert set(source.labels) == set(range(len(names))) | ({-1} if missing else set())
    assert ("6 without a label" in source.summary) == missing


@pytest.mark.parametrize(
    ("column", "told"),
    [([0.5, 1.0], "has fractions"), ([[1, 2], [3, 4]], "has a list in a cell")],
)
def test_values_that_are_none(tmp_path, column, told):
    table(tmp_path / "a.parquet", label=column * 6)
    source = open_source(tmp_path)
    assert source.class_names == ()
    assert told in source.summary and "--label-column" in source.summary
    text = message(lambda: open_source(DataSpec(tmp_path, label_column="label")))
    assert told in text and "choose another" in text


@pytest.mark.parametrize(
    "name", ["labels", "Label", "category", "fine_label", "class_id", "y", "species"]
)
def test_common_names_of_label_columns(tmp_path, name):
    table(tmp_path / "a.parquet", **{name: ["p", "q"] * 6})
    source = open_source(tmp_path)
    assert source.class_names == ("p", "q")
    assert f"labels from the column {name}" in source.summary


def test_a_column_that_nobody_can_guess(tmp_path):
    table(tmp_path / "a.parquet", sex=["f", "m"] * 6, age=[1, 2] * 6)
    assert "columns not used: sex, age (see --label-column)" in (
        open_source(tmp_path).summary
    )
    assert open_source(DataSpec(tmp_path, label_column="sex")).class_names == ("f", "m")
    text = message(lambda: open_source(DataSpec(tmp_path, label_column="sax")))
    assert "no column sax, the columns are image, sex, age" in text


def test_the_image_column_by_name(tmp_path):
    mask = [{"bytes": png(99), "path": None}] * 12
    table(tmp_path / "a.parquet", a_mask=mask)
    assert stack(open_source(tmp_path, image_size=4))["image"][0, 0, 0, 0] == 0
    found = open_source(DataSpec(tmp_path, image_column="a_mask"), image_size=4)
    assert stack(found)["image"][0, 0, 0, 0] == 99
    table(tmp_path / "a.parquet", age=[1] * 12)
    text = message(lambda: open_source(DataSpec(tmp_path, image_column="age")))
    assert "has no image column" in text


@pytest.mark.parametrize("name", ["image", "img", "jpg"])
@pytest.mark.parametrize("kind", ["bytes", "path", "cell"])
def test_pictures_as_bytes_or_paths(tmp_path, name, kind):
    tree(tmp_path, "t/pictures/one.png")
    cell = {"bytes": None, "path": "pictures/one.png"}
    value = {"bytes": png(), "path": "pictures/one.png", "cell": cell}[kind]
    columns = {name: [value] * 3, "label": ["a", "b", "a"]}
    pq.write_table(pa.table(columns), tmp_path / "t/x.parquet")
    source = open_source(tmp_path / "t/x.parquet", image_size=4)
    assert stack(source)["image"][0, 0, 0].tolist() == [0, 200, 0]
    assert source.class_names == ("a", "b")


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "out/secret.png"])
def test_a_path_in_a_cell_stays_in_the_folder(tmp_path, path):
    tree(tmp_path, "secret.png")
    (tmp_path / "t").mkdir()
    os.symlink(tmp_path, tmp_path / "t/out")
    rows = {"image": [{"bytes": None, "path": path}] * 3}
    pq.write_table(pa.table(rows), tmp_path / "t/x.parquet")
    source = open_source(tmp_path / "t/x.parquet")
    text = message(lambda: stack(source))
    assert f"names {path}, which is outside of" in text


def test_a_class_without_a_name(tmp_path):
    kinds = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"])
    )
    told = json.dumps({"info": {"features": kinds.to_dict()}})
    file = table(tmp_path / "x.parquet", label=[0, 1, 9] * 4)
    rows = pq.read_table(file).replace_schema_metadata({"huggingface": told})
    pq.write_table(rows, file)
    text = message(lambda: open_source(tmp_path))
    assert "has labels from 0 to 9 and names for 2: write the dataset again" in text


def test_a_table_without_rows(tmp_path):
    table(tmp_path / "a.parquet", 0)
    assert "has no rows: give a dataset" in message(lambda: open_source(tmp_path))
    table(tmp_path / "b/train.parquet")
    table(tmp_path / "b/test.parquet", 0)
    assert "no rows to test" in message(lambda: open_source(tmp_path / "b"))


@pytest.mark.parametrize(
    "name", ["j [v1]", "a:b", "sp ace", "q?x", "st*r", "100%25", "caf\udce9", "{x}"]
)
def test_odd_names_of_folders(tmp_path, name):
    """Tables and pictures, in order and in a row; some are no UTF-8."""
    folder = os.path.join(tmp_path, name)
    os.makedirs(os.fsencode(folder))
    with open(os.fsencode(f"{folder}/train.parquet"), "wb") as file:
        rows = {"image": [{"bytes": png(), "path": None}] * 12, "label": [0, 1] * 6}
        pq.write_table(pa.table(rows), file)
    assert len(open_source(folder)) == 11
    with open(os.fsencode(f"{folder}/test.parquet"), "wb") as file:
        pq.write_table(pa.table(rows), file)
    assert len(stack(open_stream(folder, split="test"), 20)["label"]) == 12
    for part in "ab":
        os.makedirs(os.fsencode(f"{folder}x/{part}{name}"))
        with open(os.fsencode(f"{folder}x/{part}{name}/{name}.png"), "wb") as file:
            file.write(png())
    source = open_source(f"{folder}x", image_size=4)
    assert len(stack(source)["image"]) == 2 and source.num_classes == 2
    # Names of classes can be printed and drawn.
    assert source.class_names[0] == f"a{name}".replace("\udce9", "\\xe9")
    assert open_source(f"{folder}x").fingerprint != open_source(folder).fingerprint


# --- folders -----------------------------------------------------------------------


def test_numeric_folders_sort_as_numbers(tmp_path):
    tree(tmp_path, *grid(*map(str, range(12)), count=2))
    assert open_source(tmp_path).class_names == tuple(map(str, range(12)))


def test_composed_names_are_one_class(tmp_path):
    tree(tmp_path, *grid("cafe\u0301", "bar"), *grid("caf\u00e9", count=1))
    source = open_source(tmp_path)
    assert source.class_names == ("bar", "caf\u00e9")


@pytest.mark.parametrize("suffix", [".jfif", ".avif", ".JPE", ".tga", ".qoi", ".jp2"])
def test_every_suffix_that_pillow_reads(tmp_path, suffix):
    tree(tmp_path, *(f"{i}{suffix}" for i in range(3)), "note.xyz", "plain")
    source = open_source(tmp_path)
    assert len(source) == 3
    assert "1 x .xyz file, 1 x file without a suffix" in source.summary


def test_a_stray_picture_and_many(tmp_path):
    tree(tmp_path, *grid("a", "b"), "preview.png")
    source = open_source(tmp_path)
    assert source.class_names == ("a", "b")
    assert "not used: 1 picture beside the folders (preview.png)" in source.summary
    tree(tmp_path, *(f"{i}.png" for i in range(9)))
    source = open_source(tmp_path)
    assert source.class_names == () and len(source) == 31
    assert "no labels, with 10 pictures beside the folders" in source.summary


def test_linked_folders(tmp_path):
    tree(tmp_path / "else", *grid("pictures"))
    tree(tmp_path / "d", *grid("a", "b"))
    os.symlink(tmp_path / "else/pictures", tmp_path / "d/c")
    os.symlink(tmp_path / "d", tmp_path / "d/a/loop")
    os.symlink(tmp_path / "d/b", tmp_path / "d/again")
    source = open_source(tmp_path / "d")
    assert source.class_names == ("a", "b", "c")
    assert (
        "36 pictures" in source.summary and "2 x folder linked again" in source.summary
    )


def test_pipes_and_dangling_links(tmp_path):
    tree(tmp_path, *grid("a", "b"))
    os.mkfifo(tmp_path / "a/pipe.png")
    os.symlink("nowhere.png", tmp_path / "a/dead.png")
    source = open_source(DataSpec(tmp_path, check=False))
    assert "1 x pipe, socket or device" in source.summary
    text = message(lambda: checked(source, headers=True))
    assert text.startswith("1 of 23 pictures") and "dead.png" in text
    assert text.endswith("leave them out with --skip-unreadable")


def test_one_picture_and_a_pattern(tmp_path):
    tree(tmp_path, "a1.png", "a2.png", "b1.png")
    assert len(open_source(tmp_path / "a1.png")) == 1
    assert len(open_source(tmp_path / "a*.png")) == 2
    tree(tmp_path, *grid("train/x", "train/y"))
    assert len(open_source(tmp_path / "train/**/**/*.png")) == 22  # each file once
    source = open_source(tmp_path / "train/*/*.png")  # Of the given folder no split.
    assert source.class_names == ("x", "y") and "22 train, 2 held out" in source.summary


@pytest.mark.parametrize("name", ["metadata.csv", "labels.tsv", "metadata.jsonl"])
@pytest.mark.parametrize("named", ["{}.png", "{}"])
def test_labels_in_a_table_beside_flat_pictures(tmp_path, name, named):
    tree(tmp_path, *grid("val"), *grid("train/cat", "train/dog"))
    rows = [(named.format(i), "cat" if i % 3 else "dog") for i in range(12)]
    lines = {
        "metadata.csv": ["file_name,label", *(f"{a},{b}" for a, b in rows)],
        "labels.tsv": ["Image\tClass", *(f"{a}\t{b}" for a, b in rows)],
        "metadata.jsonl": [f'{{"file_name": "{a}", "label": "{b}"}}' for a, b in rows],
    }[name]
    (tmp_path / "val" / name).write_text("\n".join(lines) + "\n")
    assert counts(tmp_path, "test") == {"cat": 8, "dog": 4}
    assert f"labels of 12 from val/{name}" in open_source(tmp_path).summary


def test_a_parquet_table_of_labels_is_no_table_of_pictures(tmp_path):
    tree(tmp_path, *(f"{i}.png" for i in range(12)))
    rows = {"file_name": [f"{i}.png" for i in range(12)], "label": [0, 1] * 6}
    pq.write_table(pa.table(rows), tmp_path / "metadata.parquet")
    assert counts(tmp_path, "train").keys() == {"0", "1"}


def test_the_layout_of_imagenet(tmp_path):
    """Classes in folders to train, flat pictures to validate, labels at the top."""
    names = [f"n{i:08}" for i in range(5)]
    tree(tmp_path, *grid(*(f"Data/train/{n}" for n in names), count=2))
    tree(tmp_path, *(f"Data/val/ILSVRC2012_val_{i:08}.JPEG" for i in range(10)))
    rows = [f"ILSVRC2012_val_{i:08},n{i % 5:08} 85 1 499 272" for i in range(10)]
    text = "\n".join(["ImageId,PredictionString", *rows])
    (tmp_path / "LOC_val_solution.csv").write_text(text)
    assert counts(tmp_path, "test") == dict.fromkeys(names, 2)
    assert counts(tmp_path, "train") == dict.fromkeys(names, 2)
    (tmp_path / "LOC_val_solution.csv").unlink()
    source = open_source(tmp_path, split="test")
    assert "the validation pictures have no labels" in source.summary
    wrong = [f"ILSVRC2012_val_{i:08},{i % 5}" for i in range(10)]
    text = "\n".join(["file_name,label", *wrong])
    (tmp_path / "val_labels.csv").write_text(text)
    assert "are not those of the training pictures" in message(
        lambda: open_source(tmp_path)
    )


# --- objects -----------------------------------------------------------------------


def given_dataset(count=12):
    images = [Image.new("RGB", (4, 4), (i, 0, 0)) for i in range(count)]
    return datasets.Dataset.from_dict(
        {"image": images, "kind": list("ab") * (count // 2)}
    )


def test_a_dataset_of_ones_own():
    rows = given_dataset()
    source = open_source(DataSpec(rows, label_column="kind"), image_size=4)
    assert len(source) == 11 and source.class_names == ("a", "b")
    again = open_source(DataSpec(given_dataset(), label_column="kind"), image_size=4)
    assert source.fingerprint == again.fingerprint
    mixed = rows.shuffle(seed=3).select(range(8))
    found = stack(open_source(mixed, image_size=4))
    assert found["image"][:, 0, 0, 0].tolist() == [
        np.asarray(image)[0, 0, 0] for image in mixed["image"]
    ]
    both = datasets.DatasetDict(train=rows, validation=mixed, extra=rows)
    test = open_source(both, split="test", image_size=4)
    assert len(test) == 8 and "not used: the split extra" in test.summary


def test_a_source_of_ones_own():
    class Mine(Source):
        class_names = ("a", "b")
        fingerprint, description = "mine", "my source"

        def __len__(self):
            return 20

        def take(self, indices):
            images = np.zeros((len(indices), 4, 4, 3), np.uint8)
            return {"image": images + indices[:, None, None, None].astype(np.uint8),
                    "label": indices % 2}  # fmt: skip

    train, test = (
        open_source(Mine(), split=s, image_size=4) for s in ("train", "test")
    )
    assert (len(train), len(test)) == (18, 2)
    values = [*stack(train)["image"][:, 0, 0, 0], *stack(test)["image"][:, 0, 0, 0]]
    assert sorted(values) == list(range(20))
    assert train.fingerprint != test.fingerprint
    assert "18 train, 2 held out to test" in train.summary
    both = open_source({"train": Mine(), "test": Mine()}, split="test", image_size=4)
    assert len(both) == 20
    assert "images of shape (4, 4, 3), not (8, 8, 3)" in message(
        lambda: open_source(Mine(), image_size=8)
    )


@pytest.mark.parametrize("spec", [3, None, [1, 2], {}, {"train": 3}])
def test_objects_that_are_no_data(spec):
    assert "cannot be read: give a name, a Source" in message(lambda: open_source(spec))


def test_splits_by_names_that_are_none():
    rows = given_dataset()
    text = "no split for training (left, right): call one of them train"
    assert text in message(lambda: open_source({"left": rows, "right": rows}))
    array = ArraySource({"image": np.zeros((12, 4, 4, 3), np.uint8)})
    assert "two splits of one kind (train, test, tst)" in message(
        lambda: open_source({"train": array, "test": array, "tst": array}, image_size=4)
    )


# --- broken pictures ---------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path):
    """24 pictures to train, of which one is empty and one is cut."""
    tree(tmp_path, *grid("train/a", "train/b", "test/a", "test/b"))
    (tmp_path / "train/a/3.png").write_bytes(b"")
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "train/b/4.png")
    whole = (tmp_path / "train/b/4.png").read_bytes()
    (tmp_path / "train/b/4.png").write_bytes(whole[: len(whole) // 2])
    return tmp_path


def test_broken_pictures_are_named_in_one_go(damaged):
    text = message(lambda: open_source(DataSpec(damaged, check=True)))
    assert "2 of 24 pictures" in text and "a/3.png" in text and "b/4.png" in text
    text = message(lambda: checked(open_source(damaged), headers=True))
    assert "1 of 24 pictures" in text and "b/4.png" not in text


def test_pictures_are_looked_at_once(damaged):
    source = open_source(DataSpec(damaged, skip_unreadable=True))
    summary = source.summary
    assert checked(source, headers=True) is source and source.summary == summary


def test_broken_pictures_are_left_out(damaged):
    whole = open_source(damaged)
    source = open_source(DataSpec(damaged, skip_unreadable=True), image_size=4)
    assert len(source) == 22 and len(stack(source)["image"]) == 22
    assert "left out as unreadable: 2 (" in source.summary
    assert sorted(source.unreadable) == ["train/a/3.png", "train/b/4.png"]
    assert source.class_names == whole.class_names
    for file in damaged.glob("*/*/*.png"):
        file.write_bytes(b"")
    assert "cannot be read" in message(
        lambda: open_source(DataSpec(damaged, skip_unreadable=True))
    )


def test_a_missing_cell_is_named_and_left_out(tmp_path):
    cell = {"bytes": png(), "path": None}
    rows = {"image": [cell, None, cell, {"bytes": None, "path": "../x.png"}] * 2}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    text = message(lambda: checked(open_source(tmp_path), headers=True))
    assert "4 of 8 pictures" in text and "row 1 of" in text and "has no image" in text
    source = open_source(DataSpec(tmp_path, skip_unreadable=True), image_size=4)
    assert len(stack(source)["image"]) == 4
    assert source.unreadable == ("row 1", "row 3", "row 5", "row 7")


def test_dark_pictures_and_animations_are_remarked_on(tmp_path):
    tree(tmp_path, *grid("train", "test"))
    for file in tmp_path.glob("train/*.png"):
        Image.new("L", (8, 8), 14).save(file)
    frames = [Image.new("RGB", (8, 8), (0, 14 * i, 14 - 14 * i)) for i in range(2)]
    file = tmp_path / "train/pages.tiff"
    frames[0].save(file, save_all=True, append_images=frames[1:])
    source = checked(open_source(tmp_path), headers=True)
    assert "1 with several frames or pages: the first is taken" in source.summary
    assert "the brightest pixel of 13 pictures is 14 of 255" in source.summary


@pytest.mark.parametrize("inner", ["a", "train/a", "a/deep/er", "tables"])
@pytest.mark.parametrize("when", ["opened", "read on", "followed"])
def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch, inner, when):
    """Even an administrator, whom nothing is forbidden, sees it so."""
    others = [f"{inner.rpartition('a')[0]}b", f"{inner}/below", inner]
    tree(tmp_path, *grid(*others))
    os.symlink(tmp_path, tmp_path / inner / "link")
    real, denied = os.scandir, PermissionError(13, "Permission denied")

    class Entry:
        def __init__(self, entry):
            self.entry, self.name, self.path = entry, entry.name, entry.path

        def __getattr__(self, name):
            if name == "is_dir" and self.name == "link":
                raise denied
            return getattr(self.entry, name)

    def scandir(path):
        found = [Entry(e) if when == "followed" else e for e in real(path)]
        if when == "opened" and str(path) == str(tmp_path / inner):
            raise denied
        yield from found[:2]
        if when == "read on" and str(path) == str(tmp_path / inner):
            raise denied
        yield from found[2:]

    monkeypatch.setattr(os, "scandir", scandir)
    told = message(lambda: open_source(tmp_path))
    assert f"{tmp_path / inner} cannot be read (" in told
    assert told.endswith("Permission denied): allow reading it")


def test_links_in_a_circle_are_links_to_nowhere(tmp_path):
    tree(tmp_path, *grid("a", "b"))
    os.symlink("round", tmp_path / "round")
    os.symlink("there.png", tmp_path / "a/here.png")
    os.symlink("here.png", tmp_path / "a/there.png")
    source = open_source(tmp_path)
    assert source.class_names == ("a", "b") and len(source) == 24
    assert "not used: 1 x file without a suffix" in source.summary
    text = message(lambda: checked(source, headers=True))
    assert "here.png" in text and text.startswith("2 of 24 pictures")
