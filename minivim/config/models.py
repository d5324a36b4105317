"""Sizes and numerics of every network, and the parameters they add up to."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from minivim.config import checks
from minivim.config.checks import Config
from minivim.errors import UserError


@dataclass(frozen=True, kw_only=True)
class StackConfig(Config):
    """Size and numerics of one stack of Transformer blocks (paper Table 2)."""

    blocks: checks.Count
    width: checks.Count
    heads: Annotated[checks.Count, checks.Divides("width")]
    hidden: checks.Count
    # Paper silent. ViT practice; "gelu" is the tanh approximation.
    activation: Literal["gelu", "relu", "tanh"] = "gelu"
    # Paper, section 4: dropout after attention, activation and FFN
    dropout: checks.Rate = 0.0
    norm_eps: checks.Positive = 1e-6
    # Blocks that one loop iteration of the compiled program holds.
    unroll: checks.Count = 1
    # What the backward pass of a block recomputes: nothing, all but the products with
    # weights ("dots"), or everything ("full").
    remat: Literal["none", "dots", "full"] = "none"
    # Of the matrix products; parameters, norms and softmax stay in float32.
    precision: Annotated[Literal["float32", "bfloat16"], checks.NOT_HALF] = "float32"

    @property
    def parameters(self) -> int:
        """`L (4 D^2 + 2 D H + H + 9 D) + 2 D`, final LayerNorm included."""
        d, h = self.width, self.hidden
        return self.blocks * (4 * d * d + 2 * d * h + h + 9 * d) + 2 * d

    # Paper, Table 2: parameter counts as the table prints them
    @property
    def printed_parameters(self) -> int:
        """`11 L D^2 + (2*8192 + 1024) D`: all of Table 2, but no plain reading."""
        return 11 * self.blocks * self.width**2 + (2 * 8192 + 1024) * self.width


@dataclass(frozen=True, kw_only=True)
class CNNConfig(Config):
    """VQGAN's encoder or decoder: residual blocks at every size, halving in between."""

    # At the image's size; the paper's "channels x1" and "x2" (Table 1) vary this.
    channels: checks.Count = 128
    # Of `channels` at each size, down to the grid of tokens.
    multipliers: checks.Counts = (1, 1, 2, 4)
    res_blocks: checks.Count = 2
    # Of the group norms.
    groups: Annotated[checks.Count, checks.Divides("channels")] = 32
    norm_eps: checks.Positive = 1e-6
    # Sizes whose residual blocks have attention, 0 for the smallest; the middle has it.
    attention: checks.Naturals = (0,)
    # Maps on the quantizer's side; 0: as many as at the smallest size.
    features: checks.Natural = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes, told = len(self.multipliers), f"attention={self.attention} names a size"
        fits = max(self.attention, default=0) < sizes
        checks.require(fits, f"{told} that is not there; use numbers below {sizes}")

    @property
    def patch_size(self) -> int:
        """Pixels per side that one token stands for."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def layers(self) -> int:
        """Residual blocks, without those at the end."""
        return self.res_blocks * len(self.multipliers)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each size, from the image's down."""
        return tuple(self.channels * m for m in self.multipliers)

    @property
    def width(self) -> int:
        """Channels on the quantizer's side."""
        return self.features or self.widths[-1]


class AnyQuantizerConfig(Config):
    """What the rest of the package asks of a quantizer's settings.

    Another quantizer is a frozen dataclass that inherits from this, a `register` call
    and a module `(config, *, in_width, out_width, rngs)` with `embed(codes)` and
    `(features, *, key) -> (embedded, aux)`; `aux` has `codes` `[B, N]` and `vq_loss`.
    """

    # K: codes are whole numbers below it.
    num_codes: int
    # d: numbers that a token is reduced to before it is quantized.
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
    num_codes: checks.Several = 8192
    # Paper, Table 4: 32 dimensions for the lookup
    code_dim: checks.Count = 32
    # Paper, Table 4: codes without l2 normalisation
    l2_normalise: bool = True
    # "project": normalize, then pass gradients straight through, so that the radial
    # part of the gradient vanishes; "raw": around the vector before normalization.
    # Paper silent, section 3.2: normalise before the straight-through, or inside it
    straight_through: Literal["project", "raw"] = "project"
    # Printed is a sum; the authors' sibling code and the public PyTorch code take the
    # mean, and the sum makes toys collapse to a handful of codes.
    # Paper silent, section 3.2: L_VQ as a sum or a mean over dimensions
    reduction: Literal["sum", "mean"] = "mean"
    # Paper, section 3.2: beta, 0.25, on the commitment term
    beta: checks.NotNegative = 0.25
    # False: no projections, codes as wide as the networks, as in VQ-VAE.
    # Paper silent, section 3.2: no projections, codes as wide as the networks
    factorised: bool = True
    # "gradient": by the codebook term, as section 3.2; "ema": each code the moving
    # average of the vectors that chose it, as in VQ-VAE's appendix. Not the paper's.
    # Paper silent, section 3.2: a codebook of moving averages
    codebook: Literal["gradient", "ema"] = "gradient"
    ema_decay: checks.Rate = 0.99  # of that average; read with codebook=ema only
    # Steps (with run.accumulate: parts of a step) after which an unused code is moved
    # onto a vector of the batch; 0: never.
    # Paper silent, section 3.2: unused codes moved onto vectors of the batch
    revive_after: checks.Natural = 0

    def parameters(self, *, in_width: int, out_width: int) -> int:
        """Projections and `K d` of the codebook."""
        own = self.num_codes * self.code_dim
        return own + super().parameters(in_width=in_width, out_width=out_width)


@dataclass(frozen=True, kw_only=True)
class Patches(Config):
    """Square images in square patches, and what follows from them."""

    image_size: checks.Count
    patch_size: Annotated[checks.Count, checks.Divides("image_size")]

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
        return {name: getattr(self, name) for name in ("image_size", "channels")}


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(Patches):
    """ViT-VQGAN without its losses: image -> codes -> image (paper section 3)."""

    encoder: StackConfig | CNNConfig
    decoder: StackConfig | CNNConfig
    quantizer: AnyQuantizerConfig
    channels: checks.Count = 3
    # This and `positions` are read by Transformers only. "head": two layers after the
    # stack, as section 3.1 reads most plainly; "blocks": tanh inside every FFN and a
    # linear output, as in the public PyTorch code.
    # Paper silent, section 3.1: tanh in a head, or inside every block
    tanh: Literal["head", "blocks"] = "head"
    # Paper silent; "sincos" is the fixed table of the public PyTorch code.
    positions: Literal["learnt", "sincos"] = "learnt"
    # "sigmoid" on the mean (section 3.1); "laplace": the same with a second map for the
    # scale of the logit-laplace density; "linear": plain pixels, as Parti later.
    output: Literal["sigmoid", "laplace", "linear"] = "sigmoid"
    # Paper silent on how pixels keep off 0 and 1, where that density ends. "clamp" at
    # 1e-4, as the first author advised others; "affine" into [0.1, 0.9], as DALL-E.
    pixel_map: Literal["clamp", "affine"] = "clamp"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pixel_map == "affine" and self.output != "laplace":
            raise UserError("pixel_map=affine needs a logit scale; set output=laplace")
        q, width = self.quantizer, self.encoder.width
        if not q.factorised and not q.code_dim == width == self.decoder.width:
            needs = "factorised=False needs codes as wide as both networks"
            raise UserError(f"{needs}; set code_dim={width} and equal widths")
        for name, size in (("encoder", self.encoder), ("decoder", self.decoder)):
            if isinstance(size, CNNConfig):
                fits = size.patch_size == self.patch_size
                said = f"{name}.multipliers={size.multipliers} give patches of "
                said += f"{size.patch_size}, but patch_size={self.patch_size}"
                checks.require(fits, f"{said}; give log2(patch_size) + 1 multipliers")
            elif size.dropout:
                said = f"{name}.dropout={size.dropout}: tokenizers of Table 2 have none"
                raise UserError(f"{said}; set {name}.dropout=0")
            elif self.positions == "sincos" and size.width % 4:
                said = f"{name}.width={size.width} must be a multiple of 4 for sincos"
                raise UserError(f"{said}; change it or use positions=learnt")

    @property
    def patch_dim(self) -> int:
        return self.patch_size**2 * self.channels

    @property
    def output_channels(self) -> int:
        """Maps at the decoder's end: one for each channel, or mean and scale."""
        return self.channels * (2 if self.output == "laplace" else 1)

    @property
    def output_dim(self) -> int:
        return self.patch_size**2 * self.output_channels

    @property
    def parameters(self) -> int | None:
        """Closed form; None with a CNN, whose parameters are to be counted."""
        first, last = self.encoder, self.decoder
        if isinstance(first, CNNConfig) or isinstance(last, CNNConfig):
            return None
        codes = self.quantizer.parameters(in_width=first.width, out_width=last.width)
        linear = (last.width + 1) * self.output_dim if self.tanh == "blocks" else 0
        encoder = (self.patch_dim + 1) * first.width + self._vit(first, first.width)
        return encoder + codes + self._vit(last, self.output_dim) + linear

    def _vit(self, size: StackConfig, outputs: int) -> int:
        """Parameters of positions, stack and tanh head."""
        d, h = size.width, size.hidden
        table = self.num_tokens * d if self.positions == "learnt" else 0
        head = (d + 1) * h + (h + 1) * outputs if self.tanh == "head" else 0
        return table + size.parameters + head


@dataclass(frozen=True, kw_only=True)
class PaletteConfig(Patches):
    """iGPT's tokens (Table 7): means of patches, rounded to learnt colors."""

    num_codes: checks.Several = 512  # as iGPT
    channels: checks.Count = 3

    @property
    def quantizer(self) -> QuantizerConfig:
        """The nearest color: a codebook as wide as a pixel, without projections."""
        plain = QuantizerConfig(factorised=False, l2_normalise=False)
        return replace(plain, num_codes=self.num_codes, code_dim=self.channels)

    @property
    def parameters(self) -> int:
        """`K C`: the colors."""
        return self.num_codes * self.channels


@dataclass(frozen=True, kw_only=True)
class PriorConfig(Config):
    """VIM: a decoder-only Transformer over codes in raster order (paper section 4)."""

    num_codes: checks.Several
    grid: checks.Count
    stack: StackConfig
    # 0: no class token, a learnt start instead.
    # Paper silent, section 4: the start of a prior without labels
    num_classes: checks.Natural = 0

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
class ClassifierConfig(Config):
    """A small labelled network; `kind` separates the method's from the judge's."""

    kind: Literal["cnn", "residual"]
    num_classes: checks.Several
    # The norms have four groups.
    width: Annotated[checks.Count, checks.multiple_of(4)] = 32
    channels: checks.Count = 3


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig(Config):
    """The adversary of stage 1: its network, loss and optimizer.

    Section 3.3 names StyleGAN2's discriminator alone. Values are StyleGAN2's (arXiv
    1912.04958), and the optimizer's the tokenizer's, as section 5.1 reads ("both").
    """

    kind: Literal["stylegan2", "patchgan"] = "stylegan2"
    # Channels at the image's size; twice as many at each half of it. At 256 pixels
    # StyleGAN2's configuration F has 128, its smaller ones (A to E) 64.
    width: Annotated[checks.Count, checks.multiple_of(4)] = 64
    max_width: checks.Count = 512
    stddev_group: checks.Natural = 4  # samples whose spread one sample sees; 0: none
    # "logistic": softplus, non-saturating; "hinge": PatchGAN's in VQGAN.
    loss: Literal["logistic", "hinge"] = "logistic"
    # R1 = gamma / 2 |grad D|^2 on every `r1_interval`-th step, times the interval;
    # gamma 0: none. By pixels in [0, 1]: StyleGAN2, by [-1, 1], would say 40 for 10.
    r1_gamma: checks.NotNegative = 10.0
    r1_interval: checks.Count = 16
    # First step of both adversarial losses; by second-hand advice of the authors 0.
    # Paper silent, section 3.3: the first adversarial step
    start: checks.Natural = 0
    # Of its own Adam: learning rate as a multiple of the tokenizer's, and decays.
    lr_ratio: checks.Positive = 1.0
    beta1: checks.Rate = 0.9
    beta2: checks.Rate = 0.99

    def widths(self, image_size: int) -> tuple[int, ...]:
        """Channels at every size from the image's down to 4 x 4."""
        halvings = image_size.bit_length() - 3
        return tuple(min(self.width << i, self.max_width) for i in range(halvings + 1))
