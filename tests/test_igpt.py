"""iGPT's tokens: k-means, its parity with SciPy, and both stages on top of it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import minivim
from minivim import cli, encode, recipes, weights
from minivim.config import PaletteConfig, PaletteRecipe
from minivim.describe import describe_recipe
from minivim.errors import UserError
from minivim.evaluate import tokenizer_figures
from minivim.tokenizer import Tokenizer
from minivim_lab.igpt import Palette, fit_palette, kmeans_plus_plus, lloyd
from minivim_lab.plan import trainable
from tests import tiny


def cloud(count: int = 600, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(count, 3))


@pytest.fixture(scope="module")
def palette() -> Palette:
    images = tiny.images(24).astype(np.float32) / 255
    return fit_palette(tiny.PALETTE, images)[0]


# --- k-means -----------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(k=st.integers(1, 40), seed=st.integers(0, 99))
def test_no_step_of_k_means_raises_the_objective(k, seed):
    points = cloud(80, seed=seed)
    centres, objective = lloyd(points, kmeans_plus_plus(points, k, seed=seed), steps=30)
    assert (np.diff(objective) <= 1e-15).all()
    distances = np.square(points[:, None] - centres).sum(-1)
    assert objective[-1] == pytest.approx(distances.min(1).mean())
    nearest = distances.argmin(1)
    if len(objective) <= 30:  # it has ended: every centre is the mean of its points
        for i in set(nearest):
            np.testing.assert_allclose(centres[i], points[nearest == i].mean(0))


@pytest.mark.parametrize("steps", [1, 4])
def test_k_means_agrees_with_scipy(steps):
    vq = pytest.importorskip("scipy.cluster.vq")
    points, start = cloud(), cloud(12, seed=1)
    ours, objective = lloyd(points, start, steps=steps)
    theirs, labels = vq.kmeans2(points, start, iter=steps, minit="matrix")
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    # SciPy's labels are those before the last move of the centres.
    before, _ = lloyd(points, start, steps=steps - 1)
    np.testing.assert_array_equal(labels, vq.vq(points, before)[0])
    assert objective[-1] == pytest.approx(np.square(vq.vq(points, ours)[1]).mean())


def test_k_means_agrees_with_scikit_learn():
    cluster = pytest.importorskip("sklearn.cluster")
    points, start = cloud(), cloud(12, seed=1)
    ours, objective = lloyd(points, start, steps=300)
    theirs = cluster.KMeans(12, init=start, n_init=1, tol=0, algorithm="lloyd")
    theirs.fit(points)
    np.testing.assert_allclose(ours, theirs.cluster_centers_, atol=1e-8)
    assert objective[-1] == pytest.approx(theirs.inertia_ / len(points))


def test_the_first_centres_are_different_points_and_better_than_any_points():
    points = np.repeat(cloud(40), 5, axis=0)
    first = kmeans_plus_plus(points, 40, seed=3)
    assert len(np.unique(first, axis=0)) == 40
    points = cloud(2000)
    spread = lloyd(points, kmeans_plus_plus(points, 40), steps=0)[1][0]
    blocks = points[: 9 * 40].reshape(9, 40, 3)
    some = np.mean([lloyd(points, block, steps=0)[1][0] for block in blocks])
    assert spread < some


def test_a_centre_without_points_stays():
    points = np.array([[0.0], [0.1], [1.0]])
    centres, _ = lloyd(points, np.array([[0.0], [1.0], [9.0]]), steps=5)
    np.testing.assert_allclose(centres, [[0.05], [1.0], [9.0]])


def test_too_few_colours_are_explained():
    flat = np.zeros((4, 8, 8, 3), np.float32)
    with pytest.raises(UserError, match="have 1 colours.*; use more images$"):
        fit_palette(tiny.PALETTE, flat)
    flat[0] = 1
    with pytest.raises(UserError, match="have 2 colours.* or --set num_codes=2$"):
        fit_palette(tiny.PALETTE, flat)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 3}, "patch_size=3 does not divide image_size=8"),
        ({"num_codes": 1}, "num_codes=1 must be 2 or more"),
        ({"channels": 0}, "channels=0 must be above zero"),
    ],
)
def test_impossible_sizes(change, message):
    with pytest.raises(UserError, match=message):
        replace(tiny.PALETTE, **change)


# --- a tokenizer -------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), patch=st.sampled_from([1, 2, 4]))
def test_palette_images_come_back_as_they_are(palette, seed, patch):
    config = replace(tiny.PALETTE, patch_size=patch)
    model = Palette(config, rngs=nnx.Rngs(0))
    model.quantizer.codebook[...] = palette.quantizer.codebook[...]
    codes = np.random.default_rng(seed).integers(0, 24, (2, config.num_tokens))
    images = model.decode(codes)
    assert images.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(model.encode(images), codes)
    np.testing.assert_allclose(model.reconstruct(images), images)


def test_codes_are_the_nearest_colours_of_box_means(palette):
    images = tiny.images(5, seed=2).astype(np.float32) / 255
    means = images.reshape(5, 2, 4, 2, 4, 3).mean((2, 4)).reshape(5, 4, 1, 3)
    colours = np.asarray(palette.quantizer.codebook[...])
    wanted = np.square(means - colours).sum(-1).argmin(-1)
    np.testing.assert_array_equal(palette.encode(images), wanted)
    recon, aux = palette(jnp.asarray(images))
    np.testing.assert_array_equal(aux["codes"], wanted)
    np.testing.assert_allclose(recon, palette.decode(wanted), atol=1e-6)


def test_weights_come_back(palette, tmp_path):
    weights.save(tmp_path, palette, card={})
    loaded = minivim.load(tmp_path)
    assert isinstance(loaded, Palette) and isinstance(loaded, Tokenizer)
    assert loaded.config == tiny.PALETTE
    assert weights.weights_hash(loaded) == weights.weights_hash(palette)
    assert loaded.card["parameters"] == tiny.PALETTE.parameters == 72


def test_figures_of_a_palette(palette):
    figures = tokenizer_figures(palette, tiny.source())
    assert figures["codes"] == 24 and figures["tokens"] == 4
    assert figures["usage"] > 0.9


# --- both stages -------------------------------------------------------------------

SIZES = ["image_size=8", "patch_size=4", "num_codes=24"]
PRIOR = [s for s in tiny.PRIOR_SETTINGS if "num_classes" not in s]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A palette and a prior over its pixels, made by the commands.

    The prior encodes on the fly; in tests/test_shipped_study.py its codes are cached,
    and the probe reads them.
    """
    folder = tmp_path_factory.mktemp("igpt")
    tiny.pictures(folder / "pictures")
    data = ["--data", str(folder / "pictures"), "--workdir"]
    palette = ["train", "tokenizer", "shapes-igpt", *data, str(folder / "palette")]
    assert cli.main([*palette, "--set", "images=20", *SIZES]) == 0
    prior = ["train", "prior", "shapes-igpt", *data, str(folder / "prior"), "--quiet"]
    settings_ = [*PRIOR, "codes=fly", f"tokenizer={folder / 'palette'}"]
    assert cli.main([*prior, "--set", *settings_]) == 0
    return folder


def test_pixels_are_sampled_and_painted(home, capsys):
    tokenizer, prior = minivim.load_pair(home / "prior")
    codes = minivim.sample(prior, key=jax.random.key(0), num_samples=5)
    images = encode.decode_all(tokenizer, np.asarray(codes))
    colours = {tuple(c) for c in np.asarray(tokenizer.quantizer.codebook[...]).tolist()}
    assert {tuple(c) for c in images.reshape(-1, 3).tolist()} <= colours
    out = home / "samples.png"
    assert cli.main(["sample", str(home / "prior"), "--out", str(out)]) == 0
    assert out.stat().st_size
    out = ["--data", str(home / "pictures"), "--out", str(home / "recon.png")]
    assert cli.main(["reconstruct", str(home / "palette"), *out]) == 0
    assert "PSNR" in capsys.readouterr().out


def test_a_prior_of_other_colours_is_refused(home, palette):
    with pytest.raises(UserError, match="codes of another tokenizer"):
        minivim.load(home / "prior", tokenizer=palette)


def test_the_run_says_what_it_found(home, capsys):
    card = weights.load(home / "palette").card
    assert card["kind"] == "palette"
    assert set(card["figures"]) == {"distortion", "psnr", "usage", "perplexity"}
    command = ["train", "tokenizer", "shapes-igpt", "--data", "shapes", "--workdir"]
    assert cli.main([*command, str(home / "prior")]) == 2
    assert "holds a run" in capsys.readouterr().err
    assert cli.main([*command, str(home / "x"), "--workers", "2"]) == 2
    assert "reads its images once" in capsys.readouterr().err


def test_recipes_of_igpt_fit_together():
    for name in ("shapes-igpt", "cifar10-igpt"):
        palette = recipes.recipe("tokenizer", name)
        prior = recipes.recipe("prior", name)
        assert isinstance(palette, PaletteRecipe)
        assert isinstance(palette.model, PaletteConfig)
        assert (palette.model.grid, palette.model.num_tokens) == (16, 256)
        assert prior.model.grid == 16
        assert prior.model.num_codes == palette.model.num_codes
        assert prior.model.num_classes == 0
        assert prior.tokenizer == f"runs/{name}"
        assert trainable(name).stage == "prior"
        text = describe_recipe(palette)
        assert f"parameters: {3 * palette.model.num_codes}" in text.replace(",", "")
    with pytest.raises(UserError, match="is a palette, which has no train step"):
        trainable("shapes-igpt", "tokenizer")
