"""The paper's comparisons in miniature: `minivim reproduce NAME`.

`grid` is all of them, small; `losses`, `terms` and `cifar10` compare tokenizers more
closely, `optimiser` the optimiser of stage 2 with Adam; `shipped` measures and draws
what comes with the package. What has been computed is not computed again. With a page,
a study's figures, table and pictures are written for the book.
"""

from functools import partial

from minivim.errors import UserError
from minivim.files import claim
from minivim_lab.reproduce import optimiser, page, shipped, tokenizers
from minivim_lab.reproduce.stored import Options
from minivim_lab.reproduce.tokenizers import STUDIES


def main(study: str, options: Options) -> str:
    """Run the rows of a study that are still missing; returns its table.

    Raises `UserError` for a study, a row or an option that there is not, and where
    another command has the folder of the runs.
    """
    own = {"grid": page.main, "optimiser": optimiser.main, "shipped": shipped.main}
    studies = own | {name: partial(tokenizers.main, name) for name in STUDIES}
    if study not in studies:
        names = ", ".join(studies)
        raise UserError(f"there is no study {study!r}; there are {names}")
    if study != "grid" and (options.judge or options.classifier):
        problem = f"{study} has networks of its own"
        raise UserError(f"{problem}; leave out --judge and --classifier")
    with claim(options.out):
        return studies[study](options)
