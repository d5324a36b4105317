"""Recipes that a laptop trains: the embedded shapes and CIFAR-10."""

from __future__ import annotations

from dataclasses import replace

from minivim.config import (
    ClassifierConfig,
    ClassifierRecipe,
    CNNConfig,
    DiscriminatorConfig,
    LossConfig,
    OptimConfig,
    PaletteConfig,
    PaletteRecipe,
    PriorConfig,
    PriorRecipe,
    ProbeRecipe,
    QuantizerConfig,
    RunConfig,
    StackConfig,
    TokenizerConfig,
    TokenizerRecipe,
)


def shapes_tokenizer() -> TokenizerRecipe:
    """The toy tokenizer: 32x32 images, 64 tokens, 256 codes.

    `minivim train tokenizer shapes --data shapes --workdir runs/tokenizer`
    """
    stack = StackConfig(blocks=2, heads=4, width=128, hidden=512, unroll=2)
    return TokenizerRecipe(
        name="shapes",
        model=TokenizerConfig(
            image_size=32,
            patch_size=4,
            encoder=stack,
            decoder=stack,
            quantizer=QuantizerConfig(num_codes=256, code_dim=8),
        ),
        optim=OptimConfig(
            peak_lr=1e-3, warmup_steps=100, final_lr=5e-5, decay_end=4000
        ),
        run=RunConfig(steps=5000, batch_size=64),
        # A mean over 8 dimensions weighs 4 times one over the paper's 32, and the
        # pixels of a toy are soon near-perfect: at 1.0 a few codes take everything.
        loss=LossConfig(vq=0.1),
    )


def shapes_tokenizer_gan() -> TokenizerRecipe:
    """The toy tokenizer with all five terms of section 3.3.

    `minivim train tokenizer shapes-gan --data shapes --workdir runs/gan`
    """
    recipe = full_loss(shapes_tokenizer(), perceptual_net="shapes/classifier")
    return replace(
        recipe,
        name="shapes-gan",
        optim=replace(recipe.optim, decay_end=0),
        run=replace(recipe.run, steps=1000),
    )


def shapes_vq_vae() -> TokenizerRecipe:
    """The toy tokenizer with VQ-VAE's quantiser: wide codes, moving averages.

    `minivim train tokenizer shapes-vq-vae --data shapes --workdir runs/vq-vae`
    """
    return as_vq_vae(shapes_tokenizer(), name="shapes-vq-vae")


def full_loss(recipe: TokenizerRecipe, *, perceptual_net: str) -> TokenizerRecipe:
    """The recipe with the paper's weights of the terms beside L_VQ (section 3.3).

    The discriminator is the smallest that keeps a step below three times the plain
    one's on a CPU.
    """
    return replace(
        recipe,
        model=replace(recipe.model, output="laplace"),
        loss=replace(
            recipe.loss, l2=1.0, logit_laplace=0.1, perceptual=0.1, adversarial=0.1
        ),
        discriminator=DiscriminatorConfig(width=32, max_width=64),
        perceptual_net=perceptual_net,
    )


def shapes_prior() -> PriorRecipe:
    """The toy prior with a class token and label dropout 0.1.

    `minivim train prior shapes --data shapes --workdir runs/prior`
    """
    stack = StackConfig(blocks=4, heads=4, width=128, hidden=512, unroll=4)
    return PriorRecipe(
        name="shapes",
        model=PriorConfig(num_codes=256, grid=8, stack=stack, num_classes=8),
        optim=OptimConfig(peak_lr=1.5e-3, warmup_steps=100, final_lr=5e-5, b2=0.96),
        run=RunConfig(steps=2500, batch_size=64),
        tokenizer="shapes/tokenizer",
        label_dropout=0.1,
    )


def shapes_prior_unlabelled() -> PriorRecipe:
    """The toy prior that never saw a label, for the probe.

    `minivim train prior shapes-unlabelled --data shapes --workdir runs/unlabelled`
    """
    recipe = shapes_prior()
    return replace(
        recipe,
        name="shapes-unlabelled",
        model=replace(recipe.model, num_classes=0),
        run=replace(recipe.run, steps=1500),
        label_dropout=0.0,
    )


def shapes_igpt_palette() -> PaletteRecipe:
    """iGPT's tokens of the toy: 16 x 16 pixels in 64 colours by k-means.

    `minivim train tokenizer shapes-igpt --data shapes --workdir runs/shapes-igpt`
    takes seconds and gives 26.9 dB on 512 test images, all 64 colours in use.
    """
    return PaletteRecipe(
        name="shapes-igpt",
        model=PaletteConfig(image_size=32, patch_size=2, num_codes=64),
    )


def shapes_igpt() -> PriorRecipe:
    """iGPT on the toy: the unlabelled prior, over pixels instead of codes.

    Four times the tokens, and so about a fourth of the steps in the same time:
    `minivim train prior shapes-igpt --data shapes --workdir runs/shapes-igpt-prior`
    """
    recipe = shapes_prior_unlabelled()
    return replace(
        recipe,
        name="shapes-igpt",
        model=replace(recipe.model, num_codes=64, grid=16),
        run=replace(recipe.run, steps=350),
        tokenizer="runs/shapes-igpt",
    )


def shapes_probe() -> ProbeRecipe:
    """The probe of the shipped prior.

    `minivim train probe shapes --data shapes --workdir runs/probe`
    """
    return ProbeRecipe(
        name="shapes", prior="shapes/prior-unlabelled", tokenizer="shapes/tokenizer"
    )


def shapes_classifier() -> ClassifierRecipe:
    """The labelled network that methods may use."""
    return ClassifierRecipe(
        name="shapes",
        model=ClassifierConfig(kind="cnn", num_classes=8),
        optim=OptimConfig(peak_lr=3e-3, warmup_steps=50, weight_decay=1e-2),
        run=RunConfig(steps=800, batch_size=128, seed=1),
    )


def shapes_judge() -> ClassifierRecipe:
    """The labelled network that alone produces figures."""
    return replace(
        shapes_classifier(),
        name="shapes-judge",
        model=ClassifierConfig(kind="residual", num_classes=8),
        run=RunConfig(steps=800, batch_size=128, seed=2),
    )


def cifar10_tokenizer() -> TokenizerRecipe:
    """CIFAR-10 on a laptop: 64 tokens of 1,024 codes, L2 and L_VQ alone.

    `minivim train tokenizer cifar10 --data uoft-cs/cifar10 --workdir runs/cifar10`
    """
    recipe = shapes_tokenizer()
    quantizer = QuantizerConfig(num_codes=1024, code_dim=8)
    return replace(
        recipe,
        name="cifar10",
        model=replace(recipe.model, quantizer=quantizer),
        optim=replace(recipe.optim, decay_end=0),
        run=RunConfig(steps=6000, batch_size=64),
        flip=True,
    )


def cifar10_tokenizer_gan() -> TokenizerRecipe:
    """CIFAR-10 with all five terms.

    `minivim train tokenizer cifar10-gan --data uoft-cs/cifar10
    --workdir runs/cifar10-gan`
    """
    return replace(
        full_loss(cifar10_tokenizer(), perceptual_net="cifar10/classifier"),
        name="cifar10-gan",
    )


def cifar10_tokenizer_gan_cnn() -> TokenizerRecipe:
    """The same with VQGAN's networks, as many parameters within one percent.

    `minivim train tokenizer cifar10-gan-cnn --data uoft-cs/cifar10
    --workdir runs/cifar10-gan-cnn`
    """
    recipe = cifar10_tokenizer_gan()
    cnn = CNNConfig(channels=32, multipliers=(1, 2, 2), res_blocks=1, groups=4)
    return replace(
        recipe,
        name="cifar10-gan-cnn",
        model=replace(recipe.model, encoder=cnn, decoder=cnn),
    )


def cifar10_classifier() -> ClassifierRecipe:
    """The labelled network that methods may use on CIFAR-10.

    `minivim train classifier cifar10 --data uoft-cs/cifar10
    --workdir runs/cifar10-classifier`
    """
    return replace(
        shapes_classifier(),
        name="cifar10",
        model=ClassifierConfig(kind="cnn", num_classes=10),
        run=RunConfig(steps=4000, batch_size=128, seed=1),
    )


def cifar10_judge() -> ClassifierRecipe:
    """The labelled network that alone produces figures on CIFAR-10.

    `minivim train classifier cifar10-judge --data uoft-cs/cifar10
    --workdir runs/cifar10-judge`
    """
    return replace(
        cifar10_classifier(),
        name="cifar10-judge",
        model=ClassifierConfig(kind="residual", num_classes=10),
        run=RunConfig(steps=4000, batch_size=128, seed=2),
    )


def cifar10_prior() -> PriorRecipe:
    """The prior over the codes of the shipped tokenizer, with a class token.

    `minivim train prior cifar10 --data uoft-cs/cifar10 --workdir runs/cifar10-prior`
    """
    stack = StackConfig(blocks=6, heads=4, width=128, hidden=512, unroll=6)
    return PriorRecipe(
        name="cifar10",
        model=PriorConfig(num_codes=1024, grid=8, stack=stack, num_classes=10),
        optim=OptimConfig(peak_lr=1.5e-3, warmup_steps=100, final_lr=5e-5, b2=0.96),
        run=RunConfig(steps=4000, batch_size=64),
        tokenizer="cifar10/tokenizer",
        label_dropout=0.1,
        flip=True,
        views=4,
    )


def cifar10_prior_unlabelled() -> PriorRecipe:
    """The same prior without labels, for the probe.

    `minivim train prior cifar10-unlabelled --data uoft-cs/cifar10
    --workdir runs/cifar10-unlabelled`
    """
    recipe = cifar10_prior()
    return replace(
        recipe,
        name="cifar10-unlabelled",
        model=replace(recipe.model, num_classes=0),
        label_dropout=0.0,
    )


def cifar10_probe() -> ProbeRecipe:
    """The probe of the shipped prior.

    `minivim train probe cifar10 --data uoft-cs/cifar10 --workdir runs/cifar10-probe`
    """
    return replace(
        shapes_probe(),
        name="cifar10",
        prior="cifar10/prior-unlabelled",
        tokenizer="cifar10/tokenizer",
    )


def cifar10_igpt_palette() -> PaletteRecipe:
    """iGPT's tokens of CIFAR-10: 16 x 16 pixels in 512 colours by k-means.

    `minivim train tokenizer cifar10-igpt --data uoft-cs/cifar10
    --workdir runs/cifar10-igpt`
    """
    recipe = shapes_igpt_palette()
    return replace(
        recipe, name="cifar10-igpt", model=replace(recipe.model, num_codes=512)
    )


def cifar10_igpt() -> PriorRecipe:
    """iGPT on CIFAR-10: the unlabelled prior, over pixels instead of codes.

    Four times the tokens, and so about a fourth of the steps in the same time:
    `minivim train prior cifar10-igpt --data uoft-cs/cifar10
    --workdir runs/cifar10-igpt-prior`
    """
    recipe = cifar10_prior_unlabelled()
    return replace(
        recipe,
        name="cifar10-igpt",
        model=replace(recipe.model, num_codes=512, grid=16),
        run=replace(recipe.run, steps=900),
        tokenizer="runs/cifar10-igpt",
    )


def as_vq_vae(recipe: TokenizerRecipe, *, name: str) -> TokenizerRecipe:
    """The recipe with the quantiser and the loss of van den Oord et al. 2017."""
    plain = recipe.model.quantizer
    assert isinstance(plain, QuantizerConfig)
    quantizer = replace(
        plain,
        code_dim=recipe.model.encoder.width,
        factorised=False,
        l2_normalise=False,
        codebook="ema",
    )
    return replace(
        recipe,
        name=name,
        model=replace(recipe.model, quantizer=quantizer, output="sigmoid"),
        loss=LossConfig(vq=recipe.loss.vq),
        perceptual_net="",
    )
