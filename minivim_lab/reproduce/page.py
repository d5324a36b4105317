"""The grid's figures as one JSON, and the page and pictures made of it."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minivim import data, show, weights
from minivim.encode import decode_all, encode_all
from minivim.errors import UserError
from minivim.show.plots import BLUE, GREY, RED, SKY
from minivim_lab import widgets
from minivim_lab.reproduce import runs, stored, verdicts
from minivim_lab.reproduce.claims import CLAIMS
from minivim_lab.reproduce.grid import FAMILIES, ROWS, SEEDS, row_named
from minivim_lab.reproduce.runs import Run
from minivim_lab.reproduce.stored import PICTURES, Options
from minivim_lab.reproduce.verdicts import FIGURES, OPPOSITE, SAME, UNDECIDED, Found
from minivim_lab.tables import markdown_table

# Figures of single blocks, which are in a picture and in no table.
BLOCKS = ("probe_first", "probe_middle", "probe_last")
# Rows whose reconstructions are drawn; samples are drawn of all priors.
DRAWN = ("BB", "SL", "CNN", "code dim 4", "StyleGAN2, full loss")
# The pictures of the page: what stands above each, and what it shows.
ABOUT = {
    "grid": (
        "A dot is a seed, a stroke their mean, an arrow what lies beyond.",
        "the statements as dots, one for each seed: right of zero the paper's way",
    ),
    "grid-blocks": (
        "The probe of every block: means of the seeds, and bands from the least to the "
        "most.",
        "probe accuracy of every block",
    ),
    "grid-samples": (
        "Of one seed: test images, how tokenizers reconstruct them, and samples of "
        "every prior.",
        "test images, and samples of each prior of one seed",
    ),
}


def main(options: Options) -> str:
    """Run the grid. Any data but `shapes` means the sizes and recipes of CIFAR-10."""
    if options.speed:
        raise UserError("the grid measures speed in any case; leave out --speed")
    family = "shapes" if options.data in ("", "shapes") else "cifar10"
    options = options.of(family)
    rows, seeds = options.chosen(ROWS), options.seeds or SEEDS
    # Before hours of training, not after.
    runs.check_networks(options)
    found = runs.run_rows(rows, seeds, options)
    if options.page:
        every = (Run(row, seed, options).read() for row in ROWS for seed in seeds)
        done = [record for record in every if record]
        pictures = {
            "grid": claims_picture(done),
            "grid-blocks": blocks_picture(done),
            "grid-samples": samples_picture(options, done[0]["seed"]),
        }
        whole = as_json(done, [name for name, plot in pictures.items() if plot])
        stored.write_page(options.page, "grid", whole, markdown(whole), pictures)
    return "\n\n".join(tables(found).values())


def as_json(found: Found, pictures: Sequence[str] = ()) -> dict[str, Any]:
    """What `grid.json` holds; `pictures` are the names of those that were drawn."""
    claims = [verdicts.judged(claim, found) for claim in CLAIMS]
    return {"rows": list(found), "claims": claims, "pictures": list(pictures)}


def tables(found: Found) -> dict[str, str]:
    """A table of stage 1 and one of stage 2, if there are rows for them."""
    columns = {name: FIGURES[name] for name in FIGURES if name not in BLOCKS}
    tokenizers = [record for record in found if record["kind"] == "tokenizer"]
    priors = [record for record in found if record["kind"] != "tokenizer"]
    return {
        stage: verdicts.table(records, columns, command=_command)
        for stage, records in (("tokenizer", tokenizers), ("prior", priors))
        if records
    }


def _command(records: Found) -> str:
    """What computes all seeds of a row again; the usual seeds are not mentioned."""
    plain = re.sub(r" --seeds \d+", "", records[0]["command"])
    seeds = [record["seed"] for record in records]
    other = "" if seeds == [*SEEDS] else f" --seeds {' '.join(map(str, seeds))}"
    return plain + other


def markdown(whole: Mapping[str, Any]) -> str:
    """The section of the results page, from `grid.json` alone."""
    found, claims = whole["rows"], whole["claims"]
    count = Counter(claim["verdict"] for claim in claims)
    longest = max(found, key=lambda record: record["seconds"])
    # Rows that differ only in how they sample share a run.
    seconds = sum({r["hash"]: r["seconds"] for r in found}.values())
    names = {record["name"] for record in found}
    seeds = sorted({record["seed"] for record in found})
    about = ("statement", "where", "paper", "ours")
    words = {SAME: "yes", verdicts.WEAK: "weakly"}
    parts = [
        "## The paper's grid in miniature",
        f"{len(names)} rows from seeds {', '.join(map(str, seeds))}: "
        "`minivim reproduce grid`. The longest run, "
        f"*{longest['name']}*, took {longest['seconds']:,} seconds of processor time "
        f"with its figures, all together {seconds / 60:,.0f} minutes, the measuring of "
        f"speeds not counted ({longest['machine']}).",
        f"Of {len(claims)} statements {count[SAME]} point the same way here, "
        f"{count[verdicts.WEAK]} do so but *weakly*, since the paper's own figures "
        f"hardly differ, {count[OPPOSITE]} point the opposite way, and "
        f"{count[UNDECIDED]} are not decidable at this size. A direction counts where "
        "the ranges of the seeds do not overlap, which three seeds a side do by chance "
        "once in ten; or, *by pairs*, where a seed stands for the same tokenizer on "
        "both sides and all seeds agree, by chance once in four.",
        markdown_table(
            ("the paper says", "where", "paper", "ours", "same direction?"),
            ([*map(c.get, about), words.get(v := c["verdict"], v)] for c in claims),
        ),
        *_linked(whole, "grid"),
    ]
    notes: dict[str, list[str]] = {}
    for claim in claims:
        notes.setdefault(claim["note"], []).append(f"*{claim['statement']}*")
    lines = [f"- {'; '.join(said)}. {note}" for note, said in notes.items() if note]
    if lines:
        said = "Notes on some of them; they are explanations that were not tested."
        parts += [said, "\n".join(lines)]
    stages = {
        "tokenizer": "The rows of stage 1. The base tokenizer is BB with 8 dimensions; "
        "all are trained with L2 alone but for the two with a full loss.",
        "prior": "The rows of stage 2. Samples are as many as the test images they are "
        "compared with, drawn at temperature 1.",
    }
    figures = [record["figures"] for record in found]
    if paces := dict.fromkeys(f["pace"] for f in figures if "pace" in f):
        said = f" Images per processor second: measured {'; '.join(paces)}."
        stages["tokenizer"] += said
    for stage, table in tables(found).items():
        parts += [stages[stage], table]
    parts += [*_linked(whole, "grid-blocks"), *_linked(whole, "grid-samples")]
    return "\n\n".join(parts) + "\n"


def _linked(whole: Mapping[str, Any], name: str) -> list[str]:
    above, alt = ABOUT[name]
    return [above, f"![{alt}](./{name}.png)"] if name in whole["pictures"] else []


def claims_picture(found: Found) -> show.Plot | None:
    """Every statement: how far each seed is on the paper's side."""
    rows = {
        claim.statement: (ahead, verdicts.judged(claim, found)["verdict"])
        for claim in CLAIMS
        if (ahead := verdicts.gain(claim, found))
    }
    colours = {SAME: BLUE, OPPOSITE: RED, UNDECIDED: GREY, verdicts.WEAK: SKY}
    title = "doublings of the figure, to the right the paper's way"
    return widgets.dots(rows, x=title, limit=4.0, colours=colours) if rows else None


def blocks_picture(found: Found) -> show.Plot | None:
    """Probe accuracy of every block."""
    names = dict.fromkeys(r["name"] for r in found if "probe_blocks" in r["figures"])
    curves = {
        name: 100 * np.array([*verdicts.values(found, name, "probe_blocks").values()])
        for name in names
    }
    return widgets.bands(curves, x="block", y="test accuracy, %") if curves else None


def samples_picture(options: Options, seed: int = SEEDS[0]) -> show.Plot | None:
    """Test images, reconstructions of some rows, and samples of every prior."""
    source = options.source("test", image_size=FAMILIES[options.family].image_size)
    images = data.stack(source, PICTURES)["image"].astype(np.float32) / 255
    strips = {"test images": images}
    for name in DRAWN:
        folder = Run(row_named(name), seed, options).folder
        if (folder / weights.CARD).exists():
            tokenizer = weights.load(folder)
            strips[name] = decode_all(tokenizer, encode_all(tokenizer, images))
    for row in ROWS:
        run = Run(row, seed, options)
        if row.prior and run.read():
            parts = run.drawn(*weights.load_pair(run.folder), count=PICTURES)
            strips[row.name] = np.concatenate([images for images, _ in parts])
    return stored.strips(strips) if len(strips) > 1 else None
