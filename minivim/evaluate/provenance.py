"""Figures with what they were measured on, and the same of real images beside."""

from __future__ import annotations

from typing import Any

from minivim import weights
from minivim.data import Source
from minivim.metrics.comparison import NAMES, Comparison, Extractor
from minivim.metrics.score import SPLITS


def comparisons(
    networks: dict[str, Any], *, real: int, others: int, size: int, seed: int
) -> list[tuple[Extractor, Comparison]]:
    """What each network that is there is to look at and to compare."""
    return [
        (
            Extractor(name, network, batch_size=size),
            Comparison(real=real, others=others, seed=seed),
        )
        for name, network in networks.items()
        if network is not None
    ]


def compared_figures(
    compared: list[tuple[Extractor, Comparison]], *, suffix: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures by their names, and those of real images with how many these are."""
    figures: dict[str, Any] = {}
    real: dict[str, Any] = {}
    for look, comparison in compared:
        distance, score = (name + suffix for name in NAMES[look.name])
        others, reals = comparison.result()
        for found, ours in ((figures, others), (real, reals)):
            names = {"distance": distance, "score": score}
            found |= {names.get(name, name): value for name, value in ours.items()}
    return figures, real


def with_origin(
    figures: dict[str, Any],
    real: dict[str, Any],
    source: Source,
    *,
    count: int,
    networks: dict[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures, those of real images if there are any, and where all come from."""
    used = {k: v for k, v in (networks or {}).items() if v is not None}
    origin = {
        "data": source.description,
        "fingerprint": source.fingerprint,
        "images": count,
        "of": len(source),
        "networks": {name: weights.identity(model) for name, model in used.items()},
        "seed": seed,
    }
    if real:
        origin["score_parts"] = SPLITS
        figures = {**figures, "real": real}
    return {**figures, "provenance": origin}
