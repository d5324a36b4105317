"""The paper's comparisons in miniature: `python -m minivim.reproduce NAME`.

`tokenizers` compares tokenizers by their reconstructions, `optimiser` the optimiser of
stage 2 with Adam. What is there already is not computed again. `--page FOLDER` writes a
study's figures, table and picture for the book.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from minivim.errors import Stopped, UserError
from minivim.reproduce import optimiser, tokenizers
from minivim.reproduce.tokenizers import SPECS, STUDIES

__all__ = ["STUDIES", "main", "optimiser", "tokenizers"]


def main(arguments: list[str] | None = None) -> int:
    """Run the rows of a study that are not there yet, then print its table."""
    parser = argparse.ArgumentParser(prog="python -m minivim.reproduce")
    parser.add_argument("study", choices=sorted([*STUDIES, "optimiser"]))
    parser.add_argument("--data", help="default: the study's own data set")
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--speed", action="store_true", help="also measure images/s")
    parser.add_argument("--page", type=Path, help="write a page of the book here")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    chosen = parser.parse_args(arguments)
    run = _optimiser if chosen.study == "optimiser" else _tokenizers
    try:
        print(run(chosen))
    except UserError as error:
        print(f"minivim: error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"minivim: {stopped}", file=sys.stderr)
        return 143
    return 0


def _tokenizers(chosen: argparse.Namespace) -> str:
    study = STUDIES[chosen.study]
    rows = [row for row in study.rows if chosen.only in row.name]
    spec = chosen.data or SPECS.get(study.family, study.family)
    if not rows:
        names = ", ".join(row.name for row in study.rows)
        raise UserError(f"no row holds {chosen.only!r}; there are {names}")
    found = [
        tokenizers.run_row(
            row, study, seed, spec=spec, out=chosen.out, quiet=chosen.quiet
        )
        for seed in chosen.seeds or study.seeds
        for row in rows
    ]
    if chosen.speed:
        pace = tokenizers.speeds(study, spec=spec)
        found = [f | {"images_per_second": pace[f["row"]]} for f in found]
    if chosen.page:
        tokenizers.write_page(
            chosen.study, found, spec=spec, out=chosen.out, page=chosen.page
        )
    return f"{study.title}, {study.steps} steps\n\n{tokenizers.table(study, found)}"


def _optimiser(chosen: argparse.Namespace) -> str:
    if chosen.only or chosen.seeds or chosen.speed:
        raise UserError(
            "the rows of optimiser run side by side from one seed; leave out --only, "
            "--seeds and --speed"
        )
    found = optimiser.run(
        spec=chosen.data or "shapes", out=chosen.out, quiet=chosen.quiet
    )
    if chosen.page:
        optimiser.write_page(found, page=chosen.page)
    return f"{optimiser.TITLE}, {found[0]['of']} steps\n\n{optimiser.table(found)}"
