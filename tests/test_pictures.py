"""Pictures for other programs: a folder of PNGs or an .npz, whole or not at all."""

import csv
import os
import signal
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

import jax
import numpy as np
import pytest
from PIL import Image

from minivim import classifier, cli, data, prior, weights
from minivim.cli import drawing
from minivim.config import ClassifierConfig
from minivim.encode import decode_all, encode_all
from minivim.errors import Stopped
from minivim.pictures import saved, to_uint8
from tests import tiny

NAMES = ["cat, black", "gr\udcfcn"]  # with a comma, and from a name that is no UTF-8
IMAGES = np.random.default_rng(0).random((5, 4, 4, 3), np.float32)
BYTES = np.stack([to_uint8(image) for image in IMAGES])
LABELS = np.array([0, 1, -1, 1, 0])


def write(out, *, images=IMAGES, count=5, **how):
    """Two batches of each set."""
    names = how.get("sets", ["images"])
    with saved(out, side=4, count=count, **how) as add:
        for part in (slice(0, 3), slice(3, 5)):
            add(LABELS[part], **dict.fromkeys(names, images[part]))


def listed(folder):
    """The pictures of a folder by name; tests/parity has pytorch-fid read them."""
    files = sorted(folder.glob("*.png"))
    return np.stack([np.asarray(Image.open(file)) for file in files])


def table(folder):
    text = (folder / "index.csv").read_text("utf-8", "surrogateescape")
    return list(csv.reader(text.splitlines()))


def arrays(file):
    with np.load(file, allow_pickle=False) as found:
        return dict(found)


@pytest.mark.parametrize("grey", [False, True])
def test_a_folder_of_pictures(tmp_path, grey):
    out = tmp_path / "deep" / "v1.2"
    images = IMAGES[..., :1] if grey else IMAGES
    write(out, npz=False, class_names=NAMES, images=images)
    want = BYTES[..., :1].repeat(3, -1) if grey else BYTES
    np.testing.assert_array_equal(listed(out), want)
    assert sorted(os.listdir(out))[::5] == ["000000.png", "index.csv"]
    assert table(out) == [
        ["file", "label", "class_name"], ["000000.png", "0", NAMES[0]],
        ["000001.png", "1", NAMES[1]], ["000002.png", "", ""],
        ["000003.png", "1", NAMES[1]], ["000004.png", "0", NAMES[0]],
    ]  # fmt: skip
    assert os.listdir(out.parent) == ["v1.2"]


def test_an_npz_is_what_numpy_and_adm_read(tmp_path):
    """ADM's evaluator reads headers of version 1.0 only, and `arr_0` in pieces."""
    write(tmp_path / "a.npz", npz=True, class_names=NAMES)
    found = arrays(tmp_path / "a.npz")
    np.testing.assert_array_equal(found.pop("arr_0"), BYTES)
    np.testing.assert_array_equal(found.pop("arr_1"), LABELS)
    assert not found
    with ZipFile(tmp_path / "a.npz").open("arr_0.npy") as member:
        assert np.lib.format.read_magic(member) == (1, 0)
        shape, _, kind = np.lib.format.read_array_header_1_0(member)
    assert shape == (5, 4, 4, 3) and kind == np.uint8
    write(tmp_path / "b.npz", npz=True)
    assert list(arrays(tmp_path / "b.npz")) == ["arr_0"]
    write(tmp_path / "c.npz", npz=True, class_names=NAMES)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "c.npz").read_bytes()


def test_two_sets(tmp_path):
    sets = ["recon", "real"]
    write(tmp_path / "a.npz", npz=True, sets=sets)
    write(tmp_path / "a", npz=False, sets=sets)
    assert sorted(os.listdir(tmp_path)) == ["a", "a-real.npz", "a.npz"]
    assert sorted(os.listdir(tmp_path / "a")) == ["real", "recon"]
    np.testing.assert_array_equal(listed(tmp_path / "a/real"), BYTES)
    np.testing.assert_array_equal(arrays(tmp_path / "a-real.npz")["arr_0"], BYTES)
    assert table(tmp_path / "a/recon")[:2] == [["file"], ["000000.png"]]


@pytest.mark.parametrize("npz", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, Stopped, None])
def test_all_or_nothing(tmp_path, npz, error):
    out, before = tmp_path / "a.npz", b""
    if npz:
        out.write_bytes(before := b"an older one")
    how = {"npz": npz, "side": 4, "count": 5}
    with pytest.raises(error or ValueError), saved(out, **how) as add:
        if error is Stopped:
            signal.raise_signal(signal.SIGTERM)
        add(None, images=IMAGES[:4])
        assert error is not Stopped
        if error:
            raise error
    assert [f.read_bytes() for f in tmp_path.iterdir()] == [before] * npz


def test_where_a_folder_may_go(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    # What a killed command has left.
    (tmp_path / ".empty.part" / "out").mkdir(parents=True)
    (tmp_path / ".empty.part" / "out" / "000009.png").write_text("old")
    write(tmp_path / "link", npz=False)
    assert len(os.listdir(tmp_path / "empty")) == 6 and (tmp_path / "link").is_symlink()

    def refusal(out, npz=False):
        return tiny.message(lambda: write(out, npz=npz))

    for taken in ("link", "empty/index.csv"):
        assert "is there already: remove it or choose" in refusal(tmp_path / taken)
    assert "is a folder; remove it" in refusal(tmp_path / "empty", npz=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "name a new folder in it" in refusal(Path("."))
    assert sorted(os.listdir(tmp_path)) == ["empty", "here", "link"]


@pytest.mark.parametrize("npz", [False, True])
def test_memory_is_that_of_a_batch(tmp_path, npz):
    batches = 4 if not npz else 60
    images = np.zeros((100, 64, 64, 3), np.uint8)  # 1.2 MB
    tracemalloc.start()
    with saved(tmp_path / "a.npz", npz=npz, side=64, count=batches * 100) as add:
        for _ in range(batches):
            add(None, images=images)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5e6


# --- commands ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    tiny.pictures(folder / "pictures")
    weights.save(folder / "tok", tiny.tokenizer(), card={})
    named = {"tokenizer": str(folder / "tok"), "class_names": ["a", "b", "c"]}
    weights.save(folder / "prior", tiny.prior(), card=named)
    free = tiny.prior(num_classes=0)
    weights.save(folder / "free", free, card={"tokenizer": "../tok"})
    config = ClassifierConfig(kind="cnn", num_classes=tiny.CLASSES, width=4)
    network = tiny.build(classifier.build, config)
    weights.save(folder / "cnn", network, card={})
    return folder


def run(*command):
    assert cli.main([*map(str, command)]) == 0


def rounded(images):
    return np.stack([to_uint8(image) for image in images])


def test_samples_in_every_form(home, tmp_path, monkeypatch, capsys):
    """Classes in turn, and in parts that are written when they are drawn."""
    monkeypatch.setattr(drawing, "DRAWN", 6)
    command = ["sample", home / "prior", "--count", 5, "--labels", "a", "c", "--out"]
    for out in (f"{tmp_path / 'v.2'}/", tmp_path / "a.NPZ"):
        run(*command, out)
        shown = capsys.readouterr()
        assert f"10 samples: {out}" in shown.out and "sample: 100%" in shown.err
    found = arrays(tmp_path / "a.NPZ")
    assert found["arr_1"].tolist() == [0, 2] * 5
    np.testing.assert_array_equal(listed(tmp_path / "v.2"), found["arr_0"])
    assert table(tmp_path / "v.2")[2] == ["000001.png", "2", "c"]
    labels = found["arr_1"][:6]
    codes = prior.sample(tiny.prior(), key=jax.random.key(0), labels=labels)
    want = rounded(decode_all(tiny.tokenizer(), np.asarray(codes)))
    apart = found["arr_0"][:6].astype(int) - want
    assert abs(apart).max() <= 1 and len({x.tobytes() for x in found["arr_0"]}) > 5


def test_nothing_is_kept_but_a_part(home, tmp_path, monkeypatch):
    """All of 50,000 samples were in memory before the first was written."""
    events, drawn = [], prior.sample
    monkeypatch.setattr(drawing, "DRAWN", 6)

    @contextmanager
    def spy(*place, **how):
        yield lambda labels, images: events.append(len(images))

    def draw(*model, **how):
        events.append("drawn")
        return drawn(*model, **how)

    monkeypatch.setattr(drawing, "saved", spy)
    monkeypatch.setattr("minivim.prior.sample", draw)
    run("sample", home / "free", "--tokenizer", home / "tok", "--count", 15, "--out",
        tmp_path / "a")  # fmt: skip
    assert events == ["drawn", 6, "drawn", 6, "drawn", 3]


def test_chosen_samples_are_those_of_the_rejection(home, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "DRAWN", 4)
    how = ["--classifier", home / "cnn", "--acceptance", "0.5", "--quiet"]
    run("sample", home / "prior", "--count", 2, *how, "--out", tmp_path / "a.npz")
    network, labels = weights.load(home / "cnn"), np.tile(range(3), 2)
    given = tiny.prior(), tiny.tokenizer(), network
    found = prior.reject(*given, key=jax.random.key(0), labels=labels, quiet=True)
    got = arrays(tmp_path / "a.npz")
    assert got["arr_1"].tolist() == labels.tolist()
    want = rounded(found.images[found.chosen]).astype(int)
    assert abs(want - got["arr_0"]).max() <= 1
    how = {"key": jax.random.key(0), "labels": labels, "keep_images": False}
    few = prior.reject(*given, **how, quiet=True)
    assert few.images.size == 0
    np.testing.assert_array_equal(few.chosen, found.chosen)


def test_reconstructions_beside_the_pictures_as_they_are_read(
    home, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(drawing, "BATCH", 4)
    command = ["reconstruct", home / "tok", "--data", home / "pictures", "--split",
               "train", "--count", 10, "--out"]  # fmt: skip
    said = []
    for out in ("a.npz", "a", "a.png"):
        run(*command, tmp_path / out)
        said.append(capsys.readouterr().out.partition(":")[0])
    assert said[0].startswith("PSNR ") and len(set(said)) == 1
    how = {"split": "train", "image_size": 8, "channels": 3}
    source = data.open_source(home / "pictures", **how)
    rows = data.stack(source, 10)
    tokenizer = tiny.tokenizer()
    recon = rounded(decode_all(tokenizer, encode_all(tokenizer, rows["image"])))
    for name, want, most in (("recon", recon, 1), ("real", rows["image"], 0)):
        seen = listed(tmp_path / "a" / name)
        file = arrays(tmp_path / ("a-real.npz" if name == "real" else "a.npz"))
        np.testing.assert_array_equal(seen, file["arr_0"])
        assert abs(seen.astype(int) - want).max() <= most
        np.testing.assert_array_equal(file["arr_1"], rows["label"])
    names = [row[2] for row in table(tmp_path / "a/real")[1:]]
    assert names == [source.class_names[i] for i in rows["label"]]


@pytest.mark.parametrize("label", [None, "b"])
def test_completions_as_pictures(home, tmp_path, monkeypatch, label):
    monkeypatch.setattr(drawing, "DRAWN", 6)
    out = tmp_path / "a.npz"
    more = ["--label", label] if label else []
    run("complete", home / "prior", home / "pictures", "--first", 3, "--count", 3,
        "--out", out, "--split", "train", *more, "--quiet")  # fmt: skip
    found = arrays(out)
    how = {"split": "train", "image_size": 8, "channels": 3}
    images = data.stack(data.open_source(home / "pictures", **how), 2)["image"]
    labels = [1, 1] if label else None
    done = prior.complete(
        tiny.prior(), tiny.tokenizer(), images, key=jax.random.key(0), rows=1,
        count=3, labels=labels,
    )  # fmt: skip
    assert found["arr_0"].shape == (9, 8, 8, 3)
    want = rounded(done.images.reshape(6, 8, 8, 3)).astype(int)
    assert abs(found["arr_0"][:6] - want).max() <= 1
    assert ("arr_1" in found) == bool(label) and set(found.get("arr_1", [1])) == {1}


def test_where_commands_may_not_write(home, tmp_path, monkeypatch, capsys):
    """All is refused before anything is drawn."""
    monkeypatch.setattr("minivim.prior.sample", lambda *a, **o: pytest.fail("drawn"))
    monkeypatch.setattr(drawing, "encode_all", lambda *a: pytest.fail("encoded"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    (tmp_path / "b-real.npz").mkdir()
    shown = ["--data", home / "pictures"]
    commands = [["sample", home / "prior"], ["reconstruct", home / "tok", *shown],
                ["complete", home / "prior", home / "pictures"]]  # fmt: skip
    cases = [("full", "is there already"), ("v1.2", "or / for a folder"),
             ("full/note.txt/", "is there already")]  # fmt: skip
    told = [(command, *case) for command in commands for case in cases]
    for command, out, says in [*told, (commands[1], "b.npz", "is a folder; remove")]:
        line = [*map(str, command), "--out", f"{tmp_path}/{out}"]
        assert cli.main(line) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("minivim: error: ") and says in last
    assert sorted(os.listdir(tmp_path)) == ["b-real.npz", "full"]
    assert os.listdir(tmp_path / "full") == ["note.txt"]


def test_a_folder_of_samples_is_data_for_training(home, tmp_path):
    run("sample", home / "prior", "--count", 4, "--out", tmp_path / "a", "--quiet")
    source = data.open_source(tmp_path / "a", image_size=8, channels=3)
    assert source.num_classes == 3
    with Image.open(tmp_path / "a" / "000000.png") as image:
        assert image.mode == "RGB" and not image.info
