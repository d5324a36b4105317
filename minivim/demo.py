"""`minivim demo`: both stages and the probe on embedded data, then a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from minivim import data, evaluate, metrics, recipes, show, weights
from minivim.config import with_overrides
from minivim.data import shapes
from minivim.encode import decode_all, encode_all
from minivim.errors import UserError
from minivim.prior import Prior, sample
from minivim.probe import ProbeResult
from minivim.tokenizer import Tokenizer
from minivim.train import probe, train
from minivim.training import read_metrics

TOKENIZER_STEPS, PRIOR_STEPS = 450, 350
# The `shapes` recipes cut down to minutes on two cores.
TOKENIZER = [f"steps={TOKENIZER_STEPS}", "eval_every=150", "optim.decay_end=0"]
PRIOR = [
    f"steps={PRIOR_STEPS}", "eval_every=350", "blocks=3", "heads=4", "width=96",
    "hidden=384", "unroll=3",
]  # fmt: skip
SAMPLES_PER_CLASS = 8


def demo(out: str | Path, *, seed: int = 0) -> Path:
    """Train everything under `out` and return the path of the report.

    An interrupted demo goes on with the same command. Raises `UserError` for a folder
    that cannot be written.
    """
    out = Path(out)
    prior_settings = [*PRIOR, f"tokenizer={out / 'tokenizer'}"]
    stages = (
        ("tokenizer", recipes.shapes_tokenizer(), TOKENIZER),
        ("prior", recipes.shapes_prior(), prior_settings),
        ("prior-unlabelled", recipes.shapes_prior_unlabelled(), prior_settings),
    )
    says = (
        "tokenizer: images to codes and back",
        "prior: codes given a class",
        "prior without labels, for the probe",
    )
    models: list[Any] = []
    for number, (name, recipe, settings) in enumerate(stages):
        print(f"{number + 1} of 4  {says[number]}")
        recipe = with_overrides(recipe, [*settings, f"seed={seed}"])
        models.append(train(recipe, spec="shapes", workdir=out / name)[0])
    print("4 of 4  probe and report")
    tokenizer, prior, unlabelled = models
    test = data.open_source("shapes", split="test")
    result = probe(
        recipes.shapes_probe(),
        unlabelled,
        tokenizer,
        train=data.open_source("shapes", split="train"),
        test=test,
    )
    how = evaluate.Options(judge=weights.load("shapes/judge"))
    found = evaluate.tokenizer_figures(tokenizer, test)
    found |= evaluate.prior_figures(prior, tokenizer, test)
    found |= evaluate.judged_figures(prior, tokenizer, test, how)
    shipped = _shipped_figures()
    table = [
        {"figure": name, "this run": value, "shipped model": shipped[name]}
        for name, value in _named(
            found, result.accuracy, result.baselines["pixels"][1]
        ).items()
    ]
    report = _report(tokenizer, prior, result, table, seed=seed)
    curves = show.loss_curves(read_metrics(out / "tokenizer"), keys=("loss", "usage"))
    report.heading("Training").figure(curves)
    path = out / "report.html"
    try:
        return report.write(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}); choose another --out"
        ) from error


def _named(found: dict[str, Any], chosen: float, pixels: float) -> dict[str, float]:
    """The rows of the report's table."""
    return {
        "PSNR, dB": found["psnr"],
        "codes used by 256 images": found["usage_256"],
        "codes used by 2,048 images": found["usage"],
        "perplexity of the codes": found["perplexity"],
        "prior, nats per token": found["nll"],
        "judge agrees with samples": found["judge_agrees"],
        "probe, chosen block": chosen,
        "probe, raw pixels": pixels,
    }


def _shipped_figures() -> dict[str, float]:
    """The same rows from the cards of the shipped weights."""
    names = ("tokenizer", "prior", "prior-unlabelled")
    first, second, probed = (
        weights.read_card(f"shapes/{name}")["figures"] for name in names
    )
    chosen = next(value for name, value in probed.items() if "chosen" in name)
    return _named(first | second, chosen, probed["probe, pixels"])


def _report(
    tokenizer: Tokenizer,
    prior: Prior,
    result: ProbeResult,
    table: list[dict[str, Any]],
    *,
    seed: int,
) -> show.Report:
    images = shapes.arrays("test", size=256)["image"].astype(np.float32) / 255
    codes = encode_all(tokenizer, images)
    num_codes = tokenizer.config.quantizer.num_codes
    usage = metrics.codebook_usage(codes, num_codes=num_codes)
    labels = np.repeat(np.arange(len(shapes.CLASSES)), SAMPLES_PER_CLASS)
    drawn = np.asarray(sample(prior, key=jax.random.key(seed), labels=labels))
    baselines = {name: test for name, (_, test) in result.baselines.items()}
    blocks = result.block_accuracy
    report = show.Report("minivim demo")
    report.paragraph(
        f"Trained on this machine from seed {seed}: a ViT-VQGAN tokenizer "
        f"({TOKENIZER_STEPS} steps), a VIM prior with and one without labels "
        f"({PRIOR_STEPS} steps each), and a linear probe. The shipped model had more "
        "steps and, as prior, a larger network."
    )
    report.table(table, caption="2,048 test images of shapes; 512 samples")
    report.heading("Originals and reconstructions").figure(
        show.reconstructions(images[:16], decode_all(tokenizer, codes[:16]))
    )
    report.heading("The codebook").figure(
        show.usage_histogram(usage.counts, title="256 test images")
    )
    report.heading("Samples").paragraph(
        "One row per class, temperature 1, no filter, as in the paper."
    ).figure(
        show.samples_by_class(decode_all(tokenizer, drawn), labels, shapes.CLASSES)
    )
    return report.heading("Linear probe").figure(
        show.probe_curve(blocks, baselines, chosen=result.block)
    )
