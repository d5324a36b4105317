"""Pre-LayerNorm Transformer blocks, shared by the tokenizer and the prior.

The parameters of all blocks of a stack lie in one array each, with the block as first
axis, and the stack is a `jax.lax.scan` over it: weights and compile time do not depend
on how many blocks one loop iteration holds (`unroll`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from minivim.config import StackConfig
from minivim.sharding import split_over_batch

ACTIVATIONS = {
    # Recomputed in the backward pass: cheaper than to keep and to read its tanh.
    "gelu": jax.checkpoint(lambda x: jax.nn.gelu(x, approximate=True)),
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
}

# What a block keeps for its backward pass; the rest is computed again.
REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Cache(NamedTuple):
    """Keys and values of the tokens seen so far, `[B, heads, T, head_dim]` per block.

    An array for each block, since a loop updates those in place.
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]


def at_least_float32(x: Array) -> Array:
    """`x` in float32, or as it is where it is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def dropout(x: Array, rate: float, key: PRNGKeyArray | None) -> Array:
    """Zero a share `rate` of `x` and scale the rest; identity without a key."""
    if key is None or rate == 0.0:
        return x
    # Kept as bytes: else XLA draws the bits again in every product that reads them,
    # which on a TPU takes most of the time to compile.
    kept = jax.lax.optimization_barrier(jax.random.bernoulli(key, 1 - rate, x.shape))
    return jnp.where(kept, x / (1 - rate), 0)


def layer_norm(config: StackConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm in float32, with the two-pass variance."""
    return nnx.LayerNorm(
        config.width, epsilon=config.norm_eps, use_fast_variance=False, rngs=rngs
    )


def attention(
    q: Float[Array, "B heads Q d"],
    k: Float[Array, "B heads T d"],
    v: Float[Array, "B heads T d"],
    *,
    seen: Bool[Array, "Q T"] | None = None,
) -> Float[Array, "B heads Q d"]:
    """`softmax(q k^T / sqrt(d)) v` over what is `seen`; softmax in float32.

    Heads before tokens, so that both products run over leading batch axes: one
    transposition of queries, keys and values instead of one for each product.
    """
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum(
        "bhqd,bhtd->bhqt",
        q * q.shape[-1] ** -0.5,
        k,
        preferred_element_type=wide,
    )
    if seen is not None:
        scores = jnp.where(seen, scores, -jnp.inf)
    largest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    # Divided after the product: by d numbers a query instead of T.
    mixed = jnp.einsum(
        "bhqt,bhtd->bhqd",
        weights.astype(v.dtype),
        v,
        preferred_element_type=wide,
    )
    return (mixed / total).astype(v.dtype)


def argmax(x: Float[Array, "*b K"]) -> Int[Array, "*b"]:
    """Index of the largest value of the last axis, the lowest on a tie.

    `jnp.argmax` by two plain reductions, which XLA vectorises on a CPU (several
    times faster); where all is NaN the last index.
    """
    last = x.shape[-1] - 1
    index = jnp.arange(last + 1, dtype=jnp.int32)
    largest = jnp.max(x, axis=-1, keepdims=True)
    return jnp.min(jnp.where(x == largest, index, last), axis=-1)


def linear(inputs: int, outputs: int, rngs: nnx.Rngs, precision: str = "float32"):
    """A dense layer with float32 parameters, N(0, 1/inputs) weights and zero bias.

    "float32" means the type of its parameters, which is float64 in checks.
    """
    dtype = None if precision == "float32" else jnp.dtype(precision)
    return nnx.Linear(inputs, outputs, dtype=dtype, rngs=rngs)


# Paper silent, section 3.1: LayerNorm before attention and before the FFN
class Block(nnx.Module):
    """`x + Attention(LN(x))`, then `x + FFN(LN(x))`.

    Matrix products run on tokens flattened to `[B * N, D]`: on a CPU the weight
    gradient of a product that contracts two leading axes is 2.5 times slower.
    """

    def __init__(self, config: StackConfig, *, rngs: nnx.Rngs):
        d, h, precision = config.width, config.hidden, config.precision
        self.config = config
        self.attention_norm = layer_norm(config, rngs)
        self.qkv = linear(d, 3 * d, rngs, precision)
        self.attention_out = linear(d, d, rngs, precision)
        self.ffn_norm = layer_norm(config, rngs)
        self.ffn_up = linear(d, h, rngs, precision)
        self.ffn_down = linear(h, d, rngs, precision)

    def heads(self, x: Float[Array, "M D"], batch: int) -> tuple[Array, Array, Array]:
        """Queries, keys and values `[B, heads, N, head_dim]` of normalised tokens."""
        split = jnp.split(self.qkv(self.attention_norm(x)), 3, axis=-1)
        q, k, v = (
            rearrange(part, "(b n) (h d) -> b h n d", b=batch, h=self.config.heads)
            for part in split
        )
        return q, k, v

    def ffn(self, x: Float[Array, "M D"], key: PRNGKeyArray | None = None) -> Array:
        """The two-layer network on normalised tokens."""
        keys = jax.random.split(key, 2) if key is not None else (None, None)
        rate = self.config.dropout
        h = ACTIVATIONS[self.config.activation](self.ffn_up(self.ffn_norm(x)))
        return dropout(self.ffn_down(dropout(h, rate, keys[0])), rate, keys[1])

    def __call__(
        self, x: Float[Array, "B N D"], *, causal: bool, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B N D"]:
        batch, tokens, _ = x.shape
        keys = jax.random.split(key, 2) if key is not None else (None, None)
        flat = rearrange(x, "b n d -> (b n) d")
        seen = jnp.tri(tokens, dtype=bool) if causal else None
        mixed = attention(*self.heads(flat, batch), seen=seen)
        mixed = self.attention_out(rearrange(mixed, "b h n d -> (b n) (h d)"))
        flat = flat + dropout(mixed, self.config.dropout, keys[0]).astype(flat.dtype)
        flat = flat + self.ffn(flat, keys[1]).astype(flat.dtype)
        return rearrange(flat, "(b n) d -> b n d", b=batch)

    def step(
        self,
        x: Float[Array, "B D"],
        keys: Array,
        values: Array,
        position: Int[Array, ""],
    ) -> tuple[Float[Array, "B D"], Array, Array]:
        """One token at `position`, reading and extending this block's cache."""
        q, k, v = self.heads(x, x.shape[0])
        write = jax.lax.dynamic_update_slice_in_dim
        keys = write(keys, k.astype(keys.dtype), position, axis=2)
        values = write(values, v.astype(values.dtype), position, axis=2)
        seen = jnp.arange(keys.shape[2])[None] <= position
        mixed = rearrange(attention(q, keys, values, seen=seen), "b h 1 d -> b (h d)")
        x = x + self.attention_out(mixed).astype(x.dtype)
        return x + self.ffn(x).astype(x.dtype), keys, values


# Paper, section 4: one more LayerNorm after the last block
class Stack(nnx.Module):
    """`L` blocks and a final LayerNorm."""

    def __init__(self, config: StackConfig, *, rngs: nnx.Rngs):
        @nnx.split_rngs(splits=config.blocks)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stacked(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs=rngs)

        self.config = config
        self.blocks = stacked(rngs)
        self.norm = layer_norm(config, rngs)

    def __call__(
        self, x: Float[Array, "B N D"], *, causal: bool, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "B N D"], Float[Array, "L B N D"]]:
        """Normalised output of the last block, and the output of every block."""
        graph, params = nnx.split(self.blocks)
        keys = None if key is None else jax.random.split(key, self.config.blocks)

        def body(x: Array, block: tuple) -> tuple[Array, Array]:
            params, key = block
            x = nnx.merge(graph, params)(x, causal=causal, key=key)
            x = split_over_batch(x)
            return x, x

        if self.config.remat != "none":
            body = jax.checkpoint(body, policy=REMAT[self.config.remat])
        # Before the loop as well: with parameters split along two axes of a mesh XLA
        # 0.10 computes a wrong result from a carry that it lays out by itself.
        x = split_over_batch(x)
        x, blocks = jax.lax.scan(body, x, (params, keys), unroll=self.config.unroll)
        return self.norm(x), blocks

    def empty_cache(self, batch: int, length: int) -> Cache:
        """A cache for `length` tokens of `batch` sequences."""
        c = self.config
        shape = (batch, c.heads, length, c.width // c.heads)
        zeros = (jnp.zeros(shape, jnp.dtype(c.precision)),) * c.blocks
        return Cache(zeros, zeros)

    def each(self) -> list[Block]:
        """The blocks one by one, copied out of the stacked arrays."""
        graph, params = nnx.split(self.blocks)
        return [
            nnx.merge(graph, jax.tree.map(lambda p: p[i], params))  # noqa: B023
            for i in range(self.config.blocks)
        ]

    def step(
        self,
        x: Float[Array, "B D"],
        cache: Cache,
        position: Int[Array, ""],
        blocks: Sequence[Block] | None = None,
    ) -> tuple[Float[Array, "B D"], Cache]:
        """One token through all blocks; equals row `position` of a causal call.

        A loop over positions takes `blocks = each()` once before it.
        """
        keys, values = [], []
        for block, k, v in zip(blocks or self.each(), *cache, strict=True):
            x, k, v = block.step(x, k, v, position)
            keys.append(k)
            values.append(v)
        return self.norm(x), Cache(tuple(keys), tuple(values))


# Paper, section 3.1: an image as a row of patches, in raster order
def patchify(images: Float[Array, "B H W C"], patch: int) -> Float[Array, "B N P"]:
    """Cut images into rows of `patch * patch * C` values, in raster order."""
    return rearrange(images, "b (h p) (w q) c -> b (h w) (p q c)", p=patch, q=patch)


def unpatchify(
    rows: Float[Array, "B N P"], *, grid: int, patch: int
) -> Float[Array, "B H W C"]:
    """Inverse of `patchify` for a square image of `grid * grid` patches."""
    return rearrange(
        rows, "b (h w) (p q c) -> b (h p) (w q) c", h=grid, w=grid, p=patch, q=patch
    )
