"""Every named recipe, from a toy to the paper's own (section 5, Table 2).

`minivim train tokenizer NAME --data DATA --workdir FOLDER` trains one, and likewise
`prior`, `probe` and `classifier`; DATA is `shapes`, or `uoft-cs/cifar10` for those of
CIFAR-10. Those of the paper's size are not run here.
"""

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from minivim import config
from minivim.errors import UserError
from minivim.recipes import paper, toys
from minivim.recipes.paper import *  # noqa: F403
from minivim.recipes.toys import *  # noqa: F403

# By stage and name; a recipe is a function of these modules without arguments.
RECIPES: dict[tuple[str, str], Callable[[], config.Recipe]] = {
    (made.stage, made.name): make
    for module in (toys, paper)
    for make in vars(module).values()
    if inspect.isfunction(make) and not inspect.signature(make).parameters
    for made in [make()]
}


def recipe(stage: str, name: str) -> Any:
    """The named recipe of a stage; raises `UserError` with the names there are."""
    if (stage, name) in RECIPES:
        return RECIPES[stage, name]()
    stages = sorted({s for s, _ in RECIPES})
    if stage not in stages:
        raise UserError(f"there is no stage {stage!r}; use {', '.join(stages)}")
    raise _unknown(f"{stage} recipe", name, [n for s, n in RECIPES if s == stage])


def named(name: str) -> list[config.Recipe]:
    """The recipes of every stage that bear this name."""
    found = [make() for (_, n), make in RECIPES.items() if n == name]
    if not found:
        raise _unknown("recipe", name, sorted({n for _, n in RECIPES}))
    return found


def _unknown(what: str, name: str, names: list[str]) -> UserError:
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
    return UserError(f"there is no {what} {name!r}; {hint}")
