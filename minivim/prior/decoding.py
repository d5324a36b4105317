"""Sampling token by token in one compiled call with a key/value cache (section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from minivim.errors import UserError
from minivim.prior.filters import filter_logits, guide
from minivim.prior.transformer import Prior, check_labels, knows_null
from minivim.transformer import argmax


# Paper, section 4.1: code after code, at temperature 1, from all codes
def sample(
    prior: Prior,
    *,
    key: PRNGKeyArray,
    labels: ArrayLike | Sequence[int] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: float | None = None,
    prefix: ArrayLike | Sequence[Sequence[int]] | None = None,
    num_samples: int | None = None,
) -> Int[Array, "B N"]:
    """Draw codes in raster order, `c_i ~ p(c_i | class, c_<i)`.

    The paper's sampling is the default: temperature 1 and no filter. `prefix` holds the
    first `P` codes of each picture, which are kept (the upper half, say). `guidance`
    mixes the logits with and without label and needs a prior trained with label
    dropout. How many: as many as labels or prefix rows, else `num_samples`.

    Raises `UserError` for a label out of range, `top_k` above the number of codes, a
    probability or temperature that is none, guidance below 0, or a prefix of another
    shape. Also, where the card says that no label was dropped in training, for guidance
    and for samples without label: both would ask for what was never learnt.
    """
    if labels is not None and np.size(labels):
        labels = check_labels(prior, labels)
    count = _count(labels, prefix, num_samples)
    _check_filters(prior, temperature, top_k, top_p)
    _check_null(prior, guidance, labelled=labels is not None)
    start = (
        np.full(count, prior.null_class, np.int32)
        if labels is None
        else np.asarray(labels)
    )
    given, known = _padded_prefix(prior, prefix, count)
    codes, _ = generate(
        prior,
        labels=jnp.asarray(start),
        codes=given,
        known=known,
        key=key,
        temperature=jnp.float32(temperature),
        top_k=top_k,
        top_p=None if top_p is None else jnp.float32(top_p),
        guidance=None if guidance is None else jnp.float32(guidance),
    )
    return codes


# Paper silent, section 4.1: a cache that equals the trained model
@partial(jax.jit, static_argnames=("top_k", "keep_logits"))
def generate(
    prior: Prior,
    *,
    labels: Int[Array, " B"],
    codes: Int[Array, "B N"],
    known: Int[Array, ""],
    key: PRNGKeyArray,
    temperature: Float[Array, ""],
    top_k: int | None = None,
    top_p: Float[Array, ""] | None = None,
    guidance: Float[Array, ""] | None = None,
    keep_logits: bool = False,
) -> tuple[Int[Array, "B N"], Float[Array, "N B K"] | None]:
    """The compiled loop: positions below `known` keep their code, the rest are drawn.

    With `keep_logits` also returns the filtered logits of every position; the tests
    hold them against teacher forcing.
    """
    batch, length = codes.shape
    if guidance is not None:
        labels = jnp.concatenate([labels, jnp.full_like(labels, prior.null_class)])
    keys = jax.random.split(key, length)
    blocks = prior.stack.each()

    def body(carry: tuple, inputs: tuple) -> tuple[tuple, tuple]:
        x, cache = carry
        position, key, given = inputs
        logits, cache = prior.step(x, cache, position, blocks)
        if guidance is not None:
            conditional, null = jnp.split(logits, 2)
            logits = guide(conditional=conditional, null=null, scale=guidance)
        logits = filter_logits(
            logits, temperature=temperature, top_k=top_k, top_p=top_p
        )
        drawn = argmax(logits + jax.random.gumbel(key, logits.shape))
        code = jnp.where(position < known, given, drawn)
        x = prior.embed(code, jnp.broadcast_to(position, code.shape))
        x = x if guidance is None else jnp.concatenate([x, x])
        return (x, cache), (code, logits if keep_logits else None)

    carry = (prior.start(labels), prior.empty_cache(labels.shape[0]))
    inputs = (jnp.arange(length), keys, codes.T)
    _, (drawn, logits) = jax.lax.scan(body, carry, inputs)
    return drawn.T, logits


def _count(labels: object, prefix: object, num_samples: int | None) -> int:
    given = {len(x) for x in (labels, prefix) if x is not None}  # type: ignore[arg-type]
    given |= {num_samples} if num_samples is not None else set()
    if len(given) > 1:
        raise UserError(
            f"labels, prefix and num_samples disagree on how many ({sorted(given)}); "
            "give the same number"
        )
    if not given or min(given) < 1:
        raise UserError("how many samples? give num_samples=N, labels or a prefix")
    return given.pop()


def _check_filters(
    prior: Prior, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    codes = prior.config.num_codes
    if not temperature > 0:
        raise UserError(
            f"temperature={temperature} must be above zero; for greedy decoding use "
            "top_k=1"
        )
    if top_k is not None and not 1 <= top_k <= codes:
        raise UserError(
            f"top_k={top_k} is out of range; this prior has {codes} codes, so use 1 "
            f"to {codes}"
        )
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p={top_p} is no probability; use a value in (0, 1]")


def _check_null(prior: Prior, guidance: float | None, *, labelled: bool) -> None:
    """Guidance, and whether the prior knows the null class where it is asked of it."""
    if guidance is not None and not labelled:
        raise UserError("guidance needs labels to guide to; give labels=[...]")
    if guidance is not None and not 0 <= guidance < np.inf:
        raise UserError(
            f"guidance={guidance} must be a number from 0 (the label is ignored) on; 1 "
            "is no guidance"
        )
    if knows_null(prior):
        return
    if not labelled:
        raise UserError(
            "this prior was trained with label_dropout=0 and draws nothing without a "
            "label; give labels"
        )
    if guidance not in (None, 1):
        raise UserError(
            "this prior was trained with label_dropout=0, so there is nothing to guide "
            "away from; leave out guidance"
        )


def _padded_prefix(
    prior: Prior, prefix: object, count: int
) -> tuple[Int[Array, "B N"], Int[Array, ""]]:
    """The prefix padded to the whole picture, and its length."""
    length, codes = prior.config.num_tokens, prior.config.num_codes
    given = np.zeros((count, length), np.int32)
    if prefix is None:
        return jnp.asarray(given), jnp.int32(0)
    prefix = np.asarray(prefix)
    if prefix.ndim != 2 or prefix.shape[1] > length:
        raise UserError(
            f"a prefix of shape {prefix.shape} does not fit; give [B, P] codes with P "
            f"at most {length}"
        )
    if prefix.size and not 0 <= prefix.min() <= prefix.max() < codes:
        raise UserError(f"a prefix code is out of range; use 0 to {codes - 1}")
    given[:, : prefix.shape[1]] = prefix
    return jnp.asarray(given), jnp.int32(prefix.shape[1])
