"""The tokenizer that a prior's card names: where it is sought, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

import minivim
from minivim import cli, weights
from minivim.config import with_overrides
from minivim.trainer import train
from tests import tiny
from tests.tiny import message


def tokenizer(folder, seed=0):
    return weights.save(folder, tiny.tokenizer(seed), card={})


def prior(folder, named, seed=0, **card):
    known = {"tokenizer_hash": weights.weights_hash(tiny.tokenizer(seed))}
    card = {"tokenizer": named, **known, **card}
    return weights.save(folder, tiny.prior(), card=card)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty current folder; the hub gives nothing, and asking it is noted."""
    asked = []

    def fetch(name, **_):
        asked.append(name)
        raise ConnectionError("nobody there")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return asked


# --- where -------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["../tok", "./tok", "tok", "deep/er/tok"])
def test_from_the_cards_own_folder_first(tmp_path, named):
    folder = prior(tmp_path / "runs/prior", named)
    tokenizer(tmp_path / "runs/prior" / named)
    tokenizer(tmp_path / "here" / named.replace("..", "."), seed=1)  # is another
    weights.load_pair(folder)
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    weights.load_pair(tmp_path / "moved/prior")


@pytest.mark.parametrize("absolute", [True, False])
def test_else_from_the_current_folder(tmp_path, absolute):
    tokenizer("runs/tok")
    prior("runs/prior", os.path.abspath("runs/tok") if absolute else "runs/tok")
    found, _ = weights.load_pair("runs/prior")
    assert weights.weights_hash(found) == weights.weights_hash(tiny.tokenizer())


def test_else_among_the_shipped(tmp_path):
    folder = shutil.copytree(weights.HERE / "shapes/prior", tmp_path / "copy")
    found, _ = minivim.load_pair(folder)
    assert found.card.path == str(weights.HERE / "shapes/tokenizer")


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("typed", ["runs/tok", "linked/tok"])
def test_a_run_and_its_tokenizer_move_together(tmp_path, monkeypatch, typed, absolute):
    """`train` writes a path from the workdir where it was given one from here."""
    tokenizer("runs/tok")
    os.symlink("runs", "linked")
    recipe = with_overrides(tiny.PRIOR_RECIPE, [f"tokenizer={typed}", "steps=2"])
    workdir = os.path.abspath("runs/prior") if absolute else "runs/prior"
    model, _ = train(recipe, tiny.source(), workdir, quiet=True)
    assert model.card["tokenizer"] == os.path.join("..", "tok")
    weights.load_pair("runs/prior")
    shutil.move("runs", tmp_path / "moved")
    monkeypatch.chdir("/")
    weights.load_pair(tmp_path / "moved/prior")


@pytest.mark.parametrize("near", ["runs/a/prior", "prior"])
def test_absolute_paths_move_with_their_card_too(tmp_path, monkeypatch, near):
    """Workdirs that were typed as absolute paths, wherever their parent goes."""
    tokenizer(tmp_path / "old/runs/tok")
    prior(tmp_path / "old" / near, str(tmp_path / "old/runs/tok"))
    shutil.move(tmp_path / "old", tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    for moved in (tmp_path / "new" / near, near):
        found, _ = weights.load_pair(moved)
        assert found.card.path == str(tmp_path / "new/runs/tok")
    # What lies there under the name is looked at as any other.
    tokenizer(tmp_path / "new/runs/tok", seed=1)
    assert "of another tokenizer" in message(lambda: weights.load_pair(near))
    shutil.move(tmp_path / "new" / near, tmp_path / "alone")
    told = message(lambda: weights.load_pair(tmp_path / "alone"))
    assert f"no tokenizer for {tmp_path / 'alone'}" in told
    # A path that is typed, and not read from a card, is where it says.
    assert "no weights at" in message(lambda: weights.load(tmp_path / "old/runs/tok"))


@pytest.mark.parametrize(
    "named", ["shapes/tokenizer", "someone/tok@main", "/no/where", "runs/gone"]
)
def test_other_names_are_written_as_they_are(tmp_path, named):
    assert weights.relative(named, tmp_path / "prior") == named


# --- the hub -----------------------------------------------------------------------


def test_a_folders_card_asks_nothing_of_the_hub(tmp_path, place, capsys):
    folder = str(prior(tmp_path / "prior", "someone/tok"))
    for command in (
        ["sample", folder, "--out", "a.png"],
        ["complete", folder, "shapes", "--out", "a.png"],
        ["evaluate", folder, "--data", "shapes"],
        ["train", "probe", "shapes", "--data", "shapes", "--workdir", "probed",
         "--set", f"prior={folder}", "tokenizer="],
    ):  # fmt: skip
        assert cli.main(command) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert f"no tokenizer for {folder}, whose card names 'someone/tok'" in line
        assert "--tokenizer; train probe --set tokenizer=" in line
    assert place == [] and os.listdir() == []
    assert "cannot fetch" in message(lambda: weights.load_pair(folder, "someone/tok"))
    assert place == ["someone/tok"]


def test_a_hub_priors_card_may_name_the_hub(tmp_path, place, monkeypatch):
    there = {
        "someone/prior": prior(tmp_path / "a", "someone/tok@1f"),
        "someone/tok": tokenizer(tmp_path / "b"),
    }
    fetch = lambda name, **_: place.append(name) or str(there[name])  # noqa: E731
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    weights.load("someone/prior")
    assert set(place) == {"someone/prior"}
    weights.load_pair("someone/prior")
    assert set(place) == set(there)


# --- what is refused ---------------------------------------------------------------


@pytest.mark.parametrize("named", [".", "../prior", "../b", "shapes/prior", "../judge"])
def test_cards_that_name_no_tokenizer_are_told_at_once(tmp_path, named):
    folder = prior(tmp_path / "prior", named)
    prior(tmp_path / "b", "../prior")
    shutil.copytree(weights.HERE / "shapes/judge", tmp_path / "judge")
    begun = time.perf_counter()
    text = message(lambda: weights.load_pair(folder))
    assert time.perf_counter() - begun < 10  # 0.3 s on idle cores, once 28
    assert f"whose card names '{named}'" in text and "name one" in text
    assert "is a classifier" in text if "judge" in named else "is a prior" in text
    assert "is a prior" in message(lambda: weights.load_pair(folder, folder))


@pytest.mark.parametrize(
    "named", ["x" * 5_000, "a\0b", "a\nb", "/dev/zero", "pipe", "~", "//", "\x1b[31m"]
)
def test_odd_names_are_one_short_line(tmp_path, named):
    folder = prior(tmp_path / "prior", named)
    (folder / "pipe").mkdir()
    os.mkfifo(folder / "pipe/card.json")
    text = message(lambda: weights.load_pair(folder))
    assert text.isprintable() and len(text) <= 4_000 and "name one" in text


@pytest.mark.parametrize("changes", [{"image_size": 16}, {"patch_size": 2}])
def test_a_tokenizer_whose_codes_do_not_fit(tmp_path, changes):
    """Where the card has no hash, the sizes still tell."""
    model = tiny.tokenizer(**changes)
    weights.save(tmp_path / "tok", model, card={})
    for known in (
        {"tokenizer_hash": ""},
        {"tokenizer_hash": "", "tokenizer": "../tok"},
    ):
        folder = prior(tmp_path / "prior", "none", **known)
        text = message(
            lambda folder=folder: weights.load_pair(folder, tmp_path / "tok")
        )
        assert "was trained on the codes of another tokenizer" in text
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"tokenizer_hash": "1f" * 32}))
    del card["tokenizer"]
    tokenizer(tmp_path / "fits")
    text = message(lambda: weights.load_pair(folder, tmp_path / "fits"))
    assert "another tokenizer" in text and "1f1f1f1f1f1f" in text


def test_a_tokenizer_that_is_not_needed_is_not_looked_at(tmp_path, place):
    for named in ("someone/tok", ".", "/no/where", "../damaged"):
        (tmp_path / "damaged").mkdir(exist_ok=True)
        (tmp_path / "damaged/card.json").write_text("{")
        folder = prior(tmp_path / "prior", named)
        assert weights.load(folder).config == tiny.PRIOR
        assert weights.read_card(folder)["tokenizer"] == named
    assert "damaged/card.json cannot be read" in message(
        lambda: weights.load_pair(folder)
    )
    assert place == []


# --- classifiers -------------------------------------------------------------------

CASES = [
    ({"recipe": {}}, "has no recipe.image_size that is a multiple of 8"),
    ({"recipe": {"image_size": "32"}}, "has no recipe.image_size that is a multiple"),
    ({"recipe": {"image_size": 32.0}}, "has no recipe.image_size that is a multiple"),
    ({"recipe": {"image_size": True}}, "has no recipe.image_size that is a multiple"),
    ({"recipe": {"image_size": 10**9}}, "image_size 1000000000 is impossible"),
    ({"recipe": {"image_size": -8}}, "image_size -8 is impossible"),
    ({"recipe": {"image_size": 13}}, "has no recipe.image_size that is a multiple"),
    ({"labels_seen": ["a"]}, "its labels_seen is no str"),
    ({"class_names": {"a": 1}}, "its class_names is no list"),
]


def test_cards_of_classifiers(tmp_path):
    """In a process whose signatures nobody checks."""
    command = [sys.executable, "-m", __name__, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=weights.HERE.parents[1]
    )
    told = done.stderr.splitlines()
    assert len(told) == len(CASES), done.stderr
    for line, (_, part) in zip(told, CASES, strict=True):
        assert line.startswith("minivim: error: ") and part in line


def main(folder) -> None:
    """Evaluate `shapes/classifier` with each of `CASES` on its card."""
    copy = shutil.copytree(weights.HERE / "shapes/classifier", f"{folder}/c")
    card = json.loads((weights.HERE / "shapes/classifier/card.json").read_text())
    for changes, _ in CASES:
        with open(f"{copy}/card.json", "w") as file:
            json.dump(card | changes, file)
        assert cli.main(["evaluate", copy, "--count", "8", "--quiet"]) == 2


if __name__ == "__main__":
    main(sys.argv[1])
