"""Every named recipe, from a toy to the paper's own (section 5, Table 2).

The docstring of each holds the command and the figures it reaches; those of the paper's
size are not run here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from minivim.config import (
    ClassifierConfig,
    ClassifierRecipe,
    CNNConfig,
    DiscriminatorConfig,
    LossConfig,
    OptimConfig,
    PriorConfig,
    PriorRecipe,
    ProbeRecipe,
    QuantizerConfig,
    Recipe,
    RunConfig,
    StackConfig,
    TokenizerConfig,
    TokenizerRecipe,
)
from minivim.errors import UserError

# Paper, Table 2: blocks, heads and widths of all five sizes
SMALL = StackConfig(blocks=8, heads=8, width=512, hidden=2048)
BASE = StackConfig(blocks=12, heads=12, width=768, hidden=3072)
LARGE = StackConfig(blocks=32, heads=16, width=1280, hidden=5120)
# VQGAN's, three times halved; Table 1 varies the channels.
CNN = CNNConfig(channels=128, multipliers=(1, 1, 2, 4))
VIM_BASE = StackConfig(blocks=24, heads=16, width=1536, hidden=6144, dropout=0.1)
VIM_LARGE = StackConfig(blocks=36, heads=32, width=2048, hidden=8192, dropout=0.1)

# Parameter counts as the paper prints them in Table 2, in millions.
PRINTED = {SMALL: 32, BASE: 91, LARGE: 599, VIM_BASE: 650, VIM_LARGE: 1697}


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
    """CIFAR-10 on a laptop: 64 tokens of 512 codes.

    `minivim train tokenizer cifar10 --data uoft-cs/cifar10 --workdir runs/cifar10`
    """
    recipe = shapes_tokenizer()
    quantizer = QuantizerConfig(num_codes=512, code_dim=8)
    return replace(
        recipe,
        name="cifar10",
        model=replace(recipe.model, quantizer=quantizer),
        optim=replace(recipe.optim, decay_end=0),
        run=RunConfig(steps=1000, batch_size=64),
        flip=True,
    )


def cifar10_tokenizer_gan() -> TokenizerRecipe:
    """CIFAR-10 with all five terms; needs a `classifier cifar10` in runs.

    `minivim train tokenizer cifar10-gan --data uoft-cs/cifar10
    --workdir runs/cifar10-gan`
    """
    return replace(
        full_loss(cifar10_tokenizer(), perceptual_net="runs/cifar10-classifier"),
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
        run=RunConfig(steps=2500, batch_size=128, seed=1),
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
        run=RunConfig(steps=2500, batch_size=128, seed=2),
    )


def cifar10_prior() -> PriorRecipe:
    """A prior over the codes of a `cifar10` tokenizer; set `tokenizer` to its folder.

    `minivim train prior cifar10 --data uoft-cs/cifar10 --workdir runs/cifar10-prior
    --set tokenizer=runs/cifar10`
    """
    stack = StackConfig(blocks=6, heads=6, width=192, hidden=768, dropout=0.1, unroll=6)
    return PriorRecipe(
        name="cifar10",
        model=PriorConfig(num_codes=512, grid=8, stack=stack, num_classes=10),
        optim=OptimConfig(peak_lr=1e-3, warmup_steps=100, final_lr=5e-5, b2=0.96),
        run=RunConfig(steps=10000, batch_size=64),
        tokenizer="runs/cifar10",
        label_dropout=0.1,
        codes="fly",
        flip=True,
    )


# Paper, section 5.1: 500k steps of 256 images, Adam 0.9 and 0.99
def _paper_tokenizer(
    name: str,
    encoder: StackConfig | CNNConfig,
    decoder: StackConfig | CNNConfig,
    **changes: Any,
) -> TokenizerRecipe:
    """Stage 1 as in sections 3 and 5.1: all five terms, 500k steps of 256.

    The perceptual term needs LPIPS weights, which `minivim convert lpips` makes of
    public files: `minivim convert lpips VGG16 HEADS --out runs/lpips`.
    """
    recipe = TokenizerRecipe(
        name=name,
        model=TokenizerConfig(
            image_size=256,
            patch_size=8,
            encoder=encoder,
            decoder=decoder,
            quantizer=QuantizerConfig(num_codes=8192, code_dim=32),
            output="laplace",
        ),
        loss=LossConfig(
            vq=1.0, l2=1.0, logit_laplace=0.1, perceptual=0.1, adversarial=0.1
        ),
        perceptual_net="runs/lpips",
        optim=OptimConfig(
            peak_lr=1e-4,
            warmup_steps=50_000,
            schedule="cosine",
            final_lr=5e-5,
            b1=0.9,
            b2=0.99,
            weight_decay=1e-4,
        ),
        run=RunConfig(
            steps=500_000,
            batch_size=256,
            log_every=100,
            eval_every=10_000,
            checkpoint_every=5_000,
            eval_size=2048,
        ),
    )
    return replace(recipe, **changes)


# Paper, section 5.2: 450k steps of 1024 images, Adam 0.9 and 0.96
def _paper_prior(name: str, stack: StackConfig, num_classes: int) -> PriorRecipe:
    """Stage 2 as in section 5.2: 450k steps of 1024, Adam(.9, .96).

    Silent in the paper: weight decay and clipping, which are those of DALL-E and Parti;
    the augmentation, here a mirror image. The memory-saving moments of section 5.2 are
    not built yet.
    """
    return PriorRecipe(
        name=name,
        model=PriorConfig(
            num_codes=8192, grid=32, stack=stack, num_classes=num_classes
        ),
        optim=OptimConfig(
            peak_lr=4.5e-4,
            warmup_steps=5_000,
            schedule="exponential",
            decay_start=80_000,
            final_lr=1e-5,
            b1=0.9,
            b2=0.96,
            weight_decay=4.5e-2,
            clip_norm=4.0,
        ),
        run=RunConfig(
            steps=450_000,
            batch_size=1024,
            log_every=100,
            eval_every=10_000,
            checkpoint_every=5_000,
            eval_size=2048,
        ),
        tokenizer="runs/vit-vqgan-ss",
        codes="fly",
        flip=True,
    )


def vit_vqgan_ss() -> TokenizerRecipe:
    """Small encoder, small decoder: what the paper's stage 2 uses. Not run here."""
    return _paper_tokenizer("vit-vqgan-ss", SMALL, SMALL)


def vit_vqgan_bb() -> TokenizerRecipe:
    """Base encoder, base decoder: the default of Table 4. Not run here."""
    return _paper_tokenizer("vit-vqgan-bb", BASE, BASE)


# Paper, section 3.1: a small encoder may have a large decoder
def vit_vqgan_sl() -> TokenizerRecipe:
    """Small encoder, large decoder: the best rFID, 1.28. Not run here."""
    return _paper_tokenizer("vit-vqgan-sl", SMALL, LARGE)


def vit_vqgan_ss_probe() -> TokenizerRecipe:
    """The same without the perceptual loss, for the probe (section 5.3). Not run here.

    Its network has seen labels.
    """
    recipe = _paper_tokenizer("vit-vqgan-ss-probe", SMALL, SMALL)
    return replace(recipe, loss=replace(recipe.loss, perceptual=0.0), perceptual_net="")


def vit_vqgan_bb_patchgan() -> TokenizerRecipe:
    """The row of Table 4 with PatchGAN and its hinge loss. Not run here."""
    critic = DiscriminatorConfig(kind="patchgan", loss="hinge", r1_gamma=0.0)
    return _paper_tokenizer("vit-vqgan-bb-patchgan", BASE, BASE, discriminator=critic)


def cnn_vqgan() -> TokenizerRecipe:
    """VQGAN's networks with our quantiser and losses: "channels x1". Not run here."""
    return _paper_tokenizer("cnn-vqgan", CNN, CNN)


def cnn_vqgan_x2() -> TokenizerRecipe:
    """The same with twice the channels (Table 1). Not run here."""
    wide = replace(CNN, channels=2 * CNN.channels)
    return _paper_tokenizer("cnn-vqgan-x2", wide, wide)


def vq_vae() -> TokenizerRecipe:
    """VQ-VAE: wide codes off the sphere, moving averages, L2 alone. Not run here."""
    narrow = replace(CNN, channels=64)
    recipe = _paper_tokenizer("vq-vae", narrow, narrow)
    return as_vq_vae(recipe, name="vq-vae")


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


def vim_base() -> PriorRecipe:
    """VIM-Base without class token. Not run here."""
    return _paper_prior("vim-base", VIM_BASE, 0)


def vim_base_class() -> PriorRecipe:
    """VIM-Base with ImageNet's class token. Not run here."""
    return _paper_prior("vim-base-class", VIM_BASE, 1000)


def vim_large() -> PriorRecipe:
    """VIM-Large without class token. Not run here."""
    return _paper_prior("vim-large", VIM_LARGE, 0)


# Paper, Table 6: VIM-Large with ImageNet's class token
def vim_large_class() -> PriorRecipe:
    """VIM-Large with ImageNet's class token: FID 4.17 in the paper. Not run here."""
    return _paper_prior("vim-large-class", VIM_LARGE, 1000)


RECIPES: dict[tuple[str, str], Callable[[], Recipe]] = {
    ("tokenizer", "shapes"): shapes_tokenizer,
    ("tokenizer", "shapes-gan"): shapes_tokenizer_gan,
    ("tokenizer", "shapes-vq-vae"): shapes_vq_vae,
    ("prior", "shapes"): shapes_prior,
    ("prior", "shapes-unlabelled"): shapes_prior_unlabelled,
    ("probe", "shapes"): shapes_probe,
    ("classifier", "shapes"): shapes_classifier,
    ("classifier", "shapes-judge"): shapes_judge,
    ("tokenizer", "cifar10"): cifar10_tokenizer,
    ("tokenizer", "cifar10-gan"): cifar10_tokenizer_gan,
    ("tokenizer", "cifar10-gan-cnn"): cifar10_tokenizer_gan_cnn,
    ("prior", "cifar10"): cifar10_prior,
    ("classifier", "cifar10"): cifar10_classifier,
    ("classifier", "cifar10-judge"): cifar10_judge,
    ("tokenizer", "vit-vqgan-ss"): vit_vqgan_ss,
    ("tokenizer", "vit-vqgan-bb"): vit_vqgan_bb,
    ("tokenizer", "vit-vqgan-sl"): vit_vqgan_sl,
    ("tokenizer", "vit-vqgan-ss-probe"): vit_vqgan_ss_probe,
    ("tokenizer", "vit-vqgan-bb-patchgan"): vit_vqgan_bb_patchgan,
    ("tokenizer", "cnn-vqgan"): cnn_vqgan,
    ("tokenizer", "cnn-vqgan-x2"): cnn_vqgan_x2,
    ("tokenizer", "vq-vae"): vq_vae,
    ("prior", "vim-base"): vim_base,
    ("prior", "vim-base-class"): vim_base_class,
    ("prior", "vim-large"): vim_large,
    ("prior", "vim-large-class"): vim_large_class,
}


def recipe(stage: str, name: str) -> Recipe:
    """The named recipe of a stage; raises `UserError` with the names there are."""
    if (stage, name) in RECIPES:
        return RECIPES[stage, name]()
    names = [n for s, n in RECIPES if s == stage]
    if not names:
        stages = sorted({s for s, _ in RECIPES})
        raise UserError(f"there is no stage {stage!r}; use {', '.join(stages)}")
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
    raise UserError(f"there is no {stage} recipe {name!r}; {hint}")


def named(name: str) -> list[Recipe]:
    """The recipes of every stage that bear this name."""
    found = [make() for (_, n), make in RECIPES.items() if n == name]
    if not found:
        names = sorted({n for _, n in RECIPES})
        close = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
        raise UserError(f"there is no recipe {name!r}; {hint}")
    return found
