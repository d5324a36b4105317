"""What our figures say to the paper's claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minivim_lab.reproduce.claims import Claim
from minivim_lab.reproduce.tokenizers import spread

SAME, OPPOSITE = "same direction", "opposite"
UNDECIDED = "not decidable at this size"

# Figures: title, digits, factor, and whether more is better.
FIGURES: dict[str, tuple[str, int, float, bool]] = {
    "psnr": ("PSNR, dB", 2, 1, True),
    "judge_distance": ("judge distance", 2, 1, False),
    "usage_256": ("codes in 256 images, %", 1, 100, True),
    "usage": ("codes in all images, %", 1, 100, True),
    "perplexity": ("perplexity", 1, 1, True),
    "images_per_second": ("images per processor second", 0, 1, True),
    "nll": ("nats per token", 3, 1, False),
    "nll_per_image": ("nats per image", 1, 1, False),
    "sample_distance": ("judge distance of samples", 2, 1, False),
    "judge_agrees": ("judge agrees, %", 1, 100, True),
    "probe": ("probe, %", 1, 100, True),
    "probe_first": ("first block, %", 1, 100, True),
    "probe_middle": ("middle block, %", 1, 100, True),
    "probe_last": ("last block, %", 1, 100, True),
    "probe_latents": ("mean of the codes, %", 1, 100, True),
    "probe_pixels": ("pixels, %", 1, 100, True),
}


def values(found: Sequence[Mapping[str, Any]], row: str, figure: str) -> dict:
    """A figure by seed."""
    return {
        record["seed"]: record["figures"][figure]
        for record in found
        if record["name"] == row and figure in record["figures"]
    }


def sides(claim: Claim, found: Sequence[Mapping[str, Any]]) -> tuple[list, list]:
    """The figures of both rows on the seeds that both have."""
    one, other = (
        values(found, row, figure)
        for row, figure in zip(
            (claim.better, claim.worse), claim.figures, strict=True
        )
    )  # fmt: skip
    seeds = sorted(one.keys() & other.keys())
    return [one[s] for s in seeds], [other[s] for s in seeds]


def decided(
    better: Sequence[float], worse: Sequence[float], *, more: bool, paired: bool
) -> tuple[str, str]:
    """Verdict, and what decides it.

    With three seeds or more, "ranges": those of the two rows do not overlap (one chance
    in ten where there is no effect); else, where a seed is the same tokenizer on both
    sides, "pairs": every seed has the same sign (one chance in four).
    """
    sign = 1 if more else -1
    one, other = sign * np.array(better), sign * np.array(worse)
    if len(one) < 3:
        return UNDECIDED, ""
    if min(one) > max(other):
        return SAME, "ranges"
    if max(one) < min(other):
        return OPPOSITE, "ranges"
    if paired and (one > other).all():
        return SAME, "pairs"
    if paired and (one < other).all():
        return OPPOSITE, "pairs"
    return UNDECIDED, ""


def judged(claim: Claim, found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The claim beside our figures, as the page has it."""
    one, other = sides(claim, found)
    title, digits, factor, more = FIGURES[claim.figures[0]]
    verdict, by = decided(one, other, more=more, paired=claim.paired)
    ours = "not run"
    title = title if isinstance(claim.figure, str) else "accuracy, %"
    if one:
        cells = (
            f"{spread([factor * v for v in part], digits)} for {name}"
            for part, name in zip((one, other), _names(claim), strict=True)
        )
        ours = f"{title}: {' against '.join(cells)}"
        ours += " (by pairs)" if by == "pairs" else ""
        ours += "" if len(one) > 2 else f" ({len(one)} seeds)"
    return {
        "statement": claim.statement,
        "where": claim.where,
        "paper": claim.paper,
        "ours": ours,
        "verdict": verdict,
        "note": claim.note,
    }


def _names(claim: Claim) -> tuple[str, str]:
    """Rows, or figures where the rows are one."""
    if claim.better != claim.worse:
        return claim.better, claim.worse
    one, other = (FIGURES[name][0].removesuffix(", %") for name in claim.figures)
    return one, other


def gain(claim: Claim, found: Sequence[Mapping[str, Any]]) -> list[float]:
    """By how many doublings `better` is ahead, seed by seed; below zero it is behind.

    The base-2 logarithm of the ratio of both figures; 3 dB of PSNR are one halving of
    the squared error.
    """
    one, other = map(np.array, sides(claim, found))
    if "psnr" in claim.figures:
        return ((one - other) / (10 * np.log10(2))).tolist()
    sign = 1 if FIGURES[claim.figures[0]][3] else -1
    return (sign * np.log2(one / other)).tolist()
