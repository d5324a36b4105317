"""Weights pushed to the hub, and what comes back from there."""

import json
import shutil
from types import SimpleNamespace

import pytest
from huggingface_hub.utils import filter_repo_objects

import minivim
from minivim import cli, weights
from minivim.weights.hub import public
from tests import tiny
from tests.tiny import message


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub in a folder; `private` says which are, `fails` how it answers."""
    hub = SimpleNamespace(place=tmp_path / "hub", private={}, fails=None)

    class Api:
        def create_repo(self, name, *, private, exist_ok):
            assert exist_ok
            if hub.fails:
                raise hub.fails
            hub.private.setdefault(name, bool(private))

        def model_info(self, name):
            return SimpleNamespace(private=hub.private[name])

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, hub.place / repo_id, dirs_exist_ok=True)
            return SimpleNamespace(oid="1f" * 20)

    def fetch(name, *, revision, allow_patterns):
        assert revision in (None, "1f" * 20)
        there, here = hub.place / name, tmp_path / "snapshots" / name
        files = [f.relative_to(there) for f in there.rglob("*") if f.is_file()]
        for file in filter_repo_objects(map(str, files), allow_patterns=allow_patterns):
            (here / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(there / file, here / file)
        return str(here)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "secret")
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    return hub


@pytest.fixture
def pair(tmp_path):
    """A pair in folders, whose cards know where on this machine."""
    here = str(tmp_path / "here")
    known = {"data": f"{here}/my pictures (train)", "licence": "Apache-2.0"}
    weights.save(tmp_path / "here/tok", tiny.tokenizer(), card=known)
    card = {
        "tokenizer": f"{here}/tok",
        "tokenizer_hash": weights.weights_hash(tiny.tokenizer()),
        "recipe": {"tokenizer": f"{here}/tok"}, "figures": {"nll": 1.23456, "real": {}},
        "class_names": ["a/b", "c", "d"], **known,
    }  # fmt: skip
    (tmp_path / "here/tok/metrics.jsonl").touch()
    (tmp_path / "here/tok/run.json").touch()
    return weights.save(tmp_path / "here/prior", tiny.prior(), card=card)


def test_a_pair_goes_and_comes_back(pair, hub, tmp_path, capsys):
    assert cli.main(["push", str(pair), "someone/pair", "--private"]) == 0
    ref = f"someone/pair@{'1f' * 20}"
    assert capsys.readouterr().out == f"pushed: {ref}\n"
    assert hub.private == {"someone/pair": True}
    there = hub.place / "someone/pair"
    files = {str(f.relative_to(there)) for f in there.rglob("*") if f.is_file()}
    both = {"card.json", "model.safetensors"}
    assert files == {"README.md", *both, *(f"tokenizer/{file}" for file in both)}
    for file in files - {f for f in files if f.endswith(".safetensors")}:
        text = (there / file).read_text()
        assert str(tmp_path) not in text and "/home" not in text
    shutil.rmtree(pair.parent)
    tokenizer, prior = minivim.load_pair(ref)
    assert weights.weights_hash(tokenizer) == prior.card["tokenizer_hash"]
    tiny.assert_same(weights.flat_weights(prior), weights.flat_weights(tiny.prior()))
    assert prior.card["class_names"] == ["a/b", "c", "d"]
    assert prior.card["data"] == "my pictures (train)"
    page = (there / "README.md").read_text()
    for part in (
        "---\nlibrary_name: minivim\n", "license: apache-2.0\n---\n", "# pair\n",
        'tokenizer, prior = minivim.load_pair("someone/pair")', "| nll | 1.235 |",
        "A prior of minivim, trained on my pictures (train).", '"parameters"',
    ):  # fmt: skip
        assert part in page, page


@pytest.mark.parametrize("name", ["tokenizer", "judge"])
def test_shipped_weights_can_be_pushed(hub, name):
    assert minivim.push(f"shapes/{name}", "someone/x").startswith("someone/x@")
    model, there = weights.load("someone/x"), weights.load(f"shapes/{name}")
    assert model.card.values == there.card.values
    assert weights.weights_hash(model) == weights.weights_hash(there)
    assert set(hub.place.rglob("*")) == {
        hub.place / "someone", *(hub.place / "someone/x" / name for name in
        ("", "README.md", "card.json", "model.safetensors"))
    }  # fmt: skip


def test_a_probe(hub, tmp_path):
    (tmp_path / "probe.safetensors").write_bytes(b"layer")
    card = {"recipe": {"prior": "/home/me/runs/prior"}, "data": "shapes", "rows": []}
    (tmp_path / "probe.json").write_text(json.dumps(card))
    (tmp_path / "other.txt").touch()
    minivim.push(tmp_path, "someone/probe")
    there = hub.place / "someone/probe"
    names = {"README.md", "probe.json", "probe.safetensors"}
    assert {f.name for f in there.iterdir()} == names
    assert json.loads((there / "probe.json").read_text())["recipe"]["prior"] == "prior"
    page = (there / "README.md").read_text()
    assert 'hf_hub_download("someone/probe", "probe.safetensors")' in page
    (tmp_path / "probe.json").write_text("{")
    told = message(lambda: minivim.push(tmp_path, "someone/probe"))
    assert f"the probe in {tmp_path} cannot be read" in told


def test_what_is_not_pushed(pair, hub, tmp_path, monkeypatch):
    push = lambda ref, name="me/x", **how: message(  # noqa: E731
        lambda: minivim.push(ref, name, **how)
    )
    (tmp_path / "empty").mkdir()
    draft = shutil.copytree(pair, tmp_path / "draft")
    (draft / weights.CARD).rename(draft / weights.DRAFT)
    cut = shutil.copytree(pair, tmp_path / "cut")
    (cut / weights.WEIGHTS).write_bytes(b"x")
    alone = shutil.copytree(pair, tmp_path / "alone/far/off")
    (pair.parent / "tok").rename(tmp_path / "gone")
    assert "holds no card.json" in push(tmp_path / "empty")
    assert "is a run that has not finished; start it again" in push(draft)
    assert "cannot be read" in push(cut)
    assert "no tokenizer for" in push(alone) and "--tokenizer" in push(alone)
    for name in ("x", "a/b/c", "runs/x", "shapes/x", "a b/c", "a/b@main", "../x"):
        assert "cannot be an id of the hub" in push("shapes/judge", name)
    assert not hub.place.exists() and not hub.private
    minivim.push(alone, "me/x", tokenizer=str(tmp_path / "gone"))
    assert "for all to see; choose" in push("shapes/judge", private=True)
    hub.fails = ConnectionError("no route\nto host")
    assert "cannot push to 'me/x' (no route): check" in push("shapes/judge")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "there is none; run `hf auth login`" in push("shapes/judge")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/me/my pictures (train)", "my pictures (train)"),
        ("/data (test)", "data (test)"),
        ("~/pictures", "pictures"),
        (r"C:\Users\me\pictures", "pictures"),
        (r"\\server\share\pictures", "pictures"),
        ("file:///home/me/x", "x"),
        ("minivim train --data=/home/me/x", "minivim train --data=x"),
        ("uoft-cs/cifar10 (train)", "uoft-cs/cifar10 (train)"),
        ("https://host/path", "https://host/path"),
        ("../tok", "../tok"),
        ("images / s", "images / s"),
        ("1/2", "1/2"),
    ],
)
def test_paths_of_this_machine_stay_here(text, left):
    assert public({"a": [text, 1, None]}) == {"a": [left, 1, None]}
