"""`minivim demo`: both stages and the probe on embedded data, then a report."""

from pathlib import Path

import jax
import numpy as np

from minivim import data, evaluate, files, metrics, recipes, show, weights
from minivim.config import with_overrides
from minivim.data import shapes
from minivim.encode import decode_all, encode_all, encode_folder
from minivim.errors import explained
from minivim.prior import Prior, sample
from minivim.probe import ProbeResult
from minivim.tokenizer import Tokenizer
from minivim.trainer import probe, train
from minivim.training import read_metrics
from minivim_lab.report import page

# The `shapes` recipes cut down to minutes on two cores: narrow, and with many steps of
# few images rather than few steps of many. Long warmups bear higher rates. Labels are
# dropped for guidance alone, and no sample here is guided.
TOKENIZER = ["steps=1800", "eval_every=600", "batch_size=16", "peak_lr=3e-3"]
TOKENIZER += [f"{side}.width=64" for side in ("encoder", "decoder")]
TOKENIZER += [f"{side}.hidden=256" for side in ("encoder", "decoder")]
TOKENIZER += ["warmup_steps=600", "decay_end=0"]
PRIOR = ["eval_every=1000", "batch_size=16", "peak_lr=4e-3", "blocks=2", "unroll=2"]
PRIOR += ["width=96", "hidden=384", "warmup_steps=300", "b2=0.99", "label_dropout=0"]
STEPS = {"prior": 2100, "prior-unlabelled": 1500}
SAMPLES_PER_CLASS = 8
# Rows of the report's table, and the figures in them by their names on cards.
FIGURES = {
    "PSNR, dB": "psnr",
    "codes used by 256 images": "usage_256",
    "codes used by 2,048 images": "usage",
    "perplexity of the codes": "perplexity",
    "prior, nats per token": "nll",
    "judge agrees with samples": "judge_agrees",
    "probe, chosen block": "chosen",
    "probe, raw pixels": "probe, pixels",
}


def demo(out: str | Path, *, seed: int = 0) -> Path:
    """Train everything under `out`, or go on with it; returns the report's path."""
    out = Path(out)
    tokens, unlabelled = recipes.shapes_tokenizer(), recipes.shapes_prior_unlabelled()
    stages = (
        ("tokenizer", "tokenizer: images to codes and back", tokens),
        ("prior", "prior: codes given a class", recipes.shapes_prior()),
        ("prior-unlabelled", "prior without labels, for the probe", unlabelled),
    )
    splits = {s: data.open_source("shapes", split=s) for s in ("train", "test")}
    codes, tokenizer = out / "codes", str(out / "tokenizer")
    over_codes, models = [*PRIOR, f"tokenizer={tokenizer}"], []
    for number, (name, says, recipe) in enumerate(stages, 1):
        print(f"{number} of 4  {says}")
        # Both priors read the same codes, so these are encoded once.
        if name in STEPS and not codes.exists():
            encode_folder(models[0], codes, splits, name=tokenizer)
        more = [f"steps={STEPS[name]}", *over_codes] if name in STEPS else TOKENIZER
        recipe = with_overrides(recipe, [*more, f"seed={seed}"])
        source = codes if name in STEPS else "shapes"
        models.append(train(recipe, source, out / name)[0])
    print("4 of 4  probe and report")
    tokenizer, prior, unlabelled = models
    result = probe(recipes.shapes_probe(), unlabelled, tokenizer, **splits)
    test = splits["test"]
    how = evaluate.Options(judge=weights.load("shapes/judge"))
    ours = {f"probe, {name}": value for name, _, value in result.rows()}
    ours |= evaluate.tokenizer_figures(tokenizer, test)
    ours |= evaluate.prior_figures(prior, tokenizer, test)
    ours |= evaluate.judged_figures(prior, tokenizer, test, how)
    theirs = {}
    for name, *_ in reversed(stages):  # the labelled prior's nats count
        theirs |= weights.read_card(f"shapes/{name}")["figures"]
    for figures in (ours, theirs):
        figures["chosen"] = next(figures[key] for key in figures if "chosen" in key)
    table = [
        {"figure": title, "this run": ours[name], "shipped model": theirs[name]}
        for title, name in FIGURES.items()
    ]
    words = (
        f"Trained on this machine from seed {seed}: a ViT-VQGAN tokenizer, a VIM prior "
        "with and one without labels, and a linear probe. The shipped models are wider "
        "and saw more images."
    )
    figures = _figures(tokenizer, prior, result, seed)
    curves = show.loss_curves(read_metrics(out / "tokenizer"), keys=("loss", "usage"))
    figures.append(("Training", "", curves))
    caption = "2,048 test images of shapes; 512 samples"
    path = out / "report.html"
    with explained(f"cannot write {path}", "choose another --out", OSError):
        files.write(path, page("minivim demo", words, table, caption, figures))
    return path


def _figures(
    tokenizer: Tokenizer, prior: Prior, result: ProbeResult, seed: int
) -> list[tuple[str, str, show.Plot]]:
    images = shapes.arrays("test", size=256)["image"].astype(np.float32) / 255
    codes = encode_all(tokenizer, images)
    num_codes = tokenizer.config.quantizer.num_codes
    usage = metrics.codebook_usage(codes, num_codes=num_codes)
    labels = np.repeat(np.arange(len(shapes.CLASSES)), SAMPLES_PER_CLASS)
    drawn = np.asarray(sample(prior, key=jax.random.key(seed), labels=labels))
    baselines = {name: test for name, (_, test) in result.baselines.items()}
    pairs = show.reconstructions(images[:16], decode_all(tokenizer, codes[:16]))
    rows = show.samples_by_class(decode_all(tokenizer, drawn), labels, shapes.CLASSES)
    says = "One row per class, temperature 1, no filter, as in the paper."
    histogram = show.usage_histogram(usage.counts, title="256 test images")
    curve = show.probe_curve(result.block_accuracy, baselines, chosen=result.block)
    return [
        ("Originals and reconstructions", "", pairs),
        ("The codebook", "", histogram),
        ("Samples", says, rows),
        ("Linear probe", "", curve),
    ]
