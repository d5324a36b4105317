"""Sources: kinds of files, labels, splits, and what users are told when it fails."""

from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minivim.data import (
    batches,
    open_source,
    open_stream,
    require_labels,
    shapes,
    sources,
    stack,
)
from minivim.data.base import hash_of
from minivim.data.layout import hold_out
from minivim.data.pixels import PIXELS, to_pixels
from minivim.data.sources import DataSpec
from minivim.errors import UserError
from tests.tiny import message


def picture(seed: int, size=(20, 14), mode="RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def write(path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / ".cache")


def table(labels, *, feature=None, column="label") -> datasets.Dataset:
    columns: dict = {"picture": [picture(i) for i in range(len(labels))]}
    columns[column] = labels
    features = datasets.Features(
        picture=datasets.Image(), **{column: feature or datasets.Value("int64")}
    )
    return datasets.Dataset.from_dict(columns, features=features)


# -- folders ------------------------------------------------------------------------


def test_nested_folder_of_mixed_files_gives_labels(tmp_path):
    for i, mode in enumerate(["1", "L", "RGB", "RGBA", "CMYK"]):
        suffix = "jpg" if mode == "CMYK" else "png"
        for name in ("b/late", "a", "b/early"):
            size = (30 + i, 50 - i)
            write(tmp_path / name / f"{i}.{suffix}", picture(i, size, mode))
    (tmp_path / "a/notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    write(tmp_path / ".hidden/x.png", picture(0))
    train = open_source(tmp_path, image_size=24)
    test = open_source(tmp_path, image_size=24, split="test")
    assert train.class_names == test.class_names == ("a", "b/early", "b/late")
    assert (len(train), len(test)) == (14, 1)
    items = stack(train)
    assert items["image"].shape == (14, 24, 24, 3)
    assert np.bincount(items["label"]).sum() == 14 and items["label"].max() == 2
    require_labels(train)
    again = open_source(tmp_path, image_size=24)
    assert train.fingerprint == again.fingerprint != test.fingerprint
    assert train.fingerprint != open_source(tmp_path, image_size=16).fingerprint


def test_flat_folder_has_no_labels(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.png", picture(i))
    source = open_source(tmp_path)
    assert source.class_names == () and source.num_classes == 0
    assert stack(source, 1)["label"] == -1
    with pytest.raises(UserError, match="at least two labels.*has none.*folder of its"):
        require_labels(source)
    # Too few to hold any out: both splits are the same images.
    test = open_source(tmp_path, split="test")
    np.testing.assert_array_equal(stack(source)["image"], stack(test)["image"])


def test_split_folders_are_used_and_share_class_numbers(tmp_path):
    for split, classes in (("train", "abc"), ("val", "bc")):
        for name in classes:
            write(tmp_path / split / name / "x.png", picture(1))
    assert sorted(stack(open_source(tmp_path))["label"]) == [0, 1, 2]
    test = open_source(tmp_path, split="test")
    assert test.class_names == ("a", "b", "c")
    assert sorted(stack(test)["label"]) == [1, 2]
    write(tmp_path / "val/z/x.png", picture(1))
    test = open_source(tmp_path, split="test")
    assert test.class_names == ("a", "b", "c", "z")
    assert "no training pictures of z" in test.summary


def test_held_out_images_are_fixed_and_disjoint(tmp_path):
    for i in range(40):
        write(tmp_path / f"{i:02}.png", picture(i))
    train, test = (stack(open_source(tmp_path, split=s)) for s in ("train", "test"))
    kept = {i.tobytes() for i in train["image"]}
    held = {i.tobytes() for i in test["image"]}
    assert (len(kept), len(held)) == (36, 4) and not kept & held


@pytest.mark.parametrize("count", [9, 10])
@pytest.mark.parametrize("kind", ["folder", "table"])
def test_that_nothing_is_held_out_is_said_once(tmp_path, capsys, count, kind):
    if kind == "table":
        table([0, 1] * (count // 2) + [0] * (count % 2)).save_to_disk(tmp_path / "t")
    for i in range(count if kind == "folder" else 0):
        write(tmp_path / "t" / f"{i}.png", picture(i))
    capsys.readouterr()
    open_source(tmp_path / "t")
    assert "warning" not in capsys.readouterr().err
    for _ in range(2):
        open_source(tmp_path / "t", split="test")
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(said) == (count < 10)
    if said:
        assert "has too few images to hold any out" in said[0]
        assert said[0].endswith("test and training images are the same")


# -- parquet ------------------------------------------------------------------------


def test_parquet_finds_columns_by_type(tmp_path):
    kinds = datasets.ClassLabel(names=["no", "yes"])
    table([1, 0, 1], feature=kinds, column="kind").to_parquet(tmp_path / "x.parquet")
    source = open_source(tmp_path / "x.parquet", image_size=14)
    items = stack(source)
    assert source.class_names == ("no", "yes")
    assert items["label"].tolist() == [1, 0, 1]
    expected = to_pixels(picture(0), image_size=14)
    np.testing.assert_array_equal(items["image"][0], expected)


def test_the_label_column_wins_over_other_classes(tmp_path):
    kinds = {
        "colour": datasets.ClassLabel(names=["red", "blue"]),
        "label": datasets.ClassLabel(names=["no", "yes"]),
        "image": datasets.Image(),
    }
    rows = {"colour": [1, 1], "label": [1, 0], "image": [picture(0), picture(1)]}
    found = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    for names in (list(kinds), ["image", "label", "colour"]):
        found.select_columns(names).to_parquet(tmp_path / "x.parquet")
        source = open_source(tmp_path / "x.parquet")
        assert source.class_names == ("no", "yes")
        np.testing.assert_array_equal(stack(source)["label"], [1, 0])


@pytest.mark.parametrize("quiet", [True, False])
def test_tables_are_read_without_a_bar_where_nobody_asked(tmp_path, quiet, capfd):
    table([1, 0, 1]).to_parquet(tmp_path / "x.parquet")
    capfd.readouterr()
    assert datasets.is_progress_bar_enabled()
    assert len(open_source(DataSpec(tmp_path / "x.parquet", quiet=quiet))) == 3
    assert ("Generating" in capfd.readouterr().err) != quiet
    assert datasets.is_progress_bar_enabled()


@pytest.mark.parametrize("spec", ["", "**/*.parquet"])
def test_parquet_files_named_train_and_test_are_splits(tmp_path, spec):
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    table([0, 2]).to_parquet(folder / "train-0.parquet")
    table([1]).to_parquet(folder / "train-1.parquet")
    table([3, 1, 2, 0]).to_parquet(folder / "test-0.parquet")
    train = open_source(tmp_path / "set" / spec)
    test = open_source(tmp_path / "set" / spec, split="test")
    assert stack(train)["label"].tolist() == [0, 2, 1]
    assert stack(test)["label"].tolist() == [3, 1, 2, 0]
    assert train.class_names == test.class_names == ("0", "1", "2", "3")
    batch = next(batches(train, batch_size=3, shuffle=False))
    assert batch["image"].shape == (3, 32, 32, 3)
    assert batch["label"].tolist() == [0, 2, 1]


def test_parquet_without_labels(tmp_path):
    rows = table(["a", "b"], feature=datasets.Value("string"), column="caption")
    rows.to_parquet(tmp_path / "x.parquet")
    source = open_source(tmp_path / "x.parquet")
    assert source.class_names == () and stack(source)["label"][1] == -1
    assert "columns not used: caption (see --label-column)" in source.summary


# -- the first of them --------------------------------------------------------------


def test_the_first_pictures_of_a_folder_are_not_of_a_few_classes(tmp_path):
    for name in "abcdefghij":
        for i in range(12):
            write(tmp_path / name / f"{i:02}.png", picture(i, size=(4, 4)))
    for split, count in (("train", 108), ("test", 12)):
        labels = stack(open_source(tmp_path, split=split, image_size=4))["label"]
        assert len(labels) == count
        assert (np.diff(labels) != 0).sum() > count // 2
    first = stack(open_source(tmp_path, image_size=4), 40)["label"]
    assert len(set(first)) >= 9


@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(5, 9), min_size=2, max_size=4), falls=st.booleans())
def test_a_table_sorted_by_class_is_mixed(tmp_path_factory, counts, falls):
    labels = np.repeat(np.arange(len(counts)), counts)[:: -1 if falls else 1].tolist()
    folder = tmp_path_factory.mktemp("table")
    both = datasets.DatasetDict({"train": table(labels), "test": table(labels[::2])})
    both.save_to_disk(str(folder / "sorted"))
    source = open_source(folder / "sorted", image_size=4)
    found = stack(source)
    assert sorted(found["label"]) == sorted(labels)
    steps = np.diff(found["label"])
    assert (steps > 0).any() and (steps < 0).any()
    # Pictures go with their labels, in the same order whenever it is opened.
    rows = {to_pixels(picture(i), image_size=4).tobytes(): k
            for i, k in enumerate(labels)}  # fmt: skip
    assert [rows[i.tobytes()] for i in found["image"]] == found["label"].tolist()
    again = stack(open_source(folder / "sorted", image_size=4))
    np.testing.assert_array_equal(again["image"], found["image"])


@pytest.mark.parametrize("labels", [[1, 0, 1], [0, 0, 0], [0, 1, 1, 0, 2, 2]])
def test_other_tables_keep_their_order_and_fingerprint(tmp_path, labels):
    name = tmp_path / "x.parquet"
    table(labels * 3).to_parquet(name)
    source = open_source(name, image_size=4)
    kept, _ = hold_out(np.array(labels * 3))
    assert stack(source)["label"].tolist() == np.array(labels * 3)[kept].tolist()
    identity = [(name.name, name.stat().st_size)]
    names = tuple(str(i) for i in range(max(labels) + 1))
    shape = [("channels", 3), ("image_size", 4)]
    columns = ("picture", "label", names)
    parts = (identity, "train", len(source), columns, PIXELS, shape)
    assert source.fingerprint == hash_of(parts)


def test_a_mixed_order_is_other_data(tmp_path, monkeypatch):
    """A run that began on the old order must not go on with this one."""
    (tmp_path / "t").mkdir()
    table([0, 0, 1, 1]).to_parquet(tmp_path / "t" / "x.parquet")
    for i in range(8):
        write(tmp_path / "f" / "ab"[i % 2] / f"{i}.png", picture(i))
    now = [open_source(tmp_path / name).fingerprint for name in "tf"]
    identity = [("x.parquet", (tmp_path / "t/x.parquet").stat().st_size)]
    shape = [("channels", 3), ("image_size", 32)]
    rest = ("train", 4, ("picture", "label", ("0", "1")), PIXELS, shape)
    assert now[0] == hash_of(((identity, "mixed"), *rest)) != hash_of((identity, *rest))
    by_name = SimpleNamespace(sha256=lambda _: SimpleNamespace(hexdigest=lambda: ""))
    monkeypatch.setattr(sources, "hashlib", by_name)
    assert now[1] != open_source(tmp_path / "f").fingerprint


# -- shapes -------------------------------------------------------------------------


def test_shapes_open_at_any_size():
    source = open_source("shapes", split="test")
    drawn = shapes.arrays("test", size=5)
    np.testing.assert_array_equal(stack(source, 5)["image"], drawn["image"])
    assert source.class_names == shapes.CLASSES and len(source) == 2_048
    assert source.description == "shapes (test)"
    small = open_source("shapes", split="test", image_size=16, channels=1)
    assert stack(small, 1)["image"].shape == (1, 16, 16, 1)


# -- what users are told ------------------------------------------------------------


def test_a_spec_that_does_not_exist():
    text = message(lambda: open_source("/no/such/folder"))
    assert text.startswith("/no/such/folder does not exist: give 'shapes', a folder")


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_folder_one_is_in(tmp_path, monkeypatch, name):
    write(tmp_path / "one.png", picture(0))
    monkeypatch.chdir(tmp_path)
    for opened in (open_source, open_stream):
        text = message(lambda opened=opened: opened(name))
        assert "the data have an empty name" in text and "give . for it" in text
    assert len(open_source(".")) == 1


def test_a_file_that_is_neither_a_table_nor_a_picture(tmp_path):
    (tmp_path / "one.txt").write_text("text")
    text = message(lambda: open_source(tmp_path / "one.txt"))
    assert "is neither a parquet file nor a picture" in text
    assert text.endswith("give such a file or the folder that holds it")


def test_a_pattern_without_match(tmp_path):
    text = message(lambda: open_source(tmp_path / "*.parquet"))
    assert "matches no parquet file and no picture" in text


def test_a_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    text = message(lambda: open_source(tmp_path))
    assert "holds no images (not used: 1 x .txt file): give a folder with" in text


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_corrupt_image_is_named(tmp_path, content):
    write(tmp_path / "bad.png", picture(0))
    whole = (tmp_path / "bad.png").read_bytes()
    (tmp_path / "bad.png").write_bytes(whole[:400] if content is None else content)
    source = open_source(tmp_path)
    text = message(lambda: next(batches(source, batch_size=1)))
    assert "bad.png is not a readable image" in text
    assert text.endswith("repair or remove it, or --skip-unreadable")


def test_a_missing_image_is_named(tmp_path):
    write(tmp_path / "gone.png", picture(0))
    source = open_source(tmp_path)
    (tmp_path / "gone.png").unlink()
    assert "gone.png is missing: restore it" in message(lambda: stack(source))


def test_pixels_without_a_range_are_refused(tmp_path):
    write(tmp_path / "float.tif", Image.new("F", (4, 4), 0.5))
    text = message(lambda: stack(open_source(tmp_path)))
    assert "float.tif cannot be used: its pixels are 32-bit floats" in text


def test_a_corrupt_row_is_named(tmp_path):
    rows = {"image": [{"bytes": b"nonsense", "path": None}, None]}
    features = datasets.Features(image=datasets.Image())
    datasets.Dataset.from_dict(rows, features=features).to_parquet(
        tmp_path / "x.parquet"
    )
    source = open_source(tmp_path)
    for row in (0, 1):
        assert f"row {row} of" in message(lambda row=row: source.take(np.array([row])))


def test_parquet_without_an_image_column(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"], "label": [0]}).to_parquet(
        tmp_path / "x.parquet"
    )
    text = message(lambda: open_source(tmp_path / "x.parquet"))
    assert "has no image column (its columns: text, label): store" in text


def test_a_corrupt_parquet_file_is_named(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    assert "x.parquet is not a readable parquet file" in message(
        lambda: open_source(tmp_path)
    )


def test_parquet_files_of_different_columns(tmp_path):
    table([0]).to_parquet(tmp_path / "a.parquet")
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "b.parquet")
    assert "b.parquet has columns text and a.parquet has picture, label" in message(
        lambda: open_source(tmp_path)
    )


def test_the_hub_without_a_connection(monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise ConnectionError("Name or service not known\nand more lines")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    text = message(lambda: open_source("owner/name@0123abc"))
    assert text.startswith("owner/name@0123abc is neither a path here nor a dataset")
    assert "check the name and the connection" in text


def test_the_hub_is_pinned_to_the_commit_it_resolves(monkeypatch):
    import huggingface_hub

    class Info:
        sha = "c0ffee"

    asked = []

    def load(name, revision, streaming):
        assert not streaming
        asked.append((name, revision))
        return datasets.DatasetDict(train=table([0, 1]), validation=table([1]))

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: Info)
    monkeypatch.setattr(datasets, "load_dataset", load)
    source = open_source("owner/name@main", split="test")
    assert asked == [("owner/name", "c0ffee")]
    assert source.description == "owner/name@c0ffee (test)"
    assert stack(source)["label"].tolist() == [1]


def test_impossible_shapes_and_splits():
    for size in (0, -4, 100_000):
        assert f"image_size {size} is impossible" in message(
            lambda size=size: open_source("shapes", image_size=size)
        )
    assert "channels 2 is impossible: choose 3 (RGB) or 1 (grey)" in message(
        lambda: open_source("shapes", channels=2)
    )
    assert "no split 'dev': use 'train' or 'test'" in message(
        lambda: open_source("shapes", split="dev")
    )


def test_one_label_is_too_few(tmp_path):
    datasets.Dataset.from_dict(
        {"image": [picture(0)], "label": [0]},
        features=datasets.Features(
            image=datasets.Image(), label=datasets.ClassLabel(names=["only"])
        ),
    ).to_parquet(tmp_path / "x.parquet")
    text = message(lambda: require_labels(open_source(tmp_path)))
    assert "at least two labels" in text and "one label (only)" in text
