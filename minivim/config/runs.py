"""Optimizer, run, loss weights, and the recipe of every stage."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from minivim.config import checks, models
from minivim.config.checks import Config
from minivim.errors import UserError


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Config):
    """Adam with decoupled weight decay and the schedules of both stages (section 5)."""

    peak_lr: checks.Positive
    warmup_steps: checks.Natural
    schedule: Literal["constant", "cosine", "exponential"] = "cosine"
    final_lr: checks.NotNegative = 0.0
    # The rate stays at its peak until this step (80,000 in section 5.2).
    decay_start: checks.Natural = 0
    # The rate reaches `final_lr` at this step and stays there; 0: at the last step.
    decay_end: int = 0
    b1: checks.Rate = 0.9
    b2: checks.Rate = 0.99
    eps: checks.Positive = 1e-8
    weight_decay: checks.NotNegative = 1e-4
    # 0: no clipping. DALL-E and Parti clip stage 2 at 4.
    # Paper silent, section 5.2: clipping by the global norm
    clip_norm: checks.NotNegative = 0.0
    # How matrices store moments: int8 with a scale for each column, and means of the
    # squared gradient over rows and columns, both as in stage 2 of the paper. Vectors
    # stay in float32, but for a bfloat16 first moment beside a full second one.
    first_moment: Literal["float32", "bfloat16", "int8"] = "float32"
    second_moment: Literal["full", "factored"] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        start = max(self.warmup_steps, self.decay_start)
        if self.decay_end and self.decay_end <= start:
            early = f"decay_end={self.decay_end} is before the decay, from {start} on"
            raise UserError(f"{early}; set decay_end=0 for the last step")
        if self.schedule == "exponential" and not self.final_lr:
            raise UserError("schedule=exponential needs a final_lr; set final_lr=1e-5")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """How long, how often, from which seed."""

    steps: checks.Count
    batch_size: checks.Count
    seed: checks.Seed = 0
    log_every: checks.Count = 20
    eval_every: checks.Count = 500
    checkpoint_every: checks.Count = 500
    # Checkpoints that are kept; with one there is none to fall back to.
    keep: checks.Count = 2
    eval_size: checks.Count = 512  # images or code rows that an evaluation reads
    # Parts of a batch that pass one after another, to save memory; still one update.
    accumulate: Annotated[checks.Count, checks.Divides("batch_size")] = 1


# Paper, section 3.3: weights 1, 0.1, 0.1, 0.1 and 1 of the five terms
@dataclass(frozen=True, kw_only=True)
class LossConfig(Config):
    """Weights of the named stage-1 terms; a zero weight leaves the term out.

    The paper: vq 1, adversarial 0.1, perceptual 0.1, logit_laplace 0.1, l2 1.
    """

    vq: checks.NotNegative = 1.0
    l2: checks.NotNegative = 1.0
    l1: checks.NotNegative = 0.0
    logit_laplace: checks.NotNegative = 0.0
    perceptual: checks.NotNegative = 0.0
    adversarial: checks.NotNegative = 0.0


@dataclass(frozen=True, kw_only=True)
class TokenizerRecipe(Config):
    """All of stage 1."""

    name: str
    model: models.TokenizerConfig
    optim: OptimConfig
    run: RunConfig
    loss: LossConfig = LossConfig()
    # Read where loss.adversarial is not zero.
    discriminator: models.DiscriminatorConfig = models.DiscriminatorConfig()
    # What the perceptual loss compares features of: LPIPS weights that `minivim
    # convert` made, or a `classifier`; a shipped name, a folder or a hub id.
    perceptual_net: str = ""
    # Type of the maps in the discriminator and in LPIPS; statistics stay in float32.
    loss_precision: Literal["float32", "bfloat16"] = "float32"
    # Mirror images at random; the least share of an image that a random crop keeps. The
    # paper is silent for stage 1.
    flip: bool = False
    crop: checks.Share = 1.0
    stage: Literal["tokenizer"] = field(default="tokenizer", init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss.logit_laplace and self.model.output != "laplace":
            raise UserError("loss.logit_laplace needs scales; set model.output=laplace")
        if self.loss.perceptual and not self.perceptual_net:
            raise UserError("loss.perceptual needs a net; set perceptual_net=FOLDER")
        size, kind = self.model.image_size, self.discriminator.kind
        least = 32 if kind == "patchgan" else 8
        if self.loss.adversarial and (size < least or size & (size - 1)):
            why = f"image_size={size}: the discriminator halves images again and again"
            remedy = f"use a power of two from {least} on, or loss.adversarial=0"
            raise UserError(f"{why}; {remedy}")

    # Paper, section 5.1: the same Adam for the discriminator
    @property
    def optims(self) -> OptimConfig | dict[str, OptimConfig]:
        """The optimizer of the tokenizer, or one for each of the two networks."""
        if not self.loss.adversarial:
            return self.optim
        critic, ratio = self.discriminator, self.discriminator.lr_ratio
        lr, final = ratio * self.optim.peak_lr, ratio * self.optim.final_lr
        own = replace(self.optim, peak_lr=lr, final_lr=final)
        own = replace(own, b1=critic.beta1, b2=critic.beta2)
        return {"tokenizer": self.optim, "discriminator": own}


@dataclass(frozen=True, kw_only=True)
class PaletteRecipe(Config):
    """Stage 1 of iGPT: k-means over colors, with no network and no optimizer."""

    name: str
    model: models.PaletteConfig
    # Training images whose pixels are clustered, drawn from `seed`.
    images: checks.Count = 512
    steps: checks.Count = 100  # at most; k-means ends where no pixel moves
    seed: checks.Seed = 0
    stage: Literal["tokenizer"] = field(default="tokenizer", init=False)


@dataclass(frozen=True, kw_only=True)
class PriorRecipe(Config):
    """All of stage 2."""

    name: str
    model: models.PriorConfig
    optim: OptimConfig
    run: RunConfig
    # A shipped name, a folder or a hub id; the codes come from it.
    tokenizer: str = ""
    # Share of labels replaced by the null class, for guidance. Not the paper's.
    label_dropout: checks.Rate = 0.0
    # "cache" encodes the images once; "fly" on every step, each time augmented anew.
    # Paper, section 1: stage 2 encodes augmented images on the fly
    codes: Literal["cache", "fly"] = "cache"
    # As in stage 1. The paper augments without saying how.
    flip: bool = False
    crop: checks.Share = 1.0
    # Versions of each image that are cached, one of which is drawn for each use; the
    # first is the image as it is, the others are augmented.
    views: checks.Count = 1
    stage: Literal["prior"] = field(default="prior", init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_dropout and not self.model.num_classes:
            raise UserError("label_dropout needs a class token; set num_classes")
        augments = self.flip or self.crop < 1
        if augments and self.codes == "cache" and self.views == 1:
            given = f"flip={self.flip}, crop={self.crop} need more than one cached view"
            raise UserError(f"{given}; set codes=fly or views=8")
        if self.views > 1 and self.codes == "fly":
            raise UserError("views are of cached codes; set codes=cache or views=1")
        same = f"views={self.views} of an image that nothing changes are the same"
        checks.require(self.views == 1 or augments, f"{same}; set flip=true or views=1")


@dataclass(frozen=True, kw_only=True)
class ProbeRecipe(Config):
    """All of stage 3: one softmax layer on the mean-pooled output of one block."""

    name: str
    prior: str
    tokenizer: str
    train_size: checks.Count = 4096
    test_size: checks.Count = 2048
    # Share of the training images on which block and L2 strength are chosen.
    held_out: checks.Part = 0.2
    seed: checks.Seed = 0
    stage: Literal["probe"] = field(default="probe", init=False)


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe(Config):
    """A labelled network: `classifier` for use inside methods, `judge` for figures."""

    name: str
    model: models.ClassifierConfig
    optim: OptimConfig
    run: RunConfig
    # The labelled networks halve the image three times.
    image_size: Annotated[checks.Count, checks.multiple_of(8)] = 32
    stage: Literal["classifier"] = field(default="classifier", init=False)

    @property
    def image_shape(self) -> dict[str, int]:
        """What `open_source` has to know."""
        return {"image_size": self.image_size, "channels": self.model.channels}


Recipe = TokenizerRecipe | PaletteRecipe | PriorRecipe | ProbeRecipe | ClassifierRecipe
