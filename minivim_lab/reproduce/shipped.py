"""The shipped weights at work: pictures, class by class agreement, rejection, probe.

Everything that is reported comes from a family's `judge`; its `classifier` chooses in
rejection. The probe of the prior without labels stands beside iGPT of the same size,
which is trained here first and continues where it stopped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from minivim import data, evaluate, recipes, show, weights
from minivim.config import with_overrides
from minivim.encode import decode_all, encode_all
from minivim.errors import UserError
from minivim.prior import reject
from minivim_lab.reproduce import stored
from minivim_lab.reproduce.stored import Options
from minivim_lab.tables import markdown_table

WEIGHTS = ("tokenizer", "prior", "prior-unlabelled", "classifier", "judge")
ACCEPTANCE = 0.5
# Training and test images of a probe.
PROBE = {"shapes": (4096, 2048), "cifar10": (20000, 10000)}
# Accepted by rejection, and drawn without it; in equal numbers of every class.
SAMPLES, SEED = 2000, 0
PICTURES = 8


def main(options: Options) -> str:
    """Measure both families; `--data` says where the images of cifar10 are."""
    if options.seeds or options.speed:
        raise UserError("there is one set of weights; leave out --seeds and --speed")
    families = options.only or tuple(weights.DATA)
    if unknown := [name for name in families if name not in weights.DATA]:
        problem = f"nothing is shipped for {unknown[0]!r}"
        raise UserError(f"{problem}; there are {', '.join(weights.DATA)}")
    # The data of all families are opened before minutes are spent on the first.
    chosen = []
    for family in [name for name in weights.DATA if name in families]:
        needed = [f"{family}/{name}" for name in WEIGHTS]
        if missing := [name for name in needed if name not in weights.shipped()]:
            problem = f"{', '.join(missing)} is not shipped; make it with"
            command = f"python -m minivim_lab.make_weights {' '.join(missing)}"
            raise UserError(f"{problem} {command}, or name another family by --only")
        own = options if family == "cifar10" else replace(options, data="")
        chosen.append(replace(own.of(family), out=options.out / "shipped"))
        for split in ("train", "test"):
            source(chosen[-1], split)
    found = [run(each) for each in chosen]
    if options.page:
        drawn = {k: v for each in chosen for k, v in pictures(each).items()}
        stored.write_page(options.page, "shipped", found, markdown(found), drawn)
    return summary(found)


def load(options: Options, name: str) -> Any:
    """One of the family's weights."""
    return weights.load(f"{options.family}/{name}")


def source(options: Options, split: str) -> data.Source:
    """A split at the tokenizer's image size, with the public name of the data."""
    found = options.source(split, **load(options, "tokenizer").config.image_shape)
    # Where a copy of the images lies is not written into the figures.
    found.description = f"{weights.DATA[options.family]} ({split})"
    return found


def run(options: Options) -> dict[str, Any]:
    """All figures of a family; what is there of the same weights and images is kept."""
    hashes = {name: weights.weights_hash(load(options, name)) for name in WEIGHTS}
    images = [source(options, split).fingerprint for split in ("train", "test")]
    origin = {"family": options.family, "of": hashes, "data": images}
    origin |= {"samples": SAMPLES, "seed": SEED}
    parts = {"tokenizer": _tokenizer, "prior": _prior, "samples": _samples}
    parts |= {"probe": _probe, "igpt": _igpt}
    folder, found = options.out / options.family, {"origin": origin}
    for name, measure in parts.items():
        file = folder / f"{name}.json"
        found[name] = stored.measured(file, origin, partial(measure, options))
    return found


def _tokenizer(options: Options) -> dict[str, Any]:
    tokenizer, judge = load(options, "tokenizer"), load(options, "judge")
    how = evaluate.Options(judge=judge, seed=SEED, quiet=options.quiet)
    return evaluate.tokenizer_figures(tokenizer, source(options, "test"), how)


def _prior(options: Options) -> dict[str, Any]:
    tokenizer, prior = weights.load_pair(f"{options.family}/prior")
    how = evaluate.Options(quiet=options.quiet)
    return evaluate.prior_figures(prior, tokenizer, source(options, "test"), how)


def _drawn(options: Options, count: int) -> tuple[Any, np.ndarray, list[str]]:
    """A rejection whose first `count` candidates are the samples without it."""
    tokenizer, prior = weights.load_pair(f"{options.family}/prior")
    names = list(prior.card["class_names"])
    labels = np.arange(count, dtype=np.int32) % len(names)
    found = reject(
        prior, tokenizer, load(options, "classifier"), key=jax.random.key(SEED),
        labels=labels, acceptance=ACCEPTANCE, quiet=options.quiet,
    )  # fmt: skip
    return found, labels, names


def _samples(options: Options) -> dict[str, Any]:
    """What the judge says of as many samples before rejection and after it."""
    found, labels, _ = _drawn(options, SAMPLES)
    tokenizer, prior = weights.load_pair(f"{options.family}/prior")
    judge = load(options, "judge")
    train, test = (source(options, split) for split in ("train", "test"))
    how = evaluate.Options(judge=judge, samples=SAMPLES, seed=SEED, quiet=options.quiet)
    judged = partial(evaluate.judged_figures, prior, tokenizer, test, how, train=train)
    return {
        "acceptance": ACCEPTANCE,
        "before": judged(drawn=[(found.images[:SAMPLES], labels)]),
        "after": judged(drawn=[(found.images[found.chosen], labels)]),
    }


def _probe(options: Options, prior: str | Path = "") -> dict[str, Any]:
    """The probe of a prior, by default the shipped one without labels."""
    ref = prior or f"{options.family}/prior-unlabelled"
    found = stored.probed(ref, PROBE[options.family], options)
    card = weights.read_card(ref)
    figures = {name: card[name] for name in ("parameters", "train_seconds", "steps")}
    figures |= {"images": [found.n_train, found.n_test], "block": found.block + 1}
    figures |= {"accuracy": found.accuracy, "blocks": list(found.block_accuracy)}
    return figures | {name: pair[1] for name, pair in found.baselines.items()}


def _igpt(options: Options) -> dict[str, Any]:
    name, runs = f"{options.family}-igpt", options.out / options.family
    palette, prior = runs / "igpt-palette", runs / "igpt"
    stored.trained(recipes.recipe("tokenizer", name), palette, options)  # type: ignore[arg-type]
    second = with_overrides(recipes.recipe("prior", name), [f"tokenizer={palette}"])
    stored.trained(second, prior, options)  # type: ignore[arg-type]
    return _probe(options, prior)


# Titles of the summary, and its cells with the names of the figures.
SUMMARY = {
    "test images": "{tokenizer[images]:,}",
    "PSNR, dB": "{tokenizer[psnr]:.2f}",
    "SSIM": "{tokenizer[ssim]:.3f}",
    "codes used: in 256 images, in all":
        "{tokenizer[usage_256]:.1%}, {tokenizer[usage]:.1%}",
    "perplexity": "{tokenizer[perplexity]:.0f} of {tokenizer[codes]}",
    "nats per token: with label, without":
        "{prior[nll]:.3f}, {prior[nll_without_label]:.3f}",
    "judge agrees: real, reconstructed":
        "{before[judge_on_real]:.1%}, {before[judge_on_recon]:.1%}",
    "judge agrees: samples before rejection, after":
        "{before[judge_agrees]:.1%}, {after[judge_agrees]:.1%}",
    "samples, and real images they are compared with":
        "{before[samples]:,}, {before[real][images]:,}",
    "judge distance: before, after":
        "{before[judge_distance_samples]:.2f}, {after[judge_distance_samples]:.2f}",
    "judge distance of real images, in halves":
        "{before[real][judge_distance_samples]:.2f} "
        "({before[real][halves][0]:,} from {before[real][halves][1]:,})",
    "nearer to a training image than reconstructed test images":
        "{before[neighbours_nearer]:.1%}",
    "probe: VIM, iGPT": "{vim[accuracy]:.1%}, {igpt[accuracy]:.1%}",
    "chosen block: VIM, iGPT":
        "{vim[block]} of {vim[depth]}, {igpt[block]} of {igpt[depth]}",
    "probe: pixels, latents": "{vim[pixels]:.1%}, {vim[latents]:.1%}",
    "parameters, M: VIM, iGPT": "{vim[millions]:.2f}, {igpt[millions]:.2f}",
    "steps: VIM, iGPT": "{vim[steps]:,}, {igpt[steps]:,}",
    "minutes of training: VIM, iGPT": "{vim[minutes]:.0f}, {igpt[minutes]:.0f}",
}  # fmt: skip


def markdown(found: Sequence[Mapping[str, Any]]) -> str:
    """The section of the results page, from `shipped.json` alone."""
    parts = ["## The shipped weights", summary(found)]
    for family in found:
        name, sides = family["origin"]["family"], family["samples"]
        count = sides["before"]["samples"]
        agree = [sides[side]["judge_agrees_by_class"] for side in ("before", "after")]
        rows = ([n, *(f"{100 * side[n]:.0f}" for side in agree)] for n in agree[0])
        parts += [
            f"### {name}",
            f"![test images of {name} above their reconstructions]"
            f"(./shipped-{name}-reconstructions.png)",
            f"Samples of `{name}/prior` at temperature 1, as they were drawn:",
            f"![one line of samples for each class of {name}]"
            f"(./shipped-{name}-samples.png)",
            f"Of twice as many, the half that `{name}/classifier` takes most for its "
            "class:",
            f"![the same after rejection](./shipped-{name}-chosen.png)",
            f"The judge's agreement by class, of {count:,} samples:",
            markdown_table(("class", "before, %", "after, %"), rows),
        ]
    return "\n\n".join(parts) + "\n"


def summary(found: Sequence[Mapping[str, Any]]) -> str:
    """One line for each figure, one column for each family."""
    titles, columns = ["figure"], []
    for family in found:
        titles.append(family["origin"]["family"])
        columns.append({**family, **family["samples"]})
        for name, prior in (("vim", family["probe"]), ("igpt", family["igpt"])):
            columns[-1][name] = prior | {
                "depth": len(prior["blocks"]),
                "millions": prior["parameters"] / 1e6,
                "minutes": prior["train_seconds"] / 60,
            }
    lines = (
        [title, *(text.format(**c).replace("%", " %") for c in columns)]
        for title, text in SUMMARY.items()
    )
    return markdown_table(titles, lines)


def pictures(options: Options) -> dict[str, show.Plot]:
    """Reconstructions, samples, and samples after rejection, by name of the file."""
    tokenizer = load(options, "tokenizer")
    images = data.stack(source(options, "test"), 2 * PICTURES)["image"]
    recon = decode_all(tokenizer, encode_all(tokenizer, images))
    classes = len(load(options, "prior").card["class_names"])
    drawn, labels, names = _drawn(options, PICTURES * classes)
    plain, chosen = drawn.images[: len(labels)], drawn.images[drawn.chosen]
    name = f"shipped-{options.family}"
    return {
        f"{name}-reconstructions": show.reconstructions(images, recon),
        f"{name}-samples": show.samples_by_class(plain, labels, names),
        f"{name}-chosen": show.samples_by_class(chosen, labels, names),
    }
