"""The codebook: factorized, l2-normalized, learnt by gradient (paper section 3.2).

Also variants (no projections, an EMA codebook, revival), and how others are built.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from minivim import fast
from minivim.config import AnyQuantizerConfig, QuantizerConfig
from minivim.config.checks import require
from minivim.transformer import at_least_float32, linear

Vectors = Float[Array, "*b d"]
EPS = 1e-5  # Laplace smoothing of an EMA codebook's counts


# Paper, section 3.2: vectors and codes on the unit sphere
def l2_normalise(x: Vectors, eps: float = 1e-12) -> Vectors:
    """`x / max(|x|, eps)`; the gradient at zero is finite."""
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, eps**2))


# Paper, section 3.2: the nearest code, on the sphere the largest cosine
def nearest_code(z: Vectors, codebook: Float[Array, "K d"]) -> Int[Array, "*b"]:
    """`argmin_k |z - e_k|^2 = argmax_k 2 z.e_k - |e_k|^2`, the lowest k on a tie."""
    scores = 2 * z @ codebook.T - jnp.sum(jnp.square(codebook), axis=-1)
    return fast.argmax(scores)


# Paper, section 3: the straight-through gradient
def straight_through(z: Vectors, z_q: Vectors) -> Vectors:
    """`z + sg[z_q - z]`: the value of `z_q`, the gradient of `z`."""
    return z + jax.lax.stop_gradient(z_q - z)


# Paper, section 3.2: L_VQ, a codebook term and a commitment term
def vq_terms(
    *, z_e: Vectors, z_q: Vectors, reduction: str
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Both halves of `L_VQ = |sg[z_e] - e|^2 + beta |z_e - sg[e]|^2` (section 3.2).

    The first trains the codebook, the second the encoder. Mean over tokens; over the
    `d` code dimensions the sum, as printed, or the mean, which is `d` times smaller.

    >>> z_e, z_q = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    >>> [float(t) for t in vq_terms(z_e=z_e, z_q=z_q, reduction="sum")]
    [2.0, 2.0]
    >>> [float(t) for t in vq_terms(z_e=z_e, z_q=z_q, reduction="mean")]
    [1.0, 1.0]
    """
    reduce = {"sum": jnp.sum, "mean": jnp.mean}[reduction]

    def distance(a: Array, b: Array) -> Array:
        return jnp.mean(reduce(jnp.square(a - b), axis=-1))

    stop = jax.lax.stop_gradient
    return distance(stop(z_e), z_q), distance(z_e, stop(z_q))


# Paper, section 3.2: factorised codes, looked up in few dimensions
class Quantizer(nnx.Module):
    """Project to `d` dimensions, look up the nearest code, project back.

    By default the codebook is trained by the loss alone, as in the paper. With
    `codebook="ema"` it is a parameter without a gradient, `e_k = m_k / N_k` over moving
    averages of the vectors that chose `k` (arXiv 1711.00937, appendix A.1); with
    `revive_after` dead codes are moved onto vectors of the batch.
    """

    def __init__(
        self, config: QuantizerConfig, *, in_width: int, out_width: int, rngs: nnx.Rngs
    ):
        self.config = config
        if config.factorised:
            self.down = linear(in_width, config.code_dim, rngs)
            self.up = linear(config.code_dim, out_width, rngs)
        shape = (config.num_codes, config.code_dim)
        # Paper, section 3.2: a codebook that starts from a normal distribution
        self.codebook = nnx.Param(jax.random.normal(rngs.params(), shape))
        # `weights.load` relies on zeros here: older files hold no statistics.
        if config.codebook == "ema":
            self.sums = nnx.BatchStat(jnp.zeros(shape))
            self.counts = nnx.BatchStat(jnp.zeros(config.num_codes))
        if config.revive_after:
            self.idle = nnx.BatchStat(jnp.zeros(config.num_codes, jnp.int32))

    def embeddings(self) -> Float[Array, "K d"]:
        """The codes as the lookup sees them: on the unit sphere if normalized."""
        codebook = self.codebook[...]
        if self.config.codebook == "ema":
            codebook = jax.lax.stop_gradient(codebook)
        return l2_normalise(codebook) if self.config.l2_normalise else codebook

    def embed(self, codes: Int[Array, "B N"]) -> Float[Array, "B N out"]:
        """The decoder's input for given codes."""
        return self._project_back(self.embeddings()[codes])

    def __call__(
        self, features: Float[Array, "B N in"], *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "B N out"], dict[str, Any]]:
        """Quantize; `aux` holds `codes`, `z_e`, `z_q` and the loss terms.

        `vq_loss` is the term to minimize (with an EMA codebook the commitment alone).
        In training, with a `key`, EMA statistics and dead codes change afterwards.
        """
        config = self.config
        raw = at_least_float32(self.down(features) if config.factorised else features)
        z_e = l2_normalise(raw) if config.l2_normalise else raw
        embeddings = self.embeddings()
        codes = nearest_code(z_e, embeddings)
        z_q = embeddings[codes]
        terms = vq_terms(z_e=z_e, z_q=z_q, reduction=config.reduction)
        aux = {"codebook_loss": terms[0], "commitment_loss": terms[1]}
        vq_loss = config.beta * terms[1]
        if config.codebook == "gradient":
            vq_loss = terms[0] + vq_loss
        aux |= {"codes": codes, "z_e": z_e, "z_q": z_q, "vq_loss": vq_loss}
        if key is not None:
            z = jax.lax.stop_gradient(z_e).reshape(-1, config.code_dim)
            # In a program over a mesh these are statistics of the whole batch.
            uses = jnp.bincount(codes.ravel(), length=config.num_codes)
            if config.codebook == "ema":
                self._update_averages(z, codes.ravel(), uses)
            if config.revive_after:
                self._revive(z, uses, key)
        carrier = z_e if config.straight_through == "project" else raw
        return self._project_back(straight_through(carrier, z_q)), aux

    def _project_back(self, z: Float[Array, "B N d"]) -> Float[Array, "B N out"]:
        return self.up(z) if self.config.factorised else z

    def _update_averages(
        self, z: Float[Array, "M d"], codes: Int[Array, " M"], uses: Int[Array, " K"]
    ) -> None:
        """`N <- g N + (1 - g) n`, `m <- g m + (1 - g) sum z`, `e = m / N` smoothed."""
        size, decay = self.config.num_codes, self.config.ema_decay
        counts = decay * self.counts[...] + (1 - decay) * uses
        added = jax.ops.segment_sum(z, codes, size)
        sums = decay * self.sums[...] + (1 - decay) * added
        total = jnp.sum(counts)
        smoothed = (counts + EPS) / (total + size * EPS) * total
        # The average of an unused code is lost in rounding; such a code stays in place.
        known = counts > EPS
        averages = sums / smoothed[:, None]
        self.codebook[...] = jnp.where(known[:, None], averages, self.codebook[...])
        self.counts[...], self.sums[...] = counts, sums

    def _revive(
        self, z: Float[Array, "M d"], uses: Int[Array, " K"], key: PRNGKeyArray
    ) -> None:
        """Move codes unused for `revive_after` calls onto random vectors of `z`."""
        idle = jnp.where(uses > 0, 0, self.idle[...] + 1)
        dead = idle >= self.config.revive_after
        drawn = z[jax.random.randint(key, dead.shape, 0, len(z))]
        self.codebook[...] = jnp.where(dead[:, None], drawn, self.codebook[...])
        self.idle[...] = jnp.where(dead, 0, idle)
        if self.config.codebook == "ema":
            self.counts[...] = jnp.where(dead, 0, self.counts[...])
            self.sums[...] = jnp.where(dead[:, None], 0, self.sums[...])


# The module for each class of settings; `minivim.register` adds to it.
QUANTIZERS: dict[type, type] = {QuantizerConfig: Quantizer}


def build(
    config: AnyQuantizerConfig, *, in_width: int, out_width: int, rngs: nnx.Rngs
) -> Any:
    """The quantizer of these settings; one of somebody's own is tried on zeros first.

    Raises `UserError` where it does not do what `AnyQuantizerConfig` asks.
    """
    kind, widths = type(config), {"in_width": in_width, "out_width": out_width}
    name, remedy = kind.__name__, "call minivim.register(NAME, SETTINGS, MODULE)"
    require(kind in QUANTIZERS, f"{name} is not registered; {remedy}")
    quantizer = QUANTIZERS[kind](config, **widths, rngs=rngs)
    if kind is QuantizerConfig:
        return quantizer
    leaves = jax.tree.leaves(nnx.state(quantizer, nnx.Param))
    count, told = sum(x.size for x in leaves), config.parameters(**widths)
    problem = f"{name}.parameters says {told}, but {QUANTIZERS[kind].__name__} has"
    require(count == told, f"{problem} {count}; count them in {name}.parameters")

    def tried(quantizer: Any, features: Array) -> Any:
        embedded, aux = quantizer(features, key=None)
        return embedded, aux["codes"], aux["vq_loss"], quantizer.embed(aux["codes"])

    features = jnp.zeros((2, 3, in_width))
    found = nnx.eval_shape(tried, quantizer, features)
    wanted = {"output": (2, 3, out_width), "codes": (2, 3), "vq_loss": ()}
    wanted["embed(codes)"] = (2, 3, out_width)
    for (what, shape), x in zip(wanted.items(), found, strict=True):
        said = f"{QUANTIZERS[kind].__name__}: {what} of features {features.shape} has"
        require(x.shape == shape, f"{said} shape {x.shape}; return {shape}")
    whole = jnp.issubdtype(found[1].dtype, jnp.integer)
    require(whole, f"the codes of {name} are {found[1].dtype}; return whole numbers")
    return quantizer
