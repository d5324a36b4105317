"""Pre-LayerNorm Transformer blocks, shared by the tokenizer and the prior.

The parameters of all blocks of a stack lie in one array each, with the block as first
axis, and the stack is a `jax.lax.scan` over it: weights and compile time do not depend
on how many blocks one loop iteration holds (`unroll`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from minivim.config import StackConfig

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
}


class Cache(NamedTuple):
    """Keys and values of the tokens seen so far, one row per block and position."""

    keys: Float[Array, "L B T heads head_dim"]
    values: Float[Array, "L B T heads head_dim"]


def dropout(x: Array, rate: float, key: PRNGKeyArray | None) -> Array:
    """Zero a share `rate` of `x` and scale the rest; identity without a key."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def layer_norm(config: StackConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm in float32, with the two-pass variance."""
    return nnx.LayerNorm(
        config.width, epsilon=config.norm_eps, use_fast_variance=False, rngs=rngs
    )


def linear(inputs: int, outputs: int, rngs: nnx.Rngs, precision: str = "float32"):
    """A dense layer with float32 parameters, N(0, 1/inputs) weights and zero bias."""
    return nnx.Linear(inputs, outputs, dtype=jnp.dtype(precision), rngs=rngs)


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

    def heads(self, x: Float[Array, "M D"]) -> tuple[Array, Array, Array]:
        """Queries, keys and values `[M, heads, head_dim]` of normalised tokens."""
        qkv = self.qkv(self.attention_norm(x))
        parts = rearrange(qkv, "m (three h d) -> three m h d", three=3,
                          h=self.config.heads)  # fmt: skip
        return parts[0], parts[1], parts[2]

    def ffn(self, x: Float[Array, "M D"], key: PRNGKeyArray | None = None) -> Array:
        """The two-layer network on normalised tokens."""
        keys = jax.random.split(key, 2) if key is not None else (None, None)
        rate = self.config.dropout
        h = ACTIVATIONS[self.config.activation](self.ffn_up(self.ffn_norm(x)))
        return dropout(self.ffn_down(dropout(h, rate, keys[0])), rate, keys[1])

    def __call__(
        self, x: Float[Array, "B N D"], *, causal: bool, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B N D"]:
        batch = x.shape[0]
        keys = jax.random.split(key, 2) if key is not None else (None, None)
        flat = rearrange(x, "b n d -> (b n) d")
        q, k, v = (
            rearrange(part, "(b n) h d -> b n h d", b=batch)
            for part in self.heads(flat)
        )
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=causal)
        mixed = self.attention_out(rearrange(mixed, "b n h d -> (b n) (h d)"))
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
        q, k, v = self.heads(x)
        keys = jax.lax.dynamic_update_slice_in_dim(
            keys, k[:, None].astype(keys.dtype), position, axis=1
        )
        values = jax.lax.dynamic_update_slice_in_dim(
            values, v[:, None].astype(values.dtype), position, axis=1
        )
        seen = jnp.arange(keys.shape[1]) <= position
        mixed = jax.nn.dot_product_attention(
            q[:, None], keys, values, mask=seen[None, None, None]
        )
        x = x + self.attention_out(rearrange(mixed, "b 1 h d -> b (h d)")).astype(
            x.dtype
        )
        return x + self.ffn(x).astype(x.dtype), keys, values


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
            return x, x

        if self.config.remat:
            body = jax.checkpoint(body)
        x, blocks = jax.lax.scan(body, x, (params, keys), unroll=self.config.unroll)
        return self.norm(x), blocks

    def empty_cache(self, batch: int, length: int) -> Cache:
        """A cache for `length` tokens of `batch` sequences."""
        c = self.config
        shape = (c.blocks, batch, length, c.heads, c.width // c.heads)
        zeros = jnp.zeros(shape, jnp.dtype(c.precision))
        return Cache(zeros, zeros)

    def step(
        self, x: Float[Array, "B D"], cache: Cache, position: Int[Array, ""]
    ) -> tuple[Float[Array, "B D"], Cache]:
        """One token through all blocks; equals row `position` of a causal call."""
        graph, params = nnx.split(self.blocks)

        def body(x: Array, block: tuple) -> tuple[Array, tuple]:
            params, keys, values = block
            x, keys, values = nnx.merge(graph, params).step(x, keys, values, position)
            return x, (keys, values)

        x, (keys, values) = jax.lax.scan(
            body, x, (params, *cache), unroll=self.config.unroll
        )
        return self.norm(x), Cache(keys, values)


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
