"""Figures of models: their names, where they come from, batches, and memory."""

import gc
import subprocess
import sys
import tracemalloc

import jax
import numpy as np
import pytest
from flax import nnx

from minivim import classifier, data, metrics
from minivim.config import ClassifierConfig
from minivim.data import ArraySource, Source
from minivim.describe import figures_table
from minivim.encode import decode_all, encode_all, nats_per_token
from minivim.evaluate import (
    Options,
    draw,
    judged_figures,
    prior_figures,
    tokenizer_figures,
)
from minivim.metrics.neighbours import nearest, pixels
from minivim.prior import sample
from minivim.tokenizer.perceptual import LPIPS, PerceptualConfig
from tests import tiny

pytestmark = pytest.mark.usefixtures("few_images")


@pytest.fixture(scope="module")
def judge():
    config = ClassifierConfig(kind="residual", num_classes=tiny.CLASSES, width=8)
    return tiny.build(classifier.build, config)


@pytest.fixture(scope="module")
def lpips():
    net = tiny.build(LPIPS, PerceptualConfig(widths=(4, 6), convs=(1, 1)))
    for head in net.heads:
        head[...] = abs(head[...])
    return net


def of_tokenizer(**options):
    return tokenizer_figures(tiny.tokenizer(), tiny.source(48), Options(**options))


def of_prior(judge, prior=None, train=None, drawn=None, **options):
    return judged_figures(
        prior or tiny.prior(), tiny.tokenizer(), tiny.source(48),
        Options(judge=judge, **options), train=train, drawn=drawn,
    )  # fmt: skip


@pytest.fixture(scope="module")
def sampled(judge):
    return of_prior(judge, samples=31, train=tiny.source(40, seed=1))


def test_a_tokenizers_figures_are_those_of_all_images_at_once(judge, lpips):
    found = of_tokenizer(judge=judge, lpips=lpips, batch_size=20)
    images = data.stack(tiny.source(48))["image"].astype(np.float32) / 255
    codes = encode_all(tiny.tokenizer(), images, batch_size=48)
    recon = decode_all(tiny.tokenizer(), codes, batch_size=48)
    usage = metrics.codebook_usage(codes, num_codes=24)
    want = {
        "images": 48,
        "tokens": 4,
        "codes": 24,
        "psnr": float(metrics.psnr(images, recon)),
        "lpips": float(metrics.lpips_per_image(lpips, images, recon).mean()),
        "judge_distance": metrics.judge_distance(judge, images, recon),
        "usage": usage.usage,
        "perplexity": usage.perplexity,
    }
    for name, value in want.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name
    assert set(found) == {*want, "judge_score", "real", "provenance"}
    assert "judge_distance" not in of_tokenizer()


def test_the_papers_rule_from_256_images_on():
    source = tiny.source(600)
    codes = encode_all(tiny.tokenizer(), data.stack(source)["image"], batch_size=48)
    want = metrics.usage_by_image_batch(codes, num_codes=24)
    found = tokenizer_figures(tiny.tokenizer(), source, Options(batch_size=20))
    assert found["usage_256"] == want


def flat(figures: dict) -> dict[str, float]:
    inner = {f"real {k}": v for k, v in figures["real"].items()}
    nested = ("real", "provenance")
    return {**{k: v for k, v in figures.items() if k not in nested}, **inner}


def test_values_do_not_depend_on_the_batches(judge, lpips, sampled):
    """Nor do samples. Networks round in another order, hence not the last digits."""
    networks = {"judge": judge, "lpips": lpips}
    two = [of_tokenizer(**networks, batch_size=size) for size in (20, 500)]
    train = tiny.source(40, seed=1)
    small = of_prior(judge, samples=31, train=train, batch_size=20)
    for one, other in (two, (small, sampled)):
        one, other = flat(one), flat(other)
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert other[name] == pytest.approx(value, rel=1e-4), name


def test_a_priors_nll_is_that_of_all_images_at_once():
    prior, tokenizer, source = tiny.prior(), tiny.tokenizer(), tiny.source(48)
    rows = data.stack(source, 45)
    codes = encode_all(tokenizer, rows["image"], batch_size=48)
    found = prior_figures(prior, tokenizer, source, Options(count=45, batch_size=20))
    assert found["images"] == 45
    want = nats_per_token(prior, codes, rows["label"])
    assert found["nll"] == pytest.approx(want, rel=1e-5)
    want = nats_per_token(prior, codes, None)
    assert found["nll_without_label"] == pytest.approx(want, rel=1e-5)


def test_samples_are_those_of_one_call_of_the_seed():
    """So that the figures on the shipped cards are found again."""
    prior, tokenizer = tiny.prior(), tiny.tokenizer()
    labels = np.arange(31, dtype=np.int32) % tiny.CLASSES
    codes = sample(prior, key=jax.random.key(3), labels=labels)
    want = decode_all(tokenizer, np.asarray(codes), batch_size=48)
    how = Options(samples=31, seed=3, batch_size=20)
    [(images, drawn)] = draw(prior, tokenizer, how)
    np.testing.assert_allclose(images, want, atol=1e-6)
    np.testing.assert_array_equal(drawn, labels)


def test_more_samples_than_one_call_draws(monkeypatch):
    monkeypatch.setattr("minivim.evaluate.DRAWN", 31)
    prior, tokenizer = tiny.prior(), tiny.tokenizer()
    first, second = draw(prior, tokenizer, Options(samples=62))
    labels = np.concatenate([first[1], second[1]])
    np.testing.assert_array_equal(labels, np.arange(62) % tiny.CLASSES)
    assert np.abs(first[0][31 % 3 :] - second[0][: 31 - 31 % 3]).max() > 0.01


def test_what_the_judge_says_of_samples(judge, sampled):
    [(images, labels)] = draw(tiny.prior(), tiny.tokenizer(), Options(samples=31))
    said = classifier.predict(judge, images)
    assert sampled["judge_agrees"] == (said == labels).mean()
    by_class = sampled["judge_agrees_by_class"]
    assert list(by_class) == ["class 0", "class 1", "class 2"]
    for number, share in enumerate(by_class.values()):
        assert share == pytest.approx((said == number)[labels == number].mean())
    assert sampled["samples"] == 31 and sampled["real_images"] == 48
    assert sampled["judge_on_real"] == classifier.accuracy(
        judge, tiny.source(48).arrays["image"], tiny.source(48).arrays["label"]
    )
    assert 1 <= sampled["judge_score_samples"] <= 3
    assert abs(sampled["real"]["images"] - 31) <= 1
    assert abs(sampled["real"]["halves"][0] - 24) <= 1
    assert {"judge_distance_samples", "judge_score_samples"} <= set(sampled["real"])


def test_samples_may_come_in_parts_of_any_size(judge, sampled):
    [(images, labels)] = draw(tiny.prior(), tiny.tokenizer(), Options(samples=31))
    parts = [(images[:13], labels[:13]), (images[13:], labels[13:])]
    options = {"samples": 31, "train": tiny.source(40, seed=1)}
    found = flat(of_prior(judge, drawn=parts, **options))
    want = flat(sampled)
    assert found.keys() == want.keys()
    for name, value in found.items():
        assert value == pytest.approx(want[name], abs=1e-4), name


def test_a_prior_without_classes_has_no_grades(judge):
    images = np.random.default_rng(0).random((31, 8, 8, 3), np.float32)
    drawn = [(images, np.zeros(31, np.int32))]
    prior = tiny.prior(num_classes=0)
    found = of_prior(judge, prior, samples=31, drawn=drawn)
    assert "judge_distance_samples" in found
    assert not {name for name in found if name.startswith(("judge_agrees", "judge_on"))}


@pytest.mark.parametrize("by", ["pixels", "judge"])
def test_samples_learnt_by_heart_are_noticed(judge, sampled, by):
    """The decoder's pictures as training images: nothing is nearer."""
    [(images, _)] = draw(tiny.prior(), tiny.tokenizer(), Options(samples=31))
    arrays = {"image": np.rint(255 * images).astype(np.uint8)}
    copied = ArraySource({**arrays, "label": np.zeros(31, np.int32)})
    name = f"neighbour_distance_{by}"
    found = of_prior(judge, samples=31, train=copied, neighbours=by)
    assert found["neighbours_nearer"] == 1
    assert found[name] < 0.1 * found["real"][name]
    assert found["neighbours_of"] == 31 == found["real"]["neighbours_of"]
    assert "31 of arrays" in found["provenance"]["train"]
    if by == "pixels":
        assert sampled[name] > 10 * found[name]


def test_the_control_of_neighbours_goes_through_the_tokenizer(judge):
    """What the tokenizer makes of held-out images, as training images: all are copies.

    Held-out images as they are would be far from these, and hide that.
    """
    images = data.stack(tiny.source(48))["image"].astype(np.float32) / 255
    codes = encode_all(tiny.tokenizer(), images, batch_size=48)
    recon = decode_all(tiny.tokenizer(), codes, batch_size=48)
    arrays = {"image": np.rint(255 * recon).astype(np.uint8)}
    train = ArraySource({**arrays, "label": np.zeros(48, np.int32)})
    found = of_prior(judge, samples=31, train=train, neighbours="pixels")
    near = found["real"]["neighbour_distance_pixels"]
    assert near < 0.02
    raw = nearest(pixels(images), train, pixels, batch_size=48).distances
    assert np.median(raw) > 10 * near  # the bug


class Colours(nnx.Module):
    """Positions as features, mean colours as logits: compiled in no time."""

    def __call__(self, images):
        return 9 * images.mean((1, 2)), {"features": [images]}


def test_inception_gives_fid_and_its_score_their_names():
    found = of_tokenizer(inception=Colours())
    assert found["fid"] > 0 and 1 <= found["inception_score"] <= 3
    assert {"fid", "inception_score"} <= set(found["real"])
    assert not {name for name in found if "judge" in name}
    named = found["provenance"]["networks"]["inception"]
    assert named["name"] == "Colours" and len(named["hash"]) == 64


def test_provenance(judge, sampled):
    found = of_tokenizer(judge=judge, count=20, seed=4)["provenance"]
    source = tiny.source(48)
    assert found["data"] == source.description
    assert found["fingerprint"] == source.fingerprint
    assert (found["images"], found["of"], found["seed"]) == (20, 48, 4)
    assert set(found["networks"]) == {"judge"}
    assert sampled["provenance"]["sampling"] == {"temperature": 1.0}


def test_the_table_has_real_images_beside_and_origins_below(sampled):
    lines = figures_table({"mine": sampled}).splitlines()
    assert lines[0] == "mine"
    [distance] = [line for line in lines if "judge_distance_samples" in line]
    assert "real images: " in distance
    [by_class] = [line for line in lines if "by_class" in line]
    assert "(class " in by_class and "{" not in by_class
    assert "  the first 48 of 48 of arrays" in lines
    assert any(line.startswith("  judge: Judge (") for line in lines)
    assert max(map(len, lines)) <= 88


class Endless(Source):
    """Images that exist only while they are read."""

    description = "noise"
    fingerprint = "noise"
    in_memory = True

    def __init__(self, count: int, size: int = 8):
        self.count, self.size, self.largest = count, size, 0

    def __len__(self) -> int:
        return self.count

    def take(self, indices):
        self.largest = max(self.largest, len(indices))
        images = np.random.default_rng(indices[0]).integers(
            0, 256, (len(indices), self.size, self.size, 3), np.uint8
        )
        return {"image": images, "label": (indices % 3).astype(np.int32)}


def test_images_are_not_kept(judge):
    """2,048 more images would be 1.6 MB as bytes, and 6.3 MB as floats, of each kind.

    Kept is what a network sees of each image and its reconstruction, about 700 bytes
    with the copies that figures need. Whole batches: a short one would be compiled.
    """
    tokenizer = tiny.tokenizer(image_size=16, patch_size=8)

    def peak(count: int) -> int:
        source = Endless(count, 16)
        gc.collect()
        tracemalloc.start()
        found = tokenizer_figures(tokenizer, source, Options(judge=judge))
        found |= prior_figures(tiny.prior(), tokenizer, source)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found["images"] == count and source.largest == 256
        return most

    peak(512)  # compiles
    small, large = peak(512), peak(2_560)
    assert large < small + 1e6


RESIDENT = """
import resource, sys
from minivim import classifier
from minivim.config import ClassifierConfig
from minivim.evaluate import Options, tokenizer_figures
from tests import tiny
from tests.evaluate.test_figures import Endless

config = ClassifierConfig(kind="residual", num_classes=3, width=8)
tokenizer = tiny.tokenizer(image_size=64, patch_size=32)
judge = tiny.build(classifier.build, config)
source = Endless(int(sys.argv[1]), 64)
tokenizer_figures(tokenizer, source, Options(judge=judge, batch_size=64))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_resident_memory_is_flat_from_1k_to_10k_images():
    """JAX's own buffers too. 9,000 more images would be 440 MB of floats."""

    def peak(count: int) -> int:
        done = subprocess.run(
            [sys.executable, "-c", RESIDENT, str(count)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return int(done.stdout)

    assert peak(10_000) < peak(1_000) + 60e6
