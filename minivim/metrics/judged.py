"""Figures from the features and classes of a network: Frechet distances and scores.

By Inception they are FID and Inception Score. Values compare by the same network and
number of images only: two sets of real ones are apart, too, the farther the fewer. So
`compare` takes equal numbers and puts real ones beside. Of fewer than 100 images it
gives no figure: two sets of real `shapes` are 59 apart with 10 in each, as far as bad
samples with many (4.8 with 100, 0.46 with 1,024; the deviation over draws is about
half), and a score over parts of n images is at most n.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from minivim.batched import features_and_logits
from minivim.config.checks import require
from minivim.data import padded
from minivim.pictures import rounded

SPLITS = 10  # of the first implementation of the Inception Score
FEWEST = 100  # images of each set behind a distance, and of all parts behind a score
# What distance and score are called by each network.
NAMES = {
    "judge": ["judge_distance", "judge_score"],
    "inception": ["fid", "inception_score"],
}
BLOCK, GOLDEN = 8, (5**0.5 - 1) / 2

Network = Callable[..., Any]
Rows = Float[np.ndarray, "_ _"]
# Features, logits and labels of a set of images.
Seen = tuple[Rows, Rows, Int[np.ndarray, " _"]]
Figures = dict[str, Any]
Pair = tuple[Figures, Figures]  # of a model, and the same of real images


class Views:
    """Features and logits of images that come in batches, by those of `NAMES` given."""

    def __init__(self, networks: Mapping[str, Network | None], *, batch_size: int):
        self.networks = {k: v for k, v in networks.items() if v is not None}
        self.batch_size = batch_size
        self._parts = defaultdict[tuple[str, str], list[Any]](list)

    def add(self, kind: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Run all networks on float images."""
        size, count = self.batch_size, len(images)
        rows = padded(images, -(-count // size) * size)  # for one program
        # Others read Inception's images from files, which hold 8 bits.
        shown = {"inception": rounded(rows) / np.float32(255)}
        for name, network in self.networks.items():
            seen = features_and_logits(network, shown.get(name, rows), batch_size=size)
            self._parts[name, kind].append((*(x[:count] for x in seen), labels))

    def seen(self, name: str, kind: str) -> Seen:
        """Features, logits and labels of all images of a kind, by one network."""
        parts = zip(*self._parts[name, kind], strict=True)
        found: Any = tuple(map(np.concatenate, parts))
        self._parts[name, kind] = [found]
        return found

    def right(self, name: str, kind: str) -> np.ndarray:
        """Which images of a kind a network takes for their class."""
        _, logits, labels = self.seen(name, kind)
        return logits.argmax(axis=-1) == labels

    def figures(self, kind: str, seed: int, suffix: str = "") -> Pair:
        """`compare` of "real" images with those of a kind, by all networks."""
        figures, real = {}, {}
        for name in self.networks:
            names = [title + suffix for title in NAMES[name]]
            sets = self.seen(name, "real"), self.seen(name, kind)
            found, beside = compare(*sets, names=names, seed=seed)
            figures, real = figures | found, real | beside
        return figures, real


def compare(real: Seen, others: Seen, *, names: list[str], seed: int) -> Pair:
    """Distance and score of `others`, by these names, and the same of real images.

    As many real images as there are others are compared with these, or the other way
    round, and two disjoint sets of at most as many real images with one another; all
    drawn evenly over labels. Figures of fewer than `FEWEST` images are None. `images`
    and `halves` are the numbers of real images that were compared.
    """
    distance, score = names
    many, more = len(real[2]), len(others[2])

    def drawn(seen: Seen, share: float) -> Seen:
        numbers = evenly(seen[2], share, seed=seed)
        return seen[0][numbers >= 0], seen[1][numbers >= 0], numbers[numbers >= 0]

    ours = drawn(real, min(many, more) / many)
    theirs = drawn(others, min(many, more) / more)
    halves = drawn(real, 2 * min(more, many // 2) / many)
    one, other = (halves[0][halves[2] % 2 == turn] for turn in (0, 1))
    figures: Figures = {}
    beside: Figures = {"images": len(ours[0]), "halves": [len(one), len(other)]}
    sets = (figures, (ours[0], theirs[0]), theirs), (beside, (one, other), ours)
    for into, pair, (_, logits, numbers) in sets:
        into |= {distance: None, score: None}
        parts = numbers % SPLITS
        if min(map(len, pair)) >= FEWEST:
            into[distance] = _apart(*pair)
        if len(parts) >= FEWEST and np.bincount(parts, minlength=SPLITS).all():
            into[score] = inception_score(probabilities(logits), parts=parts)
    return figures, beside


def evenly(labels: np.ndarray, share: float, *, seed: int) -> Int[np.ndarray, " n"]:
    """A number for each image of a share in [0, 1] of every label, -1 for the others.

    The images of a label are shuffled eight by eight, and numbered from the label's own
    on, so that any part of the numbers has all labels, however the images are sorted.
    """
    rng, seen, order = np.random.default_rng(seed), Counter[int](), {}
    places = np.empty(len(labels), np.int64)
    for i, label in enumerate(labels.tolist()):
        block, at = divmod(seen[label], BLOCK)
        if at == 0:
            order[label] = rng.permutation(BLOCK)
        places[i] = block * BLOCK + order[label][at]
        seen[label] += 1
    # Labels begin at different points, so that their roundings cancel.
    phase = labels * GOLDEN % 1
    numbers = np.floor(places * share + phase).astype(np.int64)
    kept = np.floor((places + 1) * share + phase) > numbers
    return np.where(kept, numbers + labels + 1, -1)


def gaussian(features: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and unbiased covariance [D, D] of rows [N, D], in float64."""
    rows = np.asarray(features)
    told = f"a covariance needs two images or more, got {len(rows)}; give more images"
    require(len(rows) > 1, told)
    told = f"features of shape {rows.shape} are no [N, D], or hold NaN or infinity"
    fits = rows.ndim == 2 and bool(np.isfinite(rows).all())
    require(fits, f"{told}; leave such images out")
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    return mean, centred.T @ centred / (len(rows) - 1)


def frechet_distance(
    mean1: ArrayLike, cov1: ArrayLike, mean2: ArrayLike, cov2: ArrayLike
) -> float:
    """Squared Frechet distance of two normal distributions, in float64.

        |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1^1/2 S2 S1^1/2)^1/2

    The symmetric form: its eigenvalues are those of S1 S2, but real and not negative
    even where a covariance is singular (Heusel et al. 2017, arXiv 1706.08500; Table 3
    over Inception). Raises `UserError` unless means are [D], covariances [D, D].
    """
    m1, s1, m2, s2 = (np.asarray(x, np.float64) for x in (mean1, cov1, mean2, cov2))
    found = ", ".join(str(x.shape) for x in (m1, m2, s1, s2))
    fits = m1.shape * 2 == m2.shape * 2 == s1.shape == s2.shape
    told = f"not two equal [D] and two equal [D, D] but {found}"
    require(fits, f"{told}; give features of one size")
    values, vectors = np.linalg.eigh(s1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ s2 @ root).clip(0)).sum()
    return float(np.square(m1 - m2).sum() + np.trace(s1) + np.trace(s2) - 2 * shared)


def _apart(one: Rows, other: Rows) -> float:
    return frechet_distance(*gaussian(one), *gaussian(other))


# Paper silent, Table 3: the Frechet distance on features of our own judge
def judge_distance(
    judge: Network, a_images: Any, b_images: Any, *, batch_size: int = 256
) -> float:
    """Frechet distance between two sets of images by the features of the judge.

    Features are those of its last block. Compare equal numbers only: two sets of real
    images, the first large, are 0.02 apart with 2,048 in the second and 0.45 with 256.
    Images as `unit_images` takes them; `UserError` for fewer than two in a set.
    """
    one, _ = features_and_logits(judge, a_images, batch_size=batch_size)
    other, _ = features_and_logits(judge, b_images, batch_size=batch_size)
    return _apart(one, other)


# Paper silent, section 5.2: the formula of the Inception Score over our own judge
def inception_score(
    probabilities: ArrayLike, *, splits: int = SPLITS, parts: np.ndarray | None = None
) -> float:
    """The formula of the Inception Score, between 1 and the number of classes.

        mean_s exp( mean_{i in s} KL(p_i || mean_{j in s} p_j) )

    probabilities: [N, K]. Each of `splits` parts has its own marginal (Salimans et al.
    2016, arXiv 1606.03498, section 4, and its code); `parts` are the numbers of the
    rows' parts, by default consecutive, so rows should not be sorted by class. Of n
    images it is at most n: compare equal numbers. An empty part is a `UserError`.
    """
    rows = np.asarray(probabilities, np.float64)
    if parts is None:
        ends = np.arange(1, splits) * len(rows) // splits
        parts = np.searchsorted(ends, np.arange(len(rows)), side="right")
    sets = [rows[parts == number] for number in range(splits)]
    problem = f"a score over {splits} parts needs as many images, got {len(rows)}"
    require(all(map(len, sets)), f"{problem}; give more images")
    apart = [_entropy(part.mean(axis=0)) - _entropy(part).mean() for part in sets]
    return float(np.exp(apart).mean())


def probabilities(logits: Float[ArrayLike, "N K"]) -> Rows:
    """Softmax in float64."""
    rows = np.asarray(logits, np.float64)
    rows = np.exp(rows - rows.max(axis=1, keepdims=True, initial=-np.inf))
    return rows / rows.sum(axis=1, keepdims=True)


def _entropy(rows: np.ndarray) -> Any:
    """- sum_k p_k ln p_k over the last axis, in nats."""
    return -(rows * np.log(rows, where=rows > 0, out=np.zeros_like(rows))).sum(axis=-1)
