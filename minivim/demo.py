"""`minivim demo`: both stages and the probe on embedded data, then a report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from minivim import data, metrics, recipes, show, weights
from minivim.config import PriorRecipe, StackConfig, TokenizerRecipe
from minivim.data import shapes
from minivim.encode import decode_all, encode_all
from minivim.errors import UserError
from minivim.evaluate import judged_figures, prior_figures, tokenizer_figures
from minivim.prior import Prior, sample
from minivim.probe import ProbeResult
from minivim.tokenizer import Tokenizer
from minivim.train import probe, replaced, train
from minivim.training import read_metrics
from minivim.training.checkpoint import Row

TOKENIZER_STEPS, PRIOR_STEPS = 450, 350
STACK = StackConfig(blocks=3, heads=4, width=96, hidden=384, unroll=3)
SAMPLES_PER_CLASS = 8


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a demo leaves behind, or the shipped weights instead."""

    tokenizer: Tokenizer
    prior: Prior
    unlabelled: Prior


def demo_recipes(
    out: Path, *, seed: int = 0
) -> tuple[TokenizerRecipe, PriorRecipe, PriorRecipe]:
    """The `shapes` recipes cut down to minutes on two cores."""
    long = recipes.shapes_tokenizer()
    tokenizer = replaced(
        replace(long, optim=replace(long.optim, decay_end=0)),
        steps=TOKENIZER_STEPS,
        seed=seed,
        eval_every=150,
    )
    priors = []
    for make in (recipes.shapes_prior, recipes.shapes_prior_unlabelled):
        recipe = make()
        recipe = replace(
            recipe,
            model=replace(recipe.model, stack=STACK),
            tokenizer=str(out / "tokenizer"),
        )
        priors.append(replaced(recipe, steps=PRIOR_STEPS, seed=seed, eval_every=350))
    return tokenizer, priors[0], priors[1]  # type: ignore[return-value]


def demo(out: str | Path, *, seed: int = 0) -> Path:
    """Train everything under `out` and return the path of the report.

    An interrupted demo goes on with the same command. Raises `UserError` for a folder
    that cannot be written.
    """
    out = Path(out)
    first, second, third = demo_recipes(out, seed=seed)
    print("1 of 4  tokenizer: images to codes and back")
    tokenizer, _ = train(first, spec="shapes", workdir=out / "tokenizer")
    print("2 of 4  prior: codes given a class")
    prior, _ = train(second, spec="shapes", workdir=out / "prior")
    print("3 of 4  prior without labels, for the probe")
    unlabelled, _ = train(third, spec="shapes", workdir=out / "prior-unlabelled")
    print("4 of 4  probe and report")
    ours = Trained(tokenizer=tokenizer, prior=prior, unlabelled=unlabelled)  # type: ignore[arg-type]
    result = _probe(ours)
    figures = _figures(ours, result)
    shipped = _shipped_figures()
    rows = read_metrics(out / "tokenizer")
    report = _report(ours, rows, result, figures, shipped, seed=seed)
    return _write(report, out / "report.html")


def _probe(trained: Trained) -> ProbeResult:
    return probe(
        replace(recipes.shapes_probe(), prior="", tokenizer=""),
        trained.unlabelled,
        trained.tokenizer,
        train=data.open_source("shapes", split="train"),
        test=data.open_source("shapes", split="test"),
    )


def _figures(trained: Trained, result: ProbeResult) -> dict[str, float]:
    """The rows of the report's table, on the test split."""
    test = data.open_source("shapes", split="test")
    judge = weights.load("shapes/judge")
    found = tokenizer_figures(trained.tokenizer, test)
    found |= prior_figures(trained.prior, trained.tokenizer, test)
    found |= judged_figures(trained.prior, trained.tokenizer, judge, test)
    return _named(found) | {
        "probe, chosen block": result.accuracy,
        "probe, raw pixels": result.baselines["pixels"][1],
    }


def _named(found: dict[str, Any]) -> dict[str, float]:
    return {
        "PSNR, dB": found["psnr"],
        "codes used by 256 images": found["usage_256"],
        "codes used by 2,048 images": found["usage"],
        "perplexity of the codes": found["perplexity"],
        "prior, nats per token": found["nll"],
        "judge agrees with samples": found["judge_agrees"],
    }


def _shipped_figures() -> dict[str, float]:
    """The same rows from the cards of the shipped weights."""
    cards = {name: weights.read_card(name) for name in weights.shipped()}
    found: dict[str, Any] = {}
    for name in ("shapes/tokenizer", "shapes/prior"):
        found |= cards[name]["figures"]
    probed = cards["shapes/prior-unlabelled"]["figures"]
    chosen = next(v for k, v in probed.items() if "chosen" in k)
    return _named(found) | {
        "probe, chosen block": chosen,
        "probe, raw pixels": probed["probe, pixels"],
    }


def _report(
    ours: Trained,
    rows: list[Row],
    result: ProbeResult,
    figures: dict[str, float],
    shipped: dict[str, float],
    *,
    seed: int,
) -> show.Report:
    images = shapes.arrays("test", size=256)["image"].astype(np.float32) / 255
    codes = encode_all(ours.tokenizer, images)
    usage = metrics.codebook_usage(
        codes, num_codes=ours.tokenizer.config.quantizer.num_codes
    )
    labels = np.repeat(np.arange(len(shapes.CLASSES)), SAMPLES_PER_CLASS)
    drawn = sample(ours.prior, key=jax.random.key(seed), labels=labels)
    table = [
        {"figure": name, "this run": value, "shipped model": shipped[name]}
        for name, value in figures.items()
    ]
    report = show.Report("minivim demo")
    report.paragraph(
        f"Trained on this machine from seed {seed}: a ViT-VQGAN tokenizer "
        f"({TOKENIZER_STEPS} steps), a VIM prior with and one without labels "
        f"({PRIOR_STEPS} steps each), and a linear probe. The shipped model had more "
        "steps and, as prior, a larger network."
    )
    report.table(table, caption="2,048 test images of shapes; 512 samples")
    report.heading("Originals and reconstructions").figure(
        show.reconstructions(images[:16], decode_all(ours.tokenizer, codes[:16]))
    )
    report.heading("The codebook").figure(
        show.usage_histogram(usage.counts, title="256 test images")
    )
    report.heading("Samples").paragraph(
        "One row per class, temperature 1, no filter, as in the paper."
    ).figure(
        show.samples_by_class(
            decode_all(ours.tokenizer, np.asarray(drawn)), labels, shapes.CLASSES
        )
    )
    report.heading("Linear probe").figure(
        show.probe_curve(
            result.block_accuracy,
            {name: test for name, (_, test) in result.baselines.items()},
            chosen=result.block,
        )
    )
    return report.heading("Training").figure(
        show.loss_curves(rows, keys=("loss", "usage"))
    )


def _write(report: show.Report, path: Path) -> Path:
    try:
        return report.write(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}); choose another --out"
        ) from error
