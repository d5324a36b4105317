"""Sizes and numerics of every network, checked before anything compiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minivim.config.checks import (
    require,
    require_in,
    require_not_negative,
    require_positive,
)
from minivim.config.cnn import CNNConfig

ACTIVATIONS = ("gelu", "relu", "tanh")
PRECISIONS = ("float32", "bfloat16")


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
    # Paper, section 4: dropout after attention, activation and FFN
    dropout: float = 0.0
    norm_eps: float = 1e-6
    # Blocks that one loop iteration of the compiled program holds.
    unroll: int = 1
    # What a block computes again in the backward pass instead of keeping it: nothing,
    # all but the products of weights ("dots"), or all ("full").
    remat: Literal["none", "dots", "full"] = "none"
    # Of the matrix products; parameters, norms and softmax stay in float32.
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        sizes = ("blocks", "width", "heads", "hidden", "unroll")
        require_positive(self, *sizes)
        require(self.norm_eps > 0, f"norm_eps={self.norm_eps}: set norm_eps=1e-6")
        require(
            self.width % self.heads == 0,
            f"heads={self.heads} does not divide width={self.width}; "
            f"choose heads so that width / heads is whole",
        )
        require_in("activation", self.activation, ACTIVATIONS)
        require_in("remat", self.remat, ("none", "dots", "full"))
        require(
            self.precision != "float16",
            "precision=float16 overflows in the l2 norms and losses; use bfloat16",
        )
        require_in("precision", self.precision, PRECISIONS)
        require(
            0 <= self.dropout < 1, f"dropout={self.dropout} is not in [0, 1); use 0.1"
        )

    @property
    def parameters(self) -> int:
        """`L (4 D^2 + 2 D H + H + 9 D) + 2 D`, final LayerNorm included."""
        d, h = self.width, self.hidden
        return self.blocks * (4 * d * d + 2 * d * h + h + 9 * d) + 2 * d

    # Paper, Table 2: parameter counts as the table prints them
    @property
    def printed_parameters(self) -> int:
        """The paper's printed count, `11 L D^2 + (2*8192 + 1024) D`.

        All five rows of Table 2 agree with it to the printed digit, whichever kind of
        network the row names; it counts neither what this class nor what any other
        plain reading counts.
        """
        return 11 * self.blocks * self.width**2 + (2 * 8192 + 1024) * self.width


class AnyQuantizerConfig:
    """What the rest asks of a quantiser's settings, whichever the quantiser.

    Another quantiser is a frozen dataclass that inherits from this, a module
    `(config, *, in_width, out_width, rngs)` with `embed(codes)` and
    `(features, *, key) -> (embedded, aux)`, where `aux` has `codes` and `vq_loss`, and
    an entry in `minivim.tokenizer.quantizer.QUANTIZERS`.
    """

    # K: codes are whole numbers below it.
    num_codes: int
    # d: numbers that a token is reduced to before it is quantised.
    code_dim: int
    # Whether linear maps lead from the encoder's width to d and on to the decoder's.
    factorised: bool = True

    def parameters(self, *, in_width: int, out_width: int) -> int:
        """Of both projections, `(D + 1) d + (d + 1) D'`; a subclass adds its own."""
        d = self.code_dim
        return (in_width + 1) * d + (d + 1) * out_width if self.factorised else 0


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig(AnyQuantizerConfig):
    """The codebook (paper section 3.2)."""

    # Paper, Table 3: 8192 codes, and 1024 tokens for an image
    num_codes: int = 8192
    # Paper, Table 4: 32 dimensions for the lookup
    code_dim: int = 32
    # Paper, Table 4: codes without l2 normalisation
    l2_normalise: bool = True
    # "project": normalise, then pass gradients straight through, so that the radial
    # part of the gradient vanishes; "raw": around the vector before normalisation.
    # Paper silent, section 3.2: normalise before the straight-through, or inside it
    straight_through: Literal["project", "raw"] = "project"
    # Over code dimensions. |.|^2 as printed is a sum; the authors' sibling code and the
    # public PyTorch code take the mean, and with a mean over pixels beside it the sum
    # makes toys collapse to a handful of codes.
    # Paper silent, section 3.2: L_VQ as a sum or a mean over dimensions
    reduction: Literal["sum", "mean"] = "mean"
    # Paper, section 3.2: beta, 0.25, on the commitment term
    beta: float = 0.25
    # False: no projections, codes as wide as the networks, as in VQ-VAE.
    # Paper silent, section 3.2: no projections, codes as wide as the networks
    factorised: bool = True
    # "gradient": by the codebook term, as section 3.2; "ema": each code the moving
    # average of the vectors that chose it, as in VQ-VAE's appendix. Not the paper's.
    # Paper silent, section 3.2: a codebook of moving averages
    codebook: Literal["gradient", "ema"] = "gradient"
    # Of that average; read with codebook=ema only.
    ema_decay: float = 0.99
    # A code unused for this many steps (with run.accumulate: parts of a step) is moved
    # onto a vector of the batch; 0: never.
    # Not the paper's.
    # Paper silent, section 3.2: unused codes moved onto vectors of the batch
    revive_after: int = 0

    def __post_init__(self) -> None:
        require_positive(self, "code_dim")
        require_not_negative(self, "beta", "revive_after")
        require_in("codebook", self.codebook, ("gradient", "ema"))
        require(
            0 <= self.ema_decay < 1,
            f"ema_decay={self.ema_decay} is not in [0, 1); use 0.99",
        )
        require(
            self.num_codes >= 2, f"num_codes={self.num_codes} is too few; use 2 or more"
        )
        require_in("straight_through", self.straight_through, ("project", "raw"))
        require_in("reduction", self.reduction, ("sum", "mean"))

    def parameters(self, *, in_width: int, out_width: int) -> int:
        """Projections and `K d` of the codebook."""
        projections = super().parameters(in_width=in_width, out_width=out_width)
        return projections + self.num_codes * self.code_dim


class Patches:
    """What follows from square images in square patches."""

    image_size: int
    patch_size: int
    channels: int

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


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(Patches):
    """ViT-VQGAN without its losses: image -> codes -> image (paper section 3)."""

    image_size: int
    patch_size: int
    encoder: StackConfig | CNNConfig
    decoder: StackConfig | CNNConfig
    quantizer: AnyQuantizerConfig
    channels: int = 3
    # "head": a two-layer tanh network after the stack, as section 3.1 reads most
    # plainly; "blocks": tanh inside every FFN and a linear output, as the public
    # PyTorch code does. Read by Transformers only.
    # Paper silent, section 3.1: tanh in a head, or inside every block
    tanh: Literal["head", "blocks"] = "head"
    # Paper silent; "sincos" is the fixed table of the public PyTorch code. Read by
    # Transformers only: a CNN knows positions by its borders.
    positions: Literal["learnt", "sincos"] = "learnt"
    # "sigmoid" on the mean (section 3.1); "laplace": the same, and a second map for the
    # scale of the logit-laplace density; "linear": plain pixels, as Parti later.
    output: Literal["sigmoid", "laplace", "linear"] = "sigmoid"
    # Paper silent on how pixels keep off 0 and 1, where that density ends. "clamp" at
    # 1e-4, as the first author advised others; "affine" into [0.1, 0.9], as DALL-E.
    pixel_map: Literal["clamp", "affine"] = "clamp"

    def __post_init__(self) -> None:
        require_positive(self, "image_size", "patch_size", "channels")
        require(
            self.image_size % self.patch_size == 0,
            f"patch_size={self.patch_size} does not divide image_size="
            f"{self.image_size}; choose a patch_size that does",
        )
        require_in("tanh", self.tanh, ("head", "blocks"))
        require_in("positions", self.positions, ("learnt", "sincos"))
        require_in("output", self.output, ("sigmoid", "laplace", "linear"))
        require_in("pixel_map", self.pixel_map, ("clamp", "affine"))
        require(
            self.pixel_map == "clamp" or self.output == "laplace",
            "pixel_map=affine belongs to the logit-laplace density; set output=laplace",
        )
        q = self.quantizer
        require(
            q.factorised or q.code_dim == self.encoder.width == self.decoder.width,
            f"factorised=False needs codes as wide as both networks; set code_dim="
            f"{self.encoder.width} and equal widths",
        )
        for name, stack in (("encoder", self.encoder), ("decoder", self.decoder)):
            if isinstance(stack, CNNConfig):
                require(
                    stack.patch_size == self.patch_size,
                    f"{name}.multipliers={stack.multipliers} halve the image to "
                    f"patches of {stack.patch_size}, but patch_size="
                    f"{self.patch_size}; give log2(patch_size) + 1 multipliers",
                )
                continue
            require(
                stack.dropout == 0,
                f"{name}.dropout={stack.dropout}: the tokenizer has no dropout, as in "
                f"Table 2 of the paper; set {name}.dropout=0",
            )
            require(
                self.positions == "learnt" or stack.width % 4 == 0,
                f"{name}.width={stack.width} must be a multiple of 4 for sincos "
                "positions; change it or use positions=learnt",
            )

    @property
    def patch_dim(self) -> int:
        return self.patch_size**2 * self.channels

    @property
    def output_dim(self) -> int:
        """Numbers that the decoder gives for a patch: with a scale, two per pixel."""
        return self.patch_dim * (2 if self.output == "laplace" else 1)

    @property
    def output_channels(self) -> int:
        """Maps at the decoder's end: one for each channel, or mean and scale."""
        return self.output_dim // self.patch_size**2

    @property
    def parameters(self) -> int:
        """Closed form: both networks with their ends, projections and codebook."""
        codes = self.quantizer.parameters(
            in_width=self.encoder.width, out_width=self.decoder.width
        )
        return self._encoder_parameters + codes + self._decoder_parameters

    @property
    def _encoder_parameters(self) -> int:
        """Of a Transformer: embedding, positions, stack, tanh head."""
        size = self.encoder
        if isinstance(size, CNNConfig):
            return size.encoder_parameters(self.channels)
        d, h = size.width, size.hidden
        table = self.num_tokens * d if self.positions == "learnt" else 0
        head = (d + 1) * h + (h + 1) * d if self.tanh == "head" else 0
        return (self.patch_dim + 1) * d + table + size.parameters + head

    @property
    def _decoder_parameters(self) -> int:
        """Of a Transformer: positions, stack, tanh head or linear output."""
        size = self.decoder
        if isinstance(size, CNNConfig):
            return size.decoder_parameters(self.output_channels)
        d, h, maps = size.width, size.hidden, self.output_dim
        table = self.num_tokens * d if self.positions == "learnt" else 0
        head = (d + 1) * h + (h + 1) * maps if self.tanh == "head" else (d + 1) * maps
        return table + size.parameters + head


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """VIM: a decoder-only Transformer over codes in raster order (paper section 4)."""

    num_codes: int
    grid: int
    stack: StackConfig
    # 0: no class token, a learnt start instead (paper silent on the first token).
    # Paper silent, section 4: the start of a prior without labels
    num_classes: int = 0

    def __post_init__(self) -> None:
        require_positive(self, "grid")
        require(
            self.num_codes >= 2, f"num_codes={self.num_codes} is too few; use 2 or more"
        )
        require(
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
        require_in("kind", self.kind, ("cnn", "residual"))
        require_positive(self, "width", "channels")
        require(
            self.width % 4 == 0,
            f"width={self.width} must be a multiple of 4, for the groups of its norms",
        )
        require(
            self.num_classes >= 2,
            f"num_classes={self.num_classes}: a classifier needs at least two labels",
        )


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """The adversary of stage 1: its network, loss and optimiser.

    Section 3.3 names StyleGAN2's discriminator and nothing else; the values are
    StyleGAN2's where it has one (arXiv 1912.04958), and the optimiser is that of the
    tokenizer, as section 5.1 reads ("both").
    """

    kind: Literal["stylegan2", "patchgan"] = "stylegan2"
    # Channels at the image's size; twice as many at each half of it.
    width: int = 64
    max_width: int = 512
    # Samples whose spread one sample sees; 0: none.
    stddev_group: int = 4
    # "logistic": softplus, non-saturating; "hinge": PatchGAN's in VQGAN.
    loss: Literal["logistic", "hinge"] = "logistic"
    # R1 = gamma / 2 |grad D|^2 on every `r1_interval`-th step, times the interval;
    # gamma 0: none.
    r1_gamma: float = 10.0
    r1_interval: int = 16
    # First step of both adversarial losses; by second-hand advice of the authors 0.
    # Paper silent, section 3.3: the first adversarial step
    start: int = 0
    # Of its own Adam: learning rate as a multiple of the tokenizer's, and decays.
    lr_ratio: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99

    def __post_init__(self) -> None:
        require_in("kind", self.kind, ("stylegan2", "patchgan"))
        require_in("loss", self.loss, ("logistic", "hinge"))
        require_positive(self, "max_width", "r1_interval")
        require_not_negative(self, "stddev_group", "r1_gamma", "start")
        require(self.lr_ratio > 0, f"lr_ratio={self.lr_ratio}: set lr_ratio=1")
        require(
            self.width > 0 and self.width % 4 == 0,
            f"width={self.width} must be a multiple of 4, for the groups of its norms; "
            "use 64",
        )
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            require(0 <= value < 1, f"{name}={value} is not in [0, 1); use {name}=0.9")

    def widths(self, image_size: int) -> tuple[int, ...]:
        """Channels at every size from the image's down to 4 x 4."""
        halvings = image_size.bit_length() - 3
        return tuple(min(self.width << i, self.max_width) for i in range(halvings + 1))
