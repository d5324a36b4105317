"""Real images against others by what a network sees, beside real against real.

A distance alone says little: two sets of real images are not at 0 from one another,
and the fewer they are, the farther. So equal numbers are compared, and the distance of
two disjoint sets of real ones stands beside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from minivim.data import padded
from minivim.metrics.features import Seen, features_and_logits
from minivim.metrics.frechet import frechet_distance
from minivim.metrics.moments import Moments
from minivim.metrics.score import SPLITS, ClassScore, probabilities

# What the distance and the score are called by each network: FID and Inception Score
# are names of figures by Inception alone.
NAMES = {
    "judge": ("judge_distance", "judge_score"),
    "inception": ("fid", "inception_score"),
}
BLOCK = 8
GOLDEN = (5**0.5 - 1) / 2


class Extractor:
    """A network that looks at batches of images, under the name of its figures.

    Images are padded to one size of batch. Inception reads 8 bits per value, for
    others read its images from files.
    """

    def __init__(self, name: str, network: Callable[..., Any], *, batch_size: int):
        self.name, self.network, self.batch_size = name, network, batch_size

    def __call__(self, images: Float[np.ndarray, "n H W C"]) -> Seen:
        """Features [n, D] and logits [n, K] of n images, at most `batch_size`."""
        if self.name == "inception":
            images = np.rint(255 * images) / np.float32(255)
        rows = padded(images, self.batch_size)
        features, logits = features_and_logits(
            self.network, rows, batch_size=self.batch_size
        )
        return features[: len(images)], logits[: len(images)]


class Places:
    """The place of each image among those of its label, shuffled eight by eight.

    Sets that are drawn evenly over places hold all labels alike, however the images are
    sorted: of two sets that are not, the judge sees the numbers of each class first.
    """

    def __init__(self, seed: int):
        self._rng, self._seen = np.random.default_rng(seed), Counter[int]()
        self._order: dict[int, np.ndarray] = {}

    def __call__(self, labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        return np.array([self._place(int(label)) for label in labels], np.int64)

    def _place(self, label: int) -> int:
        block, at = divmod(self._seen[label], BLOCK)
        if at == 0:
            self._order[label] = self._rng.permutation(BLOCK)
        self._seen[label] += 1
        return block * BLOCK + int(self._order[label][at])


def evenly(
    places: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"], share: float
) -> Int[np.ndarray, " n"]:
    """A number for each image of a share in (0, 1] of every label, -1 for the others.

    The numbers of a label go up by one with its places, and start at the label's own.
    """
    # Labels begin at different points, so that their roundings cancel.
    phase = labels * GOLDEN % 1
    numbers = np.floor(places * share + phase).astype(np.int64)
    kept = np.floor((places + 1) * share + phase) > numbers
    return np.where(kept, numbers + labels + 1, -1)


class Statistics:
    """Moments and class score of a set of images."""

    def __init__(self) -> None:
        self.moments, self._score = Moments(), ClassScore()

    def update(self, seen: Seen, numbers: Int[np.ndarray, " n"]) -> None:
        """Take in the images with a number from 0; it says to which part they go."""
        kept = numbers >= 0
        features, logits = (rows[kept] for rows in seen)
        self.moments.update(features)
        self._score.update(probabilities(logits), numbers[kept] % SPLITS)

    def score(self) -> float | None:
        """None where a part has no image."""
        return self._score.result() if self._score.counts.all() else None


class Comparison:
    """Distance and score of `others`, and the same of real images.

    As many real images as there are others are compared with these, or as many others
    as there are real ones; and two disjoint sets of at most as many real images, with
    one another. All are drawn evenly over labels. Memory does not grow with the images.
    """

    def __init__(self, *, real: int, others: int, seed: int = 0):
        equal = min(real, others)
        self._share = {"real": equal / max(real, 1), "others": equal / max(others, 1)}
        self._halves_share = 2 * min(equal, real // 2) / max(real, 1)
        self._places = {kind: Places(seed) for kind in self._share}
        self._sets = {kind: Statistics() for kind in (*self._share, "one", "two")}

    def add(self, kind: str, seen: Seen, labels: Int[np.ndarray, " n"]) -> None:
        """Take in what the network saw in images of a kind, "real" or "others"."""
        places = self._places[kind](labels)
        numbers = evenly(places, labels, self._share[kind])
        self._sets[kind].update(seen, numbers)
        if kind == "real" and self._halves_share:
            numbers = evenly(places, labels, self._halves_share)
            for name, turn in (("one", 0), ("two", 1)):
                mine = (numbers >= 0) & (numbers % 2 == turn)
                self._sets[name].update(seen, np.where(mine, numbers, -1))

    def result(self) -> tuple[dict[str, float], dict[str, Any]]:
        """`distance` and `score` of the others, and of real images, with their numbers.

        A score is left out where there are too few images for its parts, and so is the
        distance of real images from one another. Raises `UserError` for fewer than two
        images.
        """
        sets = self._sets
        counts = {name: found.moments.count for name, found in sets.items()}
        found = {
            "distance": _distance(sets["real"], sets["others"]),
            "score": sets["others"].score(),
        }
        real: dict[str, Any] = {"score": sets["real"].score()}
        if min(counts["one"], counts["two"]) >= 2:
            real["distance"] = _distance(sets["one"], sets["two"])
        real = {**_there(real), "images": counts["real"]}
        real["halves"] = [counts["one"], counts["two"]]
        return _there(found), real


def _distance(one: Statistics, other: Statistics) -> float:
    return frechet_distance(*one.moments.gaussian(), *other.moments.gaussian())


def _there(figures: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if value is not None}
