"""Every named recipe, from a toy to the paper's own (section 5, Table 2).

The docstrings of most that a laptop trains hold the command, of some what it reaches;
those of the paper's size are not run here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from minivim.config import (
    ClassifierRecipe,
    PaletteRecipe,
    PriorRecipe,
    Recipe,
    TokenizerRecipe,
)
from minivim.errors import UserError
from minivim.recipes.paper import (
    BASE,
    CNN,
    LARGE,
    PRINTED,
    SMALL,
    VIM_BASE,
    VIM_LARGE,
    cnn_vqgan,
    cnn_vqgan_x2,
    vim_base,
    vim_base_class,
    vim_large,
    vim_large_class,
    vit_vqgan_bb,
    vit_vqgan_bb_patchgan,
    vit_vqgan_sl,
    vit_vqgan_ss,
    vit_vqgan_ss_probe,
    vq_vae,
)
from minivim.recipes.toys import (
    as_vq_vae,
    cifar10_classifier,
    cifar10_igpt,
    cifar10_igpt_palette,
    cifar10_judge,
    cifar10_prior,
    cifar10_prior_unlabelled,
    cifar10_probe,
    cifar10_tokenizer,
    cifar10_tokenizer_gan,
    cifar10_tokenizer_gan_cnn,
    full_loss,
    shapes_classifier,
    shapes_igpt,
    shapes_igpt_palette,
    shapes_judge,
    shapes_prior,
    shapes_prior_unlabelled,
    shapes_probe,
    shapes_tokenizer,
    shapes_tokenizer_gan,
    shapes_vq_vae,
)

__all__ = [
    "BASE",
    "CNN",
    "LARGE",
    "PRINTED",
    "RECIPES",
    "SMALL",
    "VIM_BASE",
    "VIM_LARGE",
    "as_vq_vae",
    "cifar10_classifier",
    "cifar10_igpt",
    "cifar10_igpt_palette",
    "cifar10_judge",
    "cifar10_prior",
    "cifar10_prior_unlabelled",
    "cifar10_probe",
    "cifar10_tokenizer",
    "cifar10_tokenizer_gan",
    "cifar10_tokenizer_gan_cnn",
    "cnn_vqgan",
    "cnn_vqgan_x2",
    "full_loss",
    "named",
    "recipe",
    "shapes_classifier",
    "shapes_igpt",
    "shapes_igpt_palette",
    "shapes_judge",
    "shapes_prior",
    "shapes_prior_unlabelled",
    "shapes_probe",
    "shapes_tokenizer",
    "shapes_tokenizer_gan",
    "shapes_vq_vae",
    "trainable",
    "vim_base",
    "vim_base_class",
    "vim_large",
    "vim_large_class",
    "vit_vqgan_bb",
    "vit_vqgan_bb_patchgan",
    "vit_vqgan_sl",
    "vit_vqgan_ss",
    "vit_vqgan_ss_probe",
    "vq_vae",
]

RECIPES: dict[tuple[str, str], Callable[[], Recipe]] = {
    ("tokenizer", "shapes"): shapes_tokenizer,
    ("tokenizer", "shapes-gan"): shapes_tokenizer_gan,
    ("tokenizer", "shapes-vq-vae"): shapes_vq_vae,
    ("tokenizer", "shapes-igpt"): shapes_igpt_palette,
    ("prior", "shapes"): shapes_prior,
    ("prior", "shapes-unlabelled"): shapes_prior_unlabelled,
    ("prior", "shapes-igpt"): shapes_igpt,
    ("probe", "shapes"): shapes_probe,
    ("classifier", "shapes"): shapes_classifier,
    ("classifier", "shapes-judge"): shapes_judge,
    ("tokenizer", "cifar10"): cifar10_tokenizer,
    ("tokenizer", "cifar10-gan"): cifar10_tokenizer_gan,
    ("tokenizer", "cifar10-gan-cnn"): cifar10_tokenizer_gan_cnn,
    ("tokenizer", "cifar10-igpt"): cifar10_igpt_palette,
    ("prior", "cifar10"): cifar10_prior,
    ("prior", "cifar10-unlabelled"): cifar10_prior_unlabelled,
    ("probe", "cifar10"): cifar10_probe,
    ("prior", "cifar10-igpt"): cifar10_igpt,
    ("classifier", "cifar10"): cifar10_classifier,
    ("classifier", "cifar10-judge"): cifar10_judge,
    ("tokenizer", "vit-vqgan-ss"): vit_vqgan_ss,
    ("tokenizer", "vit-vqgan-bb"): vit_vqgan_bb,
    ("tokenizer", "vit-vqgan-sl"): vit_vqgan_sl,
    ("tokenizer", "vit-vqgan-ss-probe"): vit_vqgan_ss_probe,
    ("tokenizer", "vit-vqgan-bb-patchgan"): vit_vqgan_bb_patchgan,
    ("tokenizer", "cnn-vqgan"): cnn_vqgan,
    ("tokenizer", "cnn-vqgan-x2"): cnn_vqgan_x2,
    ("tokenizer", "vq-vae"): vq_vae,
    ("prior", "vim-base"): vim_base,
    ("prior", "vim-base-class"): vim_base_class,
    ("prior", "vim-large"): vim_large,
    ("prior", "vim-large-class"): vim_large_class,
}


def recipe(stage: str, name: str) -> Recipe:
    """The named recipe of a stage; raises `UserError` with the names there are."""
    if (stage, name) in RECIPES:
        return RECIPES[stage, name]()
    names = [n for s, n in RECIPES if s == stage]
    if not names:
        stages = sorted({s for s, _ in RECIPES})
        raise UserError(f"there is no stage {stage!r}; use {', '.join(stages)}")
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
    raise UserError(f"there is no {stage} recipe {name!r}; {hint}")


def named(name: str) -> list[Recipe]:
    """The recipes of every stage that bear this name."""
    found = [make() for (_, n), make in RECIPES.items() if n == name]
    if not found:
        names = sorted({n for _, n in RECIPES})
        close = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
        raise UserError(f"there is no recipe {name!r}; {hint}")
    return found


def trainable(
    name: str, stage: str | None = None
) -> TokenizerRecipe | PriorRecipe | ClassifierRecipe:
    """The one recipe of this name that has a train step.

    Raises `UserError` where several stages share the name and none is given.
    """
    found = [recipe(stage, name)] if stage else named(name)
    steps = [
        one
        for one in found
        if isinstance(one, TokenizerRecipe | PriorRecipe | ClassifierRecipe)
    ]
    if not steps:
        kind = "palette" if isinstance(found[0], PaletteRecipe) else "probe"
        raise UserError(f"{name} is a {kind}, which has no train step; name another")
    if len(steps) > 1:
        stages = " or ".join(one.stage for one in steps)
        raise UserError(f"{name} is the name of several recipes; add --stage {stages}")
    return steps[0]
