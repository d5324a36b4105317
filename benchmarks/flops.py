"""Floating point operations of the matrix products, counted from shapes."""

from __future__ import annotations

from minivim.config import CNNConfig, PriorConfig, StackConfig, TokenizerConfig


def linear(*sizes: int) -> int:
    """One row through a chain of dense layers of these widths."""
    return sum(2 * a * b for a, b in zip(sizes, sizes[1:], strict=False))


def stack(c: StackConfig, *, tokens: int, causal: bool) -> int:
    """One sequence; a causal token reads half of the sequence on average."""
    d = c.width
    seen = (tokens + 1) / 2 if causal else tokens
    dense = linear(d, 3 * d) + linear(d, d) + linear(d, c.hidden, d)
    return round(c.blocks * tokens * (dense + 4 * seen * d))


def conv(inputs: int, outputs: int) -> int:
    """One position of a 3 x 3 convolution's output."""
    return linear(9 * inputs, outputs)


def residual(inputs: int, outputs: int, count: int) -> int:
    """One position through residual blocks; the first has a skip if widths differ."""
    skip = linear(inputs, outputs) if inputs != outputs else 0
    rest = 2 * (count - 1) * conv(outputs, outputs)
    return conv(inputs, outputs) + conv(outputs, outputs) + skip + rest


def attentions(d: int, tokens: int, count: int) -> int:
    """One position through one-headed attentions."""
    return count * (linear(d, 3 * d) + linear(d, d) + 4 * tokens * d)


def cnn(c: CNNConfig, *, tokens: int, blocks: int) -> int:
    """What encoder and decoder share of an image: the smallest size but for its blocks.

    Middle, attentions and the convolution between features and the network.
    """
    d = c.width
    return tokens * (residual(d, d, 2) + attentions(d, tokens, blocks + 1) + conv(d, d))


def cnn_encode(c: CNNConfig, *, tokens: int, channels: int) -> int:
    """One image to features."""
    positions, inputs = tokens * c.patch_size**2, c.channels
    total = positions * conv(channels, inputs)
    total += cnn(c, tokens=tokens, blocks=c.res_blocks)
    for width in c.widths:
        total += positions * residual(inputs, width, c.res_blocks)
        positions, inputs = positions // 4, width
        if positions >= tokens:
            total += positions * conv(width, width)
    return total


def cnn_decode(c: CNNConfig, *, tokens: int, maps: int) -> int:
    """Features to maps."""
    positions, inputs, blocks = tokens, c.width, c.res_blocks + 1
    total = cnn(c, tokens=tokens, blocks=blocks)
    for width in reversed(c.widths):
        if positions > tokens:
            total += positions * conv(inputs, inputs)
        total += positions * residual(inputs, width, blocks)
        positions, inputs = positions * 4, width
    return total + positions // 4 * conv(inputs, maps)


def encode(c: TokenizerConfig) -> int:
    """One image to its codes."""
    size, q, tokens = c.encoder, c.quantizer, c.num_tokens
    lookup = tokens * linear(size.width, q.code_dim, q.num_codes)
    if isinstance(size, CNNConfig):
        return lookup + cnn_encode(size, tokens=tokens, channels=c.channels)
    d = size.width
    ends = tokens * (linear(c.patch_dim, d) + linear(d, size.hidden, d))
    return lookup + ends + stack(size, tokens=tokens, causal=False)


def decode(c: TokenizerConfig) -> int:
    """One image from its embedded codes."""
    size, tokens = c.decoder, c.num_tokens
    up = tokens * linear(c.quantizer.code_dim, size.width)
    if isinstance(size, CNNConfig):
        return up + cnn_decode(size, tokens=tokens, maps=c.output_channels)
    ends = tokens * linear(size.width, size.hidden, c.output_dim)
    return up + ends + stack(size, tokens=tokens, causal=False)


def prior(c: PriorConfig) -> int:
    """One sequence, in one pass or token by token with a cache."""
    head = linear(c.stack.width, c.num_codes)
    return c.num_tokens * head + stack(c.stack, tokens=c.num_tokens, causal=True)


# A backward pass has two products for each of the forward pass.
TRAINING = 3
