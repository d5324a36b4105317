"""Figures of several seeds: their tables, and what they say to the paper's claims."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minivim_lab.reproduce.claims import Claim
from minivim_lab.tables import markdown_table

SAME, WEAK, OPPOSITE = "same direction", "same direction, weakly", "opposite"
UNDECIDED = "not decidable at this size"

# Records of runs: "name" of the row, "seed", "figures", and what a study adds.
Found = Sequence[Mapping[str, Any]]
Command = Callable[[Found], str]
# Figures: title, digits, factor, and whether more is better.
Columns = Mapping[str, tuple[str, int, int | float, bool]]
FIGURES: dict[str, tuple[str, int, int | float, bool]] = {
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


def values(found: Found, row: str, figure: str) -> dict[int, Any]:
    """A figure by seed."""
    return {
        record["seed"]: record["figures"][figure]
        for record in found
        if record["name"] == row and record["figures"].get(figure) is not None
    }


def spread(values: Iterable[float], digits: int, factor: int | float = 1) -> str:
    """Mean of the seeds, and from least to most."""
    scaled = [factor * value for value in values]
    if not scaled:
        return "-"
    middle = f"{np.mean(scaled):.{digits}f}"
    if min(scaled) == max(scaled):
        return middle
    return f"{middle} ({min(scaled):.{digits}f} to {max(scaled):.{digits}f})"


def table(
    found: Found, columns: Columns, *, size: str = "k", command: Command | None = None
) -> str:
    """A Markdown table of rows and figures; `command` says what computes a row."""
    there = {k: c for k, c in columns.items() if any(k in r["figures"] for r in found)}
    titles = ["row", "seeds", "parameters", *(title for title, *_ in there.values())]
    unit, digits = {"k": (1e3, 0), "M": (1e6, 2)}[size]
    lines = []
    for name in dict.fromkeys(record["name"] for record in found):
        mine = [record for record in found if record["name"] == name]
        parameters = mine[0]["figures"]["parameters"] / unit
        lines.append([name, len(mine), f"{parameters:,.{digits}f} {size}"])
        for column, (_, decimals, factor, _) in there.items():
            part = values(mine, name, column).values()
            lines[-1].append(spread(part, decimals, factor))
        if command:
            lines[-1].append(f"`{command(mine)}`")
    return markdown_table([*titles, "command"] if command else titles, lines)


def sides(claim: Claim, found: Found) -> tuple[list, list]:
    """The figures of both rows on the seeds that both have."""
    rows = (claim.better, claim.worse)
    one, other = map(values, (found, found), rows, claim.figures)
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
    for ahead, behind, verdict in ((one, other, SAME), (other, one, OPPOSITE)):
        if min(ahead) > max(behind):
            return verdict, "ranges"
        if paired and (ahead > behind).all():
            return verdict, "pairs"
    return UNDECIDED, ""


def judged(claim: Claim, found: Found) -> dict[str, str]:
    """The claim beside our figures, as the page shows it."""
    both = sides(claim, found)
    title, digits, factor, more = FIGURES[claim.figures[0]]
    verdict, by = decided(*both, more=more, paired=claim.paired)
    title = title if isinstance(claim.figure, str) else "accuracy, %"
    names = claim.better, claim.worse
    if claim.better == claim.worse:  # then the figures have the names
        names = [FIGURES[name][0].removesuffix(", %") for name in claim.figures]
    ours = "not run"
    if both[0]:
        one, other = (
            f"{spread(part, digits, factor)} for {name}"
            for part, name in zip(both, names, strict=True)
        )
        ours = f"{title}: {one} against {other}"
        ours += " (by pairs)" if by == "pairs" else ""
        ours += "" if len(both[0]) > 2 else f" ({len(both[0])} seeds)"
    said = {"statement": claim.statement, "where": claim.where, "paper": claim.paper}
    verdict = WEAK if claim.weak and verdict == SAME else verdict
    said |= {"ours": ours, "verdict": verdict, "note": claim.note or claim.weak}
    return said


def gain(claim: Claim, found: Found) -> list[float]:
    """By how many doublings `better` is ahead, seed by seed; below zero it is behind.

    The base-2 logarithm of the figures' ratio; 3 dB of PSNR halve the squared error.
    """
    one, other = map(np.array, sides(claim, found))
    if "psnr" in claim.figures:
        return ((one - other) / (10 * np.log10(2))).tolist()
    sign = 1 if FIGURES[claim.figures[0]][3] else -1
    return (sign * np.log2(one / other)).tolist()
