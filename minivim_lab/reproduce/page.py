"""The grid's figures as one JSON, and the page and pictures that follow from it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minivim import data, show, weights
from minivim.encode import decode_all, encode_all
from minivim.errors import UserError
from minivim.show.plots import BLUE, GREY, RED
from minivim_lab import widgets
from minivim_lab.reproduce.claims import CLAIMS
from minivim_lab.reproduce.grid import ROWS, SEEDS, Row, row_named
from minivim_lab.reproduce.runs import Place, drawn, read_row, stages
from minivim_lab.reproduce.tokenizers import spread
from minivim_lab.reproduce.verdicts import (
    FIGURES,
    OPPOSITE,
    SAME,
    UNDECIDED,
    gain,
    judged,
    values,
)

# Columns of the tables of stage 1 and of stage 2.
TOKENIZER = (
    "psnr", "judge_distance", "usage_256", "usage", "perplexity", "images_per_second"
)  # fmt: skip
PRIOR = ("nll", "nll_per_image", "sample_distance", "judge_agrees", "probe",
         "probe_latents", "probe_pixels")  # fmt: skip
# Rows whose reconstructions are drawn; of the priors all samples are.
DRAWN = ("BB", "SL", "CNN", "code dim 4", "StyleGAN2, full loss")
PICTURES = 12
# The pictures of the page, and what they show.
ALT = {
    "grid": "the statements as dots, one for each seed: right of zero the paper's way",
    "grid-blocks": "probe accuracy of every block",
    "grid-samples": "test images, and samples of each prior of one seed",
}

Found = Sequence[Mapping[str, Any]]


def collected(place: Place, seeds: Sequence[int] = SEEDS) -> list[dict[str, Any]]:
    """The records of all rows that are finished with these seeds, row by row."""
    found = (read_row(row, seed, place) for row in ROWS for seed in seeds)
    return [record for record in found if record]


def as_json(found: Found, pictures: Sequence[str] = ()) -> dict[str, Any]:
    """What `grid.json` holds; `pictures` are the names of those that are there."""
    claims = [judged(claim, found) for claim in CLAIMS]
    return {"rows": list(found), "claims": claims, "pictures": list(pictures)}


def write(found: Found, *, place: Place, folder: Path) -> None:
    """`grid.json`, `grid.md` and the pictures that there is something to draw for.

    Samples are those of the first seed. Raises `UserError` without a finished row.
    """
    if not found:
        raise UserError("no row is finished, so there is no page; leave out --page")
    drawn = {
        "grid": claims_picture(found),
        "grid-blocks": blocks_picture(found),
        "grid-samples": samples_picture(place, found[0]["seed"]),
    }
    pictures = {name: show.to_png(plot) for name, plot in drawn.items() if plot}
    whole = as_json(found, list(pictures))
    text = markdown(whole)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "grid.json").write_text(json.dumps(whole, indent=1) + "\n")
    (folder / "grid.md").write_text(text)
    for name in drawn.keys() - pictures:
        (folder / f"{name}.png").unlink(missing_ok=True)
    for name, png in pictures.items():
        (folder / f"{name}.png").write_bytes(png)


def table(found: Found) -> str:
    """Both tables, of what there is."""
    return "\n\n".join(
        _rows_table(found, kinds, columns)
        for kinds, columns in (
            (("tokenizer",), TOKENIZER),
            (("prior", "rejection"), PRIOR),
        )
        if any(record["kind"] in kinds for record in found)
    )


def _rows_table(found: Found, kinds: Sequence[str], columns: Sequence[str]) -> str:
    mine = [record for record in found if record["kind"] in kinds]
    names = list(dict.fromkeys(record["name"] for record in mine))
    there = [c for c in columns if any(c in record["figures"] for record in mine)]
    titles = ["row", "seeds", "parameters", *(FIGURES[c][0] for c in there), "command"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name in names:
        records = [record for record in mine if record["name"] == name]
        size = records[0]["figures"]["parameters"]
        cells = [name, str(len(records)), f"{size / 1e3:,.0f} k"]
        for column in there:
            _, digits, factor, _ = FIGURES[column]
            part = [factor * v for v in values(records, name, column).values()]
            cells.append(spread(part, digits))
        lines.append(f"| {' | '.join(cells)} | `{_command(records)}` |")
    return "\n".join(lines)


def _command(records: Found) -> str:
    """What computes all seeds of a row again; the usual ones need no mention."""
    plain = re.sub(r" --seeds \d+", "", records[0]["command"])
    seeds = [record["seed"] for record in records]
    if seeds == list(SEEDS):
        return plain
    return f"{plain} --seeds {' '.join(map(str, seeds))}"


def claims_table(claims: Sequence[Mapping[str, str]]) -> str:
    """The paper's number, ours with spread, and whether they point the same way."""
    lines = [
        "| the paper says | where | paper | ours | same direction? |",
        "|---|---|---|---|---|",
    ]
    for claim in claims:
        verdict = "yes" if claim["verdict"] == SAME else claim["verdict"]
        cells = (claim["statement"], claim["where"], claim["paper"], claim["ours"])
        lines.append(f"| {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines)


def markdown(whole: Mapping[str, Any]) -> str:
    """The section of the results page, from `grid.json` alone."""
    found, claims = whole["rows"], whole["claims"]
    count = {
        verdict: sum(claim["verdict"] == verdict for claim in claims)
        for verdict in (SAME, OPPOSITE, UNDECIDED)
    }
    longest = max(found, key=lambda record: record["seconds"])
    # Rows that differ in how they sample share a run.
    seconds = sum({r["hash"]: r["seconds"] for r in found}.values())
    names = {record["name"] for record in found}
    seeds = sorted({record["seed"] for record in found})
    parts = [
        "## The paper's grid in miniature",
        f"{len(names)} rows from seeds {', '.join(map(str, seeds))}: "
        "`minivim reproduce grid`. The longest run, "
        f"*{longest['name']}*, took {longest['seconds']:,} seconds of processor time "
        f"with its figures, all together {seconds / 60:,.0f} minutes, the measuring of "
        f"speeds not counted ({longest['machine']}).",
        f"Of {len(claims)} statements {count[SAME]} point the same way here, "
        f"{count[OPPOSITE]} the opposite way, and {count[UNDECIDED]} are not "
        "decidable at this size. A direction counts where the ranges of the seeds do "
        "not overlap, which three seeds a side do by chance once in ten; or, *by "
        "pairs*, where a seed stands for the same tokenizer on both sides and all "
        "seeds agree, by chance once in four.",
        claims_table(claims),
        *_linked(whole, "grid"),
    ]
    notes: dict[str, list[str]] = {}
    for claim in claims:
        if claim["note"]:
            notes.setdefault(claim["note"], []).append(f"*{claim['statement']}*")
    if notes:
        parts.append(
            "Notes on some of them; they are explanations that were not tested."
        )
        lines = (f"- {'; '.join(about)}. {note}" for note, about in notes.items())
        parts.append("\n".join(lines))
    one = "The rows of stage 1. The base tokenizer is BB with 8 dimensions; all are "
    one += "trained with L2 alone but for the two with a full loss."
    paces = dict.fromkeys(r["figures"]["pace"] for r in _having(found, "pace"))
    if paces:
        one += f" Images per processor second: measured {'; '.join(paces)}."
    two = "The rows of stage 2. Samples are as many as the test images they are "
    two += "compared with, drawn at temperature 1."
    for about, kinds, columns in (
        (one, ("tokenizer",), TOKENIZER),
        (two, ("prior", "rejection"), PRIOR),
    ):
        if any(record["kind"] in kinds for record in found):
            parts += [about, _rows_table(found, kinds, columns)]
    parts += [*_linked(whole, "grid-blocks"), *_linked(whole, "grid-samples")]
    return "\n\n".join(parts) + "\n"


# What stands above a picture.
ABOUT = {
    "grid": "A dot is a seed, a stroke their mean, an arrow what lies beyond.",
    "grid-blocks": "The probe of every block: means of the seeds, and bands from the "
    "least to the most.",
    "grid-samples": "Of one seed: test images, how tokenizers reconstruct them, and "
    "samples of every prior.",
}


def _linked(whole: Mapping[str, Any], name: str) -> list[str]:
    if name not in whole["pictures"]:
        return []
    return [ABOUT[name], f"![{ALT[name]}](./{name}.png)"]


def _having(found: Found, figure: str) -> list[Mapping[str, Any]]:
    return [record for record in found if figure in record["figures"]]


def claims_picture(found: Found) -> show.Plot | None:
    """Every statement: how far each seed is on the paper's side."""
    rows = {}
    for claim in CLAIMS:
        ahead = gain(claim, found)
        if ahead:
            rows[claim.statement] = (ahead, judged(claim, found)["verdict"])
    if not rows:
        return None
    return widgets.dots(
        rows,
        x="doublings of the figure, to the right the paper's way",
        limit=4.0,
        colours={SAME: BLUE, OPPOSITE: RED, UNDECIDED: GREY},
    )


def blocks_picture(found: Found) -> show.Plot | None:
    """Probe accuracy of every block."""
    curves = {
        name: 100 * np.array([r["figures"]["probe_blocks"] for r in records])
        for name, records in _by_row(found, "probe_blocks").items()
    }
    return widgets.bands(curves, x="block", y="test accuracy, %") if curves else None


def _by_row(found: Found, figure: str) -> dict[str, list[Mapping[str, Any]]]:
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for record in _having(found, figure):
        rows.setdefault(record["name"], []).append(record)
    return rows


def samples_picture(place: Place, seed: int = SEEDS[0]) -> show.Plot | None:
    """Test images, reconstructions of some rows, and samples of every prior."""
    images = data.stack(place.source("test"), PICTURES)["image"]
    images = images.astype(np.float32) / 255
    strips = {"test images": images}
    for name in DRAWN:
        folder = stages(row_named(name), seed, place)[0].folder
        if (folder / weights.CARD).exists():
            tokenizer = weights.load(folder)
            strips[name] = decode_all(tokenizer, encode_all(tokenizer, images))
    for row in ROWS:
        if row.prior is not None and read_row(row, seed, place):
            strips[row.name] = _samples(row, seed, place)
    if len(strips) == 1:
        return None
    labels = np.repeat(
        np.arange(len(strips)), [len(strip) for strip in strips.values()]
    )
    return show.samples_by_class(
        np.concatenate(list(strips.values())), labels, list(strips), columns=PICTURES
    )


def _samples(row: Row, seed: int, place: Place) -> np.ndarray:
    tokenizer, model = weights.load_pair(stages(row, seed, place)[1].folder)
    parts = drawn(
        model, tokenizer, place, seed, acceptance=row.acceptance, count=PICTURES
    )
    return np.concatenate([images for images, _ in parts])
