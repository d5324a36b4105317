"""The command that made the shipped weights: `python -m minivim_lab.make_weights`.

Tokenizer first, rounded to its storage type before the priors read its codes; then both
priors, and the two labelled networks from seeds of their own. Names after the command
make only those; `--data` says where a family's images are.
"""

import argparse
from pathlib import Path

from minivim import recipes
from minivim.evaluate import Options, shipped_figures
from minivim.files import write_json
from minivim.trainer import train
from minivim.weights import CARD, DATA, HERE, load, read_card, save

# Half the size of float32; the figures on the cards are those of the rounded weights.
STORAGE = {"shapes": "float16", "cifar10": "bfloat16"}
STAGES = {"judge": "classifier", "prior-unlabelled": "prior"}
# Stage and recipe of each.
RECIPES = {
    f"{family}/{name}": (STAGES.get(name, name), family + suffix)
    for family in STORAGE
    for name, suffix in (
        ("classifier", ""), ("judge", "-judge"), ("tokenizer", ""), ("prior", ""),
        ("prior-unlabelled", "-unlabelled"),
    )
}  # fmt: skip
NOTES = {
    "cifar10": "Trained on a copy of CIFAR-10 that was compressed as JPEG once more: "
    "the figures are not comparable with those of the original."
}


def make(name: str, workdir: Path, *, spec: str) -> None:
    """Train one of `RECIPES` and export it, rounded, into the package."""
    stage, recipe_name = RECIPES[name]
    family = name.split("/")[0]
    train(recipes.recipe(stage, recipe_name), spec, workdir)  # type: ignore[arg-type]
    own = ("format", "kind", "model", "parameters", "storage")
    card = {k: v for k, v in read_card(workdir).values.items() if k not in own}
    card["command"] = f"python -m minivim_lab.make_weights {name}"
    card["data"] = f"{DATA[family]} (train)"
    card |= {"note": NOTES[family]} if family in NOTES else {}
    save(HERE / name, load(workdir), card=card, storage=STORAGE[family])


def main() -> None:
    """Make the named weights, or all of a family, and put figures on their cards."""
    parser = argparse.ArgumentParser(prog="python -m minivim_lab.make_weights")
    parser.add_argument("names", nargs="*", metavar="FAMILY/NAME", default=[])
    parser.add_argument("--family", choices=sorted(DATA), default="shapes")
    parser.add_argument("--data", metavar="SPEC", help="default: the family's own")
    parser.add_argument("--runs", type=Path, default=Path("runs/weights"))
    chosen = parser.parse_args()
    family = chosen.names[0].split("/")[0] if chosen.names else chosen.family
    names = chosen.names or [name for name in RECIPES if name.startswith(f"{family}/")]
    if unknown := [name for name in names if name not in RECIPES]:
        parser.error(f"{unknown[0]} is not shipped; there are {', '.join(RECIPES)}")
    spec = chosen.data or DATA[family]
    for name in names:
        make(name, chosen.runs / name, spec=spec)
    # The family's own judge, wherever the images are read from.
    graded = any(RECIPES[name][0] != "classifier" for name in names)
    judge = f"{family}/judge" if graded else None
    found = shipped_figures(names, Options(spec=spec, judge=judge))
    for name, figures in found.items():
        # The public name of the data, not where a copy of it lies.
        origin, folder = figures["provenance"], HERE / name
        origin["data"] = origin["data"].replace(spec, DATA[family])
        write_json(folder / CARD, read_card(folder).values | {"figures": figures})


if __name__ == "__main__":
    from minivim.runtime import restart_with_environment

    restart_with_environment()
    main()
