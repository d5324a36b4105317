"""The figures of trained models, each with what it was measured on.

Reported figures come from `judge`, which no method may use.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from minivim import classifier, data, metrics, weights
from minivim.config import ProbeRecipe
from minivim.data import Source
from minivim.errors import UserError
from minivim.experiments import decode_all, encode_all, nats_per_token, probe
from minivim.prior import Prior, check_labels, sample
from minivim.tokenizer import Tokenizer

PAPER_IMAGES = 256
# Smaller pictures have no SSIM.
SSIM_WINDOW = 11


def tokenizer_figures(
    tokenizer: Tokenizer,
    source: Source,
    *,
    count: int | None = None,
    judge: Any = None,
) -> dict[str, Any]:
    """Reconstruction and codebook on the first `count` images of a source.

    `usage_256` is the paper's rule (Table 4): the share of codes that 256 images use,
    averaged; `usage` and `perplexity` are over all the tokens. PSNR in dB.
    `judge_distance` is the Frechet distance from the images to their reconstructions by
    the features of a judge, which is not FID.
    """
    images = data.stack(source, count)["image"].astype(np.float32) / 255
    codes = encode_all(tokenizer, images)
    recon = decode_all(tokenizer, codes)
    size = tokenizer.config.quantizer.num_codes
    found = metrics.codebook_usage(codes, num_codes=size)
    figures = {
        "images": len(images),
        "tokens": tokenizer.config.num_tokens,
        "codes": size,
        "psnr": float(metrics.psnr(images, recon)),
    }
    if min(images.shape[1:3]) >= SSIM_WINDOW:
        figures["ssim"] = float(metrics.ssim(images, recon))
    if judge is not None:
        figures["judge_distance"] = metrics.judge_distance(judge, images, recon)
    figures |= {
        "usage": found.usage,
        "perplexity": found.perplexity,
    }
    if len(images) >= PAPER_IMAGES:
        figures["usage_256"] = metrics.usage_by_image_batch(
            codes, num_codes=size, images=PAPER_IMAGES
        )
    return figures


def prior_figures(
    prior: Prior, tokenizer: Tokenizer, source: Source, *, count: int | None = None
) -> dict[str, Any]:
    """Negative log-likelihood of held-out images, nats per token."""
    rows = data.stack(source, count)
    codes = encode_all(tokenizer, rows["image"])
    labels = check_labels(prior, rows["label"]) if prior.config.num_classes else None
    figures = {"images": len(codes), "nll": nats_per_token(prior, codes, labels)}
    if labels is not None:
        figures["nll_without_label"] = nats_per_token(prior, codes, None)
    return figures


def judged_figures(
    prior: Prior,
    tokenizer: Tokenizer,
    judge: Any,
    source: Source,
    *,
    samples: int = 512,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """What the judge says of real images, of reconstructions and of samples.

    Samples are drawn in equal numbers per class, by default at temperature 1 without
    filters; `options` go to `sample`.
    """
    rows = data.stack(source)
    images = rows["image"].astype(np.float32) / 255
    recon = decode_all(tokenizer, encode_all(tokenizer, images))
    labels = np.arange(samples, dtype=np.int32) % prior.config.num_classes
    codes = sample(prior, key=jax.random.key(seed), labels=labels, **options)
    drawn = decode_all(tokenizer, np.asarray(codes))
    return {
        "real_images": len(images),
        "judge_on_real": float(classifier.accuracy(judge, images, rows["label"])),
        "judge_on_recon": float(classifier.accuracy(judge, recon, rows["label"])),
        "samples": samples,
        "judge_agrees": float(classifier.accuracy(judge, drawn, labels)),
    }


def shipped_figures(
    refs: list[str], *, spec: str, judge: str | None = None, samples: int = 512
) -> dict[str, dict[str, Any]]:
    """Figures of weights on a data set, by default of all that are shipped for it."""
    refs = refs or [name for name in weights.shipped() if name.startswith(f"{spec}/")]
    if not refs:
        raise UserError(f"nothing is shipped for {spec}; name the weights to evaluate")
    judge = judge or (f"{spec}/judge" if f"{spec}/judge" in weights.shipped() else None)
    network = weights.load(judge) if judge else None
    return {
        str(ref): _figures(ref, spec=spec, judge=network, samples=samples)
        for ref in refs
    }


def _figures(ref: str, *, spec: str, judge: Any, samples: int) -> dict[str, Any]:
    model = weights.load(ref)
    if model.card["kind"] == "perceptual":
        raise UserError(
            f"{ref} compares images and has no figures of its own; name a tokenizer, a "
            "prior or a classifier"
        )
    if model.card["kind"] == "classifier":
        test = data.open_source(
            spec,
            split="test",
            image_size=data_size(model),
            channels=model.config.channels,
        )
        rows = data.stack(test)
        images = rows["image"].astype(np.float32) / 255
        found = float(classifier.accuracy(model, images, rows["label"]))
        return {"images": len(images), "accuracy": found}
    tokenizer = model
    if model.card["kind"] == "prior":
        tokenizer, model = weights.load_pair(ref)
    shape = tokenizer.config.image_shape
    test = data.open_source(spec, split="test", **shape)
    if isinstance(model, Tokenizer):
        return tokenizer_figures(model, test, judge=judge)
    figures = prior_figures(model, tokenizer, test)
    if model.config.num_classes and judge is not None:
        figures |= judged_figures(model, tokenizer, judge, test, samples=samples)
    if not model.config.num_classes and test.num_classes > 1:
        train = data.open_source(spec, split="train", **shape)
        recipe = ProbeRecipe(name="evaluate", prior=ref, tokenizer="")
        result = probe(recipe, model, tokenizer, train=train, test=test)
        figures |= {f"probe, {name}": test_ for name, _, test_ in result.rows()}
    return figures


def data_size(model: Any) -> int:
    """Image size that a classifier was trained on."""
    return int(model.card["recipe"]["image_size"])
