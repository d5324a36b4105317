"""Small models of data sets that people have, each trained for ten steps."""

import json

import datasets
import numpy as np
import pytest
from PIL import Image

from minivim import cli
from minivim.data import open_source, stack
from tests import tiny
from tests.data.test_pixels import P3, profile

WNIDS = [f"n{number:08}" for number in (1440764, 1443537, 1484850)]


def noise(seed, size=(20, 14)):
    values = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(values)


def save(path, image, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **how)


def imagenet_folders(root):
    """Training pictures in folders of classes, flat ones to validate and a table."""
    for number, wnid in enumerate(WNIDS):
        for i in range(5):
            save(root / f"train/{wnid}/{wnid}_{i}.JPEG", noise(9 * number + i))
    names = [f"ILSVRC2012_val_{i:08}" for i in range(1, 7)]
    for i, name in enumerate(names):
        save(root / f"val/{name}.JPEG", noise(100 + i))
    lines = [f"{name},{WNIDS[i % 3]} 85 1 499 272" for i, name in enumerate(names)]
    table = "\n".join(["ImageId,PredictionString", *lines])
    (root / "LOC_val_solution.csv").write_text(table)
    return 15, 6, 3


def imagenet_of_the_hub(root):
    """Parquet shards with labels of type ClassLabel; those of test are all -1."""
    kinds = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=WNIDS)
    )
    (root / "data").mkdir(parents=True)
    for shard, count in (("train-00000-of-00002", 8), ("train-00001-of-00002", 7),
                         ("validation-00000-of-00001", 6),
                         ("test-00000-of-00001", 5)):  # fmt: skip
        hidden = shard.startswith("test")
        rows = {
            "image": [noise(i) for i in range(count)],
            "label": [-1 if hidden else i % 3 for i in range(count)],
        }
        table = datasets.Dataset.from_dict(rows, features=kinds)
        table.to_parquet(root / "data" / f"{shard}.parquet")
    return 15, 6, 3


def a_thousand_classes(root):
    """Two pictures of each: no class loses its last one to the test split."""
    for number in range(2_000):
        folder = root / f"n{number % 1000:08}"
        save(folder / f"{number}.png", noise(number, (8, 8)))
    return 1_800, 200, 1_000


def microscopy(root):
    """16-bit greys, of which the camera uses 12."""
    for i in range(15):
        values = np.random.default_rng(i).integers(0, 4_096, (14, 20)) * 16
        save(root / f"{i}.tif", Image.fromarray(values.astype(np.uint16)))
    return 14, 1, 0


def phone(root):
    """Pictures on their side, with a wide gamut."""
    wide, turned = profile(P3), Image.Exif()
    turned[0x0112] = 6
    for name in ("cats", "dogs"):
        for i in range(8):
            how = {"exif": turned, "icc_profile": wide}
            save(root / f"{name}/IMG_{i:04}.JPG", noise(i), format="JPEG", **how)
    return 15, 1, 2


CASES = [imagenet_folders, imagenet_of_the_hub, a_thousand_classes, microscopy, phone]


@pytest.mark.parametrize("make", CASES)
def test_data_sets_that_people_have(tmp_path, monkeypatch, capsys, make):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / ".cache")
    root = tmp_path / "set"
    train, test, classes = make(root)
    source, held_out = (open_source(root, split=s) for s in ("train", "test"))
    assert source.num_classes == classes
    # Of a thousand classes some would lose their last picture.
    assert abs(len(held_out) - test) <= classes // 100
    assert len(source) + len(held_out) == train + test
    assert {*source.labels} == ({*range(classes)} or {-1})
    if classes:
        assert set(stack(held_out)["label"]) <= set(range(classes))
    capsys.readouterr()
    command = [
        "train", "tokenizer", "shapes", "--quiet", "--data", str(root),
        "--workdir", str(tmp_path / "run"),
        "--set", *tiny.TOKENIZER_SETTINGS, "run.steps=10",
    ]  # fmt: skip
    assert cli.main(command) == 0
    assert source.summary in capsys.readouterr().err
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["steps"] == 10 and card["data_read"] == source.summary
