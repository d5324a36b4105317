"""What makes the book and the studies: explorers, the TPU plan, the paper's grid.

`minivim` never needs it for its own work; the commands `demo`, `plan`, `reproduce` and
`convert` import it when they are called.
"""

import json
from pathlib import Path
from typing import Any

from minivim.errors import UserError


def recorded(study: str) -> Any:
    """The figures of a study that the book shows; a wheel has them, and a checkout."""
    here = Path(__file__).parent
    for folder in (here / "results", here.parent / "book" / "results"):
        if (file := folder / f"{study}.json").is_file():
            return json.loads(file.read_text("utf-8"))
    raise UserError(f"no figures of {study!r} are here; install minivim again")
