"""Pre-LayerNorm Transformer blocks, shared by the tokenizer and the prior.

The parameters of all blocks of a stack lie in one array each, with the block as first
axis, and the stack is a `jax.lax.scan` over it.
"""

from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from minivim import fast
from minivim.config import StackConfig

Tokens = Float[Array, "B N _D"]
Token = Float[Array, "B _D"]
Heads = Float[Array, "B heads _N d"]
ACTIVATIONS = {"gelu": fast.gelu, "relu": jax.nn.relu, "tanh": jnp.tanh}


class Cache(NamedTuple):
    """Keys and values of the tokens so far, `[B, heads, T, head_dim]` per block."""

    # One array for each block, since a loop updates those in place.
    keys: tuple[Array, ...]
    values: tuple[Array, ...]


def longer(cache: Cache, length: int) -> Cache:
    """The cache with room for `length` tokens."""
    room = [(0, 0), (0, 0), (0, length - cache.keys[0].shape[2]), (0, 0)]
    return jax.tree.map(lambda x: jnp.pad(x, room), cache)


def at_least_float32(x: Array) -> Array:
    """`x` in float32, or in its own type if that is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def dropout(x: Array, rate: float, key: PRNGKeyArray | None) -> Array:
    """Zero a share `rate` of `x` and scale the rest; identity without a key."""
    if key is None or rate == 0.0:
        return x
    kept = fast.materialize(jax.random.bernoulli(key, 1 - rate, x.shape))
    return jnp.where(kept, x / (1 - rate), 0)


def layer_norm(config: StackConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm in float32, with the two-pass variance."""
    return nnx.LayerNorm(
        config.width, epsilon=config.norm_eps, use_fast_variance=False, rngs=rngs
    )


def linear(
    inputs: int, outputs: int, rngs: nnx.Rngs, precision: str = "float32"
) -> nnx.Linear:
    """A dense layer with float32 parameters, N(0, 1/inputs) weights and zero bias."""
    # "float32" means the type of its parameters, which is float64 in checks.
    dtype = None if precision == "float32" else jnp.dtype(precision)
    return nnx.Linear(inputs, outputs, dtype=dtype, rngs=rngs)


def attention(
    q: Heads, k: Heads, v: Heads, *, seen: Bool[Array, "Q T"] | None = None
) -> Heads:
    """`softmax(q k^T / sqrt(d)) v` over the tokens `seen`; softmax in float32."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    einsum = partial(jnp.einsum, preferred_element_type=wide)
    scores = einsum("bhqd,bhtd->bhqt", q * q.shape[-1] ** -0.5, k)
    scores = scores if seen is None else jnp.where(seen, scores, -jnp.inf)
    largest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    # Divided after the product: d divisions a query instead of T.
    mixed = einsum("bhqt,bhtd->bhqd", weights.astype(v.dtype), v)
    return (mixed / total).astype(v.dtype)


# Paper silent, section 3.1: LayerNorm before attention and before the FFN
class Block(nnx.Module):
    """`x + Attention(LN(x))`, then `x + FFN(LN(x))`."""

    def __init__(self, config: StackConfig, *, rngs: nnx.Rngs):
        d, h, precision = config.width, config.hidden, config.precision
        self.config = config
        self.attention_norm = layer_norm(config, rngs)
        self.qkv = linear(d, 3 * d, rngs, precision)
        self.attention_out = linear(d, d, rngs, precision)
        self.ffn_norm = layer_norm(config, rngs)
        self.ffn_up = linear(d, h, rngs, precision)
        self.ffn_down = linear(h, d, rngs, precision)

    def __call__(
        self, x: Tokens, *, causal: bool, key: PRNGKeyArray | None = None
    ) -> Tokens:
        batch, tokens, _ = x.shape
        keys = jax.random.split(key, 2) if key is not None else (None, None)
        x = fast.rows(x)
        q, k, v = self.heads(self.attention_norm(x), batch)
        mixed = fast.attention(q, k, v, causal=causal)
        if mixed is None:
            seen = jnp.tri(tokens, dtype=bool) if causal else None
            mixed = attention(q, k, v, seen=seen)
        x = x + dropout(self.merged(mixed), self.config.dropout, keys[0])
        x = x + self.ffn(self.ffn_norm(x), keys[1])
        return fast.tokens(x, batch)

    def step(
        self, x: Tokens, keys: Heads, values: Heads, position: Int[Array, ""]
    ) -> tuple[Tokens, Heads, Heads]:
        """One token at `position`, reading and extending this block's cache."""
        batch, x = x.shape[0], fast.rows(x)
        q, k, v = self.heads(self.attention_norm(x), batch)
        write = jax.lax.dynamic_update_slice_in_dim
        keys = write(keys, k.astype(keys.dtype), position, axis=2)
        values = write(values, v.astype(values.dtype), position, axis=2)
        seen = jnp.arange(keys.shape[2])[None] <= position
        x = x + self.merged(attention(q, keys, values, seen=seen))
        x = x + self.ffn(self.ffn_norm(x))
        return fast.tokens(x, batch), keys, values

    def heads(self, x: Array, batch: fast.Size) -> list[Heads]:
        """Queries, keys and values of normalized tokens."""
        parts = jnp.split(self.qkv(x), 3, axis=-1)
        split, heads = "b n (h d) -> b h n d", self.config.heads
        return [rearrange(fast.tokens(p, batch), split, h=heads) for p in parts]

    def merged(self, mixed: Heads) -> Array:
        """The heads side by side, through the output layer."""
        return self.attention_out(fast.rows(rearrange(mixed, "b h n d -> b n (h d)")))

    def ffn(self, x: Array, key: PRNGKeyArray | None = None) -> Array:
        """The two-layer network on normalized tokens."""
        keys = jax.random.split(key, 2) if key is not None else (None, None)
        rate = self.config.dropout
        h = ACTIVATIONS[self.config.activation](self.ffn_up(x))
        return dropout(self.ffn_down(dropout(h, rate, keys[0])), rate, keys[1])


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
        self, x: Tokens, *, causal: bool, key: PRNGKeyArray | None = None
    ) -> tuple[Tokens, Float[Array, "L B N D"]]:
        """Normalised output of the last block, and the output of every block."""
        graph, params = nnx.split(self.blocks)
        keys = None if key is None else jax.random.split(key, self.config.blocks)

        def block(x: Array, params_and_key: tuple) -> Array:
            params, key = params_and_key
            return nnx.merge(graph, params)(x, causal=causal, key=key)

        x, blocks = fast.scan_blocks(block, x, (params, keys), self.config)
        return self.norm(x), blocks

    def empty_cache(self, batch: fast.Size, length: int) -> Cache:
        """A cache for `length` tokens of `batch` sequences."""
        c = self.config
        shape = (batch, c.heads, length, c.width // c.heads)
        zeros = (jnp.zeros(shape, jnp.dtype(c.precision)),) * c.blocks
        return Cache(zeros, zeros)

    def each(self) -> list[Block]:
        """The blocks one by one, copied out of the stacked arrays."""
        graph, params = nnx.split(self.blocks)
        one = (jax.tree.map(itemgetter(i), params) for i in range(self.config.blocks))
        return [nnx.merge(graph, block) for block in one]

    def step(
        self, x: Token, cache: Cache, at: Int[Array, ""], blocks: Sequence[Block] = ()
    ) -> tuple[Token, Cache]:
        """One token through all blocks; equals row `at` of a causal call.

        A loop over positions takes `blocks = each()` once before it.
        """
        x, pairs = x[:, None], []
        for block, k, v in zip(blocks or self.each(), *cache, strict=True):
            x, *pair = block.step(x, k, v, at)
            pairs.append(pair)
        return self.norm(x[:, 0]), Cache(*zip(*pairs, strict=True))


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
