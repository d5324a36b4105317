"""The paper's comparisons in miniature: `minivim reproduce NAME`.

`grid` is all of them, small; `losses`, `terms` and `cifar10` compare tokenizers more
closely, `optimiser` the optimiser of stage 2 with Adam; `shipped` measures and draws
what comes with the package. What has been computed is not computed again. With a page,
a study's figures, table and pictures are written for the book.
"""

from __future__ import annotations

from minivim.errors import UserError
from minivim_lab.reproduce import optimiser, page, shipped, tokenizers
from minivim_lab.reproduce.stored import Options
from minivim_lab.reproduce.tokenizers import STUDIES


def main(study: str, options: Options | None = None) -> str:
    """Run the rows of a study that are still missing; returns its table.

    Raises `UserError` for an unknown study or row, and for an option that a study does
    not have.
    """
    options = options or Options()
    if study == "grid":
        return page.main(options)
    if options.judge or options.classifier:
        raise UserError(
            f"{study} has networks of its own; leave out --judge and --classifier"
        )
    if study in STUDIES:
        return tokenizers.main(study, options)
    others = {"optimiser": optimiser.main, "shipped": shipped.main}
    if study not in others:
        names = ", ".join(["grid", *others, *STUDIES])
        raise UserError(f"there is no study {study!r}; there are {names}")
    return others[study](options)
