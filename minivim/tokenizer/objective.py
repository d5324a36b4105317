"""The objective of stage 1: all terms of the loss together (paper section 3.3).

One scalar trains both networks, since each term's gradient reaches one of them only.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from minivim.config import DiscriminatorConfig, LossConfig, TokenizerRecipe
from minivim.context import NO_CONTEXT, Context
from minivim.data.augment import augment
from minivim.tokenizer import losses
from minivim.tokenizer.discriminator import build
from minivim.tokenizer.model import Tokenizer
from minivim.tokenizer.perceptual import LPIPS

# Terms with a gradient at the reconstruction.
AT_PIXELS = ("l2", "l1", "logit_laplace", "perceptual", "adversarial")
ADVERSARIAL = {
    "logistic": (losses.logistic_generator_loss, losses.logistic_discriminator_loss),
    "hinge": (losses.hinge_generator_loss, losses.hinge_discriminator_loss),
}
# Histograms of logits; the outer bins also hold all logits beyond the range.
LOGIT_RANGE, LOGIT_BINS = 5.0, 20


class Players(nnx.Module):
    """Tokenizer and discriminator, as one model with an optimizer each."""

    def __init__(self, recipe: TokenizerRecipe):
        seed, shape = recipe.run.seed, recipe.model.image_shape
        self.tokenizer = Tokenizer(recipe.model, rngs=nnx.Rngs(seed))
        rngs = nnx.Rngs(jax.random.fold_in(jax.random.key(seed), 1))
        self.discriminator = build(recipe.discriminator, **shape, rngs=rngs)


def zeros_of(weights: LossConfig) -> Callable[[dict], dict[str, Array]] | None:
    """Zeros to add to the mean for each term, if several; gradients show their pull."""
    names = [name for name in AT_PIXELS if getattr(weights, name)]
    if len(names) < 2:
        return None
    return lambda batch: {n: jnp.zeros(batch["image"].shape) for n in names}


def tokenizer_loss(
    tokenizer: Tokenizer,
    batch: dict[str, Any],
    context: Context = NO_CONTEXT,
    *,
    weights: LossConfig,
    flip: bool = False,
    crop: float = 1.0,
    precision: str = "float32",
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """`sum_t w_t L_t` on a batch, with every term and the codes' counts as metrics."""
    images = augment(batch["image"], flip=flip, crop=crop, key=key)
    terms, outputs, _ = _terms(tokenizer, images, context, precision, key)
    total = losses.total_loss(weights, terms, context.share)
    metrics = terms | {"counts": outputs["counts"]}
    return context.with_own(total, metrics, outputs, batch | {"image": images})


# Paper, section 3.3: the adversarial loss, two networks and one step
def adversarial_loss(
    players: Players,
    batch: dict[str, Any],
    context: Context,
    *,
    weights: LossConfig,
    config: DiscriminatorConfig,
    flip: bool = False,
    crop: float = 1.0,
    precision: str = "float32",
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """`sum_t w_t L_t(G; sg D) + L_D(D; sg x_hat) + gamma/2 k R1` (section 3.3).

    R1 on every `k`-th step, if `context.due`. Before step `config.start` both
    adversarial losses are zero. Metrics: the terms, `g_loss` (the first sum), `d_loss`,
    `r1` on the steps that have it (`r1_due`), the share of real and fake images that
    the discriminator gets right, and histograms of its logits.
    """
    images = augment(batch["image"], flip=flip, crop=crop, key=key)
    terms, outputs, seen = _terms(players.tokenizer, images, context, precision, key)
    on = jnp.where(context.step < config.start, 0.0, 1.0)
    generator_loss, discriminator_loss = ADVERSARIAL[config.loss]
    both = players.discriminator, stopped(players.discriminator)
    critic, fixed = (in_precision(precision, network) for network in both)
    fake = seen("adversarial")
    terms["adversarial"] = on * generator_loss(fake=fixed(fake))
    on_real, on_fake = critic(images), critic(jax.lax.stop_gradient(fake))
    d_loss = on * discriminator_loss(real=on_real, fake=on_fake)
    due = bool(config.r1_gamma) and context.due
    r1 = losses.r1_penalty(critic, images) if due else jnp.zeros(())
    lazy = losses.lazy_r1(r1, gamma=config.r1_gamma, interval=config.r1_interval)
    share = partial(context.share, since={"adversarial": config.start})
    g_loss, terms = context.with_own(
        losses.total_loss(weights, terms, share), terms, outputs,
        batch | {"image": images},
    )  # fmt: skip
    metrics = terms | {"counts": outputs["counts"], "g_loss": g_loss, "d_loss": d_loss}
    metrics |= {"r1": r1, "r1_due": jnp.float32(due)}
    metrics |= {"right_on_real": jnp.mean(on_real > 0)}
    metrics |= {"right_on_fake": jnp.mean(on_fake < 0)}
    for name, logits in (("real", on_real), ("fake", on_fake)):
        metrics[f"logits_{name}"] = logit_histogram(logits)
    return g_loss + d_loss + on * lazy, metrics


def _terms(
    tokenizer: Tokenizer,
    images: losses.Images,
    context: Context,
    precision: str,
    key: PRNGKeyArray,
) -> tuple[dict[str, Array], dict[str, Array], Callable[[str], Array]]:
    """The terms, what the model puts out, and the pixels that a named term sees."""
    config = tokenizer.config
    _, aux = tokenizer(images, key=jax.random.fold_in(key, 1))

    def mean(name: str) -> Array:
        zeros = context.zeros.get(name)
        return aux["mean"] if zeros is None else aux["mean"] + zeros

    def pixels(name: str) -> Array:
        return losses.pixels_of(mean(name), config.output, config.pixel_map)

    def seen(name: str) -> Array:
        # Other networks take pixels in [0, 1]; "linear" and "affine" may leave it.
        return jnp.clip(pixels(name), 0, 1)

    terms = {"vq": aux["vq_loss"]}
    terms["l2"] = losses.l2_loss(recon=pixels("l2"), target=images)
    terms["l1"] = losses.l1_loss(recon=pixels("l1"), target=images)
    if "log_scale" in aux:
        density: Any = {"mean": mean("logit_laplace"), "log_scale": aux["log_scale"]}
        density |= {"target": images, "pixel_map": config.pixel_map}
        terms["logit_laplace"] = losses.logit_laplace_loss(**density)
    if context.frozen is not None:
        how = {"precision": precision} if isinstance(context.frozen, LPIPS) else {}
        distance = context.frozen(recon=seen("perceptual"), target=images, **how)
        terms["perceptual"] = jnp.mean(distance)
    counts = jnp.bincount(aux["codes"].ravel(), length=config.quantizer.num_codes)
    return terms, aux | {"recon": pixels("own"), "counts": counts}, seen


def in_precision(precision: str, critic: Callable) -> Callable:
    """The discriminator with pixels and maps of this precision."""
    return critic if precision == "float32" else lambda x: critic(x.astype(precision))


def stopped(module: nnx.Module) -> Any:
    """The same network, with no gradient to its parameters."""
    graph, state = nnx.split(module)
    return nnx.merge(graph, jax.tree.map(jax.lax.stop_gradient, state))


def logit_histogram(logits: Float[Array, "*b"]) -> Int[Array, " bins"]:
    """Counts in `LOGIT_BINS` equal bins of [-5, 5]."""
    scaled = (logits.ravel() + LOGIT_RANGE) * (LOGIT_BINS / (2 * LOGIT_RANGE))
    index = jnp.clip(jnp.floor(scaled).astype(jnp.int32), 0, LOGIT_BINS - 1)
    return jnp.bincount(index, length=LOGIT_BINS).astype(jnp.int32)
