"""Sizes of VQGAN's convolutional encoder and decoder, and what they add up to."""

from __future__ import annotations

from dataclasses import dataclass

from minivim.config.checks import require, require_positive


@dataclass(frozen=True, kw_only=True)
class CNNConfig:
    """VQGAN's convolutional encoder or decoder, which the paper compares with.

    Residual blocks at every size, attention at the smallest, halving in between.
    """

    # At the image's size; the paper's "channels x1" and "x2" (Table 1) vary this.
    channels: int = 128
    # Of `channels` at each size, from the image's down to the grid of tokens.
    multipliers: tuple[int, ...] = (1, 1, 2, 4)
    res_blocks: int = 2
    # Of the group norms.
    groups: int = 32
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        require_positive(self, "channels", "res_blocks", "groups")
        require(self.norm_eps > 0, f"norm_eps={self.norm_eps}: set norm_eps=1e-6")
        require(
            bool(self.multipliers) and min(self.multipliers) > 0,
            f"multipliers={self.multipliers} must be whole numbers above zero, one for "
            "each size; use 1,1,2,4",
        )
        require(
            self.channels % self.groups == 0,
            f"groups={self.groups} does not divide channels={self.channels}; choose "
            "groups that do",
        )

    @property
    def patch_size(self) -> int:
        """Pixels per side that one token stands for."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each size, from the image's down."""
        return tuple(self.channels * m for m in self.multipliers)

    @property
    def width(self) -> int:
        """Of the features at the smallest size."""
        return self.widths[-1]

    def encoder_parameters(self, channels: int) -> int:
        """With images of so many channels; the sum below, layer by layer.

        `conv(C, c) + sum_i [blocks(w_{i-1}, w_i, R) + conv(w_i, w_i)]` without the last
        halving, `R` attentions, the middle, and `2 D + conv(D, D)` at the end, where
        `conv(a, b) = 9 a b + b`.
        """
        first, w, d = self.channels, self.widths, self.width
        total = _conv(channels, first) + self._middle + 2 * d + _conv(d, d)
        for inputs, outputs in zip((first, *w), w, strict=False):
            total += _residual_blocks(inputs, outputs, self.res_blocks)
        total += sum(_conv(a, a) for a in w[:-1])
        return total + self.res_blocks * _attention(d)

    def decoder_parameters(self, maps: int) -> int:
        """With so many maps at the end; as above, mirrored, `R + 1` blocks a size."""
        w, d = self.widths[::-1], self.width
        total = _conv(d, d) + self._middle + 2 * w[-1] + _conv(w[-1], maps)
        for inputs, outputs in zip((d, *w), w, strict=False):
            total += _residual_blocks(inputs, outputs, self.res_blocks + 1)
        total += sum(_conv(a, a) for a in w[:-1])
        return total + (self.res_blocks + 1) * _attention(d)

    @property
    def _middle(self) -> int:
        return _residual_blocks(self.width, self.width, 2) + _attention(self.width)


def _conv(inputs: int, outputs: int) -> int:
    """Weights and biases of a 3 x 3 convolution."""
    return 9 * inputs * outputs + outputs


def _attention(d: int) -> int:
    """`4 D^2 + 4 D` and a norm's `2 D`."""
    return 4 * d * d + 6 * d


def _residual_blocks(a: int, b: int, count: int) -> int:
    """`count` residual blocks, the first from a to b channels with a 1 x 1 skip."""
    skip = a * b + b if a != b else 0
    first = 2 * a + _conv(a, b) + 2 * b + _conv(b, b) + skip
    return first + (count - 1) * (4 * b + 2 * _conv(b, b))
