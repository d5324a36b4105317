"""Stage 3: what a prior that never saw a label knows about labels (paper section 4.2).

An image becomes codes, the codes pass through the frozen prior, the output of one block
is averaged over all tokens, and one softmax layer is fitted on that vector. The paper
leaves the fit open; it is convex here, so that the answer depends on no schedule:

    min_{W, b}  mean_i -log softmax(W^T z_i + b)[y_i] + l2 / 2 |W|^2

with each feature standardised. Strength `l2` and block are chosen on held-out training
images, the layer is then fitted again on all of them; the test images choose nothing.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Shaped

from minivim.batched import in_batches
from minivim.config.checks import require
from minivim.data import unit_images

L2_GRID = (1e-1, 1e-2, 1e-3, 1e-4)
MAX_STEPS = 300  # of L-BFGS
PIXEL_SIDE = 32
BASELINES = ("pixels", "latents", "encoder")
# Standard deviations below this are rounding noise of a constant feature.
MIN_STD = 1e-6

Layer = tuple[Float[Array, "width classes"], Float[Array, " classes"]]
Rows = tuple[Array, Array, Array, Array, Array]  # what `_standardise` returns


@dataclass(frozen=True)
class SoftmaxProbe:
    """One fitted softmax layer; `l2` was chosen by `held_out`, an accuracy in [0, 1].

    weights [width, classes], bias [classes]; mean and std of the features [width].
    """

    weights: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    l2: float
    held_out: float

    def logits(self, features: ArrayLike) -> np.ndarray:
        """`W^T (x - mean) / std + b`, [n, classes], of features [n, width]."""
        return (np.asarray(features) - self.mean) / self.std @ self.weights + self.bias

    def accuracy(self, features: ArrayLike, labels: ArrayLike) -> float:
        """Share of rows whose largest logit is the label's, in [0, 1]."""
        return float((self.logits(features).argmax(-1) == np.asarray(labels)).mean())


# Paper silent, appendix A: the block is chosen on held-out training images
@dataclass(frozen=True)
class ProbeResult:
    """Accuracies in [0, 1] of every block and baseline, and the chosen block's layer.

    `block` counts from 0, printed rows from 1 as the paper does. Baselines are
    name -> (held-out, test). Only `accuracy` is a fair figure for the prior: the best
    of `block_accuracy` would be chosen on the test images.
    """

    block: int
    block_held_out: tuple[float, ...]
    block_accuracy: tuple[float, ...]
    baselines: dict[str, tuple[float, float]]
    probe: SoftmaxProbe
    n_train: int
    n_test: int

    @property
    def accuracy(self) -> float:
        """Test accuracy of the block chosen on held-out training images."""
        return self.block_accuracy[self.block]

    def rows(self) -> list[tuple[str, float, float]]:
        """(name, held-out accuracy, test accuracy), baselines first, for printing."""
        count = len(self.block_accuracy)
        names = [f"block {i} of {count}" for i in range(1, count + 1)]
        names[self.block] += ", chosen"
        blocks = zip(names, self.block_held_out, self.block_accuracy, strict=True)
        return [*((name, *pair) for name, pair in self.baselines.items()), *blocks]


# Paper, section 5.3: a prior that has seen no label
def linear_probe(
    prior: Any,
    tokenizer: Any,
    train: dict[str, np.ndarray],
    test: dict[str, np.ndarray],
    *,
    num_classes: int | None = None,
    held_out: float = 0.2,
    seed: int = 0,
) -> ProbeResult:
    """Probe every block of a label-free prior, raw pixels and the tokenizer's latents.

    train, test: "image" uint8 or float in [0, 1], [n, H, W, C], and "label" int [n] in
    [0, num_classes); without `num_classes`, one more than the largest training label.
    Raises `UserError` for networks that have seen labels, and too few or wrong ones.
    """
    known, seen = prior.config.num_classes, tokenizer.card.labels_seen
    told = f"this prior was trained with {known} labels, which the probe must not have"
    require(not known, f"{told} seen; load one trained without labels")
    told = f"the tokenizer {tokenizer.card.path} has seen labels through {seen}"
    # Paper, section 5.3: no perceptual loss behind codes that are probed
    require(not seen, f"{told}; probe one that was trained with loss.perceptual=0")
    labels, test_labels = np.asarray(train["label"]), np.asarray(test["label"])
    if num_classes is None:
        num_classes = int(labels.max(initial=0)) + 1
    for part in (train, test):
        _check_labels(np.asarray(part["label"]), num_classes, len(part["image"]))
    f, f_test = (probe_features(prior, tokenizer, x["image"]) for x in (train, test))

    how: Any = {"num_classes": num_classes, "held_out": held_out, "seed": seed}

    def fit(x: Any, x_test: Any) -> tuple[SoftmaxProbe, tuple[float, float]]:
        probe = fit_probe(x, labels, **how)
        return probe, (probe.held_out, probe.accuracy(x_test, test_labels))

    blocks = [fit(*pair) for pair in zip(f["blocks"], f_test["blocks"], strict=True)]
    baselines = {n: fit(f[n], f_test[n])[1] for n in BASELINES if n in f}
    held, accuracy = zip(*(pair for _, pair in blocks), strict=True)
    block = int(np.argmax(held))
    probe, sizes = blocks[block][0], (len(labels), len(test_labels))
    return ProbeResult(block, held, accuracy, baselines, probe, *sizes)


def _check_labels(labels: np.ndarray, num_classes: int, images: int) -> None:
    found = np.unique(labels)
    told = f"a probe needs at least two labels, found {found.size}; use data with a"
    fits = num_classes > 1 and found.size > 1
    require(fits, f"{told} label column, and more of it if it is sorted")
    told = f"{images} images came with labels of shape {labels.shape}; give each one"
    require(labels.shape == (images,), told)
    told = f"labels run from {found[0]} to {found[-1]}, but must lie between 0 and"
    fits = found[0] >= 0 and found[-1] < num_classes
    require(fits, f"{told} {num_classes - 1}; check the label column and num_classes")


def probe_features(
    prior: Any, tokenizer: Any, images: np.ndarray, *, batch_size: int = 256
) -> dict[str, np.ndarray]:
    """What the probe and its baselines read, float32; labels cannot reach it.

    images: uint8 or float in [0, 1], [n, H, W, C]. Returns "pixels" [n, H W C] (at most
    32 a side), "latents" [n, code_dim], the mean code vector, "encoder" [n, width], the
    mean output before the projection to codes, if any, and "blocks" [L, n, width].
    """

    def features(batch: Any) -> dict[str, Array]:
        codes, own = _tokenizer_features(tokenizer, batch)
        return own | {"blocks": jnp.swapaxes(prior.features(codes), 0, 1)}

    images = unit_images(images, keep_bytes=True)
    found = in_batches(features, images, batch_size=batch_size)
    found = {name: np.asarray(x, np.float32) for name, x in found.items()}
    return found | {"blocks": np.swapaxes(found["blocks"], 0, 1)}


@nnx.jit
def _tokenizer_features(
    tokenizer: Any, images: Float[Array, "B H W C"]
) -> tuple[Int[Array, "B N"], dict[str, Array]]:
    """Codes, and the features that need no prior."""
    _, aux = tokenizer(images)
    count, height, width, channels = images.shape
    side = (min(height, PIXEL_SIDE), min(width, PIXEL_SIDE))
    pixels = jax.image.resize(images, (count, *side, channels), "linear")
    features = {"pixels": pixels.reshape(count, -1), "latents": aux["z_q"].mean(1)}
    if "features" in aux:
        features["encoder"] = aux["features"].mean(1)
    return aux["codes"], features


# Paper, section 4.2: one softmax layer on frozen features
def fit_probe(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    held_out: float = 0.2,
    l2_grid: tuple[float, ...] = L2_GRID,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> SoftmaxProbe:
    """Fit one softmax layer (equation above): `l2` on held-out rows, then on all.

    features [n, width], labels [n] in [0, num_classes). A share `held_out` of the rows,
    drawn from `seed`, chooses from `l2_grid` (the earlier of equals). The fit stops
    after `MAX_STEPS` or at a gradient norm g of `tolerance` (g^2 / 2: nats to gain).
    """
    x, y = np.asarray(features, np.float32), np.asarray(labels)
    order = np.random.default_rng(seed).permutation(len(x))
    held = np.isin(np.arange(len(x)), order[: max(1, round(held_out * len(x)))])

    def probe(rows: Rows, layer: Layer, l2: float, score: float) -> SoftmaxProbe:
        arrays = map(np.asarray, (*layer, *rows[1:3]))
        return SoftmaxProbe(*arrays, l2=l2, held_out=score)

    # Held-out rows weigh nothing, so that one compiled program serves both fits.
    some, every = (_standardise(jnp.asarray(x), w) for w in (~held, np.ones(len(x))))
    solve = partial(_solve, jnp.asarray(y), tolerance)
    layer = jnp.zeros((x.shape[1], num_classes)), jnp.zeros(num_classes)
    fitted = []
    for l2 in l2_grid:
        layer = solve(some, l2, layer)
        score = probe(some, layer, l2, 0.0).accuracy(x[held], y[held])
        fitted.append((score, l2, layer))
    score, l2, layer = max(fitted, key=lambda item: item[0])
    return probe(every, solve(every, l2, layer), l2, score)


@jax.jit
def _standardise(x: Float[Array, "n width"], rows: Shaped[ArrayLike, " n"]) -> Rows:
    """Share, mean, std, z and covariance of the rows that are not zero in `rows`."""
    share = jnp.asarray(rows, jnp.float32)
    share = share / share.sum()
    mean = share @ x
    std = jnp.sqrt(share @ jnp.square(x - mean))
    std = jnp.where(std < MIN_STD, 1.0, std)
    z = (x - mean) / std
    return share, mean, std, z, (share[:, None] * z).T @ z


@jax.jit
def _solve(
    y: Int[Array, " n"], tolerance: ArrayLike, rows: Rows, l2: ArrayLike, start: Layer
) -> Layer:
    """The layer at the minimum, by full-batch L-BFGS in well-scaled coordinates.

    The curvature of the mean log-softmax is at most half the covariance (Boehning
    1992). In V = C^T W, with C C^T about that bound, dozens of steps replace thousands.
    """
    share, _, _, z, covariance = rows
    bound = covariance / 2 + (l2 + 1e-3) * jnp.eye(len(covariance))
    upper = jnp.linalg.cholesky(bound).T

    def layer_of(scaled: Layer) -> Layer:
        return solve_triangular(upper, scaled[0]), scaled[1]

    def objective(scaled: Layer) -> Array:
        weights, bias = layer_of(scaled)
        logits = z @ weights + bias
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return share @ nll + l2 / 2 * jnp.square(weights).sum()

    search = optax.scale_by_backtracking_linesearch(20, store_grad=True)
    solver = optax.lbfgs(linesearch=search)
    evaluate = optax.value_and_grad_from_state(objective)

    def improve(carry: Any) -> Any:
        step, scaled, state, _ = carry
        value, grad = evaluate(scaled, state=state)
        seen: Any = {"value": value, "grad": grad, "value_fn": objective}
        updates, state = solver.update(grad, state, scaled, **seen)
        scaled = optax.apply_updates(scaled, updates)
        return step + 1, scaled, state, optax.global_norm(grad)

    scaled = (upper @ start[0], start[1])
    _, scaled, *_ = jax.lax.while_loop(
        lambda carry: (carry[0] < MAX_STEPS) & (carry[3] > tolerance),
        improve,
        (0, scaled, solver.init(scaled), jnp.inf),
    )
    return layer_of(scaled)
