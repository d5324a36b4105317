"""How well a prior predicts codes, and what networks say of its samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from minivim import data
from minivim.data import Source
from minivim.encode import decode_all, encode_all, encode_batches, nats_per_token
from minivim.evaluate.provenance import compared_figures, comparisons, with_origin
from minivim.metrics.comparison import Comparison, Extractor
from minivim.metrics.features import chunks
from minivim.metrics.neighbours import nearest, pixels, share_nearer
from minivim.prior import Prior, check_labels, knows_null, sample
from minivim.tokenizer import Tokenizer

# Samples of one call, and hence what is drawn: no setting.
DRAWN = 512
# Samples and real images, at most, whose neighbours are sought.
SOUGHT = 1024


def prior_figures(
    prior: Prior,
    tokenizer: Tokenizer,
    source: Source,
    *,
    count: int | None = None,
    batch_size: int = 256,
    quiet: bool = True,
) -> dict[str, Any]:
    """Negative log-likelihood of the first `count` held-out images, nats per token.

    `nll_without_label` is left out where the card says that the prior learnt none.
    """
    count = len(source) if count is None else min(count, len(source))
    conditional = bool(prior.config.num_classes)
    null = conditional and knows_null(prior)
    if conditional:
        check_labels(prior, np.arange(source.num_classes))
    nll = without = 0.0
    read = encode_batches(
        tokenizer, source, count=count, batch_size=min(batch_size, count), quiet=quiet
    )
    for rows in read:
        codes = rows["codes"]
        labels = check_labels(prior, rows["label"]) if conditional else None
        nll += len(codes) * nats_per_token(prior, codes, labels)
        if null:
            without += len(codes) * nats_per_token(prior, codes, None)
    figures: dict[str, Any] = {"images": count, "nll": nll / count}
    if null:
        figures["nll_without_label"] = without / count
    return with_origin(figures, {}, source, count=count)


def judged_figures(
    prior: Prior,
    tokenizer: Tokenizer,
    judge: Any,
    source: Source,
    *,
    samples: int = 512,
    seed: int = 0,
    count: int | None = None,
    inception: Any = None,
    train: Source | None = None,
    neighbours: str = "pixels",
    drawn: Iterable[tuple[np.ndarray, np.ndarray]] | None = None,
    batch_size: int = 256,
    quiet: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """What networks say of real images, of reconstructions and of samples.

    Samples are drawn in equal numbers per class, by default at temperature 1 without
    filters; `options` go to `sample`. Or they are `drawn` otherwise: images and labels,
    the classes in turn, `samples` of them in all. `judge_agrees` is the share of
    samples that the judge takes for their class. Figures that end in `_samples` compare
    them with as many real images, or are of them. Without a judge (None) its figures
    are left out, and so are those of classes for a prior that has none.

    With training images, the median distance of the first 1,024 samples from the
    nearest of these, by `neighbours` "judge" (its features) or "pixels". Beside it
    stands that of as many real images of `source`, reconstructed: what the tokenizer
    blurs is nearer to any image. `neighbours_nearer` is how often a sample is nearer
    than one of these: 1/2 where they are alike, 1 for copies.
    """
    count = len(source) if count is None else min(count, len(source))
    size = min(batch_size, max(count, samples))
    networks = {"judge": judge, "inception": inception}
    compared = comparisons(networks, real=count, others=samples, size=size, seed=seed)
    rows = None
    if train is not None:
        rows = _Rows(neighbours, real=count, samples=samples, seed=seed)
    panel = _Panel(compared, rows, graded=bool(judge and prior.config.num_classes))
    panel.see_real(tokenizer, source, count=count, size=size, quiet=quiet)
    if drawn is None:
        drawn = draw(prior, tokenizer, samples=samples, seed=seed, size=size, **options)
    with tqdm(total=samples, desc="samples", unit="image", disable=quiet) as bar:
        for part in drawn:
            for images, labels in zip(*(chunks(x, size) for x in part), strict=True):
                panel.see("samples", images, labels)
                bar.update(len(images))
    figures: dict[str, Any] = {"real_images": count}
    if panel.graded:
        figures |= panel.grades(_class_names(prior, source))
    figures["samples"] = samples
    apart, real = compared_figures(compared, suffix="_samples")
    figures |= apart
    if train is not None and rows is not None:
        near, near_real = rows.figures(train, panel.looks, size=size, quiet=quiet)
        figures, real = figures | near, real | near_real
    figures = with_origin(
        figures, real, source, count=count, networks=networks, seed=seed
    )
    figures["provenance"]["sampling"] = {"temperature": 1.0, **options}
    if train is not None:
        figures["provenance"]["train"] = f"{len(train)} of {train.description}"
    return figures


def _class_names(prior: Prior, source: Source) -> list[str]:
    """The source's where they are the prior's, else numbers."""
    count = prior.config.num_classes
    names = source.class_names if source.num_classes == count else range(count)
    return [str(name) for name in names]


class _Rows:
    """What neighbours are sought of: the first samples, and reconstructions drawn."""

    def __init__(self, by: str, *, real: int, samples: int, seed: int):
        self.by, self.count = by, min(samples, SOUGHT)
        order = np.random.default_rng(seed).permutation(real)
        self._kept = {
            "recon": order < self.count,
            "samples": np.arange(samples) < SOUGHT,
        }
        self._at = dict.fromkeys(self._kept, 0)
        self._rows: dict[str, list[np.ndarray]] = {kind: [] for kind in self._kept}

    def add(self, kind: str, rows: np.ndarray) -> None:
        at = self._at[kind]
        self._at[kind] += len(rows)
        self._rows[kind].append(rows[self._kept[kind][at : at + len(rows)]])

    def figures(
        self, train: Source, looks: dict[str, Extractor], *, size: int, quiet: bool
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Of samples, and of reconstructions of real images."""

        def look(images: np.ndarray) -> np.ndarray:
            return looks[self.by](images)[0] if self.by in looks else pixels(images)

        both = np.concatenate([*self._rows["samples"], *self._rows["recon"]])
        found = nearest(both, train, look, batch_size=size, quiet=quiet).distances
        ours, real = found[: self.count], found[self.count :]
        name = f"neighbour_distance_{self.by}"
        figures = {
            "neighbours_of": len(ours),
            name: float(np.median(ours)),
            "neighbours_nearer": share_nearer(ours, real),
        }
        return figures, {"neighbours_of": len(real), name: float(np.median(real))}


class _Panel:
    """All that look at images, batch by batch; each network looks once."""

    def __init__(
        self,
        compared: list[tuple[Extractor, Comparison]],
        rows: _Rows | None,
        *,
        graded: bool,
    ):
        self.compared, self.rows, self.graded = compared, rows, graded
        self.looks = {look.name: look for look, _ in compared}
        self._right: dict[str, list[np.ndarray]] = {}

    def see_real(
        self,
        tokenizer: Tokenizer,
        source: Source,
        *,
        count: int,
        size: int,
        quiet: bool,
    ) -> None:
        """Real images, and their reconstructions where these are asked for."""
        read = data.in_order(
            source, count=count, batch_size=size, desc="real images", quiet=quiet
        )
        for batch in read:
            images, labels = batch["image"], batch["label"]
            self.see("real", images, labels)
            if self.graded or self.rows is not None:
                codes = encode_all(tokenizer, images, batch_size=size)
                recon = decode_all(tokenizer, codes, batch_size=size)
                self.see("recon", recon, labels)

    def see(self, kind: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Images of a kind: "real", "recon" (for grades and rows) or "samples"."""
        if kind != "real" and self.rows is not None and self.rows.by == "pixels":
            self.rows.add(kind, pixels(images))
        for look, comparison in self.compared:
            if kind == "recon" and look.name != "judge":
                continue
            seen = look(images)
            if kind != "recon":
                role = "real" if kind == "real" else "others"
                comparison.add(role, seen, labels)
            if look.name != "judge":
                continue
            if kind != "real" and self.rows is not None and self.rows.by == "judge":
                self.rows.add(kind, seen[0])
            right = seen[1].argmax(axis=-1) == labels
            self._right.setdefault(kind, []).append(right)

    def grades(self, classes: list[str]) -> dict[str, Any]:
        """Shares that the judge takes for their class; samples by class, too."""
        right = {kind: np.concatenate(parts) for kind, parts in self._right.items()}
        agrees = right["samples"]
        return {
            "judge_on_real": float(right["real"].mean()),
            "judge_on_recon": float(right["recon"].mean()),
            "samples": len(agrees),
            "judge_agrees": float(agrees.mean()),
            "judge_agrees_by_class": {
                name: float(agrees[number :: len(classes)].mean())
                for number, name in enumerate(classes[: len(agrees)])
            },
        }


def draw(
    prior: Prior,
    tokenizer: Tokenizer,
    *,
    samples: int,
    seed: int = 0,
    size: int = 256,
    **options: Any,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images float32 [n, H, W, C] of samples and their classes, n at most `size`.

    Class after class in turn; a prior without classes has the label 0 for all. What is
    drawn does not depend on `size`.
    """
    classes = prior.config.num_classes
    for first in range(0, samples, DRAWN):
        numbers = np.arange(first, min(first + DRAWN, samples), dtype=np.int32)
        key = jax.random.key(seed)
        found = sample(
            prior,
            # The first call has the key itself, as when there was only one.
            key=jax.random.fold_in(key, first) if first else key,
            labels=numbers % classes if classes else None,
            num_samples=None if classes else len(numbers),
            **options,
        )
        codes, labels = np.asarray(found), numbers % max(classes, 1)
        for at in range(0, len(codes), size):
            part = slice(at, at + size)
            yield decode_all(tokenizer, codes[part], batch_size=size), labels[part]
