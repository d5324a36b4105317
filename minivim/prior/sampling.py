"""Sampling token by token in one compiled call with a key/value cache (section 4.1)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from minivim import fast
from minivim.config.checks import KINDS, require
from minivim.data.arrays import array_of, at_hand, check_key, whole
from minivim.prior.model import Prior, check_labels, knows_null
from minivim.transformer import longer

Logits = Float[Array, "*b K"]
TINY = 1e-30


# Paper silent, section 4.1: classifier-free guidance
def guide(*, conditional: Logits, null: Logits, scale: float | Array) -> Logits:
    """Classifier-free guidance `l_0 + s (l_c - l_0)`; 1 is no guidance."""
    return null + scale * (conditional - null)


def keep_top_k(logits: Logits, k: int) -> Logits:
    """Keep the `k` largest logits, and those equal to the smallest of them."""
    smallest = jax.lax.top_k(logits, k)[0][..., -1:]
    return jnp.where(logits >= smallest, logits, -jnp.inf)


def keep_top_p(logits: Logits, p: float | Array) -> Logits:
    """Keep the fewest most likely codes that add up to `p` or more; all from 1 on."""
    order = jnp.argsort(-logits, axis=-1, stable=True)
    probability = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    # As `put_along_axis`, which cannot be exported for any number of rows.
    put = jnp.vectorize(lambda x, at: x.at[at].set(x), signature="(k),(k)->(k)")
    kept = put(before < p, order)
    # Sums in float32 reach 1 before the last codes do.
    return jnp.where(kept | (jnp.asarray(p) >= 1), logits, -jnp.inf)


# Paper silent, section 5.2: temperature, top-k and top-p
def filter_logits(
    logits: Logits,
    *,
    temperature: float | Array = 1.0,
    top_k: int | None = None,
    top_p: float | Array | None = None,
) -> Logits:
    """Temperature, then top-k, then top-p; refused codes get minus infinity."""
    # Below that float32 would divide by zero; of equal logits it chooses any.
    logits = logits / jnp.maximum(temperature, TINY)
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    return logits


# Paper silent, section 4.1: a cache that equals the trained model
@partial(jax.jit, static_argnames=("top_k", "keep_logits", "total"))
def generate(
    prior: Prior,
    *,
    labels: Int[Array, " B"],
    codes: Int[Array, "B N"],
    known: int | Array,
    key: PRNGKeyArray,
    temperature: float | Array,
    top_k: int | None = None,
    top_p: float | Array | None = None,
    guidance: float | Array | None = None,
    keep_logits: bool = False,
    first: int | Array = 0,
    total: int = 0,
) -> tuple[Int[Array, "B N"], Float[Array, "N B K"] | None]:
    """The compiled loop: positions below `known` keep their code, the rest are drawn.

    With `keep_logits` also returns the filtered logits of every position. Of a larger
    batch of `total` pictures these are the ones from `first` on, with the same noise.
    The loop runs in parts, each over a cache as long as the part's end.
    """
    batch, length = codes.shape
    total = total or batch
    if guidance is not None:
        labels = jnp.concatenate([labels, jnp.full_like(labels, prior.null_class)])
    blocks = prior.stack.each()
    kept = partial(filter_logits, temperature=temperature, top_k=top_k, top_p=top_p)

    def body(carry: tuple, inputs: tuple) -> tuple[tuple, tuple]:
        x, cache = carry
        position, key, given = inputs
        logits, cache = prior.step(x, cache, position, blocks)
        if guidance is not None:
            conditional, null = jnp.split(logits, 2)
            logits = guide(conditional=conditional, null=null, scale=guidance)
        logits = kept(logits)
        noise = jax.random.gumbel(key, (total, logits.shape[-1]))
        if total != batch:
            noise = jax.lax.dynamic_slice_in_dim(noise, first, batch)
        drawn = fast.argmax(logits + noise)
        code = jnp.where(position < known, given, drawn)
        x = prior.embed(code, jnp.broadcast_to(position, code.shape))
        x = x if guidance is None else jnp.concatenate([x, x])
        return (x, cache), (code, logits if keep_logits else None)

    inputs = (jnp.arange(length), jax.random.split(key, length), codes.T)
    x, cache = prior.start(labels), prior.stack.empty_cache(labels.shape[0], 0)
    found, ends = [], cache_lengths(length)
    for begin, end in zip([0, *ends], ends, strict=False):
        part = jax.tree.map(lambda a: a[begin:end], inputs)  # noqa: B023
        (x, cache), out = jax.lax.scan(body, (x, longer(cache, end)), part)
        found.append(out)
    drawn, logits = jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)
    return drawn.T, logits


# CPU: two threads take longer to hand over a small step than to do it.
generate_in_one_thread = jax.jit(
    inspect.unwrap(generate),
    static_argnames=("top_k", "keep_logits", "total"),
    compiler_options={"xla_cpu_multi_thread_eigen": False},
)


def cache_lengths(tokens: int) -> list[int]:
    """Ends of at most eight parts of 64 tokens or more, with a program for each.

    With one part attention reads `T^2` keys, with eight `9/16 T^2`, at best `T^2 / 2`.
    """
    size = max(64, -(-tokens // 8))
    return [*range(size, tokens, size), tokens]


def is_number(value: Any, fits: Callable[[Any], Any]) -> bool:
    """Whether a value is a single number that fits, as far as it is known."""
    if np.ndim(value) or not at_hand(value):
        return not np.ndim(value)
    return np.asarray(value).dtype.kind in "fiu" and bool(fits(value))


# Paper, section 4.1: code after code, at temperature 1, from all codes
def sample(
    prior: Prior,
    *,
    key: PRNGKeyArray,
    labels: ArrayLike | Sequence[int | str] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: float | None = None,
    prefix: ArrayLike | Sequence[Sequence[int]] | None = None,
    num_samples: int | None = None,
) -> Int[Array, "B N"]:
    """Draw codes in raster order, `c_i ~ p(c_i | class, c_<i)`.

    The paper's sampling is the default: temperature 1 and no filter (section 5.2).
    Logits change in this order: guidance, temperature, top-k, top-p. `guidance` mixes
    those with and without label and needs a prior trained with label dropout. `prefix`
    holds the first `P` codes of each picture, which are kept (the upper half, say). As
    many are drawn as there are labels (numbers or names) or prefixes, or `num_samples`.

    Raises `UserError` for what is out of range or of another shape. If the card says
    that no label was dropped in training, also for guidance and for samples without
    label: both would ask for what was never learnt.
    """
    check_key(key)
    classes, given = _given(prior, labels, prefix, num_samples)
    filters: Any = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    _check_draw(prior, labels, guidance, **filters)
    (count, known), tokens = given.shape, prior.config.num_tokens
    pad = np.pad if at_hand(given) else jnp.pad
    given = pad(given, ((0, 0), (0, tokens - known))).astype(np.int32)
    how = filters | {"guidance": guidance, "key": key, "known": known}
    parts = fast.parts(count, prior.head.kernel[...], classes, given, *how.values())
    if parts == 1:
        classes, given = jnp.asarray(classes), jnp.asarray(given)
        return generate(prior, labels=classes, codes=given, **how)[0]

    def part(rows: np.ndarray) -> Array:
        mine = {"labels": classes[rows], "codes": given[rows], "first": rows[0]}
        return generate_in_one_thread(prior, **mine, **how, total=count)[0]

    first, *others = np.split(np.arange(count), parts)
    done = part(first)  # compiled once, then run in the background
    with ThreadPoolExecutor(parts) as pool:
        return jnp.concatenate([done, *pool.map(part, others)])


def _check_draw(
    prior: Prior, labels: Any, guidance: Any, temperature: Any, top_k: Any, top_p: Any
) -> None:
    """`UserError` for what is out of range, or was never learnt without a label."""
    told = f"temperature={temperature!r} must be above zero"
    hot = is_number(temperature, lambda t: t > 0)
    require(hot, f"{told}; use top_k=1 for greedy draws")
    count = prior.config.num_codes
    told = f"top_k={top_k!r} is out of range; use 1 to {count}, all of the codes"
    fits = top_k is None or KINDS[int].holds(top_k) and 1 <= top_k <= count
    require(fits, told)
    told = f"top_p={top_p!r} is no probability; use a value in (0, 1]"
    require(top_p is None or is_number(top_p, lambda p: 0 < p <= 1), told)
    if guidance is not None:
        require(labels is not None, "guidance needs labels; give labels=[...]")
        told = f"guidance={guidance!r} must be a number from 0 (the label is ignored)"
        fits = is_number(guidance, lambda s: 0 <= s < np.inf)
        require(fits, f"{told} on; 1 is no guidance")
    if not knows_null(prior):
        told = "this prior was trained with label_dropout=0"
        says = f"{told} and draws nothing without a label; give labels"
        require(labels is not None, says)
        told = f"{told}, so there is nothing to guide away from; leave out guidance"
        require(guidance is None or at_hand(guidance) and guidance == 1, told)


def _given(prior: Prior, labels: Any, prefix: Any, num_samples: Any) -> tuple[Any, Any]:
    """Classes [B], by default the null class, and the codes [B, P] that are kept."""
    tokens, last = prior.config.num_tokens, prior.config.num_codes - 1
    classes: Any = None if labels is None else check_labels(prior, labels)
    remedy = f"give [B, P] codes with P at most {tokens}, and use 0 to {last}"
    given = None if prefix is None else array_of(prefix, "prefixes", remedy)
    counts = {x.shape[0] for x in (classes, given) if x is not None and x.ndim}
    if num_samples is not None:
        told = f"num_samples={num_samples!r} is no whole number; give one"
        require(KINDS[int].holds(num_samples), told)
        counts |= {num_samples}
    told = f"labels, prefix and num_samples disagree on how many ({sorted(counts)})"
    require(len(counts) < 2, f"{told}; give the same number")
    count = max(counts, default=0)
    require(count > 0, "how many samples? give num_samples=N, labels or a prefix")
    if classes is None:
        classes = np.full(count, prior.null_class, np.int32)
    given = np.zeros((count, 0), np.int32) if given is None else given
    fits = given.ndim == 2 and given.shape[1] <= tokens
    fits = fits and (whole(given) or not given.size)
    fits = fits and (not at_hand(given) or np.all((given >= 0) & (given <= last)))
    told = f"a prefix of shape {given.shape} and type {given.dtype} does not fit"
    require(fits, f"{told}; {remedy}")
    return classes, given
