"""Floating point operations of the matrix products, counted from shapes."""

from __future__ import annotations

from minivim.config import PriorConfig, StackConfig, TokenizerConfig


def linear(*sizes: int) -> int:
    """One row through a chain of dense layers of these widths."""
    return sum(2 * a * b for a, b in zip(sizes, sizes[1:], strict=False))


def stack(c: StackConfig, *, tokens: int, causal: bool) -> int:
    """One sequence; a causal token reads half of the sequence on average."""
    d = c.width
    seen = (tokens + 1) / 2 if causal else tokens
    dense = linear(d, 3 * d) + linear(d, d) + linear(d, c.hidden, d)
    return round(c.blocks * tokens * (dense + 4 * seen * d))


def encode(c: TokenizerConfig) -> int:
    """One image to its codes."""
    d, q = c.encoder.width, c.quantizer
    ends = linear(c.patch_dim, d) + linear(d, c.encoder.hidden, d, q.code_dim)
    lookup = linear(q.code_dim, q.num_codes)
    tokens = c.num_tokens
    return tokens * (ends + lookup) + stack(c.encoder, tokens=tokens, causal=False)


def decode(c: TokenizerConfig) -> int:
    """One image from its embedded codes."""
    d = c.decoder.width
    ends = linear(c.quantizer.code_dim, d) + linear(d, c.decoder.hidden, c.patch_dim)
    tokens = c.num_tokens
    return tokens * ends + stack(c.decoder, tokens=tokens, causal=False)


def prior(c: PriorConfig) -> int:
    """One sequence, in one pass or token by token with a cache."""
    head = linear(c.stack.width, c.num_codes)
    return c.num_tokens * head + stack(c.stack, tokens=c.num_tokens, causal=True)


# A backward pass has two products for each of the forward pass.
TRAINING = 3
