"""VIM: a decoder-only Transformer over codes in raster order (paper section 4)."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from minivim import fast
from minivim.card import Carded
from minivim.config import PriorConfig
from minivim.config.checks import require
from minivim.context import NO_CONTEXT, Context
from minivim.data.arrays import array_of, check_key, whole_codes, whole_labels
from minivim.data.layout import composed
from minivim.errors import UserError
from minivim.transformer import Cache, Stack, Token, at_least_float32, dropout, linear


# Paper, section 4: a causal Transformer over codes in raster order
class Prior(Carded):
    """`p(c_1, ..., c_N | class) = prod_i p(c_i | class, c_<i)`.

    Codes and classes have tables of their own, so no code can be taken for a class. The
    last row of the class table is the null class: the start of a prior without labels,
    and what a dropped label becomes. Code `c_i` carries the learnt vector of its row
    plus that of its column; the class token carries no position.
    """

    def __init__(self, config: PriorConfig, *, rngs: nnx.Rngs):
        width = config.stack.width

        def table(rows: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), (rows, width)))

        self.config = config
        self.codes = table(config.num_codes)
        self.classes = table(config.num_classes + 1)
        self.rows, self.columns = table(config.grid), table(config.grid)
        self.stack = Stack(config.stack, rngs=rngs)
        self.head = linear(width, config.num_codes, rngs)

    @property
    def null_class(self) -> int:
        """The label that stands for "no label"."""
        return self.config.num_classes

    # Paper, section 4.1: a class token with a table of its own
    def start(self, labels: Int[Array, " B"]) -> Float[Array, "B D"]:
        """The class token."""
        return self.classes[...][labels]

    # Paper, section 4: a learnt token plus a learnt 2-D position
    def embed(
        self, codes: Int[Array, "*b"], positions: Int[Array, "*b"]
    ) -> Float[Array, "*b D"]:
        """Token plus 2-D position."""
        row, column = jnp.divmod(positions, self.config.grid)
        return self.codes[...][codes] + self.rows[...][row] + self.columns[...][column]

    def __call__(
        self,
        codes: Int[Array, "B N"],
        labels: Int[Array, " B"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "B N K"], dict[str, Any]]:
        """Logits of every code given those before it; dropout only with a key.

        `aux["blocks"]`, `[L, B, N, D]`, is the output of every block at the class token
        and all codes but the last.
        """
        codes = self._checked(codes, part=True)
        if labels is not None:
            known = whole_labels(labels, self.null_class + 1)
            told = f"{known.shape[0]} labels for {codes.shape[0]} rows of codes"
            require(known.shape == codes.shape[:1], f"{told}; give one for each")
            labels = jnp.asarray(known)
        key = key if key is None else check_key(key)
        x, blocks = self._run(jnp.asarray(codes)[:, :-1], labels, key)
        return at_least_float32(self.head(x)), {"blocks": blocks}

    def _run(
        self, codes: Array, labels: Array | None, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "B M D"], Float[Array, "L B M D"]]:
        """The stack on the class token and all of `codes`."""
        batch, length = codes.shape
        if labels is None:
            labels = jnp.full((batch,), self.null_class, jnp.int32)
        keys = jax.random.split(key, 2) if key is not None else (None, None)
        positions = jnp.broadcast_to(jnp.arange(length), codes.shape)
        start = self.start(jnp.asarray(labels, jnp.int32))[:, None]
        x = jnp.concatenate([start, self.embed(codes, positions)], axis=1)
        # Paper silent. GPT's practice, beside the three places of every block.
        x = dropout(x, self.config.stack.dropout, keys[0])
        return self.stack(x, causal=True, key=keys[1])

    # Paper, section 4.2: the mean over all tokens of one block's output
    def features(self, codes: Int[ArrayLike, "B N"]) -> Float[Array, "L B D"]:
        """Mean over all codes of each block's output; takes no label (section 4.2)."""
        return self._features(self._checked(codes))

    def _checked(self, codes: Any, part: bool = False) -> Any:
        count, tokens = self.config.num_codes, self.config.num_tokens
        return whole_codes(codes, count, tokens, "prior", part)

    @jax.jit
    def _features(self, codes: ArrayLike) -> Float[Array, "L B D"]:
        _, blocks = self._run(jnp.asarray(codes), None)
        return jnp.mean(blocks[:, :, 1:].astype(jnp.float32), axis=2)

    def empty_cache(self, batch: fast.Size) -> Cache:
        """Room for a whole picture."""
        return self.stack.empty_cache(batch, self.config.num_tokens)

    def step(
        self, x: Token, cache: Cache, at: Int[Array, ""], blocks: Sequence = ()
    ) -> tuple[Float[Array, "B K"], Cache]:
        """Logits of the code `at` a position from its input; see `Stack.step`."""
        x, cache = self.stack.step(x, cache, at, blocks)
        return at_least_float32(self.head(x)), cache


def class_names(model: Any) -> list[str]:
    """What a model's card calls its classes; their numbers where it says nothing."""
    count = getattr(model.config, "num_classes", 0)
    names = (model.card.get("class_names") or [])[:count]
    return [*map(composed, names), *map(str, range(len(names), count))]


def class_number(model: Any, name: str) -> int:
    """The class of a name, or else of its number; others raise `UserError`."""
    names, name = class_names(model), composed(name)
    require(names.count(name) < 2, f"several classes are called {name}; give a number")
    if name in names:
        return names.index(name)
    # Of classes called 0, 10 and 20 nobody knows which is 1.
    plain = all(known == str(i) for i, known in enumerate(names) if known.isdecimal())
    if plain and name.removeprefix("-").isdecimal():
        return int(name)
    key, folded = name.casefold(), {known.casefold(): known for known in names}
    part = [folded[known] for known in folded if key and key in known]
    close = part or [folded[known] for known in difflib.get_close_matches(key, folded)]
    hint = f"{name!r}; did you mean {' or '.join(close[:3])}?" if close else f"{name!r}"
    some = f"{len(names)}: {', '.join(names[:10] + ['...'] * (len(names) > 10))}"
    raise UserError(f"there is no class {hint} (this prior knows {some})")


def check_labels(prior: Prior, labels: Any) -> Any:
    """Numbers of labels, or of names; `UserError` for others and without classes."""
    count = prior.config.num_classes
    told = "labels were given, but this prior has no class token"
    require(count > 0, f"{told}; leave them out or load a class-conditional prior")
    found = array_of(labels, "labels", "give one number or name for each image")
    if found.dtype.kind in "OU":
        # NumPy's own strings would drop the NULs at their end.
        given = np.atleast_1d(np.asarray(labels, object))
        found = [class_number(prior, x) if isinstance(x, str) else x for x in given]
    return whole_labels(found, count)


def knows_null(prior: Prior) -> bool:
    """Whether the null class was trained; assumed where no card with a recipe tells.

    A labelled prior learns it from dropped labels alone.
    """
    recipe = prior.card.get("recipe", {})
    return not prior.config.num_classes or recipe.get("label_dropout") != 0


# Paper silent, section 4.1: labels dropped in training, for guidance
def drop_labels(
    labels: Int[Array, " B"], null_class: int, rate: float, key: PRNGKeyArray
) -> Int[Array, " B"]:
    """Replace a share `rate` of the labels by the null class."""
    return jnp.where(jax.random.bernoulli(key, rate, labels.shape), null_class, labels)


# Paper, section 4: the negative log-likelihood of the next code
def prior_loss(
    prior: Prior,
    batch: dict[str, Array],
    context: Context = NO_CONTEXT,
    *,
    label_dropout: float = 0.0,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """Mean of `-log p(c_i | class, c_<i)`, nats per token (section 4)."""
    drop_key, dropout_key = jax.random.split(key)
    labels = batch["label"] if prior.config.num_classes else None
    if labels is not None and label_dropout:
        labels = drop_labels(labels, prior.null_class, label_dropout, drop_key)
    codes, use_dropout = batch["codes"], prior.config.stack.dropout > 0
    logits, aux = prior(codes, labels, key=dropout_key if use_dropout else None)
    nll = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, codes))
    metrics = {"nll": nll, "accuracy": jnp.mean(fast.argmax(logits) == codes)}
    return context.with_own(nll, metrics, aux | {"logits": logits}, batch)
