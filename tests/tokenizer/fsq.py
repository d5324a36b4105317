"""Finite scalar quantization (arXiv 2309.15505): a quantizer without a codebook.

Each of `d` numbers is squashed and rounded to one of its levels; the code is the number
that the levels write in mixed radix. Settings, a module and a call of `register` are
all that another quantizer needs; then
`replace(recipe.model, quantizer=FSQConfig(levels=(8, 5, 5)))` puts it into a recipe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from minivim import register
from minivim.config import AnyQuantizerConfig
from minivim.config.checks import require
from minivim.tokenizer.quantizer import straight_through
from minivim.transformer import linear


@dataclass(frozen=True, kw_only=True)
class FSQConfig(AnyQuantizerConfig):
    """How many values each of the numbers can take."""

    levels: tuple[int, ...] = (8, 5, 5, 5)

    def __post_init__(self) -> None:
        require(
            len(self.levels) > 0 and min(self.levels) >= 2,
            f"levels={self.levels}: each needs two values or more; use 8,5,5,5",
        )

    @property
    def num_codes(self) -> int:
        return math.prod(self.levels)

    @property
    def code_dim(self) -> int:
        return len(self.levels)


class FSQ(nnx.Module):
    """`round((L - 1) (tanh z + 1) / 2)` in each dimension, straight through."""

    def __init__(
        self, config: FSQConfig, *, in_width: int, out_width: int, rngs: nnx.Rngs
    ):
        self.config = config
        self.down = linear(in_width, config.code_dim, rngs)
        self.up = linear(config.code_dim, out_width, rngs)

    def digits(self, codes: Int[Array, "*b"]) -> Int[Array, "*b d"]:
        """Level of every dimension, the first one least significant."""
        levels = self.config.levels
        places = [math.prod(levels[:i]) for i in range(len(levels))]
        return jnp.stack(
            [codes // p % n for p, n in zip(places, levels, strict=True)], axis=-1
        )

    def codes(self, digits: Int[Array, "*b d"]) -> Int[Array, "*b"]:
        """The inverse, `sum_i digit_i prod_(j<i) L_j`."""
        levels = self.config.levels
        places = jnp.array([math.prod(levels[:i]) for i in range(len(levels))])
        return jnp.sum(digits * places, axis=-1)

    def embed(self, codes: Int[Array, "B N"]) -> Float[Array, "B N out"]:
        """What the decoder receives for given codes: levels spread over [-1, 1]."""
        return self.up(self._spread(self.digits(codes)))

    def __call__(
        self, features: Float[Array, "B N in"], *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "B N out"], dict[str, Any]]:
        """Quantise; nothing has to be pulled together, so `vq_loss` is zero."""
        z_e = jnp.tanh(self.down(features).astype(jnp.float32))
        top = jnp.array(self.config.levels) - 1
        digits = jnp.round(top * (z_e + 1) / 2).astype(jnp.int32)
        z_q = self._spread(digits)
        aux = {
            "codes": self.codes(digits),
            "z_e": z_e,
            "z_q": z_q,
            "vq_loss": jnp.zeros(()),
        }
        return self.up(straight_through(z_e, z_q)), aux

    def _spread(self, digits: Int[Array, "*b d"]) -> Float[Array, "*b d"]:
        return 2 * digits / (jnp.array(self.config.levels) - 1) - 1


register("fsq", FSQConfig, FSQ)
