"""What a tokenizer keeps of images, and how it uses its codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minivim import data, metrics
from minivim.data import Source
from minivim.encode import decode_all, encode_all
from minivim.evaluate.provenance import compared_figures, comparisons, with_origin
from minivim.metrics.image import SSIM_WINDOW
from minivim.tokenizer import Tokenizer

PAPER_IMAGES = 256


def tokenizer_figures(
    tokenizer: Tokenizer,
    source: Source,
    *,
    count: int | None = None,
    judge: Any = None,
    inception: Any = None,
    lpips: Any = None,
    batch_size: int = 256,
    seed: int = 0,
    quiet: bool = True,
) -> dict[str, Any]:
    """Reconstruction and codebook on the first `count` images of a source.

    `usage_256` is the paper's rule (Table 4): the share of codes that 256 images use,
    averaged; `usage` and `perplexity` are over all the tokens. PSNR in dB.
    `judge_distance` is the Frechet distance from the images to their reconstructions by
    the features of a judge, which is not FID; `fid` is that over Inception.
    `judge_score` and `inception_score` are of the reconstructions, and `lpips` is the
    mean distance of an image from its own. What needs more images or larger ones than
    there are is left out.
    """
    count = len(source) if count is None else min(count, len(source))
    size = min(batch_size, count)
    num_codes = tokenizer.config.quantizer.num_codes
    counter = metrics.CodeCounter(num_codes=num_codes, images=PAPER_IMAGES)
    networks = {"judge": judge, "inception": inception}
    compared = comparisons(networks, real=count, others=count, size=size, seed=seed)
    quality = _qualities(tokenizer.config.image_size, lpips)
    sums = dict.fromkeys(quality, 0.0)
    read = data.in_order(
        source, count=count, batch_size=size, desc="tokenizer", quiet=quiet
    )
    for batch in read:
        images = batch["image"]
        codes = encode_all(tokenizer, images, batch_size=size)
        recon = decode_all(tokenizer, codes, batch_size=size)
        counter.update(codes)
        for name, measure in quality.items():
            sums[name] += np.asarray(measure(images, recon), np.float64).sum()
        for look, comparison in compared:
            comparison.add("real", look(images), batch["label"])
            comparison.add("others", look(recon), batch["label"])
    found = counter.usage()
    apart, real = compared_figures(compared)
    figures: dict[str, Any] = {
        "images": count,
        "tokens": tokenizer.config.num_tokens,
        "codes": num_codes,
        **{name: float(total) / count for name, total in sums.items()},
        **apart,
        "usage": found.usage,
        "perplexity": found.perplexity,
    }
    if count >= PAPER_IMAGES:
        figures["usage_256"] = counter.usage_by_image_batch()
    used = {**networks, "lpips": lpips}
    return with_origin(figures, real, source, count=count, networks=used, seed=seed)


def _qualities(side: int, lpips: Any) -> dict[str, Callable[..., Any]]:
    """Measures of images [n, H, W, C] and their reconstructions, one value each."""
    found: dict[str, Callable[..., Any]] = {"psnr": metrics.psnr_per_image}
    if side >= SSIM_WINDOW:
        found["ssim"] = metrics.ssim_per_image
    if lpips is not None:
        found["lpips"] = lambda a, b: metrics.lpips_per_image(lpips, a, b)
    return found
