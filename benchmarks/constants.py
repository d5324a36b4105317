"""`python -m benchmarks.constants`: change a constant, and see which chapter notices.

Each change is made in a copy of the package; then one chapter is executed as in the
test of the notebooks, with this copy in front. A change that no cell notices would be
a mistake that the book does not protect its readers from. Bugs of public code, with the
check and the test that catch each, are in `benchmarks.planted`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from minivim_lab.tables import markdown_table

HERE = Path(__file__).resolve().parents[1]
PARTS = ("minivim", "minivim_lab", "benchmarks", "tests", "notebooks", "book")
NBVAL = (
    "--nbval", "--nbval-current-env", "--nbval-cell-timeout", "300",
    "--nbval-sanitize-with", str(HERE / "tests" / "nbval_sanitize.cfg"),
    "-c", os.devnull,
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One replacement in a module, and the chapter that must notice it."""

    what: str
    chapter: str
    module: str
    old: str
    new: str

    def file(self, root: Path) -> Path:
        """The module's file, of whichever package has it."""
        lab = root / "minivim_lab" / self.module
        return lab if lab.exists() else root / "minivim" / self.module

    def apply(self, root: Path) -> None:
        """Raises `ValueError` where the old text does not stand exactly once."""
        file = self.file(root)
        file.write_text(self.changed(file.read_text("utf-8")), "utf-8")

    def changed(self, text: str) -> str:
        """The module's text with the change; `ValueError` as for `apply`."""
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.module} holds {self.old!r} {text.count(self.old)} times"
            )
        return text.replace(self.old, self.new)


# What is changed, the chapter and the module; from, to.
CHANGES = (
    Change("decibels: ten times the logarithm", "01_two_stages", "metrics/image.py",
        "return -10 * jnp.log10(",
        "return -20 * jnp.log10("),
    Change("beta, the weight of the commitment", "02_quantizer", "config/models.py",
        "beta: checks.NotNegative = 0.25",
        "beta: checks.NotNegative = 1.0"),
    Change("attention: the root of the width of a head",
        "03_vit_tokenizer", "transformer.py",
        "q * q.shape[-1] ** -0.5",
        "q * q.shape[-1] ** -0.6"),
    Change("logit-laplace: the 2 in 2 b", "04_losses", "tokenizer/losses.py",
        "math.log(2) + log_scale + volume",
        "math.log(3) + log_scale + volume"),
    Change("R1: a sum over pixels", "04_losses", "tokenizer/losses.py",
        "jnp.mean(jnp.sum(jnp.square(slopes), axis=(1, 2, 3)))",
        "jnp.mean(jnp.mean(jnp.square(slopes), axis=(1, 2, 3)))"),
    Change("usage: batches of 256 images", "05_codebook_usage", "metrics/codebook.py",
        'codes: Int[ArrayLike, "N T"], *, num_codes: int, images: int = 256',
        'codes: Int[ArrayLike, "N T"], *, num_codes: int, images: int = 128'),
    Change("the causal mask", "06_prior", "transformer.py",
        "jnp.tri(tokens, dtype=bool)",
        "jnp.tri(tokens, k=1, dtype=bool)"),
    Change("the temperature", "07_sampling", "prior/sampling.py",
        "logits = logits / jnp.maximum(",
        "logits = logits * jnp.maximum("),
    Change("guidance: 1 is none", "06_prior", "prior/sampling.py",
        "return null + scale * (conditional - null)",
        "return null + (1 + scale) * (conditional - null)"),
    Change("the share of labels that chooses the block", "08_probe", "probe.py",
        "    num_classes: int | None = None,\n    held_out: float = 0.2,",
        "    num_classes: int | None = None,\n    held_out: float = 0.6,"),
    Change("the largest number of an int8 moment", "09_scale", "training/factored.py",
        "LARGEST = 127",
        "LARGEST = 63"),
    Change("how many seeds decide", "10_claims", "reproduce/verdicts.py",
        "if len(one) < 3:",
        "if len(one) < 4:"),
)  # fmt: skip
# Nothing is changed but a comment: the chapter must pass.
CONTROL = Change("nothing (a comment)", "01_two_stages", "transformer.py",
    "import jax\n",
    "import jax  # the same\n")  # fmt: skip


def tested(change: Change, *options: str) -> dict[str, Any]:
    """What pytest makes of these options in a copy of everything with the change."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for part in PARTS:
            shutil.copytree(HERE / part, root / part)
        shutil.copy(HERE / "pyproject.toml", root)
        change.apply(root)
        # Of pyproject.toml's options one checks types, and is not asked here.
        command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-o", "addopts="]
        command += ["-p", "no:cacheprovider", "--rootdir", folder, *options]
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=900,
            env={**os.environ, "PYTHONPATH": folder, "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip
    return counted(done.stdout)


def noticed(change: Change) -> dict[str, Any]:
    """How many cells of the chapter fail, and the number of the first."""
    found = tested(change, *NBVAL, f"notebooks/{change.chapter}.ipynb")
    return found | {"change": asdict(change)}


def counted(output: str) -> dict[str, Any]:
    """Failed and passed cells of pytest's summary, and the first that failed."""
    totals = {
        kind: int(found.group(1))
        if (found := re.search(rf"(\d+) {kind}", output))
        else 0
        for kind in ("failed", "passed")
    }
    if not any(totals.values()):
        raise RuntimeError(f"it was not executed:\n{output[-2000:]}")
    first = re.search(r"^FAILED .*::Cell (\d+)", output, re.MULTILINE)
    return totals | {"first": int(first.group(1)) if first else None}


def markdown(found: list[dict[str, Any]]) -> str:
    """A section of the book."""
    rows = []
    for one in found:
        change = one["change"]
        # A bar inside a cell would end it.
        old, new = (
            " ".join(change[key].split()).replace("|", "\\|") for key in ("old", "new")
        )
        cells = [f"`{text}`" for text in (change["module"], old, new)]
        chapter = change["chapter"][:2].lstrip("0")
        failed = f"{one['failed']} of {one['failed'] + one['passed']}"
        first = "-" if one["first"] is None else one["first"]
        rows.append([change["what"], *cells, chapter, failed, first])
    titles = "changed", "in", "from", "to", "chapter", "cells that fail", "first"
    return (
        "## Changed constants\n\n"
        "Would the notebooks notice a mistake? Each line was changed in a copy of the "
        "package, and the chapter named was executed as the tests do it: "
        "`python -m benchmarks.constants`. The last line is the control.\n\n"
        f"{markdown_table(titles, rows)}\n"
    )


def study(
    name: str,
    rows: Sequence[Change],
    measure: Callable[[Any], dict[str, Any]],
    page: Callable[[list[dict[str, Any]]], str],
) -> list[dict[str, Any]]:
    """Measure the rows that the command line names, and write all that are known."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument(
        "--only", nargs="+", metavar="CHAPTER", default=[""],
        help="measure these; of the others what is recorded already stays",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path(f"book/results/{name}.json"))
    chosen = parser.parse_args()
    text = chosen.out.read_text("utf-8") if chosen.out.exists() else "[]"
    known = {one.get("change", one)["what"]: one for one in json.loads(text)}
    found = []
    for row in tqdm(rows, unit="row"):
        if row.chapter.startswith(tuple(chosen.only)) or row.what not in known:
            known[row.what] = measure(row)
        # Each at once: a chapter may take its time.
        found = [known[one.what] for one in rows if one.what in known]
        chosen.out.write_text(json.dumps(found, indent=1) + "\n")
    chosen.out.with_suffix(".md").write_text(page(found))
    return found


def main() -> int:
    found = study("constants", (*CHANGES, CONTROL), noticed, markdown)
    print(markdown(found), end="")
    return int(any(bool(one["failed"]) == (one is found[-1]) for one in found))


if __name__ == "__main__":
    sys.exit(main())
