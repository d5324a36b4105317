"""Every setting of a run as frozen dataclasses, checked before anything compiles.

Where the paper is silent, the field's comment says what was chosen and why.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from dataclasses import dataclass, field
from typing import Literal

from minivim.errors import UserError

ACTIVATIONS = ("gelu", "relu", "tanh")
PRECISIONS = ("float32", "bfloat16")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _require_in(name: str, value: str, allowed: tuple[str, ...]) -> None:
    _require(
        value in allowed, f"{name}={value!r} is unknown; use {' or '.join(allowed)}"
    )


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(
            value > 0, f"{name}={value} must be above zero; set {name}=N with N >= 1"
        )


def _require_not_negative(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value >= 0, f"{name}={value} must not be negative; set {name}=0")


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """Size and numerics of one stack of Transformer blocks (paper Table 2)."""

    blocks: int
    width: int
    heads: int
    hidden: int
    # Paper silent. ViT practice; "gelu" is the tanh approximation.
    activation: Literal["gelu", "relu", "tanh"] = "gelu"
    # At the attention output, the FFN activation and the FFN output (paper section 4).
    dropout: float = 0.0
    norm_eps: float = 1e-6
    # Blocks that one loop iteration of the compiled program holds.
    unroll: int = 1
    # Recompute activations in the backward pass instead of keeping them.
    remat: bool = False
    # Of the matrix products; parameters, norms and softmax stay in float32.
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        sizes = ("blocks", "width", "heads", "hidden", "unroll")
        _require_positive(self, *sizes)
        _require(self.norm_eps > 0, f"norm_eps={self.norm_eps}: set norm_eps=1e-6")
        _require(
            self.width % self.heads == 0,
            f"heads={self.heads} does not divide width={self.width}; "
            f"choose heads so that width / heads is whole",
        )
        _require_in("activation", self.activation, ACTIVATIONS)
        _require(
            self.precision != "float16",
            "precision=float16 overflows in the l2 norms and losses; use bfloat16",
        )
        _require_in("precision", self.precision, PRECISIONS)
        _require(
            0 <= self.dropout < 1, f"dropout={self.dropout} is not in [0, 1); use 0.1"
        )

    @property
    def parameters(self) -> int:
        """`L (4 D^2 + 2 D H + H + 9 D) + 2 D`, final LayerNorm included."""
        d, h = self.width, self.hidden
        return self.blocks * (4 * d * d + 2 * d * h + h + 9 * d) + 2 * d

    @property
    def printed_parameters(self) -> int:
        """The paper's printed count, `11 L D^2 + (2*8192 + 1024) D`.

        All five rows of Table 2 agree with it to the printed digit, whichever kind of
        network the row names; it counts neither what this class nor what any other
        plain reading counts.
        """
        return 11 * self.blocks * self.width**2 + (2 * 8192 + 1024) * self.width


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """The codebook (paper section 3.2)."""

    num_codes: int = 8192
    code_dim: int = 32
    l2_normalise: bool = True
    # "project": normalise, then pass gradients straight through, so that the radial
    # part of the gradient vanishes; "raw": around the vector before normalisation.
    straight_through: Literal["project", "raw"] = "project"
    # Over code dimensions. |.|^2 as printed is a sum; the authors' sibling code and the
    # public PyTorch code take the mean, and with a mean over pixels beside it the sum
    # makes toys collapse to a handful of codes.
    reduction: Literal["sum", "mean"] = "mean"
    beta: float = 0.25

    def __post_init__(self) -> None:
        _require_positive(self, "code_dim")
        _require_not_negative(self, "beta")
        _require(
            self.num_codes >= 2, f"num_codes={self.num_codes} is too few; use 2 or more"
        )
        _require_in("straight_through", self.straight_through, ("project", "raw"))
        _require_in("reduction", self.reduction, ("sum", "mean"))


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """ViT-VQGAN without its losses: image -> codes -> image (paper section 3)."""

    image_size: int
    patch_size: int
    encoder: StackConfig
    decoder: StackConfig
    quantizer: QuantizerConfig
    channels: int = 3
    # "head": a two-layer tanh network after the stack, as section 3.1 reads most
    # plainly; "blocks": tanh inside every FFN and a linear output, as the public
    # PyTorch code does.
    tanh: Literal["head", "blocks"] = "head"
    # Paper silent; "sincos" is the fixed table of the public PyTorch code.
    positions: Literal["learnt", "sincos"] = "learnt"
    # "sigmoid" on the mean (section 3.1); "laplace": the same, and a second map for the
    # scale of the logit-laplace density; "linear": plain pixels, as Parti later.
    output: Literal["sigmoid", "laplace", "linear"] = "sigmoid"
    # Paper silent on how pixels keep off 0 and 1, where that density ends. "clamp" at
    # 1e-4, as the first author advised others; "affine" into [0.1, 0.9], as DALL-E.
    pixel_map: Literal["clamp", "affine"] = "clamp"

    def __post_init__(self) -> None:
        _require_positive(self, "image_size", "patch_size", "channels")
        _require(
            self.image_size % self.patch_size == 0,
            f"patch_size={self.patch_size} does not divide image_size="
            f"{self.image_size}; choose a patch_size that does",
        )
        _require_in("tanh", self.tanh, ("head", "blocks"))
        _require_in("positions", self.positions, ("learnt", "sincos"))
        _require_in("output", self.output, ("sigmoid", "laplace", "linear"))
        _require_in("pixel_map", self.pixel_map, ("clamp", "affine"))
        _require(
            self.pixel_map == "clamp" or self.output == "laplace",
            "pixel_map=affine belongs to the logit-laplace density; set output=laplace",
        )
        for name, stack in (("encoder", self.encoder), ("decoder", self.decoder)):
            _require(
                stack.dropout == 0,
                f"{name}.dropout={stack.dropout}: the tokenizer has no dropout, as in "
                f"Table 2 of the paper; set {name}.dropout=0",
            )
            _require(
                self.positions == "learnt" or stack.width % 4 == 0,
                f"{name}.width={stack.width} must be a multiple of 4 for sincos "
                "positions; change it or use positions=learnt",
            )

    @property
    def grid(self) -> int:
        """Tokens per side."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        return self.grid**2

    @property
    def image_shape(self) -> dict[str, int]:
        """What `open_source` has to know."""
        return {"image_size": self.image_size, "channels": self.channels}

    @property
    def patch_dim(self) -> int:
        return self.patch_size**2 * self.channels

    @property
    def output_dim(self) -> int:
        """Numbers that the decoder gives for a patch: with a scale, two per pixel."""
        return self.patch_dim * (2 if self.output == "laplace" else 1)

    @property
    def parameters(self) -> int:
        """Closed form: embedding, two stacks, two heads, projections and codebook."""
        enc, dec, q = self.encoder, self.decoder, self.quantizer
        tables = self.num_tokens * (enc.width + dec.width)
        embed = (self.patch_dim + 1) * enc.width
        heads = {
            "head": (enc.width + 1) * enc.hidden
            + (enc.hidden + 1) * enc.width
            + (dec.width + 1) * dec.hidden
            + (dec.hidden + 1) * self.output_dim,
            "blocks": (dec.width + 1) * self.output_dim,
        }[self.tanh]
        codes = (enc.width + 1) * q.code_dim + q.num_codes * q.code_dim
        up = (q.code_dim + 1) * dec.width
        learnt = tables if self.positions == "learnt" else 0
        return embed + learnt + enc.parameters + dec.parameters + heads + codes + up


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """VIM: a decoder-only Transformer over codes in raster order (paper section 4)."""

    num_codes: int
    grid: int
    stack: StackConfig
    # 0: no class token, a learnt start instead (paper silent on the first token).
    num_classes: int = 0

    def __post_init__(self) -> None:
        _require_positive(self, "grid")
        _require(
            self.num_codes >= 2, f"num_codes={self.num_codes} is too few; use 2 or more"
        )
        _require(
            self.num_classes >= 0,
            f"num_classes={self.num_classes} is negative; use 0 for no class token",
        )

    @property
    def num_tokens(self) -> int:
        return self.grid**2

    @property
    def parameters(self) -> int:
        """`(K + 2 grid + classes + 1) D` of tables, the stack, `(D + 1) K`."""
        d = self.stack.width
        tables = (self.num_codes + 2 * self.grid + self.num_classes + 1) * d
        return tables + self.stack.parameters + (d + 1) * self.num_codes


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """A small labelled network; `kind` separates the method's from the judge's."""

    kind: Literal["cnn", "residual"]
    num_classes: int
    width: int = 32
    channels: int = 3

    def __post_init__(self) -> None:
        _require_in("kind", self.kind, ("cnn", "residual"))
        _require_positive(self, "width", "channels")
        _require(
            self.width % 4 == 0,
            f"width={self.width} must be a multiple of 4, for the groups of its norms",
        )
        _require(
            self.num_classes >= 2,
            f"num_classes={self.num_classes}: a classifier needs at least two labels",
        )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam with decoupled weight decay and the schedules of both stages (section 5)."""

    peak_lr: float
    warmup_steps: int
    schedule: Literal["constant", "cosine", "exponential"] = "cosine"
    final_lr: float = 0.0
    # The rate stays at its peak until this step (80,000 in section 5.2).
    decay_start: int = 0
    # The rate reaches `final_lr` at this step and stays there; 0: at the last step.
    decay_end: int = 0
    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 1e-4
    # 0: no clipping. Paper silent; DALL-E and Parti clip stage 2 at 4.
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("peak_lr", self.peak_lr), ("eps", self.eps)):
            _require(value > 0, f"{name}={value} must be above zero; set {name}=1e-4")
        _require_not_negative(
            self, "warmup_steps", "final_lr", "decay_start", "weight_decay", "clip_norm"
        )
        start = max(self.warmup_steps, self.decay_start)
        _require(
            self.decay_end == 0 or self.decay_end > start,
            f"decay_end={self.decay_end} comes before the decay starts at {start}; set "
            "decay_end=0 for the last step",
        )
        for name, value in (("b1", self.b1), ("b2", self.b2)):
            _require(0 <= value < 1, f"{name}={value} is not in [0, 1); use {name}=0.9")
        _require_in("schedule", self.schedule, ("constant", "cosine", "exponential"))
        _require(
            self.schedule != "exponential" or self.final_lr > 0,
            "schedule=exponential needs final_lr above zero; set final_lr=1e-5",
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How long, how often, from which seed."""

    steps: int
    batch_size: int
    seed: int = 0
    log_every: int = 20
    eval_every: int = 500
    checkpoint_every: int = 500
    # Images or code rows that an evaluation reads.
    eval_size: int = 512

    def __post_init__(self) -> None:
        _require_positive(
            self, "steps", "batch_size", "log_every", "eval_every", "checkpoint_every"
        )
        _require_positive(self, "eval_size")
        _require_not_negative(self, "seed")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the named stage-1 terms; a zero weight leaves the term out."""

    vq: float = 1.0
    l2: float = 1.0
    l1: float = 0.0
    logit_laplace: float = 0.0

    def __post_init__(self) -> None:
        _require_not_negative(self, "vq", "l2", "l1", "logit_laplace")


@dataclass(frozen=True, kw_only=True)
class TokenizerRecipe:
    """All of stage 1."""

    name: str
    model: TokenizerConfig
    optim: OptimConfig
    run: RunConfig
    loss: LossConfig = field(default_factory=LossConfig)
    # Mirror images at random. Paper silent for stage 1.
    flip: bool = False
    stage: Literal["tokenizer"] = field(default="tokenizer", init=False)

    def __post_init__(self) -> None:
        _require(
            not self.loss.logit_laplace or self.model.output == "laplace",
            f"loss.logit_laplace={self.loss.logit_laplace} needs a scale for every "
            "pixel; set model.output=laplace",
        )


@dataclass(frozen=True, kw_only=True)
class PriorRecipe:
    """All of stage 2."""

    name: str
    model: PriorConfig
    optim: OptimConfig
    run: RunConfig
    # A shipped name, a folder or a hub id; the codes come from it.
    tokenizer: str = ""
    # Share of labels replaced by the null class, for classifier-free guidance. Not the
    # paper's, which has no guidance.
    label_dropout: float = 0.0
    # "cache" encodes the images once; "fly" on every step, as the paper, so that images
    # can be augmented.
    codes: Literal["cache", "fly"] = "cache"
    flip: bool = False
    stage: Literal["prior"] = field(default="prior", init=False)

    def __post_init__(self) -> None:
        _require_in("codes", self.codes, ("cache", "fly"))
        _require(
            0 <= self.label_dropout < 1,
            f"label_dropout={self.label_dropout} is not in [0, 1); use 0.1",
        )
        _require(
            not self.label_dropout or self.model.num_classes > 0,
            "label_dropout needs a class token; set num_classes or label_dropout=0",
        )
        _require(
            not (self.flip and self.codes == "cache"),
            "flip=True augments images, which cached codes cannot; set codes=fly",
        )


@dataclass(frozen=True, kw_only=True)
class ProbeRecipe:
    """All of stage 3: one softmax layer on the mean-pooled output of one block."""

    name: str
    prior: str
    tokenizer: str
    train_size: int = 4096
    test_size: int = 2048
    # Share of the training images on which block and L2 strength are chosen.
    held_out: float = 0.2
    seed: int = 0
    stage: Literal["probe"] = field(default="probe", init=False)

    def __post_init__(self) -> None:
        _require_positive(self, "train_size", "test_size")
        _require_not_negative(self, "seed")
        _require(
            0 < self.held_out < 1, f"held_out={self.held_out} is not in (0, 1); use 0.2"
        )


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe:
    """A labelled network: `classifier` for use inside methods, `judge` for figures."""

    name: str
    model: ClassifierConfig
    optim: OptimConfig
    run: RunConfig
    image_size: int = 32
    stage: Literal["classifier"] = field(default="classifier", init=False)

    def __post_init__(self) -> None:
        _require_positive(self, "image_size")
        _require(
            self.image_size % 8 == 0,
            f"image_size={self.image_size}: the labelled networks halve the image "
            "three times; use a multiple of 8",
        )

    @property
    def image_shape(self) -> dict[str, int]:
        """What `open_source` has to know."""
        return {"image_size": self.image_size, "channels": self.model.channels}


Recipe = TokenizerRecipe | PriorRecipe | ProbeRecipe | ClassifierRecipe


def leaves(config: object, prefix: str = "") -> dict[str, object]:
    """Every settable field by its dotted name."""
    found: dict[str, object] = {}
    for item in dataclasses.fields(config):  # type: ignore[arg-type]
        value, name = getattr(config, item.name), f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            found |= leaves(value, f"{name}.")
        elif item.init:
            found[name] = value
    return found


def as_dict(config: object) -> dict[str, object]:
    """Nested plain dictionary, ready for JSON."""
    return dataclasses.asdict(config)  # type: ignore[call-overload]


def from_dict(kind: type, values: dict) -> object:
    """Inverse of `as_dict`; raises `UserError` for a key that `kind` has not."""
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    _require(
        not unknown,
        f"{kind.__name__} has no {', '.join(unknown)}; the file was written by another "
        "version of minivim, so install that one",
    )
    arguments = {
        name: from_dict(hints[name], value)
        if dataclasses.is_dataclass(hints[name])
        else value
        for name, value in values.items()
        if fields[name].init
    }
    return kind(**arguments)


def with_overrides(recipe: Recipe, settings: list[str]) -> Recipe:
    """Apply `key=value` texts; a bare last name will do where it is unique.

    Raises `UserError` for an unknown or ambiguous key or a value of the wrong type.
    """
    known = leaves(recipe)
    values = as_dict(recipe)
    for setting in settings:
        key, equals, text = setting.partition("=")
        _require(bool(equals), f"--set {setting}: write it as key=value")
        matches = [n for n in known if n == key or n.endswith(f".{key}")]
        matches = [key] if key in known else matches
        if not matches:
            close = difflib.get_close_matches(key, [*known, *_last(known)], 3, 0.5)
            hint = (
                f"did you mean {', '.join(close)}?" if close else "see minivim recipes"
            )
            raise UserError(f"{recipe.name} has no setting {key!r}; {hint}")
        _require(
            len(matches) == 1,
            f"{key!r} is ambiguous; write one of {', '.join(matches)}",
        )
        *path, last = matches[0].split(".")
        inner: typing.Any = values
        for name in path:
            inner = inner[name]
        inner[last] = _parsed(matches[0], text, known[matches[0]])
    return from_dict(type(recipe), values)  # type: ignore[return-value]


def _last(names: typing.Iterable[str]) -> list[str]:
    return [name.rsplit(".", 1)[-1] for name in names]


def _parsed(key: str, text: str, old: object) -> object:
    """`text` as a value of the type that the setting has."""
    if isinstance(old, bool):
        _require(
            text.lower() in ("true", "false"), f"{key}={text}: write true or false"
        )
        return text.lower() == "true"
    for kind, words in ((int, "a whole number"), (float, "a number")):
        if isinstance(old, kind):
            try:
                return kind(text)
            except ValueError:
                raise UserError(f"{key}={text} is not {words}") from None
    return text
