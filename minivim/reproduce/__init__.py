"""The paper's comparisons in miniature: `minivim reproduce NAME`.

`grid` is the whole of them, small; `losses`, `terms` and `cifar10` compare tokenizers
more closely, `optimiser` the optimiser of stage 2 with Adam. What is there already is
not computed again. With a page a study's figures, table and pictures are written for
the book.
"""

from __future__ import annotations

from pathlib import Path

from minivim import weights
from minivim.errors import UserError
from minivim.reproduce import grid, optimiser, page, runs, tokenizers
from minivim.reproduce.tokenizers import SPECS, STUDIES

__all__ = ["STUDIES", "grid", "main", "optimiser", "page", "runs", "tokenizers"]


def main(
    study: str,
    *,
    spec: str | None = None,
    out: Path = Path("runs/reproduce"),
    only: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    speed: bool = False,
    judge: str | None = None,
    classifier: str | None = None,
    write: Path | None = None,
    quiet: bool = False,
) -> str:
    """Run the rows of a study that are not there yet; returns its table.

    `only` keeps the rows that are so named, or whose name holds the text. `write` is
    the folder of the page. Raises `UserError` for a study or a row that is not there
    and for options that a study does not have.
    """
    if study not in (names := ["grid", "optimiser", *STUDIES]):
        raise UserError(f"there is no study {study!r}; there are {', '.join(names)}")
    if study != "grid" and (judge or classifier):
        raise UserError(f"{study} has networks of its own; leave out --judge and "
                        "--classifier")  # fmt: skip
    if study == "grid":
        if speed:
            raise UserError("the grid measures speed in any case; leave out --speed")
        return _grid(
            spec or "shapes", out, only, seeds, judge, classifier, write, quiet
        )
    if study == "optimiser":
        if only or seeds or speed:
            raise UserError(
                "the rows of optimiser run side by side from one seed; leave out "
                "--only, --seeds and --speed"
            )
        found = optimiser.run(spec=spec or "shapes", out=out, quiet=quiet)
        if write:
            optimiser.write_page(found, page=write)
        return f"{optimiser.TITLE}, {found[0]['of']} steps\n\n{optimiser.table(found)}"
    return _tokenizers(study, spec, out, only, seeds, speed, write, quiet)


def _chosen(rows: tuple, only: tuple[str, ...]) -> list:
    """Rows of these names; a text that is no name means all that hold it."""
    names = [row.name for row in rows]
    kept = [
        row for row in rows
        if not only or any(row.name == o or (o not in names and o in row.name)
                           for o in only)
    ]  # fmt: skip
    if not kept:
        raise UserError(f"no row holds {only[0]!r}; there are {', '.join(names)}")
    return kept


def _tokenizers(
    name: str,
    spec: str | None,
    out: Path,
    only: tuple[str, ...],
    seeds: tuple[int, ...],
    speed: bool,
    write: Path | None,
    quiet: bool,
) -> str:
    study = STUDIES[name]
    spec = spec or SPECS.get(study.family, study.family)
    rows = _chosen(study.rows, only)
    found = [
        tokenizers.run_row(row, study, seed, spec=spec, out=out, quiet=quiet)
        for seed in seeds or study.seeds
        for row in rows
    ]
    if speed:
        pace = tokenizers.speeds(study, spec=spec)
        found = [f | {"images_per_second": pace[f["row"]]} for f in found]
    if write:
        tokenizers.write_page(name, found, spec=spec, out=out, page=write)
    return f"{study.title}, {study.steps} steps\n\n{tokenizers.table(study, found)}"


def _grid(
    spec: str,
    out: Path,
    only: tuple[str, ...],
    seeds: tuple[int, ...],
    judge: str | None,
    classifier: str | None,
    write: Path | None,
    quiet: bool,
) -> str:
    """Any data but `shapes` means the sizes and recipes of CIFAR-10."""
    family = grid.FAMILIES["shapes" if spec == "shapes" else "cifar10"]
    place = runs.Place(
        family=family,
        spec=spec,
        out=out / "grid" if out == Path("runs/reproduce") else out,
        judge=judge or tokenizers.judge_of(family.name),
        classifier=classifier or _classifier_of(family.name),
        quiet=quiet,
    )
    found = runs.run_rows(_chosen(grid.ROWS, only), seeds or grid.SEEDS, place)
    if write:
        page.write(page.collected(place), place=place, folder=write)
    return page.table(found)


def _classifier_of(family: str) -> str:
    name = f"{family}/classifier"
    return name if name in weights.shipped() else f"runs/{family}-classifier"
