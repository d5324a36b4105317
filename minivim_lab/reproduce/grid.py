"""The paper's comparisons in miniature, as data: the rows that are trained.

A row is a tokenizer, and perhaps a prior over its codes and a way to sample. Sizes have
the paper's letters and depend on the family: `shapes` for two cores, `cifar10` for an
accelerator. Which rows are compared, and what the paper says of them, is `CLAIMS`.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from minivim import config, recipes
from minivim.config import CNNConfig, PriorRecipe, StackConfig, with_overrides

SEEDS = (0, 1, 2)
First = config.TokenizerRecipe | config.PaletteRecipe  # a recipe of stage 1
PATCHGAN = ("discriminator.kind=patchgan", "discriminator.loss=hinge", "r1_gamma=0")


@dataclass(frozen=True, kw_only=True)
class Family:
    """Sizes and settings of the grid on one data set."""

    name: str
    sizes: dict[str, StackConfig]  # the tokenizer's, by the letters of Table 1
    cnn: CNNConfig
    priors: dict[str, StackConfig]  # small, base and large
    tokenizer: tuple[str, ...]
    prior: tuple[str, ...]
    full_loss: tuple[str, ...]  # a discriminator, and fewer steps to pay for it
    image_size: int = 32
    coarse: int = 8  # the patch size of the short token grid
    samples: int = 512
    images: int = 1024
    probe: tuple[int, int] = (2048, 1024)  # training and test images of the probe


def _stacks(head: int, **sizes: tuple[int, int]) -> dict[str, StackConfig]:
    """Stacks by their letter, of so many blocks and such a width."""
    return {
        letter: StackConfig(blocks=b, width=w, heads=w // head, hidden=4 * w, unroll=b)
        for letter, (b, w) in sizes.items()
    }


FAMILIES = {
    "shapes": Family(
        name="shapes",
        sizes=_stacks(16, S=(2, 32), B=(2, 48), L=(4, 64)),
        cnn=CNNConfig(channels=12, multipliers=(1, 2, 2), res_blocks=1, groups=4),
        priors=_stacks(16, S=(3, 32), B=(6, 48), L=(6, 80)),
        tokenizer=("steps=1200", "batch_size=16", "peak_lr=2e-3", "warmup_steps=120",
                   "checkpoint_every=300"),
        prior=("steps=1500", "batch_size=16", "peak_lr=3e-3", "warmup_steps=100",
               "checkpoint_every=300"),
        full_loss=("steps=600", "warmup_steps=60", "discriminator.width=16",
                   "discriminator.max_width=32"),
    ),
    "cifar10": Family(
        name="cifar10",
        sizes=_stacks(32, S=(4, 128), B=(6, 192), L=(8, 320)),
        cnn=CNNConfig(channels=64, multipliers=(1, 2, 2), res_blocks=2, groups=8),
        priors=_stacks(32, S=(6, 128), B=(8, 256), L=(12, 512)),
        tokenizer=("steps=20000", "batch_size=256", "warmup_steps=1000"),
        prior=("steps=20000", "batch_size=256", "warmup_steps=500",
               "stack.dropout=0.1"),
        full_loss=("discriminator.width=64", "discriminator.max_width=256"),
        samples=8192,
        images=8192,
        probe=(40000, 10000),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table; `{width}` in a setting is that of the base networks."""

    name: str
    # A recipe by name, for the studies of tokenizers; the grid makes its own.
    recipe: str = ""
    settings: tuple[str, ...] = ()
    size: str = "BB"
    kind: Literal["vit", "cnn", "vq-vae", "palette"] = "vit"
    full_loss: bool = False
    coarse: bool = False
    # The size of the prior, if there is one, and whether it is told the class.
    prior: Literal["S", "B", "L"] | None = None
    labels: bool = False
    acceptance: float = 1.0  # the share of the samples that the classifier accepts
    # Whether images per second are measured, because a claim is about them.
    timed: bool = False

    @property
    def about(self) -> str:
        """What the row is about: its tokenizer, its prior or its way to sample."""
        if self.prior is None:
            return "tokenizer"
        return "prior" if self.acceptance == 1 else "rejection"


ROWS = (
    Row(name="BB", timed=True),
    Row(name="conditional prior", prior="B", labels=True),
    Row(name="unconditional prior", prior="B"),
    Row(name="CNN", kind="cnn", timed=True),
    Row(name="prior over CNN codes", kind="cnn", prior="B"),
    Row(name="rejection at 0.5", prior="B", labels=True, acceptance=0.5),
    Row(name="iGPT", kind="palette", prior="B"),
    Row(name="SS", size="SS", timed=True),
    Row(name="SL", size="SL", timed=True),
    Row(name="code dim = width", settings=("code_dim={width}",)),
    Row(name="code dim 32", settings=("code_dim=32",)),
    Row(name="code dim 4", settings=("code_dim=4",)),
    Row(name="code dim 2", settings=("code_dim=2",)),
    Row(name="without l2", settings=("l2_normalise=false",)),
    Row(name="small prior", prior="S", labels=True),
    Row(name="large prior", prior="L", labels=True),
    Row(name="short grid", coarse=True),
    Row(name="prior over the short grid", coarse=True, prior="B", labels=True),
    Row(name="VQ-VAE", kind="vq-vae"),
    Row(name="StyleGAN2, full loss", full_loss=True, timed=True),
    Row(name="PatchGAN, full loss", full_loss=True, settings=PATCHGAN, timed=True),
)


def row_named(name: str) -> Row:
    """The row of this name."""
    return {row.name: row for row in ROWS}[name]


def tokenizer_recipe(row: Row, family: Family, seed: int, *, classifier: str) -> First:
    """Stage 1 of a row; a perceptual term compares features of `classifier`."""
    base: Any = recipes.recipe("tokenizer", family.name)
    if row.kind == "palette":
        # As many tokens as the base tokenizer has, as in Table 7.
        palette: Any = recipes.recipe("tokenizer", f"{family.name}-igpt")
        settings = [f"patch_size={base.model.patch_size}", f"seed={seed}"]
        return with_overrides(palette, settings)
    sides: Any = [family.sizes[letter] for letter in row.size]
    encoder, decoder = [family.cnn] * 2 if row.kind == "cnn" else sides
    model = replace(
        base.model, encoder=encoder, decoder=decoder, image_size=family.image_size,
        patch_size=family.coarse if row.coarse else base.model.patch_size,
    )  # fmt: skip
    found = replace(base, name=f"grid {row.name}", model=model)
    settings = ["decay_end=0", *family.tokenizer]
    if row.full_loss:
        found = recipes.full_loss(found, perceptual_net=classifier)
        settings += family.full_loss
    if row.kind == "vq-vae":
        found = recipes.as_vq_vae(found, name=found.name)
    settings += [text.format(width=family.sizes["B"].width) for text in row.settings]
    return with_overrides(found, [*settings, f"run.seed={seed}"])


def prior_recipe(
    row: Row, family: Family, seed: int, *, tokenizer: First, folder: str
) -> PriorRecipe:
    """Stage 2 of a row over the codes of its tokenizer, which is in `folder`."""
    assert row.prior is not None
    base: Any = recipes.recipe("prior", family.name)
    sizes = {"num_codes": tokenizer.model.quantizer.num_codes}
    sizes |= {"grid": tokenizer.model.grid, "stack": family.priors[row.prior]}
    classes = base.model.num_classes if row.labels else 0
    model = replace(base.model, num_classes=classes, **sizes)
    # The paper has no guidance, for which training would drop labels.
    changes = {"tokenizer": folder, "label_dropout": 0.0}
    found = replace(base, name=f"grid {row.name}", model=model, **changes)
    return with_overrides(found, [*family.prior, f"run.seed={seed}"])
