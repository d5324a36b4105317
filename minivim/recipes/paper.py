"""The paper's own recipes and what it compares with (sections 3 to 5); not run here."""

from dataclasses import replace
from typing import Any

from minivim import config
from minivim.config import CNNConfig, PriorRecipe, StackConfig, TokenizerRecipe
from minivim.recipes.toys import as_vq_vae

# Paper, Table 2: blocks, heads and widths of all five sizes
SMALL = StackConfig(blocks=8, heads=8, width=512, hidden=2048)
BASE = StackConfig(blocks=12, heads=12, width=768, hidden=3072)
# VQGAN's, three times halved; Table 1 varies the channels.
CNN = CNNConfig(channels=128, multipliers=(1, 1, 2, 4))
# With activations computed again: kept, they need more than a chip has.
LARGE = StackConfig(blocks=32, heads=16, width=1280, hidden=5120, remat="full")
VIM_BASE = replace(LARGE, blocks=24, heads=16, width=1536, hidden=6144, dropout=0.1)
VIM_LARGE = replace(VIM_BASE, blocks=36, heads=32, width=2048, hidden=8192)
PROBED = "runs/vit-vqgan-ss-probe"  # the tokenizer of Table 7

_OFTEN = {"log_every": 100, "eval_every": 10_000, "checkpoint_every": 5_000}

# Parameter counts as the paper prints them in Table 2, in millions.
PRINTED = {SMALL: 32, BASE: 91, LARGE: 599, VIM_BASE: 650, VIM_LARGE: 1697}


# Paper, section 5.1: 500k steps of 256 images, Adam 0.9 and 0.99
def _stage_1(name: str, encoder: Any, decoder: Any, **changes: Any) -> TokenizerRecipe:
    """Stage 1 as in sections 3 and 5.1: all five terms, 500k steps of 256.

    The perceptual term needs LPIPS weights, which `minivim convert lpips` makes of
    public files: `minivim convert lpips VGG16 HEADS --out runs/lpips`.
    """
    recipe = TokenizerRecipe(
        name=name,
        model=config.TokenizerConfig(
            image_size=256, patch_size=8, encoder=encoder, decoder=decoder,
            quantizer=config.QuantizerConfig(num_codes=8192, code_dim=32),
            output="laplace",
        ),
        loss=config.LossConfig(
            vq=1.0, l2=1.0, logit_laplace=0.1, perceptual=0.1, adversarial=0.1
        ),
        # StyleGAN2's gamma 10, whose pixels are in [-1, 1] where ours are in [0, 1]
        discriminator=config.DiscriminatorConfig(r1_gamma=2.5),
        perceptual_net="runs/lpips",
        optim=config.OptimConfig(
            peak_lr=1e-4, warmup_steps=50_000, schedule="cosine", final_lr=5e-5,
            b1=0.9, b2=0.99, weight_decay=1e-4,
        ),
        run=config.RunConfig(steps=500_000, batch_size=256, eval_size=2048, **_OFTEN),
    )  # fmt: skip
    return replace(recipe, **changes)


# Paper, section 5.2: 450k steps of 1024 images, Adam 0.9 and 0.96
def _stage_2(name: str, stack: StackConfig, num_classes: int) -> PriorRecipe:
    """Stage 2 as in section 5.2: 450k steps of 1024, Adam(.9, .96).

    Its second moment is factored and its first one int8. The paper is silent on weight
    decay and clipping, here of DALL-E and Parti, and augmentation, here a mirror image.
    """
    return PriorRecipe(
        name=name,
        model=config.PriorConfig(
            num_codes=8192, grid=32, stack=stack, num_classes=num_classes
        ),
        optim=config.OptimConfig(
            peak_lr=4.5e-4, warmup_steps=5_000, schedule="exponential",
            decay_start=80_000, final_lr=1e-5, b1=0.9, b2=0.96, weight_decay=4.5e-2,
            clip_norm=4.0, first_moment="int8", second_moment="factored",
        ),
        run=config.RunConfig(steps=450_000, batch_size=1024, eval_size=2048, **_OFTEN),
        tokenizer="runs/vit-vqgan-ss",
        codes="fly",
        flip=True,
    )  # fmt: skip


def vit_vqgan_ss() -> TokenizerRecipe:
    """Small encoder, small decoder: what the paper's stage 2 uses. Not run here."""
    return _stage_1("vit-vqgan-ss", SMALL, SMALL)


def vit_vqgan_bb() -> TokenizerRecipe:
    """Base encoder, base decoder: the default of Table 4. Not run here."""
    return _stage_1("vit-vqgan-bb", BASE, BASE)


# Paper, section 3.1: a small encoder may have a large decoder
def vit_vqgan_sl() -> TokenizerRecipe:
    """Small encoder, large decoder: the best rFID, 1.28. Not run here."""
    return _stage_1("vit-vqgan-sl", SMALL, LARGE)


def vit_vqgan_ss_probe() -> TokenizerRecipe:
    """The same without the perceptual loss, for the probe (section 5.3). Not run here.

    Its network has seen labels.
    """
    recipe = _stage_1("vit-vqgan-ss-probe", SMALL, SMALL)
    return replace(recipe, loss=replace(recipe.loss, perceptual=0.0), perceptual_net="")


def vit_vqgan_bb_patchgan() -> TokenizerRecipe:
    """The row of Table 4 with PatchGAN and its hinge loss. Not run here."""
    critic = config.DiscriminatorConfig(kind="patchgan", loss="hinge", r1_gamma=0.0)
    return _stage_1("vit-vqgan-bb-patchgan", BASE, BASE, discriminator=critic)


def cnn_vqgan() -> TokenizerRecipe:
    """VQGAN's networks with our quantizer and losses: "channels x1". Not run here."""
    return _stage_1("cnn-vqgan", CNN, CNN)


def cnn_vqgan_x2() -> TokenizerRecipe:
    """The same with twice the channels (Table 1). Not run here."""
    wide = replace(CNN, channels=2 * CNN.channels)
    return _stage_1("cnn-vqgan-x2", wide, wide)


def vq_vae() -> TokenizerRecipe:
    """VQ-VAE: wide codes off the sphere, moving averages, L2 alone. Not run here."""
    narrow = replace(CNN, channels=64)
    return as_vq_vae(_stage_1("vq-vae", narrow, narrow), name="vq-vae")


def vim_base() -> PriorRecipe:
    """VIM-Base without class token. Not run here."""
    return _stage_2("vim-base", VIM_BASE, 0)


def vim_base_class() -> PriorRecipe:
    """VIM-Base with ImageNet's class token. Not run here."""
    return _stage_2("vim-base-class", VIM_BASE, 1000)


def vim_large() -> PriorRecipe:
    """VIM-Large without class token. Not run here."""
    return _stage_2("vim-large", VIM_LARGE, 0)


def vim_base_probe() -> PriorRecipe:
    """VIM-Base for Table 7, over the tokenizer that saw no labels. Not run here."""
    return replace(_stage_2("vim-base-probe", VIM_BASE, 0), tokenizer=PROBED)


# Paper, Table 7: VIM-Large without dropout for the probe
def vim_large_probe() -> PriorRecipe:
    """VIM-Large for Table 7: no dropout, and the same tokenizer. Not run here."""
    stack = replace(VIM_LARGE, dropout=0.0)
    return replace(_stage_2("vim-large-probe", stack, 0), tokenizer=PROBED)


# Paper, Table 6: VIM-Large with ImageNet's class token
def vim_large_class() -> PriorRecipe:
    """VIM-Large with ImageNet's class token: FID 4.17 in the paper. Not run here."""
    return _stage_2("vim-large-class", VIM_LARGE, 1000)
