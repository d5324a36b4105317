"""Recipes that a laptop trains: the embedded shapes and CIFAR-10."""

from dataclasses import replace
from typing import Any

from minivim import config
from minivim.config import OptimConfig, PriorRecipe, StackConfig, TokenizerRecipe


def _with(recipe: Any, settings: str, *more: str) -> Any:
    """The recipe with settings as `--set` takes them, parted by spaces."""
    return config.with_overrides(recipe, [*settings.split(), *more])


def full_loss(recipe: TokenizerRecipe, *, perceptual_net: str) -> TokenizerRecipe:
    """The recipe with the paper's weights of the terms beside L_VQ (section 3.3).

    The discriminator is the smallest with a step below three plain ones on a CPU. Its
    `r1_gamma` is 10 by pixels in [0, 1], four times the paper's recipes'.
    """
    settings = "output=laplace l2=1 logit_laplace=0.1 loss.perceptual=0.1"
    critic = "adversarial=0.1 discriminator.width=32 max_width=64"
    return _with(recipe, f"{settings} {critic}", f"perceptual_net={perceptual_net}")


def as_vq_vae(recipe: TokenizerRecipe, *, name: str) -> TokenizerRecipe:
    """The recipe with the quantizer and the loss of van den Oord et al. 2017."""
    codes = f"code_dim={recipe.model.encoder.width} factorised=false codebook=ema"
    loss = "l2=1 l1=0 logit_laplace=0 adversarial=0 loss.perceptual=0 perceptual_net="
    settings = f"{codes} l2_normalise=false output=sigmoid {loss}"
    return _with(recipe, settings, f"name={name}")


def shapes_tokenizer() -> TokenizerRecipe:
    """The toy tokenizer: 32x32 images, 64 tokens, 256 codes.

    `minivim train tokenizer shapes --data shapes --workdir runs/tokenizer`
    """
    stack = StackConfig(blocks=2, heads=4, width=128, hidden=512, unroll=2)
    codes = config.QuantizerConfig(num_codes=256, code_dim=8)
    model = config.TokenizerConfig(
        image_size=32, patch_size=4, encoder=stack, decoder=stack, quantizer=codes
    )
    optim = OptimConfig(peak_lr=1e-3, warmup_steps=100, final_lr=5e-5, decay_end=4000)
    run = config.RunConfig(steps=5000, batch_size=64)
    # A mean over 8 dimensions weighs 4 times one over the paper's 32, and the pixels of
    # a toy are soon near-perfect: at 1.0 a few codes take everything.
    loss = config.LossConfig(vq=0.1)
    return TokenizerRecipe(name="shapes", model=model, optim=optim, run=run, loss=loss)


def shapes_tokenizer_gan() -> TokenizerRecipe:
    """The toy tokenizer with all five terms of section 3.3."""
    recipe = full_loss(shapes_tokenizer(), perceptual_net="shapes/classifier")
    return _with(recipe, "name=shapes-gan decay_end=0 steps=1000")


def shapes_vq_vae() -> TokenizerRecipe:
    """The toy tokenizer with VQ-VAE's quantizer: wide codes, moving averages."""
    return as_vq_vae(shapes_tokenizer(), name="shapes-vq-vae")


def shapes_igpt_palette() -> config.PaletteRecipe:
    """iGPT's tokens of the toy: 16 x 16 pixels in 64 colors by k-means.

    Training takes seconds and gives 26.9 dB on 512 test images, all 64 colors in use.
    """
    model = config.PaletteConfig(image_size=32, patch_size=2, num_codes=64)
    return config.PaletteRecipe(name="shapes-igpt", model=model)


def shapes_prior() -> PriorRecipe:
    """The toy prior with a class token and label dropout 0.1.

    `minivim train prior shapes --data shapes --workdir runs/prior`
    """
    stack = StackConfig(blocks=4, heads=4, width=128, hidden=512, unroll=4)
    model = config.PriorConfig(num_codes=256, grid=8, stack=stack, num_classes=8)
    optim = OptimConfig(peak_lr=1.5e-3, warmup_steps=100, final_lr=5e-5, b2=0.96)
    run = config.RunConfig(steps=2500, batch_size=64)
    recipe = PriorRecipe(name="shapes", model=model, optim=optim, run=run)
    return replace(recipe, tokenizer="shapes/tokenizer", label_dropout=0.1)


def shapes_prior_unlabelled() -> PriorRecipe:
    """The toy prior that never saw a label, for the probe."""
    settings = "name=shapes-unlabelled num_classes=0 label_dropout=0 steps=1500"
    return _with(shapes_prior(), settings)


def shapes_igpt() -> PriorRecipe:
    """iGPT on the toy: the unlabelled prior, over pixels instead of codes.

    Four times the tokens, and so about a fourth of the steps in the same time. The
    tokenizer's recipe of this name is to be trained before, into the folder below.
    """
    settings = "name=shapes-igpt num_codes=64 grid=16 steps=350"
    return _with(shapes_prior_unlabelled(), settings, "tokenizer=runs/shapes-igpt")


def shapes_probe() -> config.ProbeRecipe:
    """The probe of the shipped prior."""
    return config.ProbeRecipe(
        name="shapes", prior="shapes/prior-unlabelled", tokenizer="shapes/tokenizer"
    )


def shapes_classifier() -> config.ClassifierRecipe:
    """The labelled network that methods may use."""
    model = config.ClassifierConfig(kind="cnn", num_classes=8)
    optim = OptimConfig(peak_lr=3e-3, warmup_steps=50, weight_decay=1e-2)
    run = config.RunConfig(steps=800, batch_size=128, seed=1)
    return config.ClassifierRecipe(name="shapes", model=model, optim=optim, run=run)


def shapes_judge() -> config.ClassifierRecipe:
    """The labelled network that alone produces figures."""
    return _with(shapes_classifier(), "name=shapes-judge kind=residual seed=2")


def cifar10_tokenizer() -> TokenizerRecipe:
    """CIFAR-10 on a laptop: 64 tokens of 1,024 codes, L2 and L_VQ alone."""
    settings = "name=cifar10 num_codes=1024 decay_end=0 steps=6000 flip=true"
    return _with(shapes_tokenizer(), settings)


def cifar10_tokenizer_gan() -> TokenizerRecipe:
    """CIFAR-10 with all five terms."""
    recipe = full_loss(cifar10_tokenizer(), perceptual_net="cifar10/classifier")
    return replace(recipe, name="cifar10-gan")


def cifar10_tokenizer_gan_cnn() -> TokenizerRecipe:
    """The same with VQGAN's networks, as many parameters within one percent."""
    recipe = cifar10_tokenizer_gan()
    cnn = config.CNNConfig(channels=32, multipliers=(1, 2, 2), res_blocks=1, groups=4)
    model = replace(recipe.model, encoder=cnn, decoder=cnn)
    return replace(recipe, name="cifar10-gan-cnn", model=model)


def cifar10_igpt_palette() -> config.PaletteRecipe:
    """iGPT's tokens of CIFAR-10: 16 x 16 pixels in 512 colors by k-means."""
    return _with(shapes_igpt_palette(), "name=cifar10-igpt num_codes=512")


def cifar10_prior() -> PriorRecipe:
    """The prior over the codes of the shipped tokenizer, with a class token."""
    settings = "name=cifar10 tokenizer=cifar10/tokenizer flip=true views=4 steps=4000"
    sizes = "num_codes=1024 num_classes=10 blocks=6 unroll=6"
    return _with(shapes_prior(), f"{settings} {sizes}")


def cifar10_prior_unlabelled() -> PriorRecipe:
    """The same prior without labels, for the probe."""
    settings = "name=cifar10-unlabelled num_classes=0 label_dropout=0"
    return _with(cifar10_prior(), settings)


def cifar10_igpt() -> PriorRecipe:
    """iGPT on CIFAR-10: the unlabelled prior, over pixels instead of codes."""
    settings = "name=cifar10-igpt num_codes=512 grid=16 steps=900"
    return _with(cifar10_prior_unlabelled(), settings, "tokenizer=runs/cifar10-igpt")


def cifar10_probe() -> config.ProbeRecipe:
    """The probe of the shipped prior."""
    networks = "prior=cifar10/prior-unlabelled tokenizer=cifar10/tokenizer"
    return _with(shapes_probe(), f"name=cifar10 {networks}")


def cifar10_classifier() -> config.ClassifierRecipe:
    """The labelled network that methods may use on CIFAR-10."""
    return _with(shapes_classifier(), "name=cifar10 num_classes=10 steps=4000")


def cifar10_judge() -> config.ClassifierRecipe:
    """The labelled network that alone produces figures on CIFAR-10."""
    return _with(shapes_judge(), "name=cifar10-judge num_classes=10 steps=4000")
