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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

HERE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One replacement in a module, and the chapter that must notice it."""

    what: str
    module: str
    old: str
    new: str
    chapter: str

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


CHANGES = (
    Change(
        what="decibels: ten times the logarithm",
        module="metrics/image.py",
        old="return -10 * jnp.log10(",
        new="return -20 * jnp.log10(",
        chapter="01_two_stages",
    ),
    Change(
        what="beta, the weight of the commitment",
        module="config/models.py",
        old="beta: checks.NotNegative = 0.25",
        new="beta: checks.NotNegative = 1.0",
        chapter="02_quantizer",
    ),
    Change(
        what="attention: the root of the width of a head",
        module="transformer.py",
        old="q * q.shape[-1] ** -0.5",
        new="q * q.shape[-1] ** -0.6",
        chapter="03_vit_tokenizer",
    ),
    Change(
        what="logit-laplace: the 2 in 2 b",
        module="tokenizer/losses.py",
        old="math.log(2) + log_scale + volume",
        new="math.log(3) + log_scale + volume",
        chapter="04_losses",
    ),
    Change(
        what="R1: a sum over pixels",
        module="tokenizer/losses.py",
        old="jnp.mean(jnp.sum(jnp.square(slopes), axis=(1, 2, 3)))",
        new="jnp.mean(jnp.mean(jnp.square(slopes), axis=(1, 2, 3)))",
        chapter="04_losses",
    ),
    Change(
        what="usage: batches of 256 images",
        module="metrics/codebook.py",
        old='codes: Int[ArrayLike, "N T"], *, num_codes: int, images: int = 256',
        new='codes: Int[ArrayLike, "N T"], *, num_codes: int, images: int = 128',
        chapter="05_codebook_usage",
    ),
    Change(
        what="the causal mask",
        module="transformer.py",
        old="jnp.tri(tokens, dtype=bool)",
        new="jnp.tri(tokens, k=1, dtype=bool)",
        chapter="06_prior",
    ),
    Change(
        what="the temperature",
        module="prior/sampling.py",
        old="logits = logits / jnp.maximum(",
        new="logits = logits * jnp.maximum(",
        chapter="07_sampling",
    ),
    Change(
        what="guidance: 1 is none",
        module="prior/sampling.py",
        old="return null + scale * (conditional - null)",
        new="return null + (1 + scale) * (conditional - null)",
        chapter="06_prior",
    ),
    Change(
        what="the share of labels that chooses the block",
        module="probe.py",
        old="    num_classes: int | None = None,\n    held_out: float = 0.2,",
        new="    num_classes: int | None = None,\n    held_out: float = 0.6,",
        chapter="08_probe",
    ),
    Change(
        what="the largest number of an int8 moment",
        module="training/factored.py",
        old="LARGEST = 127",
        new="LARGEST = 63",
        chapter="09_scale",
    ),
    Change(
        what="how many seeds decide",
        module="reproduce/verdicts.py",
        old="if len(one) < 3:",
        new="if len(one) < 4:",
        chapter="10_claims",
    ),
)
# Nothing is changed but a comment: the chapter must pass.
CONTROL = Change(
    what="nothing (a comment)",
    module="transformer.py",
    old="import jax\n",
    new="import jax  # the same\n",
    chapter="01_two_stages",
)


def noticed(change: Change, *, timeout: int = 900) -> dict[str, Any]:
    """How many cells of the chapter fail, and the number of the first."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for part in ("minivim", "minivim_lab", "notebooks", "book/results"):
            shutil.copytree(HERE / part, root / part)
        change.apply(root)
        command = [
            sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env",
            "--nbval-cell-timeout", "300", "--nbval-sanitize-with",
            str(HERE / "tests" / "nbval_sanitize.cfg"), "-p", "no:cacheprovider",
            "-q", "--tb=no", "--rootdir", str(root), "-c", os.devnull,
            str(root / "notebooks" / f"{change.chapter}.ipynb"),
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True,
            timeout=timeout,
        )  # fmt: skip
    return counted(done.stdout) | {"change": asdict(change)}


def counted(output: str) -> dict[str, Any]:
    """Failed and passed cells of pytest's summary, and the first that failed."""
    totals = {
        kind: int(found.group(1))
        if (found := re.search(rf"(\d+) {kind}", output))
        else 0
        for kind in ("failed", "passed")
    }
    if not any(totals.values()):
        raise RuntimeError(f"the chapter was not executed:\n{output[-2000:]}")
    first = re.search(r"^FAILED .*::Cell (\d+)", output, re.MULTILINE)
    return totals | {"first": int(first.group(1)) if first else None}


def markdown(found: list[dict[str, Any]]) -> str:
    """A section of the book."""
    lines = [
        "## Changed constants",
        "",
        "Would the notebooks notice a mistake? Each line was changed in a copy of the "
        "package, and the chapter named was executed as the tests do it: "
        "`python -m benchmarks.constants`. The last line is the control.",
        "",
        "| changed | in | from | to | chapter | cells that fail | first |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        change = one["change"]
        total = one["failed"] + one["passed"]
        # A bar inside a cell would end it.
        old, new = (
            " ".join(change[key].split()).replace("|", "\\|") for key in ("old", "new")
        )
        lines.append(
            f"| {change['what']} | `{change['module']}` | `{old}` | `{new}` | "
            f"{change['chapter'][:2].lstrip('0')} | {one['failed']} of {total} | "
            f"{'-' if one['first'] is None else one['first']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.constants", description=__doc__
    )
    parser.add_argument(
        "--only", nargs="+", metavar="CHAPTER", default=[],
        help="execute these; of the others what is recorded already stays",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("book/results/constants.json"))
    chosen = parser.parse_args()
    text = (
        chosen.out.read_text("utf-8") if chosen.only and chosen.out.exists() else "[]"
    )
    known = {json.dumps(one["change"]): one for one in json.loads(text)}
    found = []
    for change in tqdm((*CHANGES, CONTROL), unit="change"):
        before = known.get(json.dumps(asdict(change)))
        again = not chosen.only or any(
            change.chapter.startswith(c) for c in chosen.only
        )
        found.append(noticed(change) if again or before is None else before)
    print(page := markdown(found), end="")
    chosen.out.write_text(json.dumps(found, indent=1) + "\n")
    chosen.out.with_suffix(".md").write_text(page)
    missed = [
        one for one in found
        if bool(one["failed"]) == (one["change"] == asdict(CONTROL))
    ]  # fmt: skip
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
