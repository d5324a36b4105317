"""The command line: a chain of all commands, and every mistake in one line."""

import errno
import functools
import json
import os
import re
import shutil
import subprocess
import sys

import datasets
import jax
import numpy as np
import pytest
import torch
from PIL import Image

from minivim import classifier, cli, show, weights
from minivim.card import Card
from minivim.cli import arguments, drawing
from minivim.config import ClassifierConfig, ProbeRecipe
from minivim.data import open_source, shapes, stack
from minivim.encode import decode_all, encode_all
from minivim.errors import UserError
from minivim.evaluate import Options, shipped_figures
from minivim.prior import complete, sample
from minivim.start import ended
from minivim.tokenizer import perceptual
from minivim.tokenizer.perceptual import PerceptualConfig
from minivim.training import read_metrics
from minivim_lab import convert, inception
from minivim_lab.igpt import Palette
from minivim_lab.inception import Inception, InceptionConfig
from tests import tiny
from tests.tokenizer.test_convert import random_state


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Pictures, a trained tokenizer and a trained prior, all made by the commands."""
    folder = tmp_path_factory.mktemp("home")
    tiny.pictures(folder / "pictures")
    assert cli.main(tokenizer_command(folder)) == 0
    assert cli.main(prior_command(folder)) == 0
    return folder


def tokenizer_command(folder, workdir="tok", *settings, data="pictures"):
    return [
        "train", "tokenizer", "shapes", "--quiet", "--data", str(folder / data),
        "--workdir", str(folder / workdir), "--set", *tiny.TOKENIZER_SETTINGS,
        *settings,
    ]  # fmt: skip


def prior_command(folder, workdir="prior", *settings, data="pictures"):
    return [
        "train", "prior", "shapes", "--quiet", "--data", str(folder / data),
        "--workdir", str(folder / workdir), "--set", *tiny.PRIOR_SETTINGS,
        f"tokenizer={folder / 'tok'}", *settings,
    ]  # fmt: skip


def refused(capsys, command, *parts):
    """The command ends with 2 and one line on stderr that holds all `parts`.

    What was found in the data, and notes, may be said before.
    """
    capsys.readouterr()
    assert cli.main([str(word) for word in command]) == 2
    shown = capsys.readouterr()
    told = shown.err.strip().splitlines()
    lines = [line for line in told if not line.startswith("minivim: note: ")]
    if re.search(r"\d pictures?( in \d+ class(es)?|, no labels): ", lines[0]):
        del lines[0]
    assert len(lines) == 1, shown.err
    assert lines[0].startswith("minivim: error: ")
    assert "Traceback" not in shown.err + shown.out
    for part in parts:
        assert part in lines[0]
    return lines[0]


# --- what works --------------------------------------------------------------------


def test_training_leaves_weights_cards_and_metrics(home):
    for name, kind in (("tok", "tokenizer"), ("prior", "prior")):
        model = weights.load(home / name)
        assert model.card["kind"] == kind
        assert model.card["steps"] == 6
        assert "pictures" in model.card["data"]
        assert read_metrics(home / name)[-1]["step"] == 6
    assert model.card["class_names"] == ["class0", "class1", "class2"]


def test_training_again_does_nothing_more(home, capsys):
    before = read_metrics(home / "tok")
    card = (home / "tok" / weights.CARD).read_text()
    figures = json.loads(card)["figures"]
    assert figures["eval_psnr"] > 0
    capsys.readouterr()
    assert cli.main(tokenizer_command(home)) == 0
    assert read_metrics(home / "tok") == before
    assert (home / "tok" / weights.CARD).read_text() == card
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "already finished at step 6; nothing was trained"
    assert f"eval_psnr {figures['eval_psnr']:.5g}" in second
    assert third.startswith("weights:")


def test_training_with_labels_ends_with_their_names(home, capsys, monkeypatch):
    capsys.readouterr()
    assert cli.main(prior_command(home)) == 0
    assert "\nclasses: 0 class0; 1 class1; 2 class2\n" in capsys.readouterr().out
    config = ClassifierConfig(kind="cnn", num_classes=25, width=4)
    network = tiny.build(classifier.build, config)
    network.card = Card("", {"class_names": ["n01440764", "shark, white"]})
    monkeypatch.setattr("minivim.trainer.train", lambda *a, **o: (network, []))
    workdir = ["--workdir", str(home / "prior")]
    command = ["train", "classifier", "shapes", "--data", "x", *workdir]
    assert cli.main(command) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("classes: 0 n01440764; 1 shark, white; 2 2; ")
    assert line.endswith("; 19 19; and 5 more")


def test_a_kill_before_the_export_costs_no_figure(home, tmp_path):
    """The last checkpoint is there, weights and card are not."""
    shutil.copytree(home / "tok", tmp_path / "tok")
    card = (home / "tok" / weights.CARD).read_text()
    assert json.loads(card)["figures"]
    for name in (weights.WEIGHTS, weights.CARD):
        (tmp_path / "tok" / name).unlink()
    command = tokenizer_command(home)
    command[command.index("--workdir") + 1] = str(tmp_path / "tok")
    assert cli.main(command) == 0
    assert (tmp_path / "tok" / weights.CARD).read_text() == card


def test_encode_writes_codes(home, capsys):
    out = home / "some" / "codes"
    command = ["encode", home / "tok", "--data", home / "pictures", "--out", out,
               "--split", "train", "--count", 5, "--quiet"]  # fmt: skip
    assert cli.main([str(word) for word in command]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"train: 5 x 4 codes\ncodes: {out}\n"
    assert shown.err == ""
    tables = datasets.load_from_disk(str(out))
    assert isinstance(tables, datasets.DatasetDict) and list(tables) == ["train"]
    tokenizer = weights.load(home / "tok")
    images = stack(open_source(home / "pictures", image_size=8), 5)["image"]
    np.testing.assert_array_equal(
        tables["train"]["codes"], encode_all(tokenizer, images)
    )
    card = json.loads((out / "codes.json").read_text())
    assert card["tokenizer_hash"] == weights.weights_hash(tokenizer)
    assert [p.name for p in out.parent.iterdir()] == ["codes"]
    refused(capsys, command, "is there already", "choose another place")
    refused(
        capsys, prior_command(home, "new", data="some/codes"), "holds codes of the "
        "split train and not of test", "without --split",
    )  # fmt: skip


def test_a_prior_trained_on_a_folder_of_codes_is_the_one_trained_on_images(home):
    """Where nothing is drawn: the tokenizer's images are read once, by `encode`."""
    out = home / "plain"
    command = ["encode", home / "tok", "--data", home / "pictures", "--out", out]
    assert cli.main([*map(str, command), "--quiet"]) == 0
    assert cli.main(prior_command(home, "from-codes", data="plain")) == 0
    one, other = (weights.load(home / name) for name in ("prior", "from-codes"))
    tiny.assert_same(weights.flat_weights(one), weights.flat_weights(other))
    for name in ("tokenizer", "tokenizer_hash", "class_names"):
        assert one.card[name] == other.card[name]
    assert one.card["figures"]["eval_nll"] == other.card["figures"]["eval_nll"]
    assert other.card["data"].startswith("codes of ")
    # Without the tokenizer at hand, too: the folder knows whose codes it holds.
    assert cli.main(prior_command(home, "alone", "tokenizer=", data="plain")) == 0
    alone = weights.load(home / "alone")
    tiny.assert_same(weights.flat_weights(one), weights.flat_weights(alone))
    assert alone.card["tokenizer"] == str(home / "tok")


def test_a_prior_trained_on_views(home, capsys):
    out = home / "views"
    command = ["encode", home / "tok", "--data", home / "pictures", "--out", out,
               "--views", 3, "--flip", "--crop", 0.6, "--seed", 4,
               "--quiet"]  # fmt: skip
    assert cli.main([str(word) for word in command]) == 0
    shown = capsys.readouterr().out
    assert shown == f"train: 27 x 3 x 4 codes\ntest: 3 x 4 codes\ncodes: {out}\n"
    assert cli.main(prior_command(home, "viewed", data="views")) == 0
    card = weights.load(home / "viewed").card
    assert card["codes"] == {"views": 3, "flip": True, "crop": 0.6}
    settings = ["views=3", "flip=true", "crop=0.6"]
    assert cli.main(prior_command(home, "asked", *settings, data="views")) == 0
    refused(
        capsys, prior_command(home, "new", *settings[:2], data="views"),
        "views=3 flip=True crop=0.6, the recipe views=3 flip=True crop=1.0",
        "encode again",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["codes=fly"], ["holds codes", "no images", "use --set codes=cache"]),
        (["num_codes=32", "tokenizer="], ["num_codes=24", "the recipe 32"]),
        (["grid=3", "tokenizer="], ["use --set model.grid=2"]),
        (["num_classes=5"], ["has 3 classes", "use --set num_classes=3"]),
        (["tokenizer=shapes/tokenizer", "grid=8", "num_codes=256"],
         ["holds codes of", "the recipe names shapes/tokenizer", "or encode again"]),
    ],
)  # fmt: skip
def test_codes_that_are_not_what_the_recipe_is_for(home, capsys, settings, parts):
    if not (out := home / "codes").exists():
        command = ["encode", home / "tok", "--data", home / "pictures", "--out", out]
        assert cli.main([*map(str, command), "--quiet"]) == 0
    refused(capsys, prior_command(home, "uncoded", *settings, data="codes"), *parts)


def test_codes_are_no_stream_and_no_images(home, capsys):
    command = ["encode", home / "tok", "--data", home / "pictures", "--out"]
    if not (home / "codes").exists():
        assert cli.main([*map(str, command), str(home / "codes"), "--quiet"]) == 0
    command = [*prior_command(home, "uncoded", data="codes"), "--stream"]
    assert cli.main(command) == 2
    assert "without --stream" in capsys.readouterr().err
    refused(
        capsys, tokenizer_command(home, "new", data="codes"), "holds codes",
        "give the images",
    )  # fmt: skip


def test_training_on_a_stream_says_what_it_cannot_promise(home, capsys, monkeypatch):
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / ".cache")
    (home / "tables").mkdir()
    drawn = shapes.dataset("test", size=24)
    for name in ("train-0", "train-1", "test-0"):
        drawn.to_parquet(home / "tables" / f"{name}.parquet")
    command = [*tokenizer_command(home, "streamed", data="tables"), "--stream"]
    for _ in range(2):
        assert cli.main(command) == 0
        told = capsys.readouterr().err.splitlines()
        assert len([line for line in told if "note: a stream resumes" in line]) == 1
    assert weights.load(home / "streamed").card["data"].endswith("tables (train)")
    settings = ["num_classes=8", "codes=fly"]
    fly = [*prior_command(home, "flown", *settings, data="tables"), "--stream"]
    assert cli.main(fly) == 0
    fly[-2] = "codes=cache"
    assert cli.main(fly) == 2
    assert "a stream has no end; use --set codes=fly" in capsys.readouterr().err
    probe = ["train", "probe", "shapes", "--data", str(home / "tables"), "--workdir",
             str(home / "probed"), "--stream"]  # fmt: skip
    assert cli.main(probe) == 2
    assert "leave out --stream" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_change_nothing_from_the_command_line(home):
    done = subprocess_result(*tokenizer_command(home, "worked"), "--workers", 2)
    assert done.returncode == 0, done.stderr
    [said] = done.stderr.splitlines()
    assert said.endswith("30 pictures in 3 classes: 27 train, 3 held out to test")
    one, other = (weights.load(home / name) for name in ("tok", "worked"))
    tiny.assert_same(weights.flat_weights(one), weights.flat_weights(other))


def test_reconstruct_draws_a_picture(home, capsys):
    out = home / "pairs.png"
    command = ["reconstruct", home / "tok", "--data", home / "pictures", "--out", out,
               "--count", 3]  # fmt: skip
    assert cli.main([str(word) for word in command]) == 0
    assert " dB: " in capsys.readouterr().out
    Image.open(out).verify()


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--count", "2"], 6),
        (["--labels", "2", "0", "--count", "3"], 6),
        (["--count", "2", "--top-k", "5", "--top-p", "0.9", "--temperature", "0.8",
          "--guidance", "2"], 6),
    ],
)  # fmt: skip
def test_sample_draws_pictures(home, capsys, options, count):
    out = home / "samples.png"
    assert cli.main(["sample", str(home / "prior"), "--out", str(out), *options]) == 0
    assert f"{count} samples" in capsys.readouterr().out
    Image.open(out).verify()


def test_all_samples_are_in_the_picture(home, monkeypatch):
    """Of 16 for each label the second half was missing."""
    shown, mosaic = [], show.plots._mosaic

    def spy(rows, **options):
        shown.append((rows, options))
        return mosaic(rows, **options)

    monkeypatch.setattr(show.plots, "_mosaic", spy)
    out = ["--out", str(home / "all.png"), "--count", "16"]
    assert cli.main(["sample", str(home / "prior"), *out, "--labels", "2", "0"]) == 0
    rows, options = shown.pop()
    assert [len(row) for row in rows] == [8, 8, 8, 8]
    assert options["names"] == ["class0", "class0", "class2", "class2"]
    assert len({image.tobytes() for row in rows for image in row}) > 8
    for wrap, sizes in ((True, [1, 2, 2]), (False, [1, 2])):
        given = np.zeros((5, 2, 2, 3)), [1, 0, 1, 1, 1], "ab"
        show.samples_by_class(*given, columns=2, wrap=wrap)
        rows, options = shown.pop()
        assert [len(row) for row in rows] == sizes
        assert options["names"] == ["a", "b", "b"][: len(sizes)]


@pytest.mark.parametrize("size", [6, 24])
def test_long_work_has_a_bar(home, capsys, monkeypatch, size):
    """In parts it draws as many; what is drawn in one part is as it was."""
    monkeypatch.setattr(drawing, "DRAWN", size)
    monkeypatch.setattr(drawing, "BATCH", size // 3)
    kept, data = [], str(home / "pictures")
    monkeypatch.setattr(show, "samples_by_class", lambda x, *a, **o: kept.append(x))
    monkeypatch.setattr(show, "completions", lambda x, found: kept.append(found.images))
    monkeypatch.setattr(show, "to_png", lambda figure: b"")
    out = ["--out", str(home / "bar.png")]
    prior = str(home / "prior")
    commands = {
        "reconstruct": [str(home / "tok"), "--data", data, "--count", "3"],
        "sample": [prior, "--count", "5"],
        "complete": [prior, data, "--first", "3", "--count", "4", "--label", "1"],
    }
    for name, command in commands.items():
        for more in ([], ["--quiet"]) if size == 6 else ([],):
            capsys.readouterr()
            assert cli.main([name, *command, *out, *more]) == 0
            seen = name in capsys.readouterr().err
            assert seen == (not more and size == 6)
    tokenizer, model = weights.load_pair(prior)
    key, labels = jax.random.key(0), np.repeat(np.arange(3), 5)
    codes = sample(model, key=key, labels=labels)
    want = decode_all(tokenizer, np.asarray(codes))
    first = 15 if size == 24 else 0
    if size == 6:
        np.testing.assert_array_equal(kept[0], kept.pop(1))
    np.testing.assert_allclose(kept[0][:first], want[:first], atol=1e-6)
    assert len(kept[0]) == 15 and len({x.tobytes() for x in kept[0]}) > 8
    assert kept[1].shape == (3, 4, 8, 8, 3)
    images = stack(open_source(home / "pictures", split="test", image_size=8), 3)
    found = complete(
        model, tokenizer, images["image"], key=key, labels=[1, 1, 1], count=4
    )
    same = 3 if size == 24 else 1
    np.testing.assert_allclose(kept[1][:same], found.images[:same], atol=1e-6)


def test_evaluate_prints_and_writes_figures(home, capsys):
    command = ["evaluate", home / "tok", home / "prior", "--data", home / "pictures",
               "--json", home / "figures.json"]  # fmt: skip
    assert cli.main([str(word) for word in command]) == 0
    shown = capsys.readouterr().out
    for name in ("psnr", "usage", "perplexity", "nll"):
        assert name in shown
    found = json.loads((home / "figures.json").read_text())
    assert set(found) == {str(home / "tok"), str(home / "prior")}
    assert found[str(home / "tok")]["codes"] == 24


@pytest.fixture(scope="module")
def networks(home):
    """A judge, LPIPS and Inception, all small, as folders."""
    judge = ClassifierConfig(kind="residual", num_classes=3, width=8)
    small = {
        "judge": (classifier.build, judge),
        "lpips": (perceptual.LPIPS, PerceptualConfig(widths=(4, 6), convs=(1, 1))),
        "inception": (Inception, InceptionConfig(classes=5, divisor=16)),
    }
    for name, (build, config) in small.items():
        card = {"recipe": {"image_size": 8}}
        weights.save(home / name, tiny.build(build, config), card=card)
    return [f"--{name}={home / name}" for name in small]


def test_evaluate_by_networks_that_the_user_gives(home, networks, capsys):
    command = [
        "evaluate",
        home / "tok",
        home / "prior",
        "--data",
        home / "pictures",
        "--split",
        "train",
        "--count",
        12,
        "--samples",
        12,
        "--batch-size",
        12,
        "--seed",
        3,
        *networks,
        "--json",
        home / "more.json",
        "--quiet",
    ]
    assert cli.main([str(word) for word in command]) == 0
    shown = capsys.readouterr()
    assert shown.err == "" and "real images: too few" in shown.out
    assert "  too few: less than 100 images, or real ones in a half\n" in shown.out
    for name in ("judge", "inception", "lpips"):
        assert f"  {name}: {home / name} (" in shown.out
    found = json.loads((home / "more.json").read_text())
    tok, prior = (found[str(home / name)] for name in ("tok", "prior"))
    assert {"psnr", "lpips", "judge_distance", "fid"} <= set(tok)
    assert {"nll", "judge_agrees", "judge_distance_samples", "fid_samples"} <= set(
        prior
    )
    assert tok["fid"] is tok["real"]["fid"] is prior["judge_score_samples"] is None
    for figures in (tok, prior):
        origin = figures["provenance"]
        assert (origin["split"], origin["images"], origin["of"]) == ("train", 12, 27)
        assert origin["seed"] == 3 and "bicubic" in origin["pixels"]
        assert origin["networks"]["inception"]["name"] == str(home / "inception")
        assert len(origin["weights"]["hash"]) == 64


def test_the_probe_says_how_many_images_it_had(home, monkeypatch):
    few = functools.partial(ProbeRecipe, train_size=12, test_size=2)
    monkeypatch.setattr("minivim.evaluate.ProbeRecipe", few)
    tokenizer = weights.load(home / "tok")
    card = {
        "tokenizer": str(home / "tok"),
        "tokenizer_hash": weights.weights_hash(tokenizer),
    }
    prior = tiny.prior(num_classes=0)
    weights.save(home / "unlabelled", prior, card=card)
    ref = str(home / "unlabelled")
    found = shipped_figures([ref], Options(spec=str(home / "pictures")))[ref]
    assert "probe, pixels" in found
    assert found["provenance"]["probe"] == "12 of train, 2 of test"


def test_codes_that_labels_have_touched_are_not_probed(home, capsys):
    """All other figures are printed; nothing was, though two of the paper's are so."""
    card = {"recipe": {"loss": {"perceptual": 0.1}}}
    weights.save(home / "felt", tiny.tokenizer(), card=card)
    prior = tiny.prior(num_classes=0)
    named = {"tokenizer": str(home / "felt")}
    weights.save(home / "over-felt", prior, card=named)
    command = ["evaluate", home / "over-felt", "--data", home / "pictures", "--quiet"]
    assert cli.main([str(word) for word in command]) == 0
    out = capsys.readouterr().out
    assert "nll" in out and "probe, " not in out
    assert "  probe: left out, the tokenizer has seen labels through a" in out


def test_a_palette_has_the_figures_of_a_tokenizer(home, capsys):
    palette = tiny.build(Palette, tiny.PALETTE)
    weights.save(home / "palette", palette, card={})
    command = ["evaluate", home / "palette", "--data", home / "pictures", "--quiet"]
    assert cli.main([str(word) for word in command]) == 0
    assert "psnr" in capsys.readouterr().out


def test_networks_of_other_classes_are_refused(home, capsys):
    command = ["evaluate", "--data", home / "pictures", "--quiet"]
    says = "8 classes and the data have 3", "trained on these data"
    refused(capsys, [*command, home / "tok", "--judge", "shapes/judge"], *says)
    refused(capsys, [*command, "shapes/classifier"], "shapes/classifier knows", *says)
    # A prior, too: it was told that class 0 here is class 0 of its own data.
    refused(capsys, [*command, "shapes/prior"], "shapes/prior knows", *says)
    (home / "flat").mkdir()
    for file in (home / "pictures").rglob("*.png"):
        shutil.copy(file, home / "flat" / f"{file.parent.name}-{file.name}")
    command[2] = home / "flat"
    refused(capsys, [*command, home / "prior"], "knows 3 classes", "have no labels")


def test_evaluate_seeks_neighbours(home, capsys):
    command = ["evaluate", home / "prior", "--data", home / "pictures", "--samples", 6,
               "--neighbours", "pixels", "--quiet"]  # fmt: skip
    assert cli.main([str(word) for word in command]) == 0
    assert "neighbours among 27 of " in (out := capsys.readouterr().out)
    assert "neighbour_distance_pixels" in out and "judge_distance" not in out
    refused(capsys, [*command, "--neighbours", "judge"], "no judge", "pixels")
    refused(capsys, [*command, "--split", "train"], "held out", "leave out --split")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--inception", "shapes/judge"],
         ["shapes/judge is a classifier", "minivim convert inception"]),
        (["--lpips", "shapes/tokenizer"], ["is a tokenizer", "minivim convert lpips"]),
        (["--judge", "shapes/prior"], ["is a prior", "kind=residual"]),
        (["--judge", "shapes/classifier"], ["methods may use", "such as shapes/judge"]),
        (["--count", "2049"], ["more than the 2048 images of shapes (test)"]),
        (["--batch-size", "0"], ["0 must be a whole number above zero"]),
        (["--neighbours", "colour"], ["invalid choice", "pixels"]),
    ],
)  # fmt: skip
def test_impossible_evaluations(capsys, options, parts):
    refused(capsys, ["evaluate", "shapes/tokenizer", "--quiet", *options], *parts)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["shapes/prior", "--lpips", "x"], ["for a prior", "name a palette"]),
        (["shapes/tokenizer", "--neighbours", "pixels"], ["for a tokenizer"]),
        (["shapes/tokenizer", "--samples", "8"], ["--samples has no figures for a"]),
        (["shapes/judge", "--tokenizer", "x"], ["--tokenizer has no figures for a"]),
        (["shapes/prior", "--samples", "8", "--data", "x"], ["nothing looks at samp"]),
        (["shapes/judge", "--judge", "shapes/judge"], ["--judge has no figures for a"]),
        (["shapes/classifier", "--inception", "x"], ["a classifier; leave it out"]),
    ],
)
def test_options_of_no_use_are_refused(capsys, tmp_path, options, parts):
    file = tmp_path / "figures.json"
    refused(capsys, ["evaluate", *options, "--json", str(file)], *parts)
    assert not file.exists()


def test_networks_that_have_no_figures_or_do_not_fit(home, networks, capsys):
    command = ["evaluate", "--data", home / "pictures"]
    for name in ("lpips", "inception"):
        refused(capsys, [*command, home / name], "has no figures of its own")
    odd = tiny.tokenizer(image_size=12)
    weights.save(home / "odd", odd, card={})
    refused(
        capsys, [*command, home / "odd", networks[0]], "multiples of 8, not 12 x 12",
        "give --judge",
    )  # fmt: skip


def test_the_default_judge_looks_only_at_what_it_reads(tmp_path, capsys):
    """It cannot be switched off, and nobody asked for it."""
    for name, changes in {"odd": {"image_size": 12}, "grey": {"channels": 1}}.items():
        odd = tiny.tokenizer(**changes)
        weights.save(tmp_path / name, odd, card={})
        command = ["evaluate", str(tmp_path / name), "--count", "16", "--quiet"]
        assert cli.main(command) == 0
        assert (
            "psnr" in (out := capsys.readouterr().out) and "judge_distance" not in out
        )
        refused(capsys, [*command, "--judge", "shapes/judge"], "give --judge")


def test_convert_writes_inception_that_loads(tmp_path, monkeypatch, capsys):
    small, seen = InceptionConfig(classes=5, divisor=16), []

    def inception_of(state):
        seen.extend(state)
        return tiny.build(Inception, small)

    torch.save({"fc.weight": torch.ones(2)}, tmp_path / "weights.pth")
    command = ["convert", "inception", str(tmp_path / "weights.pth"), "--out"]
    refused(
        capsys, [*command, tmp_path / "never"], "no 'Conv2d_1a_3x3.conv.weight'",
        "pytorch-fid",
    )  # fmt: skip
    assert not (tmp_path / "never").exists()
    monkeypatch.setattr(inception, "inception_from_torch", inception_of)
    assert cli.main([*command, str(tmp_path / "out")]) == 0
    assert seen == ["fc.weight"]
    loaded = weights.load(tmp_path / "out")
    assert loaded.card["kind"] == "inception" and isinstance(loaded, Inception)
    tiny.assert_same(
        weights.flat_weights(loaded), weights.flat_weights(inception_of({}))
    )


def test_convert_writes_a_tokenizer_that_loads(tmp_path, capsys):
    state = {k: v.contiguous() for k, v in random_state().items()}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "public.ckpt")
    out = tmp_path / "public"
    command = ["convert", "vit-vqgan", str(tmp_path / "public.ckpt"), "--out", str(out)]
    assert cli.main(command) == 0
    assert capsys.readouterr().out == f"tokenizer: {out}\n"
    tokenizer = weights.load(out)
    side, channels = tokenizer.config.image_size, tokenizer.config.channels
    assert tokenizer.encode(np.zeros((1, side, side, channels))).shape == (1, 16)
    # Trained with labelled features, as far as anybody knows: not for the probe.
    assert tokenizer.card.labels_seen


def test_convert_writes_lpips_that_loads(tmp_path, monkeypatch):
    small = PerceptualConfig(widths=(4, 6), convs=(1, 1))
    seen = []

    def lpips_of(vgg, heads):
        seen.extend([sorted(vgg), sorted(heads)])
        return tiny.build(perceptual.LPIPS, small)

    monkeypatch.setattr(convert, "lpips_from_torch", lpips_of)
    for name in ("vgg", "heads"):
        torch.save({f"{name}.weight": torch.ones(2)}, tmp_path / f"{name}.pth")
    command = [
        "convert",
        "lpips",
        *(str(tmp_path / f"{n}.pth") for n in ("vgg", "heads")),
    ]
    assert cli.main([*command, "--out", str(tmp_path / "out")]) == 0
    assert seen == [["vgg.weight"], ["heads.weight"]]
    assert weights.load(tmp_path / "out").card["kind"] == "perceptual"


def test_recipes_are_listed_and_printed(capsys):
    assert cli.main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert "vit-vqgan-ss" in listed
    assert "vim-large-class" in listed
    assert cli.main(["recipes", "vim-base"]) == 0
    shown = capsys.readouterr().out
    assert "650M printed" in shown
    assert "optim.decay_start = 80000" in shown
    assert cli.main(["recipes", "shapes"]) == 0
    shown = capsys.readouterr().out
    titles = [line for line in shown.splitlines() if line and line[0].islower()]
    for stage in ("tokenizer", "prior", "probe", "classifier"):
        assert f"{stage} shapes" in titles


COMMANDS = [
    "demo", "recipes", "train", "encode", "reconstruct", "sample", "complete",
    "evaluate", "export", "push", "convert", "lab",
]  # fmt: skip


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: minivim {name}" in capsys.readouterr().out


# --- mistakes ----------------------------------------------------------------------

TRAIN = ["train", "tokenizer", "shapes", "--data", "shapes", "--workdir", "never"]


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ([], ["minivim --help"]),
        (["paint"], ["invalid choice", "demo", "minivim --help"]),
        (["recipes", "shaeps"], ["'shaeps'", "did you mean shapes?"]),
        (["train", "tokenizer"], ["--workdir", "minivim train --help"]),
        (["train", "painter", *TRAIN[2:]], ["tokenizer", "prior"]),
        (["train", "tokenizer", "shapse", *TRAIN[3:]], ["did you mean shapes?"]),
        ([*TRAIN, "--set", "encodr.width=3"], ["did you mean", "encoder.width"]),
        ([*TRAIN, "--set", "width=3"], ["ambiguous", "model.encoder.width"]),
        ([*TRAIN, "--set", "steps=soon"], ["whole number"]),
        ([*TRAIN, "--set", "patch_size=5"], ["does not divide", "choose patch_size"]),
        ([*TRAIN, "--set", "encoder.heads=7"], ["does not divide", "choose heads"]),
        ([*TRAIN, "--set", "precision=float16"], ["ambiguous"]),
        ([*TRAIN, "--set", "image_size=8192"], ["image_size 8192", "1 to 4096"]),
        ([*TRAIN, "--set", "seed=-1"], ["seed=-1", "set seed=0"]),
        (["encode", "runs/never", "--data", "shapes", "--out", "codes"],
         ["no weights at 'runs/never'", "folder of a finished run"]),
        (["encode", "x", "--data", "shapes", "--out", "codes", "--views", "3"],
         ["others need flip or a crop", "choose views=1 alone"]),
        (["encode", "x", "--data", "shapes", "--out", "codes", "--flip"],
         ["views=1, flip=True", "views=8 and flip"]),
        ([*TRAIN, "--workers", "-1"], ["-1 must be a whole number of 0 or above"]),
        ([*TRAIN, "--stream"], ["read by index: leave out --stream"]),
        (["encode", "x", "--data", "shapes", "--out", "codes", "--count", "-3"],
         ["-3 must be a whole number above zero"]),
        (["sample", "x", "--out", "a.png", "--count", "0"], ["above zero"]),
        (["sample", "x", "--out", "a.png", "--temperature", "hot"], ["invalid float"]),
        (["evaluate", "--data", "nothing-like-this"], ["name weights to evaluate"]),
        (["convert", "vit-vqgan", "never.pt", "--out", "x"], ["no file never.pt"]),
        (["convert", "gan", "a", "--out", "x"], ["vit-vqgan", "lpips"]),
        (["convert", "lpips", "vgg16.pth", "--out", "x"], ["vgg16 and heads, got 1"]),
        (["convert", "inception", "never.pth", "--out", "x"], ["no file never.pth"]),
    ],
)  # fmt: skip
def test_mistakes_in_the_command(capsys, command, parts):
    refused(capsys, command, *parts)


def test_data_that_is_not_there(home, capsys):
    refused(capsys, tokenizer_command(home, "new", data="nowhere"), "give 'shapes'")


def test_a_folder_without_images(home, capsys):
    (home / "empty" / "below").mkdir(parents=True)
    (home / "empty" / "notes.txt").write_text("no picture")
    refused(
        capsys, tokenizer_command(home, "new", data="empty"), "holds no images", ".png"
    )


@pytest.fixture
def spoiled(home, tmp_path):
    """The pictures again, to be damaged."""
    shutil.copytree(home / "pictures", tmp_path / "pictures")
    shutil.copytree(home / "tok", tmp_path / "tok")
    return tmp_path


def test_a_corrupt_image(spoiled, capsys):
    for picture in (spoiled / "pictures").rglob("*.png"):
        picture.write_bytes(picture.read_bytes()[:40])
    line = refused(
        capsys, tokenizer_command(spoiled, "new"), "27 of 27 pictures",
        "not a readable image", "and 7 more", "leave them out with --skip-unreadable",
    )  # fmt: skip
    assert "class" in line


def trained_on(folder):
    """A picture that is not held out."""
    from minivim.data import open_source

    held_out = open_source(str(folder), split="test", image_size=8)
    kept = {path for path, _ in held_out.files(np.arange(len(held_out)))}
    return next(p for p in sorted(folder.rglob("*.png")) if str(p) not in kept)


def test_a_broken_picture_does_not_end_a_run_for_good(spoiled, capsys):
    """One that is met later is named; with a flag the same command goes on."""
    victim = trained_on(spoiled / "pictures")
    whole = victim.read_bytes()
    command = tokenizer_command(spoiled, "new", "run.batch_size=9")
    victim.write_bytes(whole[:60])  # Its header can be read.
    line = refused(capsys, command, victim.name, "repair or remove it")
    assert "--skip-unreadable" in line
    refused(capsys, [*command, "--check"], "1 of 27 pictures", victim.name)
    assert cli.main([*command, "--skip-unreadable"]) == 0
    told = capsys.readouterr().err
    name = str(victim.relative_to(spoiled / "pictures"))
    assert f"left out as unreadable: 1 ({name})" in told
    run = json.loads((spoiled / "new" / "run.json").read_text())
    assert run["unreadable"] == [name]
    card = weights.load(spoiled / "new").card
    assert f"left out as unreadable: 1 ({name})" in card["data_read"]
    refused(capsys, command, "it left out unreadable pictures, see --skip-unreadable")
    # Another one breaks: the run may leave out more.
    other = next(p for p in sorted(victim.parent.glob("*.png")) if p != victim)
    size = other.stat().st_size
    other.write_bytes(bytes(size))
    assert cli.main([*command, "--skip-unreadable"]) == 0
    run = json.loads((spoiled / "new" / "run.json").read_text())
    assert len(run["unreadable"]) == 2


def test_an_image_that_vanishes(spoiled, capsys, monkeypatch):
    from minivim import trainer

    make = trainer.setup

    def late(*arguments, **options):
        parts = make(*arguments, **options)
        for picture in (spoiled / "pictures").rglob("*.png"):
            picture.unlink()
        return parts

    monkeypatch.setattr(trainer, "setup", late)
    refused(capsys, tokenizer_command(spoiled, "new"), "is missing", "restore it")


@pytest.mark.parametrize("kind", ["none", "one"])
def test_fewer_than_two_labels(spoiled, capsys, kind):
    source, target = spoiled / "pictures" / "class0", spoiled / "few"
    shutil.copytree(source, target if kind == "none" else target / "only")
    refused(
        capsys, prior_command(spoiled, "new", data="few"), "at least two labels",
        "folder of its own",
    )  # fmt: skip


def test_another_number_of_labels(home, capsys):
    refused(
        capsys, prior_command(home, "new", "num_classes=5"), "has 3 classes",
        "use --set num_classes=3",
    )  # fmt: skip


def test_a_workdir_of_another_recipe(home, capsys):
    before = (home / "tok" / "run.json").read_bytes()
    line = refused(
        capsys, tokenizer_command(home, "tok", "encoder.width=32"),
        "holds another run", "choose another --workdir",
    )  # fmt: skip
    assert "model.encoder.width was 16, now 32" in line
    refused(capsys, prior_command(home, "tok"), "holds another run")
    assert (home / "tok" / "run.json").read_bytes() == before


def test_a_workdir_of_other_data(spoiled, capsys):
    next((spoiled / "pictures").rglob("*.png")).unlink()
    refused(capsys, tokenizer_command(spoiled, "tok"),
            "pictures have changed", "another --workdir")  # fmt: skip


def test_a_prior_goes_on_only_over_the_same_tokenizer(home, capsys, tmp_path):
    for name in ("pictures", "tok", "prior"):
        shutil.copytree(home / name, tmp_path / name)
    file = tmp_path / "prior" / "run.json"
    run = json.loads(file.read_text())
    run["tokenizer"] = str(tmp_path / "tok")
    file.write_text(json.dumps(run))
    other = tiny.tokenizer(seed=5)
    weights.save(tmp_path / "tok", other, card={})
    refused(capsys, prior_command(tmp_path), "holds another run", "tokenizer_hash was")


@pytest.mark.parametrize(
    ("setting", "part"),
    [("num_codes=32", "--set model.num_codes=24"), ("grid=3", "--set model.grid=2")],
)
def test_a_prior_of_other_sizes_than_its_tokenizer(home, capsys, setting, part):
    refused(capsys, prior_command(home, "new", setting), part)


def test_all_five_terms_by_one_command(home, capsys):
    """With a histogram among the figures, and goes on without one more word."""
    settings = ["discriminator.width=4", "max_width=8", "output=laplace"]
    settings += [
        f"loss.{t}=0.1" for t in ("logit_laplace", "perceptual", "adversarial")
    ]
    settings += ["perceptual_net=shapes/classifier"]
    command = tokenizer_command(home, "gan", *settings)
    for _ in range(2):
        assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "right_on_fake" in out and "perceptual" in out and "logits_real" not in out
    card = weights.read_card(home / "gan")
    assert card["kind"] == "tokenizer" and card["perceptual_net_hash"]


def test_convert_leaves_runs_alone(home, capsys):
    command = ["convert", "vit-vqgan", home / "tok" / "model.safetensors", "--out"]
    refused(capsys, [*command, home / "tok"], "holds a run", "another folder")
    refused(
        capsys,
        [*command, home / "converted"],
        "'decoder.head.hidden.bias' is in no",
        "known are vit-vqgan",
        "vqgan",
        "llamagen",
        "save it again",
    )
    assert not (home / "converted").exists()


def test_a_prior_is_no_tokenizer(home, capsys):
    refused(
        capsys, prior_command(home, "new", f"tokenizer={home / 'prior'}"),
        "is no tokenizer",
    )  # fmt: skip
    refused(
        capsys,
        ["encode", home / "prior", "--data", home / "pictures", "--out", "codes"],
        "is a prior, not a tokenizer",
    )
    refused(capsys, ["sample", home / "tok", "--out", "a.png"], "name a prior")
    refused(capsys, prior_command(home, "new", "tokenizer="), "--set tokenizer=FOLDER")


def test_a_tokenizer_that_is_gone(home, capsys, tmp_path):
    card = {"tokenizer": str(tmp_path / "mine")}
    weights.save(tmp_path / "prior", tiny.prior(), card=card)
    out = ["--out", tmp_path / "a.png"]
    for command in (
        ["sample", tmp_path / "prior", *out],
        ["complete", tmp_path / "prior", home / "pictures", *out],
        ["evaluate", tmp_path / "prior", "--data", home / "pictures"],
    ):
        refused(
            capsys, command, f"no tokenizer for {tmp_path / 'prior'}, whose card",
            f"there are no weights at '{tmp_path / 'mine'}'", "--tokenizer",
        )  # fmt: skip
    weights.save(tmp_path / "there", tiny.tokenizer(), card={})
    command = ["sample", tmp_path / "prior", *out, "--tokenizer", tmp_path / "there"]
    assert cli.main([*map(str, command), "--count", "1"]) == 0
    command = ["evaluate", tmp_path / "prior", "--data", home / "pictures"]
    command += ["--tokenizer", tmp_path / "there", "--quiet"]
    assert cli.main([*map(str, command)]) == 0


@pytest.mark.parametrize("ref", ["runs/nope", "./nope", "/nope", "~/nope", "nope"])
def test_a_path_that_is_not_there_is_not_sought_on_the_hub(monkeypatch, ref):
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda ref, **o: pytest.fail(ref)
    )
    with pytest.raises(UserError, match="there are no weights at .*finished run"):
        weights.find(ref)


def test_truncated_weights(spoiled, capsys):
    file = spoiled / "tok" / weights.WEIGHTS
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(
        capsys,
        ["encode", spoiled / "tok", "--data", spoiled / "pictures", "--out", "codes"],
        "damaged or cut short", "again",
    )  # fmt: skip


def test_a_damaged_workdir(spoiled, capsys):
    for name in (weights.WEIGHTS, weights.CARD):
        (spoiled / "tok" / name).unlink()
    run = json.loads((spoiled / "tok" / "run.json").read_text())
    (spoiled / "tok" / "run.json").write_text(json.dumps(run)[:-5])
    refused(capsys, tokenizer_command(spoiled), "run.json", "another --workdir")


def test_a_workdir_that_cannot_be_written(home, capsys):
    (home / "file").write_text("in the way")
    refused(
        capsys, tokenizer_command(home, "file/run"), "cannot write to",
        "choose another place",
    )  # fmt: skip
    for command in (
        ["encode", home / "tok", "--data", home / "pictures", "--out",
         home / "file" / "codes"],
        ["sample", home / "prior", "--out", home / "file" / "a.png"],
    ):  # fmt: skip
        refused(capsys, command, "cannot write", "choose another place")
    refused(capsys, ["sample", home / "prior", "--out", home / "a.jpg"], "end in .png")


def test_a_full_disk(home, capsys, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.save", full)
    refused(
        capsys, tokenizer_command(home, "full"), "(No space left on device)",
        "free the disk and run the same command",
    )  # fmt: skip
    monkeypatch.undo()
    assert cli.main(tokenizer_command(home, "full")) == 0


def test_places_to_write_to(home, tmp_path, monkeypatch, capsys):
    """All are noticed before anything is drawn."""

    def never(*args, **options):
        raise AssertionError("it was drawn first")

    data, out = ["--data", str(home / "pictures")], tmp_path / "old.png"
    out.mkdir()
    commands = [
        ["reconstruct", home / "tok", *data],
        ["sample", home / "prior"],
        ["complete", home / "prior", home / "pictures"],
    ]
    with monkeypatch.context() as patch:
        for name in ("minivim.data.stack", "minivim.prior.sample"):
            patch.setattr(name, never)
        for command in commands:
            refused(capsys, [*command, "--out", out], "old.png is a folder", "in it")
            refused(capsys, [*command, "--out", "a.jpg"], "error: a.jpg must end in .p")
        file = tmp_path / "x.txt"
        command = ["evaluate", home / "tok", *data, "--json", file]
        line = refused(capsys, command, f"{file} must end in .json")
        assert "--out" not in line
    other = str(tmp_path / "loud.PNG")
    assert cli.main([*map(str, commands[1]), "--out", other, "--count", "1"]) == 0
    Image.open(other).verify()
    assert not list(tmp_path.glob("*.part"))


def test_a_failed_write_leaves_the_picture_that_was_there(home, monkeypatch):
    """A file that may only grow to 20 kB was cut there, and the old one was gone."""
    out = home / "kept.png"
    out.write_bytes(b"a good picture")

    def cut(path, content):
        with open(path, "wb") as file:
            file.write(content[:20])
        raise OSError(27, "File too large", str(path))

    monkeypatch.setattr(arguments.Path, "write_bytes", cut)
    command = ["sample", str(home / "prior"), "--out", str(out), "--count", "1"]
    assert cli.main(command) == 2
    assert out.read_bytes() == b"a good picture"
    assert not list(home.glob("*.part"))
    command = ["evaluate", str(home / "tok"), "--data", str(home / "pictures")]
    (home / "old.json").write_text("{}")
    assert cli.main([*command, "--quiet", "--json", str(home / "old.json")]) == 2
    assert (home / "old.json").read_text() == "{}"


def test_a_failed_save_leaves_the_weights_that_were_there(tmp_path, monkeypatch):
    weights.save(tmp_path, tiny.tokenizer(), card={})

    def full(path, text):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(weights.Path, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            weights.save(tmp_path, tiny.tokenizer(1), card={})
    tiny.assert_same(
        weights.flat_weights(weights.load(tmp_path)),
        weights.flat_weights(tiny.tokenizer()),
    )
    assert len(list(tmp_path.iterdir())) == 2


def test_a_loss_that_becomes_nan(home, capsys):
    settings = "steps=40 checkpoint_every=2 peak_lr=1e30 warmup_steps=3 decay_end=0"
    line = refused(
        capsys, tokenizer_command(home, "nan", *settings.split()), "became", "at step",
        "last good checkpoint is kept", "optim.peak_lr",
    )  # fmt: skip
    step = int(line.split("at step ")[1].split(";")[0])
    saved = [int(p.name) for p in (home / "nan" / "checkpoints").iterdir()]
    assert max(saved) < step
    assert not (home / "nan" / weights.WEIGHTS).exists()
    # It is a run that has not finished, whose last checkpoint can be looked into.
    command = ["encode", home / "nan", "--data", home / "pictures"]
    assert cli.main([*map(str, command), "--out", str(home / "nan-codes")]) == 0
    assert "has not finished: step " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--labels", "3"], ["label 3 is out of range", "0 to 2"]),
        (["--labels", "-1"], ["label -1 is out of range"]),
        (["--top-k", "25"], ["top_k=25 is out of range", "use 1 to 24"]),
        (["--top-p", "2"], ["use a value in (0, 1]"]),
        (["--temperature", "0"], ["use top_k=1"]),
    ],
)
def test_impossible_samples(home, capsys, options, parts):
    command = ["sample", home / "prior", "--out", home / "never.png", *options]
    refused(capsys, command, *parts)


@pytest.fixture(scope="module")
def chooser(tmp_path_factory):
    """A classifier for the priors of this module, and a judge."""
    folder = tmp_path_factory.mktemp("labelled")
    for kind in ("cnn", "residual"):
        config = ClassifierConfig(kind=kind, num_classes=tiny.CLASSES, width=4)
        network = tiny.build(classifier.build, config)
        weights.save(folder / kind, network, card={})
    return folder


def test_sample_keeps_what_a_classifier_likes(home, capsys, chooser):
    out = home / "chosen.png"
    command = ["sample", home / "prior", "--out", out, "--count", "2"]
    command = [*map(str, command), "--acceptance", "0.5", "--classifier"]
    assert cli.main([*command, str(chooser / "cnn")]) == 0
    assert f"6 samples: {out}" in capsys.readouterr().out
    Image.open(out).verify()
    refused(capsys, [*command, chooser / "residual"], "is a judge")
    refused(capsys, command[:-1], "--acceptance 0.5 --classifier FOLDER")
    command[-2] = "0"
    refused(capsys, [*command, chooser / "cnn"], "0 must be above 0 and at most 1")


def test_complete_draws_the_rest_of_images(home, capsys):
    out, picture = home / "rest.png", home / "pictures" / "class1" / "0.png"
    command = ["complete", home / "prior", picture, "--out", out, "--label", "1"]
    assert cli.main([str(word) for word in command]) == 0
    assert f"4 completions of 1 images: {out}" in capsys.readouterr().out
    Image.open(out).verify()
    command = ["complete", home / "prior", home / "pictures", "--out", out]
    assert cli.main([*map(str, command), "--first", "2", "--count", "3"]) == 0
    assert f"3 completions of 2 images: {out}" in capsys.readouterr().out
    refused(capsys, [*command, "--keep", "1"], "rows=2", "keep 1 to 1")
    refused(capsys, [*command, "--keep", "nan"], "nan must be above 0 and at most 1")
    refused(capsys, [*command, "--seed", str(2**32)], "use less than 2^32")
    refused(capsys, [*command, "--label", "7"], "label 7 is out of range")
    command[2] = home / "prior" / "card.json"
    refused(capsys, command, "card.json is neither a parquet file nor a picture")


def test_labels_that_the_prior_does_not_know(home, capsys, tmp_path):
    shutil.copytree(home / "pictures", tmp_path / "pictures")
    for number in range(3, 6):
        shutil.copytree(
            tmp_path / "pictures" / "class0", tmp_path / "pictures" / f"more{number}"
        )
    refused(
        capsys, ["evaluate", home / "prior", "--data", tmp_path / "pictures"],
        "knows 3 classes and the data have 6", "trained on these data",
    )  # fmt: skip


def subprocess_result(*command):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "minivim", *map(str, command)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


def test_a_mistake_in_a_process_of_its_own(tmp_path):
    done = subprocess_result("recipes", "vim-lrage")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "minivim: error: there is no recipe 'vim-lrage'; did you mean vim-large?"
    ]


def test_success_in_a_process_of_its_own():
    done = subprocess_result("recipes")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "cifar10" in done.stdout


def test_ctrl_c_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    demo = (interrupted, *arguments.COMMANDS["demo"][1:])
    monkeypatch.setitem(arguments.COMMANDS, "demo", demo)
    assert cli.main(["demo"]) == 130
    said = capsys.readouterr().err
    assert said == "minivim: stopped; the same command begins anew\n"
    # Where a part of it was kept.
    for words in (["train", "prior"], ["reproduce", "grid"]):
        assert ended(words) == "stopped; the same command goes on"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "x.npz")])
def test_other_disk_errors_are_one_line(capsys, monkeypatch, error):
    def fail(options):
        raise error

    demo = (fail, *arguments.COMMANDS["demo"][1:])
    monkeypatch.setitem(arguments.COMMANDS, "demo", demo)
    refused(capsys, ["demo"], "x.npz", "No space left", "run the same command")


BLANK = ["--workdir", "--data", "--from", "--freeze", "--out", "--json", "--labels"]


@pytest.mark.parametrize("flag", BLANK)
@pytest.mark.parametrize("blank", ["", "  "])
def test_blank_paths_and_names_are_refused(capsys, flag, blank):
    """An empty path would be the current folder."""
    stage = ["train", "tokenizer", "shapes", "--data", "shapes", "--workdir", "w"]
    draw = ["sample", "shapes/prior", "--out", "s.png", "--labels", "star"]
    commands = {"--out": draw, "--labels": draw, "--json": ["evaluate", "w"]}
    command = [*commands.get(flag, stage), flag, blank]
    refused(capsys, command, f"argument {flag}: it is empty; give a name, or . for")


def test_class_names_steer_no_terminal(capsys):
    network = tiny.build(
        classifier.build, ClassifierConfig(kind="cnn", num_classes=3, width=4)
    )
    network.card = Card("", {"class_names": ["a\x1b[2J", "b\nc", "d"]})
    arguments.show_classes(network)
    assert capsys.readouterr().out == "classes: 0 a\\x1b[2J; 1 b\\nc; 2 d\n"
