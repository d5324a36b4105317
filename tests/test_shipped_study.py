"""What comes with the package, measured: on a family of tiny weights."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from minivim import classifier, recipes, weights
from minivim.config import ClassifierConfig, PaletteRecipe
from minivim.data import ArraySource
from minivim_lab import reproduce
from minivim_lab.reproduce import shipped, stored
from minivim_lab.reproduce.stored import Options
from tests import tiny

pytestmark = pytest.mark.usefixtures("few_images")

SIZE = {"image_size": 16, "patch_size": 8}
NAMES = [f"class {i}" for i in range(tiny.CLASSES)]


def source(count: int, seed: int) -> ArraySource:
    rows = {
        "image": tiny.images(count, size=16, seed=seed),
        "label": np.arange(count, dtype=np.int32) % tiny.CLASSES,
    }
    return ArraySource(rows, class_names=NAMES)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Weights of a made-up family, and a place that reads made-up pictures."""
    folder = tmp_path_factory.mktemp("weights")
    tokenizer = tiny.tokenizer(**SIZE)
    weights.save(folder / "tiny/tokenizer", tokenizer, card={})
    card = {
        "tokenizer": str(folder / "tiny/tokenizer"),
        "tokenizer_hash": weights.weights_hash(tokenizer),
        "class_names": NAMES,
        "train_seconds": 60.0,
        "steps": 6,
    }
    for name, prior in (
        ("prior", tiny.prior()),
        ("prior-unlabelled", tiny.prior(num_classes=0)),
    ):
        weights.save(folder / "tiny" / name, prior, card=card)
    for name, kind in (("classifier", "cnn"), ("judge", "residual")):
        config = ClassifierConfig(kind=kind, num_classes=tiny.CLASSES, width=8)
        network = tiny.build(classifier.build, config)
        weights.save(folder / "tiny" / name, network, card={})

    small = {
        "tokenizer": PaletteRecipe(name="tiny", model=replace(tiny.PALETTE, **SIZE)),
        "prior": replace(tiny.PRIOR_RECIPE, model=replace(tiny.PRIOR, num_classes=0)),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "HERE", folder)
        patch.setitem(weights.DATA, "tiny", "tiny")
        patch.setattr(recipes, "recipe", lambda stage, _: small[stage])
        patch.setattr(shipped, "PROBE", {"tiny": (48, 24)})
        patch.setattr(stored.data, "open_source", lambda _, split, **__: source(
            *{"train": (48, 1), "test": (258, 2)}[split]
        ))  # fmt: skip
        out = tmp_path_factory.mktemp("runs") / "shipped"
        patch.setattr(shipped, "SAMPLES", 12)
        # As many for three classes, so that no other program is compiled.
        patch.setattr(shipped, "PICTURES", 4)
        yield Options(
            family="tiny", data="tiny", out=out, judge="", classifier="", quiet=True
        )


@pytest.fixture(scope="module")
def found(place):
    return shipped.run(place)


def test_rejection_is_measured_beside_the_plain_draw(place, found):
    before, after = (found["samples"][side] for side in ("before", "after"))
    assert before["samples"] == after["samples"] == before["real"]["images"] == 12
    drawn, labels, names = shipped._drawn(place, 12)
    assert names == NAMES and len(drawn.labels) == 24
    np.testing.assert_array_equal(labels, np.arange(12) % tiny.CLASSES)
    judge = shipped.load(place, "judge")
    for side, rows in ((before, slice(12)), (after, drawn.chosen)):
        right = classifier.accuracy(judge, drawn.images[rows], labels)
        assert side["judge_agrees"] == pytest.approx(right)
        assert set(side["judge_agrees_by_class"]) == set(NAMES)


def test_other_images_are_measured_anew(place, found, monkeypatch, tmp_path):
    place = replace(place, out=shutil.copytree(place.out, tmp_path / "runs"))
    monkeypatch.setattr(shipped, "_tokenizer", lambda _: {"psnr": 1.0})
    for part in ("_prior", "_samples", "_probe", "_igpt"):
        monkeypatch.setattr(shipped, part, lambda _: {})
    assert shipped.run(place) == found
    monkeypatch.setattr(shipped, "SEED", 1)
    other = shipped.run(place)
    assert other["tokenizer"] == {"psnr": 1.0} and other["origin"]["seed"] == 1


def test_igpt_is_trained_once_and_probed_alike(place, found, monkeypatch):
    assert found["igpt"]["images"] == found["probe"]["images"] == [48, 24]
    assert len(found["igpt"]["blocks"]) == len(found["probe"]["blocks"])
    assert found["igpt"]["parameters"] == found["probe"]["parameters"]
    monkeypatch.delattr(stored, "train")
    monkeypatch.delattr(shipped, "reject")
    assert shipped.run(place) == found


def test_the_page_is_what_the_figures_say(place, found, tmp_path):
    options = Options(only=("tiny",), out=place.out.parent, page=tmp_path)
    assert reproduce.main("shipped", options) == shipped.summary([found])
    assert json.loads((tmp_path / "shipped.json").read_text()) == [found]
    text = (tmp_path / "shipped.md").read_text()
    for name in ("reconstructions", "samples", "chosen"):
        assert f"shipped-tiny-{name}.png" in text
        assert (tmp_path / f"shipped-tiny-{name}.png").stat().st_size > 1000
    lines = shipped.summary([found, found]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    agrees = 100 * found["samples"]["after"]["judge_agrees"]
    assert any(f"{agrees:.1f} %" in line for line in lines)


def test_what_is_not_shipped_is_said_before_anything_runs(monkeypatch):
    monkeypatch.setitem(weights.DATA, "nothing", "nothing")
    with pytest.raises(reproduce.UserError, match="nothing/judge is not shipped; make"):
        reproduce.main("shipped", Options(only=("nothing",)))


def test_options_that_it_does_not_have_are_refused():
    for options, message in (
        ({"seeds": (1,)}, "leave out --seeds"),
        ({"only": ("mnist",)}, "nothing is shipped for 'mnist'; there are shapes"),
    ):
        with pytest.raises(reproduce.UserError, match=message):
            reproduce.main("shipped", reproduce.Options(**options))


def test_where_the_pictures_lie_is_not_said(place, monkeypatch, tmp_path):
    monkeypatch.setitem(weights.DATA, "tiny", "owner/pictures")
    mine = replace(place, data="/mnt/mine", out=tmp_path)
    for name in ("_prior", "_samples", "_probe", "_igpt"):
        monkeypatch.setattr(shipped, name, lambda _: {})
    found = shipped.run(mine)
    assert set(found) == {"origin", "tokenizer", "prior", "samples", "probe", "igpt"}
    assert set(found["origin"]) == {"family", "of", "data", "samples", "seed"}
    assert found["tokenizer"]["provenance"]["data"] == "owner/pictures (test)"
    assert shipped.source(mine, "train").description == "owner/pictures (train)"
