"""Commands that train: recipes, train, encode, plan and the demo."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from minivim.cli.arguments import (
    STAGES,
    Command,
    add_data,
    add_seed,
    add_settings,
    add_workers,
    open_tokenizer,
    positive,
    writable,
)
from minivim.errors import UserError
from minivim.files import write_json


def add_commands(command: Command) -> None:
    """demo, recipes, train, encode and plan."""
    demo = command("demo", _demo, "both stages and the probe on embedded data")
    demo.add_argument("--out", default="runs/demo", help="folder of the report")
    add_seed(demo)
    one = command("recipes", _recipes, "list the recipes, or print one in full")
    one.add_argument("name", nargs="?")
    _add_train(command("train", _train, "train a recipe, or go on with it"))
    _add_encode(command("encode", _encode, "write the codes of images to a folder"))
    _add_plan(command("plan", _plan, "compile for a TPU slice that is not there"))


def _add_train(one: argparse.ArgumentParser) -> None:
    one.add_argument("stage", choices=STAGES)
    one.add_argument("recipe")
    add_data(one)
    one.add_argument("--workdir", required=True, help="an earlier run's is resumed")
    add_settings(one)
    add_workers(one)
    one.add_argument("--stream", action="store_true",
                     help="read tables in a row, without a copy of them")  # fmt: skip
    one.add_argument("--quiet", action="store_true", help="no progress bar")
    one.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        default="data=-1",
        help="devices along data, fsdp and tensor; -1: all left",
    )
    one.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes, each started with this command",
    )


def _add_encode(one: argparse.ArgumentParser) -> None:
    one.add_argument("tokenizer")
    add_data(one)
    one.add_argument(
        "--out", required=True, metavar="FOLDER", help="what train prior --data reads"
    )
    one.add_argument("--split", choices=("train", "test"), help="default: both")
    one.add_argument("--count", type=positive, help="the first N images of a split")
    one.add_argument(
        "--views", type=positive, default=1,
        help="versions of each training image, all but the first augmented",
    )  # fmt: skip
    one.add_argument("--flip", action="store_true", help="mirror views at random")
    one.add_argument(
        "--crop", type=float, default=1.0, metavar="A",
        help="crop views to a share of at least A of the area",
    )  # fmt: skip
    add_seed(one, "of the views")
    add_workers(one)
    one.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_plan(one: argparse.ArgumentParser) -> None:
    one.add_argument("recipe")
    one.add_argument("--stage", choices=STAGES, help="where recipes share a name")
    one.add_argument("--topology", default="v4:4x4x4", help="default: %(default)s")
    one.add_argument(
        "--mesh", help="data=8,fsdp=4,tensor=2; -1: what is left (default: data=-1)"
    )
    add_settings(one)
    one.add_argument(
        "--mfu", type=float, default=0.5, help="share of the peak (default: 0.5)"
    )
    one.add_argument(
        "--quick", action="store_true", help="compile with little effort, in minutes"
    )
    one.add_argument("--json", help="also write the figures to this file")


def _demo(options: argparse.Namespace) -> None:
    from minivim.demo import demo

    print(f"report: {demo(options.out, seed=options.seed)}")


def _recipes(options: argparse.Namespace) -> None:
    from minivim import recipes
    from minivim.describe import describe_recipe

    if options.name:
        print("\n\n".join(map(describe_recipe, recipes.named(options.name))))
        return
    for (stage, name), make in recipes.RECIPES.items():
        print(f"{stage:10}  {name:18}  {(make.__doc__ or '').splitlines()[0]}")


def _train(options: argparse.Namespace) -> None:
    if options.distributed:
        from minivim.runtime import join_processes

        join_processes()
    import jax

    from minivim import recipes, train
    from minivim.config import PaletteRecipe, ProbeRecipe, with_overrides
    from minivim.sharding import MeshShape
    from minivim.training import read_metrics

    recipe = with_overrides(recipes.recipe(options.stage, options.recipe), options.set)
    once = isinstance(recipe, ProbeRecipe | PaletteRecipe)
    if once and (options.stream or options.workers):
        raise UserError(f"{recipe.stage} {recipe.name} reads its images once; leave "
                        "out --stream and --workers")  # fmt: skip
    if isinstance(recipe, PaletteRecipe):
        from minivim_lab.igpt import train_palette

        _, figures = train_palette(recipe, spec=options.data, workdir=options.workdir)
        _print_trained(figures, options.workdir)
        return
    if isinstance(recipe, ProbeRecipe):
        result = train.train_probe(recipe, spec=options.data, workdir=options.workdir)
        for row in result.rows():
            print("  ".join(map(str, row)))
        return
    _, rows = train.train(
        recipe,
        spec=options.data,
        workdir=options.workdir,
        mesh=MeshShape.parse(options.mesh),
        workers=options.workers,
        stream=options.stream,
        quiet=options.quiet,
    )
    if jax.process_index():
        return
    if not rows:
        print(f"already finished at step {recipe.run.steps}; nothing was trained")
    last = [{}, *read_metrics(options.workdir)][-1]
    figures = {k: v for k, v in last.items() if not isinstance(v, list)}
    _print_trained(figures, options.workdir)


def _print_trained(figures: dict[str, Any], workdir: str) -> None:
    print("  ".join(f"{name} {value:.5g}" for name, value in figures.items()))
    print(f"weights: {workdir}")


def _plan(options: argparse.Namespace) -> int:
    """0: it fits; 3: the compiler says that it does not."""
    from minivim import recipes
    from minivim.config import with_overrides
    from minivim.sharding import MeshShape
    from minivim_lab import plan

    recipe: Any = recipes.trainable(options.recipe, options.stage)
    recipe = with_overrides(recipe, options.set)
    path = writable(options.json, ".json") if options.json else None
    found = plan.plan(
        recipe,
        topology=options.topology,
        mesh=MeshShape.parse(options.mesh) if options.mesh else None,
        mfu=options.mfu,
        quick=options.quick,
        settings=tuple(options.set),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if path:
        write_json(path, found.as_dict())
    print(plan.table(found) if found.fits else plan.verdict(found))
    return 0 if found.fits else 3


def _encode(options: argparse.Namespace) -> None:
    import numpy as np

    from minivim import data, encode

    views = encode.Views(
        count=options.views, flip=options.flip, crop=options.crop, seed=options.seed
    )
    tokenizer = open_tokenizer(options.tokenizer)
    splits = (options.split,) if options.split else ("train", "test")
    sources = {
        split: data.open_source(
            options.data, split=split, **tokenizer.config.image_shape
        )
        for split in splits
    }
    folder = encode.encode_folder(
        tokenizer, options.out, sources, name=options.tokenizer, views=views,
        count=options.count, workers=options.workers, quiet=options.quiet,
    )  # fmt: skip
    for split in splits:
        found = data.open_codes(folder, split)
        shape = " x ".join(map(str, found.take(np.arange(1))["codes"].shape[1:]))
        print(f"{split}: {len(found)} x {shape} codes")
    print(f"codes: {folder}")
