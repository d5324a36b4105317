"""The paper's comparisons in miniature, as data: rows that are trained, and claims.

A row is a tokenizer, and perhaps a prior over its codes and a way to sample. Sizes bear
the paper's letters and are a family's own: `shapes` for two cores, `cifar10` for an
accelerator. What is compared with what, and in which direction the paper saw it, is
`CLAIMS`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from minivim import recipes
from minivim.config import (
    CNNConfig,
    PaletteRecipe,
    PriorRecipe,
    StackConfig,
    TokenizerRecipe,
    with_overrides,
)
from minivim_lab.reproduce.tokenizers import PATCHGAN

SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the grid is made of on one data set."""

    name: str
    # Of the tokenizer's networks, by the letters of Table 1.
    sizes: dict[str, StackConfig]
    cnn: CNNConfig
    # Of the priors: small, base and large.
    priors: dict[str, StackConfig]
    tokenizer: tuple[str, ...]
    prior: tuple[str, ...]
    # A discriminator, and what it takes to pay for it.
    full_loss: tuple[str, ...]
    image_size: int = 32
    # Patches of the short token grid.
    coarse: int = 8
    samples: int = 512
    images: int = 1024
    # Training and test images of the probe.
    probe: tuple[int, int] = (2048, 1024)


def _stack(blocks: int, width: int, *, heads: int) -> StackConfig:
    return StackConfig(
        blocks=blocks, width=width, heads=heads, hidden=4 * width, unroll=blocks
    )


FAMILIES = {
    "shapes": Family(
        name="shapes",
        sizes={
            "S": _stack(2, 32, heads=2),
            "B": _stack(2, 48, heads=3),
            "L": _stack(4, 64, heads=4),
        },
        cnn=CNNConfig(channels=12, multipliers=(1, 2, 2), res_blocks=1, groups=4),
        priors={
            "S": _stack(3, 32, heads=2),
            "B": _stack(6, 48, heads=3),
            "L": _stack(6, 80, heads=5),
        },
        tokenizer=(
            "steps=1200", "batch_size=16", "peak_lr=2e-3", "warmup_steps=120",
            "checkpoint_every=300",
        ),
        prior=(
            "steps=1500", "batch_size=16", "peak_lr=3e-3", "warmup_steps=100",
            "checkpoint_every=300",
        ),
        full_loss=(
            "steps=600", "warmup_steps=60", "discriminator.width=16",
            "discriminator.max_width=32",
        ),
    ),
    "cifar10": Family(
        name="cifar10",
        sizes={
            "S": _stack(4, 128, heads=4),
            "B": _stack(6, 192, heads=6),
            "L": _stack(8, 320, heads=10),
        },
        cnn=CNNConfig(channels=64, multipliers=(1, 2, 2), res_blocks=2, groups=8),
        priors={
            "S": _stack(6, 128, heads=4),
            "B": _stack(8, 256, heads=8),
            "L": _stack(12, 512, heads=16),
        },
        tokenizer=("steps=20000", "batch_size=256", "warmup_steps=1000"),
        prior=(
            "steps=20000", "batch_size=256", "warmup_steps=500", "stack.dropout=0.1"
        ),
        full_loss=("discriminator.width=64", "discriminator.max_width=256"),
        samples=8192,
        images=8192,
        probe=(40000, 10000),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Stage 2 of a row."""

    size: Literal["S", "B", "L"] = "B"
    labels: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the grid; `{width}` in a setting is that of the base networks."""

    name: str
    size: str = "BB"
    kind: Literal["vit", "cnn", "vq-vae", "palette"] = "vit"
    full_loss: bool = False
    coarse: bool = False
    settings: tuple[str, ...] = ()
    prior: Prior | None = None
    # Share of the samples that the classifier lets pass.
    acceptance: float = 1.0
    # Whether images per second are measured: a claim is about them.
    timed: bool = False


LABELS, NONE = Prior(labels=True), Prior()

ROWS = (
    Row(name="BB", timed=True),
    Row(name="conditional prior", prior=LABELS),
    Row(name="unconditional prior", prior=NONE),
    Row(name="CNN", kind="cnn", timed=True),
    Row(name="prior over CNN codes", kind="cnn", prior=NONE),
    Row(name="rejection at 0.5", prior=LABELS, acceptance=0.5),
    Row(name="iGPT", kind="palette", prior=NONE),
    Row(name="SS", size="SS", timed=True),
    Row(name="SL", size="SL", timed=True),
    Row(name="code dim = width", settings=("code_dim={width}",)),
    Row(name="code dim 32", settings=("code_dim=32",)),
    Row(name="code dim 4", settings=("code_dim=4",)),
    Row(name="code dim 2", settings=("code_dim=2",)),
    Row(name="without l2", settings=("l2_normalise=false",)),
    Row(name="small prior", prior=Prior(size="S", labels=True)),
    Row(name="large prior", prior=Prior(size="L", labels=True)),
    Row(name="short grid", coarse=True),
    Row(name="prior over the short grid", coarse=True, prior=LABELS),
    Row(name="VQ-VAE", kind="vq-vae"),
    Row(name="StyleGAN2, full loss", full_loss=True, timed=True),
    Row(
        name="PatchGAN, full loss", full_loss=True, settings=PATCHGAN, timed=True
    ),
)  # fmt: skip


def row_named(name: str) -> Row:
    """The row of this name."""
    return {row.name: row for row in ROWS}[name]


def tokenizer_recipe(
    row: Row, family: Family, seed: int, *, classifier: str
) -> TokenizerRecipe | PaletteRecipe:
    """Stage 1 of a row; `classifier` is what a perceptual term compares by."""
    if row.kind == "palette":
        # As many tokens as the base tokenizer has, as in Table 7.
        patch = recipes.recipe("tokenizer", family.name).model.patch_size  # type: ignore[union-attr]
        found = recipes.recipe("tokenizer", f"{family.name}-igpt")
        return with_overrides(found, [f"patch_size={patch}", f"seed={seed}"])  # type: ignore[return-value]
    found = recipes.recipe("tokenizer", family.name)
    assert isinstance(found, TokenizerRecipe)
    one, other = (family.sizes[letter] for letter in row.size)
    networks: Any = {"encoder": one, "decoder": other, "image_size": family.image_size}
    if row.kind == "cnn":
        networks |= {"encoder": family.cnn, "decoder": family.cnn}
    if row.coarse:
        networks["patch_size"] = family.coarse
    found = replace(
        found,
        name=f"grid {row.name}",
        model=replace(found.model, **networks),
        optim=replace(found.optim, decay_end=0),
    )
    if row.full_loss:
        found = recipes.full_loss(found, perceptual_net=classifier)
    if row.kind == "vq-vae":
        found = recipes.as_vq_vae(found, name=found.name)
    settings = [*family.tokenizer, *(family.full_loss if row.full_loss else ())]
    settings += [text.format(width=one.width) for text in row.settings]
    return with_overrides(found, [*settings, f"run.seed={seed}"])  # type: ignore[return-value]


def prior_recipe(
    row: Row,
    family: Family,
    seed: int,
    *,
    tokenizer: TokenizerRecipe | PaletteRecipe,
    folder: str,
) -> PriorRecipe:
    """Stage 2 of a row over the codes of its tokenizer, which is in `folder`."""
    assert row.prior is not None
    found = recipes.recipe("prior", family.name)
    assert isinstance(found, PriorRecipe)
    model = replace(
        found.model,
        num_codes=tokenizer.model.quantizer.num_codes,
        grid=tokenizer.model.grid,
        stack=family.priors[row.prior.size],
        num_classes=found.model.num_classes if row.prior.labels else 0,
    )
    found = replace(
        found,
        name=f"grid {row.name}",
        model=model,
        tokenizer=folder,
        # The paper has no guidance, for which labels are left out in training.
        label_dropout=0.0,
    )
    return with_overrides(found, [*family.prior, f"run.seed={seed}"])  # type: ignore[return-value]
