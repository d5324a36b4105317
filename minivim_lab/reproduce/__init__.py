"""The paper's comparisons in miniature: `minivim reproduce NAME`.

`grid` is the whole of them, small; `losses`, `terms` and `cifar10` compare tokenizers
more closely, `optimiser` the optimiser of stage 2 with Adam; `shipped` measures and
draws what comes with the package. What is there already is not computed again. With a
page a study's figures, table and pictures are written for the book.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minivim import weights
from minivim.errors import UserError
from minivim_lab.reproduce import (
    claims,
    grid,
    optimiser,
    page,
    runs,
    shipped,
    stored,
    tokenizers,
    verdicts,
)
from minivim_lab.reproduce.tokenizers import STUDIES

__all__ = [
    "STUDIES",
    "Options",
    "claims",
    "grid",
    "main",
    "optimiser",
    "page",
    "runs",
    "shipped",
    "stored",
    "tokenizers",
    "verdicts",
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says beside the study's name; empty: the study's own."""

    data: str = ""
    # The folder of all runs.
    out: Path = Path("runs/reproduce")
    # Rows that are so named, or whose name holds the text.
    only: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    # Images per second of the tokenizers, measured in turns.
    speed: bool = False
    judge: str = ""
    classifier: str = ""
    # Where a page of the book is written.
    page: Path | None = None
    quiet: bool = False


def main(study: str, options: Options = Options()) -> str:
    """Run the rows of a study that are not there yet; returns its table.

    Raises `UserError` for a study or a row that is not there, and for an option that a
    study does not have.
    """
    if study == "grid":
        return _grid(options)
    if options.judge or options.classifier:
        raise UserError(
            f"{study} has networks of its own; leave out --judge and --classifier"
        )
    if study == "shipped":
        return _shipped(options)
    if study == "optimiser":
        return _optimiser(options)
    if study not in STUDIES:
        names = ", ".join(["grid", "optimiser", "shipped", *STUDIES])
        raise UserError(f"there is no study {study!r}; there are {names}")
    return _tokenizers(study, options)


def _chosen(rows: tuple[Any, ...], only: tuple[str, ...]) -> list[Any]:
    """Rows of these names; a text that is no name means all that hold it."""
    names = [row.name for row in rows]

    def meant(text: str) -> set[str]:
        found = {name for name in names if text == name}
        found = found or {name for name in names if text in name}
        if not found:
            raise UserError(f"no row holds {text!r}; there are {', '.join(names)}")
        return found

    wanted = set(names) if not only else set().union(*map(meant, only))
    return [row for row in rows if row.name in wanted]


def _tokenizers(name: str, options: Options) -> str:
    study = STUDIES[name]
    spec = options.data or weights.DATA[study.family]
    rows, out = _chosen(study.rows, options.only), options.out
    found = [
        tokenizers.run_row(row, study, seed, spec=spec, out=out, quiet=options.quiet)
        for seed in options.seeds or study.seeds
        for row in rows
    ]
    if options.speed:
        pace = tokenizers.speeds(study, spec=spec)
        found = [f | {"images_per_second": pace[f["row"]]} for f in found]
    if options.page:
        tokenizers.write_page(name, found, spec=spec, out=out, page=options.page)
    return f"{study.title}, {study.steps} steps\n\n{tokenizers.table(study, found)}"


def _optimiser(options: Options) -> str:
    if options.only or options.seeds or options.speed:
        raise UserError(
            "the rows of optimiser run side by side from one seed; leave out --only, "
            "--seeds and --speed"
        )
    found = optimiser.run(
        spec=options.data or "shapes", out=options.out, quiet=options.quiet
    )
    if options.page:
        optimiser.write_page(found, page=options.page)
    return f"{optimiser.TITLE}, {found[0]['of']} steps\n\n{optimiser.table(found)}"


def _grid(options: Options) -> str:
    """Any data but `shapes` means the sizes and recipes of CIFAR-10."""
    if options.speed:
        raise UserError("the grid measures speed in any case; leave out --speed")
    spec = options.data or "shapes"
    family = grid.FAMILIES["shapes" if spec == "shapes" else "cifar10"]
    place = runs.Place(
        family=family,
        spec=spec,
        out=options.out,
        judge=options.judge or tokenizers.network_of(family.name, "judge"),
        classifier=options.classifier
        or tokenizers.network_of(family.name, "classifier"),
        quiet=options.quiet,
    )
    rows = _chosen(grid.ROWS, options.only)
    # Before hours of training, not after.
    runs.check_networks(place)
    seeds = options.seeds or grid.SEEDS
    found = runs.run_rows(rows, seeds, place)
    if options.page:
        page.write(page.collected(place, seeds), place=place, folder=options.page)
    return page.table(found)


def _shipped(options: Options) -> str:
    """Both families; `--data` is where the pictures of cifar10 are."""
    if options.seeds or options.speed:
        raise UserError("there is one set of weights; leave out --seeds and --speed")
    families = options.only or tuple(weights.DATA)
    if unknown := [name for name in families if name not in weights.DATA]:
        raise UserError(
            f"nothing is shipped for {unknown[0]!r}; there are "
            f"{', '.join(weights.DATA)}"
        )
    for family in families:
        shipped.check_there(family)
    places = [
        shipped.Place(
            family=family,
            spec=options.data or spec if family == "cifar10" else spec,
            out=options.out / "shipped",
            quiet=options.quiet,
        )
        for family, spec in weights.DATA.items()
        if family in families
    ]
    # Of all families before minutes on the first.
    for place in places:
        for split in ("train", "test"):
            place.source(split)
    found = [shipped.run(place) for place in places]
    if options.page:
        shipped.write_page(places, page=options.page)
    return shipped.summary(found)
