"""The command that made the shipped weights: `python -m minivim.weights.make`.

Tokenizer first, rounded to its storage type before the priors read its codes; then
both priors, and the two labelled networks from seeds of their own. Names after the
command make only those.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from minivim import recipes
from minivim.evaluate import shipped_figures
from minivim.experiments import train
from minivim.weights import CARD, HERE, load, read_card, save

# Half the size of float32; the figures on the cards are those of the rounded weights.
STORAGE = "float16"
SHAPES = {
    "shapes/classifier": ("classifier", "shapes"),
    "shapes/judge": ("classifier", "shapes-judge"),
    "shapes/tokenizer": ("tokenizer", "shapes"),
    "shapes/prior": ("prior", "shapes"),
    "shapes/prior-unlabelled": ("prior", "shapes-unlabelled"),
}


def make(name: str, runs: Path, destination: Path) -> None:
    """Train one of `SHAPES` in `runs` and export it, rounded, to `destination`."""
    stage, recipe_name = SHAPES[name]
    spec = name.split("/")[0]
    workdir = runs / name
    train(recipes.recipe(stage, recipe_name), spec=spec, workdir=workdir)  # type: ignore[arg-type]
    card = read_card(workdir).values
    card["command"] = f"python -m minivim.weights.make {name}"
    own = ("format", "kind", "model", "parameters", "storage")
    kept = {key: value for key, value in card.items() if key not in own}
    folder = destination / name
    save(folder, load(workdir), kind=stage, card=kept, storage=STORAGE)


def write_figures(names: list[str]) -> None:
    """Measure the exported weights and put the figures on their cards."""
    found: dict[str, dict[str, Any]] = shipped_figures(names, spec="shapes")
    for name, figures in found.items():
        path = HERE / name / CARD
        card = json.loads(path.read_text())
        card["figures"] = figures
        path.write_text(json.dumps(card, indent=1) + "\n")


def main(names: list[str]) -> None:
    """Make the named weights, or all."""
    for name in names or list(SHAPES):
        make(name, Path("runs/weights"), HERE)
    write_figures(names or list(SHAPES))


if __name__ == "__main__":
    from minivim.runtime import restart_with_environment

    restart_with_environment()
    main(sys.argv[1:])
