"""The figures of trained models, by name, each with what it was measured on.

Two are dictionaries: `real`, some figures of real images in place of the model's, and
`provenance`, the images, networks and seed behind them. Reported figures come from
`judge`, which no method may use. Images are read in batches and not kept.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from minivim import classifier, data, metrics, weights
from minivim.config import ProbeRecipe
from minivim.config.checks import require
from minivim.data import Source
from minivim.encode import decode_all, encode_all, encode_batches, nats_per_token
from minivim.errors import UserError
from minivim.metrics.image import SSIM_WINDOW
from minivim.metrics.judged import SPLITS, Figures, Pair, Views, features_and_logits
from minivim.metrics.neighbours import nearest, pixels, share_nearer
from minivim.prior import Prior, check_labels, knows_null, sample
from minivim.tokenizer import Tokenizer
from minivim.trainer import probe

DRAWN = 512  # samples of one call, and hence what is drawn: no setting
SOUGHT = 1024  # samples and real images, at most, whose neighbours are sought


@dataclass(frozen=True, kw_only=True)
class Options:
    """On how many images to measure, and by what; `shipped_figures` opens the data."""

    spec: Any = "shapes"
    split: str = "test"
    count: int | None = None  # the first images of a source, all by default
    judge: Any = None  # a network, or None to do without; `shipped_figures` takes names
    inception: Any = None
    lpips: Any = None
    tokenizer: str | None = None  # of a prior, by default the one its card names
    step: int | None = None  # whose checkpoint of a run to take
    samples: int | None = None  # of a prior, 512 by default
    neighbours: str | None = None  # sought by "judge" or "pixels"
    batch_size: int = 256
    seed: int = 0
    quiet: bool = True

    def reading(self, source: Source) -> dict[str, Any]:
        count = min(self.count or len(source), len(source))
        size = min(self.batch_size, count)
        return {"count": count, "batch_size": size, "quiet": self.quiet}


def tokenizer_figures(
    tokenizer: Tokenizer, source: Source, how: Options = Options()
) -> Figures:
    """Reconstruction and codebook on the images of a source.

    `usage_256` is the paper's rule (Table 4): the share of codes that 256 images use,
    averaged; `usage` and `perplexity` are over all tokens. PSNR in dB, LPIPS per image.
    Frechet distances are from images to reconstructions, `judge_distance` by a judge
    and `fid` by Inception; scores are of the reconstructions. Figures that need more or
    larger images are left out or None.
    """
    reading, num_codes = how.reading(source), tokenizer.config.quantizer.num_codes
    count, size = reading["count"], reading["batch_size"]
    views = Views({"judge": how.judge, "inception": how.inception}, batch_size=size)
    measures: dict[str, Any] = {"psnr": metrics.psnr_per_image}
    if tokenizer.config.image_size >= SSIM_WINDOW:
        measures["ssim"] = metrics.ssim_per_image
    if how.lpips is not None:
        measures["lpips"] = partial(metrics.lpips_per_image, how.lpips)
    values, parts = {name: [] for name in measures}, []
    for batch in data.in_order(source, desc="tokenizer", **reading):
        images, labels = batch["image"], batch["label"]
        parts.append(encode_all(tokenizer, images, batch_size=size))
        recon = decode_all(tokenizer, parts[-1], batch_size=size)
        for name, measure in measures.items():
            values[name].append(np.asarray(measure(images, recon), np.float64))
        views.add("real", images, labels)
        views.add("recon", recon, labels)
    codes = np.concatenate(parts)
    usage = metrics.codebook_usage(codes, num_codes=num_codes)
    apart, real = views.figures("recon", how.seed)
    tokens = tokenizer.config.num_tokens
    figures: Figures = {"images": count, "tokens": tokens, "codes": num_codes}
    figures |= {n: float(np.concatenate(x).mean()) for n, x in values.items()} | apart
    figures |= {"usage": usage.usage, "perplexity": usage.perplexity}
    if count >= 256:
        figures["usage_256"] = metrics.usage_by_image_batch(codes, num_codes=num_codes)
    networks = {**views.networks, "lpips": how.lpips}
    return _with_origin(figures, source, how, real, **networks)


def prior_figures(
    prior: Prior, tokenizer: Tokenizer, source: Source, how: Options = Options()
) -> Figures:
    """Nats per token of held-out images; without label where a prior has learnt it."""
    classes, reading = prior.config.num_classes, how.reading(source)
    names = ["nll", "nll_without_label"] if classes and knows_null(prior) else ["nll"]
    figures: Figures = {"images": reading["count"], **dict.fromkeys(names, 0.0)}
    for rows in encode_batches(tokenizer, source, **reading):
        known = check_labels(prior, rows["label"]) if classes else None
        for name, labels in zip(names, (known, None), strict=False):
            nats = nats_per_token(prior, rows["codes"], labels)
            figures[name] += nats * len(rows["codes"]) / reading["count"]
    return _with_origin(figures, source, replace(how, seed=0))


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
    nearest of these, by `how.neighbours` (by default pixels), beside that of as many
    reconstructed ones (blurred images are nearer); `neighbours_nearer` compares both.
    """
    reading, classes = how.reading(source), prior.config.num_classes
    count, samples = reading["count"], how.samples or DRAWN
    size = min(how.batch_size, max(count, samples))
    views = Views({"judge": how.judge, "inception": how.inception}, batch_size=size)
    graded = how.judge is not None and classes > 0
    chosen = np.random.default_rng(how.seed).permutation(count) < min(samples, SOUGHT)
    ours, theirs, right = [], [], []
    for batch in data.in_order(source, desc="real images", **reading):
        images, labels = batch["image"], batch["label"]
        views.add("real", images, labels)
        if graded or train is not None:
            codes = encode_all(tokenizer, images, batch_size=size)
            recon = decode_all(tokenizer, codes, batch_size=size)
            theirs += list(recon[chosen[: len(recon)]])
            chosen = chosen[len(recon) :]
        if graded:
            right += list(classifier.predict(how.judge, recon) == labels)
    drawn = draw(prior, tokenizer, how) if drawn is None else drawn
    for images, labels in tqdm(drawn, desc="samples", unit="part", disable=how.quiet):
        ours += list(images[: SOUGHT - len(ours)])
        views.add("samples", images, labels)
    figures: Figures = {"real_images": count}
    if graded:
        agrees, names = views.right("judge", "samples"), source.class_names[:samples]
        figures["judge_on_real"] = float(views.right("judge", "real").mean())
        figures |= {"judge_on_recon": float(np.mean(right)), "samples": samples}
        figures["judge_agrees"] = float(agrees.mean())
        figures["judge_agrees_by_class"] = {
            str(name): float(agrees[i::classes].mean()) for i, name in enumerate(names)
        }
    figures["samples"] = samples
    apart, real = views.figures("samples", how.seed, "_samples")
    origin: Figures = {"sampling": {"temperature": 1.0}}
    if train is not None:
        near, beside = _neighbours(ours, theirs, train, how)
        apart, real = apart | near, real | beside
        origin["train"] = f"{len(train)} of {train.description}"
    figures = _with_origin(figures | apart, source, how, real, **views.networks)
    figures["provenance"] |= origin
    return figures


def _neighbours(samples: list, recon: list, train: Source, how: Options) -> Pair:
    """How near samples are to training images, and the same of reconstructions."""
    by, size = how.neighbours or "pixels", how.batch_size
    judged = partial(features_and_logits, how.judge, batch_size=size)
    look = pixels if by == "pixels" else lambda images: judged(images)[0]
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
    """Images float32 [n, H, W, C] of samples and their classes in turn, n at most 512.

    At temperature 1 without filters; a prior without classes has the label 0 for all.
    """
    classes, key = prior.config.num_classes, jax.random.key(how.seed)
    samples = how.samples or DRAWN
    for first in range(0, samples, DRAWN):
        numbers = np.arange(first, min(first + DRAWN, samples), dtype=np.int32)
        # The first call has the key itself, as when there was only one.
        now = jax.random.fold_in(key, first) if first else key
        count, labels = (None, numbers % classes) if classes else (len(numbers), None)
        codes = sample(prior, key=now, labels=labels, num_samples=count)
        images = decode_all(tokenizer, np.asarray(codes), batch_size=how.batch_size)
        yield images, numbers % max(classes, 1)


def classifier_figures(model: Any, source: Source, how: Options = Options()) -> Figures:
    """Share of images that a classifier names rightly."""
    right, read = [], data.in_order(source, desc="classifier", **how.reading(source))
    for rows in read:
        right += list(classifier.predict(model, rows["image"]) == rows["label"])
    figures = {"images": len(right), "accuracy": float(np.mean(right))}
    return _with_origin(figures, source, replace(how, seed=0))


def _with_origin(
    figures: Figures, source: Source, how: Options, real: Mapping = {}, **networks: Any
) -> Figures:
    """Figures, those of real images if there are any, and where all come from."""
    origin = {"data": source.description, "fingerprint": source.fingerprint}
    origin |= {"images": how.reading(source)["count"], "of": len(source)}
    known = {k: weights.identity(v) for k, v in networks.items() if v}
    origin |= {"networks": known, "seed": how.seed}
    if real:
        figures, origin["score_parts"] = {**figures, "real": real}, SPLITS
    return {**figures, "provenance": origin}


# Options with figures for a kind of weights, the last kind where there are several.
USES = dict.fromkeys(("judge", "inception"), ("tokenizer", "palette", "prior"))
USES |= {"lpips": ("tokenizer", "palette")}
USES |= dict.fromkeys(("neighbours", "samples", "tokenizer"), ("prior",))
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
    require(refs, f"nothing is shipped for {how.spec}; name weights to evaluate")
    kinds = {str(ref): weights.read_card(ref)["kind"] for ref in refs}
    for option, uses in USES.items():
        fits = not getattr(how, option) or set(kinds.values()) & set(uses)
        told = f"--{option} has no figures for a {next(iter(kinds.values()))}"
        require(fits, f"{told}; leave it out, or name a {uses[-1]}")
    judge, near = how.judge or (own if own in shipped else None), how.neighbours
    told = "nothing looks at samples; leave out --samples, or give --judge, --inception"
    fits = not how.samples or judge or how.inception or near
    require(fits, f"{told} or --neighbours pixels")
    told = "neighbours are training images, so others must be held out beside"
    require(not near or how.split != "train", f"{told}; leave out --split train")
    told = "there is no judge to seek neighbours by; give --judge, or use --neighbours"
    require(near != "judge" or judge, f"{told} pixels")
    names = {"judge": judge, "inception": how.inception, "lpips": how.lpips}
    networks = {k: load_network(k, ref) for k, ref in names.items() if ref}
    asked, how = bool(how.judge), replace(how, **networks)
    return {ref: _figures(ref, kind, how, asked) for ref, kind in kinds.items()}


def load_network(option: str, ref: str) -> Any:
    """Weights of the kind that an option of `NETWORKS` takes; others `UserError`."""
    model: Any = weights.load(ref)
    kind, remedy = NETWORKS[option]
    told = f"--{option} {ref} is a {model.card['kind']}"
    require(model.card["kind"] == kind, f"{told}; give {remedy}")
    if option == "classifier":
        classifier.require_classifier(model)
    used = option == "judge" and isinstance(model, classifier.Classifier)
    told = f"--judge {ref} is a classifier that methods may use"
    require(not used, f"{told}, so no figure comes from it; give {remedy}")
    return model


def check_fits(
    what: str, model: Any, classes: int, shape: dict[str, int] | None = None
) -> None:
    """Raise `UserError` for a network that knows other classes than the data have.

    With a shape it must also read such images, and does without labels (0 classes).
    """
    if shape and not _reads(model, shape):
        size = "{image_size} x {image_size} x {channels}".format(**shape)
        told = f"{what} reads images of {model.config.channels} channels and of sides"
        remedy = f"give --{what.removeprefix('the ')} one for these images"
        raise UserError(f"{told} that are multiples of 8, not {size}; {remedy}")
    known = model.config.num_classes
    told = f"{what} knows {known} classes and the data have"
    named = classes or shape or not known
    require(named, f"{told} no labels; put each class in a folder of its own")
    fits = classes in (known, 0) or not known
    require(fits, f"{told} {classes}; use one that was trained on these data")


def _reads(network: Any, shape: dict[str, int]) -> bool:
    return shape["channels"] == network.config.channels and shape["image_size"] % 8 == 0


def _figures(ref: str, kind: str, how: Options, asked: bool) -> Figures:
    """Of one reference; a judge that nobody `asked` for only looks at what it can."""
    told = f"{ref} compares images, has no figures of its own"
    fits = kind not in ("perceptual", "inception")
    require(fits, f"{told}; name a tokenizer, a prior or a classifier")
    if kind == "prior":
        tokenizer, model = weights.load_pair(ref, how.tokenizer, step=how.step)
    else:
        tokenizer = model = weights.load(ref, step=how.step)
    sized: Any = vars(tokenizer.config)
    if kind == "classifier":
        sized = {"image_size": 1, **model.card.get("recipe", {})}
        told = f"the card of {ref} has no recipe.image_size that is a multiple of 8"
        fits = isinstance(sized["image_size"], int) and not sized["image_size"] % 8
        require(fits, f"{told}; fetch or export it again")
    shape = {"image_size": sized["image_size"], "channels": tokenizer.config.channels}
    opened = partial(data.open_source, how.spec, **shape)
    source = opened(split=how.split)
    if how.count and how.count > (count := len(source)):
        problem = f"--count {how.count} is more than the {count} images of"
        raise UserError(f"{problem} {source.description}; give {count} or less")
    if how.judge and (asked or _reads(how.judge, shape)):
        check_fits("the judge", how.judge, source.num_classes, shape)
    else:
        how = replace(how, judge=None)
    if kind in ("classifier", "prior"):
        check_fits(ref, model, source.num_classes)
    data.announce(source)
    if kind == "classifier":
        figures = classifier_figures(model, source, how)
    elif kind == "prior":
        figures = _figures_of_prior(model, tokenizer, source, how, opened)
    else:
        figures = tokenizer_figures(tokenizer, source, how)
    figures["provenance"] |= {"split": how.split, "pixels": data.pixel_rule(**shape)}
    figures["provenance"]["weights"] = weights.identity(model)
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
    if seen := tokenizer.card.labels_seen:
        said = f"left out, the tokenizer has seen labels through {seen}"
    else:
        recipe = ProbeRecipe(name="evaluate", prior="", tokenizer="")
        splits = {split: opened(split=split) for split in ("train", "test")}
        found = probe(recipe, prior, tokenizer, **splits)
        figures |= {f"probe, {name}": test for name, _, test in found.rows()}
        said = f"{found.n_train} of train, {found.n_test} of test"
    figures["provenance"]["probe"] = said
    return figures
