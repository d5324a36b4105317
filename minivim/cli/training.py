"""Commands that train: recipes, train, encode, plan and the demo."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import jax
import numpy as np

from minivim import config, data, recipes
from minivim.cli import arguments as args
from minivim.cli.arguments import command, option
from minivim.errors import UserError
from minivim.files import write_json
from minivim.sharding import MeshShape

MESH = "data=8,fsdp=4,tensor=2; -1: all that are left"


@command(
    "both stages and the probe on embedded data",
    option("--out", default="runs/demo", help="folder of the report"),
    args.SEED,
)
def _demo(options: argparse.Namespace) -> None:
    from minivim.demo import demo

    print(f"report: {demo(options.out, seed=options.seed)}")


@command("list the recipes, or print one in full", option("name", nargs="?"))
def _recipes(options: argparse.Namespace) -> None:
    from minivim.describe import describe_recipe

    if options.name:
        print("\n\n".join(map(describe_recipe, recipes.named(options.name))))
        return
    for (stage, name), make in recipes.RECIPES.items():
        print(f"{stage:10}  {name:18}  {(make.__doc__ or '').splitlines()[0]}")


@command(
    "train a recipe, or go on with it",
    option("stage", choices=args.STAGES),
    option("recipe"),
    args.DATA,
    option("--workdir", required=True, help="an earlier run's is resumed"),
    args.SET,
    args.WORKERS,
    option("--stream", action="store_true", help="read tables in order, no copy"),
    args.QUIET,
    option("--mesh", default="data=-1", help=f"devices, as in {MESH}"),
    option("--distributed", action="store_true", help="one of several processes"),
)
def _train(options: argparse.Namespace) -> None:
    if options.distributed:
        from minivim.runtime import join_processes

        join_processes()
    from minivim import train
    from minivim.training import read_metrics

    recipe = recipes.recipe(options.stage, options.recipe)
    recipe = config.with_overrides(recipe, options.set)
    once = isinstance(recipe, config.ProbeRecipe | config.PaletteRecipe)
    if once and (options.stream or options.workers):
        raise UserError(
            f"{recipe.stage} {recipe.name} reads its images once; leave out --stream "
            "and --workers"
        )
    where = {"spec": options.data, "workdir": options.workdir}
    if isinstance(recipe, config.ProbeRecipe):
        for row in train.train_probe(recipe, **where).rows():
            print("  ".join(map(str, row)))
        return
    if isinstance(recipe, config.PaletteRecipe):
        from minivim_lab.igpt import train_palette

        _, figures = train_palette(recipe, **where)
    else:
        how = args.given(options, "workers", "stream", "quiet")
        mesh = MeshShape.parse(options.mesh)
        _, rows = train.train(recipe, **where, mesh=mesh, **how)
        if jax.process_index():
            return
        if not rows:
            print(f"already finished at step {recipe.run.steps}; nothing was trained")
        last = [{}, *read_metrics(options.workdir)][-1]
        figures = {k: v for k, v in last.items() if not isinstance(v, list)}
    print("  ".join(f"{name} {value:.5g}" for name, value in figures.items()))
    print(f"weights: {options.workdir}")


@command(
    "compile for a TPU slice that is not there",
    option("recipe"),
    option("--stage", choices=args.STAGES, help="where recipes share a name"),
    option("--topology", default="v4:4x4x4", help="default: %(default)s"),
    option("--mesh", help=f"{MESH} (default: data=-1)"),
    args.SET,
    option("--mfu", type=float, default=0.5, help="share of the peak FLOPs"),
    option("--quick", action="store_true", help="compile with little effort"),
    args.JSON,
)
def _plan(options: argparse.Namespace) -> int:
    """0: it fits; 3: the compiler says that it does not."""
    from minivim_lab import plan

    recipe = recipes.trainable(options.recipe, options.stage)
    recipe: Any = config.with_overrides(recipe, options.set)
    path = args.writable(options.json, ".json") if options.json else None
    found = plan.plan(
        recipe,
        mesh=MeshShape.parse(options.mesh) if options.mesh else None,
        settings=tuple(options.set),
        say=lambda line: print(line, file=sys.stderr, flush=True),
        **args.given(options, "topology", "mfu", "quick"),
    )
    if path:
        write_json(path, found.as_dict())
    print(plan.table(found) if found.fits else plan.verdict(found))
    return 0 if found.fits else 3


@command(
    "write the codes of images to a folder",
    option("tokenizer"),
    args.DATA,
    option("--out", required=True, help="a folder for train prior --data"),
    option("--split", choices=("train", "test"), help="default: both"),
    args.count(None, "the first N images of a split"),
    option("--views", type=args.positive, default=1, help="versions of an image"),
    option("--flip", action="store_true", help="mirror views at random"),
    option("--crop", type=float, default=1.0, help="crop views to this share or more"),
    args.SEED,
    args.WORKERS,
    args.QUIET,
)
def _encode(options: argparse.Namespace) -> None:
    from minivim import encode

    how = args.given(options, "flip", "crop", "seed")
    views = encode.Views(count=options.views, **how)
    tokenizer = args.open_tokenizer(options.tokenizer)
    splits = (options.split,) if options.split else ("train", "test")
    shape = tokenizer.config.image_shape
    sources = {s: data.open_source(options.data, split=s, **shape) for s in splits}
    how = args.given(options, "count", "workers", "quiet") | {"views": views}
    folder = encode.encode_folder(
        tokenizer, options.out, sources, name=options.tokenizer, **how
    )
    for split in splits:
        found = data.open_codes(folder, split)
        shape = " x ".join(map(str, found.take(np.arange(1))["codes"].shape[1:]))
        print(f"{split}: {len(found)} x {shape} codes")
    print(f"codes: {folder}")
