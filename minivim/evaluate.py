"""The figures of trained models, each with what it was measured on.

Figures are a dictionary by name. Two entries are dictionaries themselves: `real`, some
of the figures for real images in place of the model's, and `provenance`, the images,
networks and seed that they come from. Reported figures come from `judge`, which no
method may use. Images are read in batches and not kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from minivim import classifier, data, metrics, weights
from minivim.config import ProbeRecipe
from minivim.data import Source
from minivim.encode import decode_all, encode_all, encode_batches, nats_per_token
from minivim.errors import UserError
from minivim.metrics.image import SSIM_WINDOW
from minivim.metrics.judged import SPLITS, Figures, Views, features_and_logits
from minivim.metrics.neighbours import nearest, pixels, share_nearer
from minivim.prior import Prior, check_labels, knows_null, sample
from minivim.tokenizer import Tokenizer
from minivim.train import probe

DRAWN = 512  # samples of one call, and hence what is drawn: no setting
SOUGHT = 1024  # samples and real images, at most, whose neighbours are sought


@dataclass(frozen=True, kw_only=True)
class Options:
    """On how many images to measure, and by what.

    count: the first images of a source, all by default. judge, inception, lpips:
    networks, or None to do without. samples: of a prior, 512 by default. neighbours:
    "judge" or "pixels", by which to seek the training images nearest to samples.
    `shipped_figures` opens a split of `spec`, and takes names for networks.
    """

    spec: str = "shapes"
    split: str = "test"
    count: int | None = None
    judge: Any = None
    inception: Any = None
    lpips: Any = None
    samples: int | None = None
    neighbours: str | None = None
    batch_size: int = 256
    seed: int = 0
    quiet: bool = True

    def images(self, source: Source) -> int:
        return min(self.count or len(source), len(source))

    def reading(self, source: Source) -> dict[str, Any]:
        count = self.images(source)
        size = min(self.batch_size, count)
        return {"count": count, "batch_size": size, "quiet": self.quiet}


def tokenizer_figures(
    tokenizer: Tokenizer, source: Source, how: Options = Options()
) -> Figures:
    """Reconstruction and codebook on the images of a source.

    `usage_256` is the paper's rule (Table 4): the share of codes that 256 images use,
    averaged; `usage` and `perplexity` are over all the tokens. PSNR in dB.
    `judge_distance` is the Frechet distance from the images to their reconstructions by
    a judge, which is not FID; `fid` is that by Inception. `judge_score` and
    `inception_score` are of the reconstructions, `lpips` the mean distance of an image
    from its own. Figures that need more or larger images are left out.
    """
    count, num_codes = how.images(source), tokenizer.config.quantizer.num_codes
    size = min(how.batch_size, count)
    networks = {"judge": how.judge, "inception": how.inception}
    views = Views(networks, batch_size=size)
    measures: dict[str, Any] = {"psnr": metrics.psnr_per_image}
    if tokenizer.config.image_size >= SSIM_WINDOW:
        measures["ssim"] = metrics.ssim_per_image
    if how.lpips is not None:
        measures["lpips"] = partial(metrics.lpips_per_image, how.lpips)
    values, parts = {name: [] for name in measures}, []
    for batch in data.in_order(source, desc="tokenizer", **how.reading(source)):
        images, labels = batch["image"], batch["label"]
        parts.append(encode_all(tokenizer, images, batch_size=size))
        recon = decode_all(tokenizer, parts[-1], batch_size=size)
        for name, measure in measures.items():
            values[name].append(np.asarray(measure(images, recon), np.float64))
        views.add("real", images, labels)
        views.add("recon", recon, labels)
    codes = np.concatenate(parts)
    usage = metrics.codebook_usage(codes, num_codes=num_codes)
    apart, real = views.figures("recon", seed=how.seed)
    figures: Figures = {
        "images": count,
        "tokens": tokenizer.config.num_tokens,
        "codes": num_codes,
        **{name: float(np.concatenate(x).mean()) for name, x in values.items()},
        **apart,
        "usage": usage.usage,
        "perplexity": usage.perplexity,
    }
    if count >= 256:
        figures["usage_256"] = metrics.usage_by_image_batch(codes, num_codes=num_codes)
    return _with_origin(figures, real, source, how, **networks, lpips=how.lpips)


def prior_figures(
    prior: Prior, tokenizer: Tokenizer, source: Source, how: Options = Options()
) -> Figures:
    """Negative log-likelihood of held-out images, in nats per token.

    `nll_without_label` is left out where the card says that the prior learnt none.
    """
    classes = prior.config.num_classes
    # Whether each figure is given the label.
    labelled = {"nll": bool(classes)}
    if classes:
        check_labels(prior, np.arange(source.num_classes))
        labelled |= {"nll_without_label": False} if knows_null(prior) else {}
    figures: Figures = {"images": how.images(source), **dict.fromkeys(labelled, 0.0)}
    for rows in encode_batches(tokenizer, source, **how.reading(source)):
        codes = rows["codes"]
        for name, given in labelled.items():
            labels = check_labels(prior, rows["label"]) if given else None
            nats = nats_per_token(prior, codes, labels)
            figures[name] += nats * len(codes) / figures["images"]
    return _with_origin(figures, {}, source, replace(how, seed=0))


def judged_figures(
    prior: Prior,
    tokenizer: Tokenizer,
    source: Source,
    how: Options,
    *,
    train: Source | None = None,
    drawn: Iterable[tuple[np.ndarray, np.ndarray]] | None = None,
) -> Figures:
    """Figures by networks of real images, of reconstructions and of samples.

    Samples come from `draw`, or are `drawn` otherwise: images and labels, the classes
    in turn, `how.samples` in all. `judge_agrees` is the share that the judge takes for
    their class. Figures that end in `_samples` compare them with as many real images,
    or are of them. Those that need a judge or classes are left out without.

    With training images, the median distance of the first 1,024 samples from the
    nearest of these, by `how.neighbours` (by default pixels). Beside it stands that of
    as many real images, reconstructed: blurred images are nearer to any.
    `neighbours_nearer` is how often a sample is nearer than one of these: 1/2 where
    they are alike, 1 for copies.
    """
    count, samples = how.images(source), how.samples or DRAWN
    size = min(how.batch_size, max(count, samples))
    networks = {"judge": how.judge, "inception": how.inception}
    graded = how.judge is not None and prior.config.num_classes > 0
    views, on_recon = Views(networks, batch_size=size), 0.0
    chosen = np.random.default_rng(how.seed).permutation(count) < min(samples, SOUGHT)
    ours, theirs = [], []
    for batch in data.in_order(source, desc="real images", **how.reading(source)):
        images, labels = batch["image"], batch["label"]
        views.add("real", images, labels)
        if graded or train is not None:
            codes = encode_all(tokenizer, images, batch_size=size)
            recon = decode_all(tokenizer, codes, batch_size=size)
            theirs += list(recon[chosen[: len(recon)]])
            chosen = chosen[len(recon) :]
        if graded:
            on_recon += len(labels) * classifier.accuracy(how.judge, recon, labels)
    drawn = draw(prior, tokenizer, how) if drawn is None else drawn
    for images, labels in tqdm(drawn, desc="samples", unit="part", disable=how.quiet):
        ours += list(images[: SOUGHT - len(ours)])
        views.add("samples", images, labels)
    figures: Figures = {"real_images": count}
    if graded:
        agrees, classes = views.right("judge", "samples"), prior.config.num_classes
        names = source.class_names if source.num_classes == classes else range(classes)
        figures |= {
            "judge_on_real": float(views.right("judge", "real").mean()),
            "judge_on_recon": on_recon / count,
            "samples": samples,
            "judge_agrees": float(agrees.mean()),
            "judge_agrees_by_class": {
                str(name): float(agrees[number::classes].mean())
                for number, name in zip(range(samples), names, strict=False)
            },
        }
    figures["samples"] = samples
    apart, real = views.figures("samples", suffix="_samples", seed=how.seed)
    figures |= apart
    origin: Figures = {"sampling": {"temperature": 1.0}}
    if train is not None:
        of_ours, of_theirs = _neighbours(ours, theirs, train, how, size)
        figures, real = figures | of_ours, real | of_theirs
        origin["train"] = f"{len(train)} of {train.description}"
    figures = _with_origin(figures, real, source, how, **networks)
    figures["provenance"] |= origin
    return figures


def _neighbours(
    samples: list, recon: list, train: Source, how: Options, size: int
) -> tuple[Figures, Figures]:
    """How near samples are to training images, and the same of reconstructions."""
    by = how.neighbours or "pixels"

    def look(images: np.ndarray) -> np.ndarray:
        if by == "pixels":
            return pixels(images)
        return features_and_logits(how.judge, images, batch_size=size)[0]

    both = look(np.stack([*samples, *recon]))
    found = nearest(both, train, look, batch_size=size, quiet=how.quiet).distances
    ours, theirs = np.split(found, [len(samples)])
    figures, real = (
        {"neighbours_of": len(part), f"neighbour_distance_{by}": float(np.median(part))}
        for part in (ours, theirs)
    )
    return figures | {"neighbours_nearer": share_nearer(ours, theirs)}, real


def draw(
    prior: Prior, tokenizer: Tokenizer, how: Options
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images float32 [n, H, W, C] of samples and their classes, n at most 512.

    At temperature 1 without filters, class after class in turn; a prior without classes
    has the label 0 for all.
    """
    classes, key = prior.config.num_classes, jax.random.key(how.seed)
    samples = how.samples or DRAWN
    size = min(how.batch_size, samples)
    for first in range(0, samples, DRAWN):
        numbers = np.arange(first, min(first + DRAWN, samples), dtype=np.int32)
        codes = sample(
            prior,
            # The first call has the key itself, as when there was only one.
            key=jax.random.fold_in(key, first) if first else key,
            labels=numbers % classes if classes else None,
            num_samples=None if classes else len(numbers),
        )
        images = decode_all(tokenizer, np.asarray(codes), batch_size=size)
        yield images, numbers % max(classes, 1)


def classifier_figures(model: Any, source: Source, how: Options = Options()) -> Figures:
    """Share of images that a classifier names rightly."""
    right = 0.0
    for rows in data.in_order(source, desc="classifier", **how.reading(source)):
        labels = rows["label"]
        right += len(labels) * classifier.accuracy(model, rows["image"], labels)
    count = how.images(source)
    figures = {"images": count, "accuracy": right / count}
    return _with_origin(figures, {}, source, replace(how, seed=0))


def _with_origin(
    figures: Figures, real: Figures, source: Source, how: Options, **networks: Any
) -> Figures:
    """Figures, those of real images if there are any, and where all come from."""
    used = {k: weights.identity(v) for k, v in networks.items() if v is not None}
    origin = {
        "data": source.description,
        "fingerprint": source.fingerprint,
        "images": how.images(source),
        "of": len(source),
        "networks": used,
        "seed": how.seed,
    }
    if real:
        figures, origin["score_parts"] = {**figures, "real": real}, SPLITS
    return {**figures, "provenance": origin}


# Kinds of weights that an option has figures for.
USES = {
    "judge": ("tokenizer", "palette", "prior"),
    "inception": ("tokenizer", "palette", "prior"),
    "lpips": ("tokenizer", "palette"),
    "neighbours": ("prior",),
    "samples": ("prior",),
}
# Kind of the weights that an option takes, and where to get some.
NETWORKS = {
    "judge": ("classifier", "a classifier of kind=residual, such as shapes/judge"),
    "classifier": ("classifier", "a classifier of kind=cnn, such as shapes/classifier"),
    "inception": ("inception", "the folder that minivim convert inception wrote"),
    "lpips": ("perceptual", "the folder that minivim convert lpips wrote"),
}


def shipped_figures(refs: list[str], how: Options = Options()) -> dict[str, Figures]:
    """Figures of weights on a data set, by default of all that are shipped for it.

    The default judge is the one shipped for the data, for weights whose images it
    reads. Raises `UserError` for options without figures and networks that do not fit.
    """
    shipped, own = weights.shipped(), f"{how.spec}/judge"
    refs = refs or [name for name in shipped if name.startswith(f"{how.spec}/")]
    if not refs:
        raise UserError(
            f"nothing is shipped for {how.spec}; name the weights to evaluate"
        )
    kinds = {str(ref): weights.read_card(ref)["kind"] for ref in refs}
    for option, uses in USES.items():
        if getattr(how, option) and not set(kinds.values()) & set(uses):
            raise UserError(
                f"--{option} has no figures for a {next(iter(kinds.values()))}; leave "
                f"it out, or name a {uses[-1]}"
            )
    judge = how.judge or (own if own in shipped else None)
    if how.samples and not (judge or how.inception or how.neighbours):
        raise UserError(
            "nothing looks at samples; leave out --samples, or give --judge, "
            "--inception or --neighbours pixels"
        )
    if how.neighbours and how.split == "train":
        raise UserError(
            "neighbours are sought among the training images, so others must be "
            "held out beside; leave out --split train"
        )
    if how.neighbours == "judge" and not judge:
        raise UserError(
            "there is no judge to seek neighbours by; give --judge, or use "
            "--neighbours pixels"
        )
    names = {"judge": judge, "inception": how.inception, "lpips": how.lpips}
    networks = {option: load_network(option, name) for option, name in names.items()}
    asked, how = bool(how.judge), replace(how, **networks)
    return {ref: _figures(ref, kind, how, asked) for ref, kind in kinds.items()}


def load_network(option: str, ref: str | None) -> Any:
    """Weights of the kind that an option of `NETWORKS` takes; None without a reference.

    Raises `UserError` for others, for a judge as classifier and the other way round.
    """
    if ref is None:
        return None
    model: Any = weights.load(ref)
    kind, remedy = NETWORKS[option]
    if model.card["kind"] != kind:
        raise UserError(f"--{option} {ref} is a {model.card['kind']}; give {remedy}")
    if option == "classifier":
        classifier.require_no_judge(model)
    if option == "judge" and isinstance(model, classifier.Classifier):
        raise UserError(
            f"--judge {ref} is a classifier that methods may use, so no figure comes "
            f"from it; give {remedy}"
        )
    return model


def check_fits(
    what: str, model: Any, classes: int, shape: dict[str, int] | None = None
) -> None:
    """Raise `UserError` for a network that knows other classes than the data have.

    With a shape it must also read such images, and does without labels (0 classes).
    """
    if shape and not _reads(model, shape):
        size = "{image_size} x {image_size} x {channels}".format(**shape)
        raise UserError(
            f"{what} reads images of {model.config.channels} channels and of sides "
            f"that are multiples of 8, not {size}; give --{what.removeprefix('the ')} "
            "one for these images"
        )
    known = model.config.num_classes
    if known and classes != known and (classes or not shape):
        remedy = "use one that was trained on these data"
        raise UserError(
            f"{what} knows {known} classes and the data have {classes or 'no labels'}; "
            f"{remedy if classes else 'put each class in a folder of its own'}"
        )


def _reads(network: Any, shape: dict[str, int]) -> bool:
    same = shape["channels"] == network.config.channels
    return same and shape["image_size"] % 8 == 0


def _figures(ref: str, kind: str, how: Options, asked: bool) -> Figures:
    """Of one reference; a judge that nobody `asked` for only looks at what it can."""
    if kind in ("perceptual", "inception"):
        raise UserError(
            f"{ref} compares images and has no figures of its own; name a tokenizer, a "
            "prior or a classifier"
        )
    loaded: Any = weights.load_pair(ref) if kind == "prior" else (weights.load(ref),)
    tokenizer, model = loaded[0], loaded[-1]
    sized = model.card["recipe"] if kind == "classifier" else vars(tokenizer.config)
    channels = tokenizer.config.channels
    shape = {"image_size": int(sized["image_size"]), "channels": channels}
    source = data.open_source(how.spec, split=how.split, **shape)
    if how.count and how.count > len(source):
        raise UserError(
            f"--count {how.count} is more than the {len(source)} images of "
            f"{source.description}; give {len(source)} or less"
        )
    if how.judge is not None and not asked and not _reads(how.judge, shape):
        how = replace(how, judge=None)
    if how.judge is not None:
        check_fits("the judge", how.judge, source.num_classes, shape)
    if kind in ("classifier", "prior"):
        check_fits(ref, model, source.num_classes)
    if kind == "classifier":
        figures = classifier_figures(model, source, how)
    elif kind == "prior":
        opened = partial(data.open_source, how.spec, **shape)
        figures = _figures_of_prior(model, tokenizer, source, how, opened)
    else:
        figures = tokenizer_figures(model, source, how)
    figures["provenance"] |= {
        "split": how.split,
        "pixels": data.pixel_rule(**shape),
        "weights": weights.identity(model),
    }
    return figures


def _figures_of_prior(
    prior: Prior, tokenizer: Tokenizer, source: Source, how: Options, opened: Any
) -> Figures:
    figures = prior_figures(prior, tokenizer, source, how)
    train = opened(split="train") if how.neighbours else None
    if how.judge is not None or how.inception is not None or train is not None:
        figures |= judged_figures(prior, tokenizer, source, how, train=train)
    if prior.config.num_classes or source.num_classes < 2:
        return figures
    # Such codes are not probed (section 5.3); all else is still to be known.
    if seen := weights.card_of(tokenizer).labels_seen:
        said = f"left out, the tokenizer has seen labels through {seen}"
    else:
        recipe = ProbeRecipe(name="evaluate", prior="", tokenizer="")
        splits = {split: opened(split=split) for split in ("train", "test")}
        found = probe(recipe, prior, tokenizer, **splits)
        figures |= {f"probe, {name}": test for name, _, test in found.rows()}
        said = f"{found.n_train} of train, {found.n_test} of test"
    figures["provenance"]["probe"] = said
    return figures
