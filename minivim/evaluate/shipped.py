"""Figures of named weights on a named data set, as `minivim evaluate` prints them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from minivim import classifier, data, weights
from minivim.config import ProbeRecipe
from minivim.data import Source
from minivim.errors import UserError
from minivim.evaluate.priors import judged_figures, prior_figures
from minivim.evaluate.provenance import with_origin
from minivim.evaluate.tokenizers import tokenizer_figures
from minivim.prior import Prior
from minivim.tokenizer import Tokenizer
from minivim.train import probe


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What to measure weights by: images of a data set, and networks.

    count: the first images of the split, all by default. neighbours: "judge" or
    "pixels", by which to seek the nearest training images of samples.
    """

    spec: str
    split: str = "test"
    count: int | None = None
    judge: Any = None
    inception: Any = None
    lpips: Any = None
    samples: int = 512
    neighbours: str | None = None
    batch_size: int = 256
    seed: int = 0
    quiet: bool = True

    def __post_init__(self) -> None:
        if self.neighbours and self.split == "train":
            raise UserError(
                "neighbours are sought among the training images, so others must be "
                "held out beside; leave out --split train"
            )
        if self.neighbours == "judge" and self.judge is None:
            raise UserError(
                "there is no judge to seek neighbours by; give --judge, or use "
                "--neighbours pixels"
            )

    @property
    def reading(self) -> dict[str, Any]:
        return {"batch_size": self.batch_size, "quiet": self.quiet}

    def source(self, split: str | None = None, **shape: int) -> Source:
        """Images of a split, refused where there are fewer than `count`."""
        found = data.open_source(self.spec, split=split or self.split, **shape)
        if split is None and self.count and self.count > len(found):
            raise UserError(
                f"--count {self.count} is more than the {len(found)} images of "
                f"{found.description}; give {len(found)} or less"
            )
        return found


def shipped_figures(
    refs: list[str],
    *,
    spec: str,
    judge: str | None = None,
    inception: str | None = None,
    lpips: str | None = None,
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Figures of weights on a data set, by default of all that are shipped for it.

    `judge`, `inception` and `lpips` name weights; `options` are those of `Evaluation`.
    The default judge is the one shipped for the data, for weights whose images it
    reads.
    """
    refs = refs or [name for name in weights.shipped() if name.startswith(f"{spec}/")]
    if not refs:
        raise UserError(f"nothing is shipped for {spec}; name the weights to evaluate")
    given = {"judge": judge, "inception": inception, "lpips": lpips, **options}
    _check_of_use(refs, [name for name in USES if given.get(name)])
    own = None if judge else f"{spec}/judge"
    if own in weights.shipped():
        judge = own
    looks = judge or inception or options.get("neighbours")
    if options.get("samples") and not looks:
        raise UserError(
            "nothing looks at samples; leave out --samples, or give --judge, "
            "--inception or --neighbours pixels"
        )
    how = Evaluation(
        spec=spec,
        judge=load_network("judge", judge),
        inception=load_network("inception", inception),
        lpips=load_network("lpips", lpips),
        **options,
    )
    return {str(ref): _figures(ref, how, asked=judge != own) for ref in refs}


# Kinds of weights that an option has figures for.
USES = {
    "judge": ("tokenizer", "palette", "prior"),
    "inception": ("tokenizer", "palette", "prior"),
    "lpips": ("tokenizer", "palette"),
    "neighbours": ("prior",),
    "samples": ("prior",),
}


def _check_of_use(refs: list[str], options: list[str]) -> None:
    """Raises `UserError` for an option that none of the weights has figures for."""
    kinds = [weights.read_card(ref)["kind"] for ref in refs] if options else []
    for option in options:
        if not set(kinds) & set(USES[option]):
            raise UserError(
                f"--{option} has no figures for a {kinds[0]}; leave it out, or name a "
                f"{USES[option][-1]}"
            )


# Kind of the weights that an option takes, and where to get some.
OPTIONS = {
    "judge": ("classifier", "a classifier of kind=residual, such as shapes/judge"),
    "classifier": ("classifier", "a classifier of kind=cnn, such as shapes/classifier"),
    "inception": ("inception", "the folder that minivim convert inception wrote"),
    "lpips": ("perceptual", "the folder that minivim convert lpips wrote"),
}


def load_network(option: str, ref: str | None) -> Any:
    """Loaded weights of the kind that an option takes; None without a reference.

    `option` is one of `OPTIONS`. Raises `UserError` for weights of another kind, for a
    judge as classifier and the other way round.
    """
    if ref is None:
        return None
    model: Any = weights.load(ref)
    kind, remedy = OPTIONS[option]
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


def _figures(ref: str, how: Evaluation, *, asked: bool) -> dict[str, Any]:
    """Of one reference; a judge that nobody `asked` for only looks at what it can."""
    model: Any = weights.load(ref)
    kind = model.card["kind"]
    if kind in ("perceptual", "inception"):
        raise UserError(
            f"{ref} compares images and has no figures of its own; name a tokenizer, a "
            "prior or a classifier"
        )
    tokenizer: Any = model
    if kind == "prior":
        tokenizer, model = weights.load_pair(ref)
    shape = (
        {"image_size": data_size(model), "channels": model.config.channels}
        if kind == "classifier"
        else tokenizer.config.image_shape
    )
    source = how.source(**shape)
    if how.judge is not None and not asked and not _reads(how.judge, shape):
        how = replace(how, judge=None)
    check_fits("judge", how.judge, shape, classes=source.num_classes)
    if kind == "classifier":
        _check_classes(ref, model, source.num_classes)
        figures = classifier_figures(model, source, count=how.count, **how.reading)
    elif isinstance(model, Tokenizer):
        figures = tokenizer_figures(
            model, source, count=how.count, judge=how.judge, inception=how.inception,
            lpips=how.lpips, seed=how.seed, **how.reading,
        )  # fmt: skip
    else:
        figures = _figures_of_prior(ref, model, tokenizer, source, how)
    figures["provenance"] |= {
        "split": how.split,
        "pixels": data.pixel_rule(**shape),
        "weights": weights.identity(model),
    }
    return figures


def classifier_figures(
    model: classifier.Classifier | classifier.Judge,
    source: Source,
    *,
    count: int | None = None,
    batch_size: int = 256,
    quiet: bool = True,
) -> dict[str, Any]:
    """Share of the first `count` images that a classifier names rightly."""
    count = len(source) if count is None else min(count, len(source))
    right = 0.0
    read = data.in_order(
        source, count=count, batch_size=batch_size, desc="classifier", quiet=quiet
    )
    for rows in read:
        labels = rows["label"]
        right += len(labels) * classifier.accuracy(model, rows["image"], labels)
    figures = {"images": count, "accuracy": right / count}
    return with_origin(figures, {}, source, count=count)


def _figures_of_prior(
    ref: str, prior: Prior, tokenizer: Tokenizer, source: Source, how: Evaluation
) -> dict[str, Any]:
    shape, classes = tokenizer.config.image_shape, prior.config.num_classes
    if classes and not source.num_classes:
        raise UserError(
            f"{ref} knows {classes} classes and the data have no labels; put each "
            "class in a folder of its own"
        )
    if classes:
        _check_classes(ref, prior, source.num_classes)
    figures = prior_figures(prior, tokenizer, source, count=how.count, **how.reading)
    train = how.source("train", **shape) if how.neighbours else None
    if how.judge is not None or how.inception is not None or train is not None:
        figures |= judged_figures(
            prior, tokenizer, how.judge, source, samples=how.samples, seed=how.seed,
            count=how.count, inception=how.inception, train=train,
            neighbours=how.neighbours or "pixels", **how.reading,
        )  # fmt: skip
    if classes or source.num_classes < 2:
        return figures
    # Such codes are not probed (section 5.3); all else is still to be known.
    if seen := weights.card_of(tokenizer).labels_seen:
        figures["provenance"]["probe"] = (
            f"left out, the tokenizer has seen labels through {seen}"
        )
    else:
        recipe = ProbeRecipe(name="evaluate", prior=ref, tokenizer="")
        splits = {split: how.source(split, **shape) for split in ("train", "test")}
        result = probe(recipe, prior, tokenizer, **splits)
        figures |= {f"probe, {name}": test for name, _, test in result.rows()}
        figures["provenance"]["probe"] = (
            f"{result.n_train} of train, {result.n_test} of test"
        )
    return figures


def _check_classes(what: str, model: Any, classes: int) -> None:
    """A network that knows labels can only be asked of its own classes."""
    if classes and classes != model.config.num_classes:
        raise UserError(
            f"{what} knows {model.config.num_classes} classes and the data have "
            f"{classes}; use one that was trained on these data"
        )


def check_fits(
    option: str, network: Any, shape: dict[str, int], *, classes: int
) -> None:
    """A judge or classifier must read images of this shape, and name their classes.

    Raises `UserError` for one that does not.
    """
    if network is None:
        return
    size, channels = shape["image_size"], shape["channels"]
    if not _reads(network, shape):
        raise UserError(
            f"the {option} reads images of {network.config.channels} channels and of "
            f"sides that are multiples of 8, not {size} x {size} x {channels}; give "
            f"--{option} one for these images"
        )
    _check_classes(f"the {option}", network, classes)


def _reads(network: Any, shape: dict[str, int]) -> bool:
    same = shape["channels"] == network.config.channels
    return same and shape["image_size"] % 8 == 0


def data_size(model: Any) -> int:
    """Image size that a classifier was trained on."""
    return int(model.card["recipe"]["image_size"])
