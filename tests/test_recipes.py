"""C12: sizes of the paper, counted, by closed form, and as it prints them."""

from dataclasses import replace
from pathlib import Path

import pytest

from minivim import recipes, weights
from minivim.config import CNNConfig, ProbeRecipe, StackConfig, TokenizerRecipe
from minivim.describe import build_abstract, count_parameters, describe_recipe
from minivim.errors import UserError
from minivim_lab import make_weights as make

SIZED = [key for key in recipes.RECIPES if key[0] in ("tokenizer", "prior")]


@pytest.mark.parametrize("key", SIZED, ids="-".join)
def test_counted_parameters_equal_the_closed_form(key):
    recipe = recipes.RECIPES[key]()
    counted = count_parameters(build_abstract(recipe))
    assert recipe.model.parameters in (counted, None)
    # A CNN has no closed form; its text says no formula.
    cnn = isinstance(getattr(recipe.model, "encoder", None), CNNConfig)
    assert (recipe.model.parameters is None) == cnn


@pytest.mark.parametrize(
    ("stack", "millions"),
    [
        (recipes.SMALL, 32),
        (recipes.BASE, 91),
        (recipes.LARGE, 599),
        (recipes.VIM_BASE, 650),
        (recipes.VIM_LARGE, 1697),
    ],
)
@pytest.mark.paper("parameter counts as the table prints them")
def test_printed_counts_of_the_paper_are_reproduced(stack, millions):
    assert round(stack.printed_parameters / 1e6) == millions == recipes.PRINTED[stack]
    # And a plain count is another number, which nothing should be bent to hide.
    assert round(stack.parameters / 1e6) != millions


@pytest.mark.paper("blocks, heads and widths of all five sizes")
def test_sizes_of_table_2():
    rows = {
        recipes.SMALL: (8, 8, 512, 2048, 0.0),
        recipes.BASE: (12, 12, 768, 3072, 0.0),
        recipes.LARGE: (32, 16, 1280, 5120, 0.0),
        recipes.VIM_BASE: (24, 16, 1536, 6144, 0.1),
        recipes.VIM_LARGE: (36, 32, 2048, 8192, 0.1),
    }
    for stack, expected in rows.items():
        assert isinstance(stack, StackConfig)
        found = stack.blocks, stack.heads, stack.width, stack.hidden, stack.dropout
        assert found == expected


@pytest.mark.parametrize("name", ["vit-vqgan-ss", "vit-vqgan-bb", "vit-vqgan-sl"])
@pytest.mark.paper(
    "beta, 0.25, on the commitment term",
    "8192 codes, and 1024 tokens for an image",
    "32 dimensions for the lookup",
    "500k steps of 256 images, Adam 0.9 and 0.99",
)
def test_stage_1_settings_of_the_paper(name):
    recipe = recipes.recipe("tokenizer", name)
    assert isinstance(recipe, TokenizerRecipe)
    model, optim = recipe.model, recipe.optim
    assert (model.image_size, model.patch_size, model.num_tokens) == (256, 8, 1024)
    quantizer = model.quantizer
    assert (quantizer.num_codes, quantizer.code_dim, quantizer.beta) == (8192, 32, 0.25)
    assert quantizer.l2_normalise
    assert (recipe.run.steps, recipe.run.batch_size) == (500_000, 256)
    assert (optim.peak_lr, optim.final_lr, optim.warmup_steps) == (1e-4, 5e-5, 50_000)
    assert (optim.b1, optim.b2, optim.weight_decay) == (0.9, 0.99, 1e-4)
    assert optim.schedule == "cosine"


@pytest.mark.parametrize("name", ["vit-vqgan-ss", "vit-vqgan-bb", "vit-vqgan-sl"])
def test_extensions_are_off_in_the_papers_recipes(name):
    """A codebook of averages and revived codes are not the paper's."""
    quantizer = recipes.recipe("tokenizer", name).model.quantizer
    assert (quantizer.codebook, quantizer.revive_after) == ("gradient", 0)
    assert quantizer.factorised


@pytest.mark.parametrize("name", ["vit-vqgan-ss", "vit-vqgan-bb", "vit-vqgan-sl"])
@pytest.mark.paper("weights 1, 0.1, 0.1, 0.1 and 1 of the five terms")
def test_loss_weights_of_the_paper(name):
    loss = recipes.recipe("tokenizer", name).loss
    found = loss.vq, loss.adversarial, loss.perceptual, loss.logit_laplace, loss.l2
    assert found == (1.0, 0.1, 0.1, 0.1, 1.0)
    assert loss.l1 == 0


@pytest.mark.parametrize(
    "name", ["vim-base", "vim-base-class", "vim-large", "vim-large-class"]
)
@pytest.mark.paper(
    "stage 2 encodes augmented images on the fly",
    "450k steps of 1024 images, Adam 0.9 and 0.96",
    "VIM-Large with ImageNet's class token",
)
def test_stage_2_settings_of_the_paper(name):
    recipe = recipes.recipe("prior", name)
    model, optim = recipe.model, recipe.optim
    assert model.num_classes == (1000 if name.endswith("class") else 0)
    assert (model.num_codes, model.num_tokens) == (8192, 1024)
    assert recipe.label_dropout == 0
    assert recipe.codes == "fly"
    assert (recipe.run.steps, recipe.run.batch_size) == (450_000, 1024)
    assert (optim.peak_lr, optim.final_lr) == (4.5e-4, 1e-5)
    assert (optim.warmup_steps, optim.decay_start) == (5_000, 80_000)
    assert (optim.b1, optim.b2, optim.schedule) == (0.9, 0.96, "exponential")
    assert (optim.first_moment, optim.second_moment) == ("int8", "factored")


@pytest.mark.parametrize("name, dropout", [("base", 0.1), ("large", 0.0)])
@pytest.mark.paper("VIM-Large without dropout for the probe")
def test_priors_of_table_7(name, dropout):
    recipe = recipes.recipe("prior", f"vim-{name}-probe")
    plain = recipes.recipe("prior", f"vim-{name}")
    stack = replace(plain.model.stack, dropout=dropout)
    assert recipe.model == replace(plain.model, stack=stack)
    source = recipes.recipe("tokenizer", Path(recipe.tokenizer).name)
    assert source.loss.perceptual == 0 and recipe.model.num_classes == 0


@pytest.mark.parametrize("name", ["vit-vqgan-ss", "vit-vqgan-bb", "vit-vqgan-sl"])
def test_r1_of_the_paper_is_stylegan2s_by_our_pixels(name):
    """Gradients by pixels in [0, 1] are twice those in [-1, 1]: four times squared."""
    assert 4 * recipes.recipe("tokenizer", name).discriminator.r1_gamma == 10


@pytest.mark.paper("a small encoder may have a large decoder")
def test_pairs_of_encoders_and_decoders():
    pairs = {"ss": ("SMALL", "SMALL"), "bb": ("BASE", "BASE"), "sl": ("SMALL", "LARGE")}
    for name, (encoder, decoder) in pairs.items():
        model = recipes.recipe("tokenizer", f"vit-vqgan-{name}").model
        assert model.encoder == getattr(recipes, encoder)
        assert model.decoder == getattr(recipes, decoder)


@pytest.mark.parametrize("key", recipes.RECIPES, ids="-".join)
@pytest.mark.paper("VIM-Large with ImageNet's class token")
def test_every_recipe_is_what_its_key_says(key):
    recipe = recipes.RECIPES[key]()
    assert (recipe.stage, recipe.name) == key
    doc = recipes.RECIPES[key].__doc__
    assert doc
    if key[1].startswith("vi"):
        assert "Not run here" in doc


@pytest.mark.parametrize(
    ("stage", "name"), [("tokenizer", "shapes"), ("prior", "shapes")]
)
def test_docstrings_hold_the_command(stage, name):
    doc = recipes.RECIPES[stage, name].__doc__ or ""
    assert f"minivim train {stage} {name} --data" in doc


def test_description_holds_settings_and_three_counts():
    text = describe_recipe(recipes.vit_vqgan_sl())
    model = recipes.vit_vqgan_sl().model
    assert f"{model.parameters:,} counted, {model.parameters:,} by" in text
    assert "L (4 D^2 + 2 D H + H + 9 D) + 2 D" in text
    assert "encoder: 32M printed = 11 L D^2 + (2*8192 + 1024) D = 31,981,568" in text
    assert "decoder: 599M printed" in text
    assert "model.decoder.width = 1280" in text
    assert "optim.warmup_steps = 50000" in text


def test_a_probe_is_described_without_a_count():
    recipe = recipes.recipe("probe", "shapes")
    assert isinstance(recipe, ProbeRecipe)
    text = describe_recipe(recipe)
    assert "held_out = 0.2" in text
    assert "parameters" not in text


def test_the_shipped_sizes_stay_small():
    tokenizer, prior = recipes.shapes_tokenizer(), recipes.shapes_prior()
    decoder = build_abstract(tokenizer).decoder
    assert count_parameters(decoder) <= 800_000
    assert prior.model.parameters <= 2_000_000
    assert tokenizer.model.quantizer.num_codes >= 256
    assert tokenizer.model.num_tokens == 64
    assert prior.label_dropout == 0.1
    assert recipes.shapes_prior_unlabelled().model.num_classes == 0


def test_what_is_shipped_has_a_recipe_and_a_size():
    assert set(weights.shipped()) <= set(make.RECIPES)
    families = {name.split("/")[0] for name in make.RECIPES}
    assert families == set(weights.DATA) == set(make.STORAGE)
    for name, (stage, recipe) in make.RECIPES.items():
        found = recipes.recipe(stage, recipe)
        assert found.run.seed == {"classifier": 1, "judge": 2}.get(
            name.split("/")[1], 0
        )


@pytest.mark.parametrize(
    ("stage", "name", "message"),
    [
        ("tokenizer", "shapse", "did you mean shapes"),
        ("tokenizer", "zzz", "there are shapes, .*cifar10"),
        ("painter", "shapes", "use classifier, prior, probe, tokenizer"),
    ],
)
def test_unknown_recipes_are_explained(stage, name, message):
    with pytest.raises(UserError, match=message):
        recipes.recipe(stage, name)


def test_a_name_means_the_recipes_of_every_stage():
    assert {r.stage for r in recipes.named("shapes")} == {
        "tokenizer", "prior", "probe", "classifier",
    }  # fmt: skip
    with pytest.raises(UserError, match="did you mean vim-large"):
        recipes.named("vim-larg")
