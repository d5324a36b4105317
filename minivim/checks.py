"""Checks for your own code: each finds bugs that no loss curve shows.

A check calls a function of yours on small random inputs, and returns nothing if all is
well. Otherwise it raises `AssertionError` with a sentence that says what is wrong:

    minivim.checks.beta(lambda z, codebook, beta: my_loss(z, codebook, beta))

Vectors are [n, d], a codebook is [K, d], images are [B, H, W, C] in [0, 1]. A prior has
`size=(N, K)`: codes [B, N] below K, logits [B, N, K].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Function = Callable[..., Any]
Size = tuple[int, int]


def _insist(holds: Any, sentence: str) -> None:
    if not holds:
        raise AssertionError(sentence)


def _normal(*shape: int, seed: int = 0) -> jax.Array:
    draw = np.random.default_rng(seed).standard_normal
    return jnp.asarray(draw(shape), jnp.float32)


def _codes(size: Size, least: int = 0) -> np.ndarray:
    return np.random.default_rng(0).integers(least, size[1], (2, size[0]), np.int32)


def _close(a: Any, b: Any) -> bool:
    return np.allclose(np.asarray(a), np.asarray(b), rtol=2e-3, atol=1e-5)


def beta(vq_loss: Function) -> None:
    """`vq_loss(z, codebook, beta)`: beta weighs the term that moves the encoder."""
    slopes, z, e = jax.grad(vq_loss, (0, 1)), _normal(32, 8), _normal(16, 8, seed=1)
    (z1, e1), (z2, e2) = slopes(z, e, 1.0), slopes(z, e, 2.0)
    _insist(jnp.abs(e1).max() > 1e-6, "no gradient of the loss reaches the codes")
    _insist(jnp.abs(z1).max() > 1e-6, "the commitment gives the encoder no gradient")
    told = "beta weighs the codebook's term; it belongs to the encoder's"
    _insist(not (_close(z1, z2) and _close(2 * e1, e2)), told)
    _insist(_close(2 * z1, z2) and _close(e1, e2), "beta weighs more than one term")


def quantise(lookup: Function, reading: str = "project") -> None:
    """`lookup(r, codebook)`: the nearest code by angle, with a straight-through slope.

    "project" sends the gradient through the normalisation of `r`, "raw" around it.
    """
    r, e, pull = (_normal(32, 8, seed=i) for i in range(3))
    r, e = r * jnp.linspace(0.3, 9, 32)[:, None], e * jnp.linspace(5, 0.2, 32)[:, None]
    out, back = jax.vjp(lookup, r, e)
    slope, of_codes = back(pull)
    length, of_e = (jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (r, e))
    z, unit = r / length, e / of_e
    told = "a code wins by its length: normalise vectors and codes before the lookup"
    _insist(_close(out, unit[jnp.argmax(z @ unit.T, axis=-1)]), told)
    _insist(not jnp.any(of_codes), "the decoder's gradient must not move the codes")
    _insist(jnp.any(slope), "no gradient passes the lookup: send it straight through")
    if reading == "project":
        pull = (pull - jnp.sum(pull * z, axis=-1, keepdims=True) * z) / length
    ways = {"project": "through the normalisation of r", "raw": "to r as it is"}
    _insist(_close(slope, pull), f"the gradient must go {ways[reading]}")


def density(loss: Function) -> None:
    """`loss(mean=, log_scale=, target=)`: logit-laplace, minus the log of a density."""
    x = jax.nn.sigmoid(jnp.linspace(-9, 9, 4001))
    for mu, scale in ((-2.0, 0.2), (1.5, 0.5)):
        given = {"mean": jnp.full(1, mu), "log_scale": jnp.full(1, np.log(scale))}
        cost = jax.vmap(lambda x, given=given: loss(**given, target=x[None]))(x)
        total = float(jnp.trapezoid(jnp.exp(-cost), x))
        told = f"the density of a pixel integrates to {total:.2f} and not to 1"
        _insist(abs(total - 1) < 0.01, f"{told}: look at ln 2b and ln x (1 - x)")


def adversarial(of_tokenizer: Function, of_critic: Function, hinge=False) -> None:
    """`of_tokenizer(fake=)`, `of_critic(real=, fake=)` of logits: who learns what."""
    at = jnp.array([-20.0, -0.9, 0.9, 20])
    forger = jax.grad(lambda fake: of_tokenizer(fake=fake))(at)
    real, fake = jax.grad(lambda r, f: of_critic(real=r, fake=f), (0, 1))(at, at)
    _insist((forger <= 0).all(), "the tokenizer is asked to lower the critic's logits")
    _insist(forger[0] < -0.1, "the tokenizer's loss saturates where fakes are obvious")
    _insist((real[:3] < 0).all(), "the critic does not learn to raise real logits")
    _insist((fake[1:] > 0).all(), "fakes teach nothing: logits and labels swapped?")
    told = "beyond its margin of 1 a hinge has no slope, and within it always the same"
    flat = (real[3] == 0) & (fake[0] == 0) & (real[1] == real[2])
    _insist(not hinge or flat, told)


def r1(penalty: Function, *, gamma: float = 2.0, every: int = 1) -> None:
    """`penalty(critic, images, step)`: `gamma/2 |dD/dx|^2`, mean of `every` steps."""
    w, images = _normal(8, 8, 3), jax.nn.sigmoid(_normal(4, 8, 8, 3))
    critic = partial(jnp.einsum, "hwc,bhwc->b", w)
    once, twice = (
        np.mean([float(penalty(critic, x, step)) for step in range(every)])
        for x in (images, jnp.tile(images, (2, 1, 1, 1)))
    )
    _insist(_close(once, twice), f"every picture twice, and R1 is x {twice / once:.2f}")
    wanted = gamma / 2 * float(jnp.sum(w**2))
    told = f"a penalty of every {every}th step must be multiplied by {every}"
    _insist(every == 1 or not _close(every * once, wanted), told)
    told = f"R1 of D(x) = w x must be {wanted:.1f} (from |w|^2), and not {once:.4g}"
    _insist(_close(once, wanted), told)


def adaptive_weight(weight: Function) -> None:
    """`weight(pull, push)` of two gradients: the ratio of their norms, a constant."""
    pull, push = _normal(8, 4), 3 * _normal(8, 4, seed=1)
    value, slopes = jax.value_and_grad(weight, (0, 1))(pull, push)
    wanted = float(jnp.linalg.norm(pull) / jnp.linalg.norm(push))
    told = f"the weight must be |pull| / |push| = {wanted:.2f}, and not {value:.2f}"
    _insist(_close(value, wanted), told)
    _insist(
        not any(map(jnp.any, slopes)), "a gradient goes through the weight: stop it"
    )


def perceptual(distance: Function, side: int = 32) -> None:
    """`distance(recon=, target=)`, [B]: no chance, zero at equality, target fixed."""
    x, y = jax.nn.sigmoid(_normal(2, 2, side, side, 3))
    same, apart, again = (distance(recon=a, target=y) for a in (y, x, x))
    _insist(_close(same, 0), f"a picture and itself are {float(same.max()):.2g} apart")
    _insist(_close(apart, again), "a second call differs: is dropout on?")
    total = jax.grad(lambda a, b: jnp.sum(distance(recon=a, target=b)), (0, 1))
    by = jax.jit(total)(x, y)
    _insist(jnp.any(by[0]), "no gradient reaches the reconstruction")
    _insist(not jnp.any(by[1]), "a gradient reaches the target: stop it")


def lpips_scaling(scale: Function) -> None:
    """`scale(images)`: from [0, 1] to what the VGG behind LPIPS expects."""
    x, shift = jax.nn.sigmoid(_normal(2, 4, 4, 3)), jnp.array([-0.03, -0.088, -0.188])
    deviation, told = jnp.array([0.458, 0.448, 0.45]), "make [0, 1] to 2 x - 1 first"
    _insist(not _close(scale(x), (x - shift) / deviation), told)
    told = f"from 2 x - 1 subtract {shift}, and divide by {deviation}"
    _insist(_close(scale(x), (2 * x - 1 - shift) / deviation), told)


def minibatch_stddev(numbers: Function, group: int = 4) -> None:
    """`numbers(maps)`, one for each picture of [B, H, W, C]: of its own group only."""
    maps = _normal(2 * group, 4, 4, 16)
    changed = [maps] + [maps.at[i].multiply(3) for i in range(2 * group)]
    before, *after = (np.asarray(numbers(x)) for x in changed)
    counts = np.abs(np.stack(after) - before) > 1e-4  # row: the picture changed
    blind = np.flatnonzero(~counts.diagonal()).tolist()
    _insist(not blind, f"pictures {blind} do not count in their own number")
    told = f"a picture counts for {counts.sum(1).max()}, but a group has {group}"
    _insist((counts.sum(axis=1) == group).all(), told)


def causal(predict: Function, size: Size) -> None:
    """`predict(codes)`: logits of each code know those before it, and no other."""
    codes = _codes(size)
    before = np.asarray(predict(codes))
    for at in (size[0] // 2, 0, size[0] - 1):
        other = codes.copy()
        other[:, at] = (other[:, at] + 1) % size[1]
        moved = np.abs(np.asarray(predict(other)) - before).max((0, 2)) > 1e-5
        first = int(np.append(moved, True).argmax())
        told = f"position {first} sees code {at}"
        _insist(first >= at, f"{told}: the mask lets it look ahead")
        _insist(first > at, f"{told}, which it predicts: shift the input by one")
        told = f"position {at + 1} does not see code {at}"
        _insist(first == at + 1, f"{told}: the input is shifted too far")


def teacher_forcing(draw: Function, predict: Function) -> None:
    """`draw()`, codes and the logits they were drawn from, against `predict(codes)`."""
    codes, logits = draw()
    wanted = np.asarray(predict(codes))
    gap = np.abs(np.asarray(logits) - wanted).max(axis=(0, 2))
    wrong = ~(gap <= 0.003 * np.ptp(wanted))  # also where it is not a number
    _insist(
        not wrong.any(), f"the sampler's logits are wrong at {wrong.sum()} positions"
    )


def class_token(predict: Function, size: Size) -> None:
    """`predict(codes, labels)`: every position knows the class, also the first."""
    found = (predict(_codes(size), np.full(2, y, np.int32)) for y in range(2))
    moved = np.abs(np.subtract(*map(np.asarray, found))).max((0, 2)) > 1e-5
    blind = np.flatnonzero(~moved).tolist()
    _insist(not blind, f"positions {blind} do not know the class")


def class_table(gradient: Function, size: Size) -> None:
    """`gradient(codes, labels)` by the table of codes: class 1 is not code 1."""
    codes = _codes(size, least=2)
    moved = np.abs(np.asarray(gradient(codes, np.arange(2)))).max(axis=1)
    strange = np.setdiff1d(np.flatnonzero(moved), codes).tolist()
    told = f"codes {strange} move and no picture holds them: give classes a table"
    _insist(not strange, told)


def probe_features(features: Function, blocks: Function, size: Size) -> None:
    """`features(codes)`, [L, B, D]: means over all codes of a prior's block outputs.

    `blocks(codes)`, [L, B, 1 + N, D], are these outputs, that of the class token first.
    """
    found, x = np.asarray(features(_codes(size))), np.asarray(blocks(_codes(size)))
    _insist(not _close(found, x.mean(axis=2)), "the class token counts in the mean")
    told = "the last code is missing in the mean"
    _insist(not any(_close(found, x[:, :, i:-1].mean(axis=2)) for i in (0, 1)), told)
    told = "features must be means over the codes of each block's output"
    _insist(_close(found, x[:, :, 1:].mean(axis=2)), told)


def frechet(distance: Function) -> None:
    """`distance(a, b)` of features [n, D]: from both means and both covariances."""
    a = np.linalg.qr(_normal(64, 4) - _normal(64, 4).mean(0))[0] * np.sqrt(63)
    told = "features with {} must be {} apart, and not {:.2f}"
    for what, b, wanted in (
        ("equal means and covariances", a, 0),
        ("means (0, 0, 0, 0) and (2, 0, 0, 0)", a + 2 * np.eye(4)[0], 4),
        ("deviations 1 and 3 in 4 dimensions", 3 * a, 16),
    ):
        found = float(distance(a, b))
        _insist(abs(found - wanted) < 0.02, told.format(what, wanted, found))
