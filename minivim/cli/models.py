"""Commands that make and measure models."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError, Namespace
from contextlib import suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from minivim import config, data, encode, recipes, weights
from minivim.cli import arguments as args
from minivim.cli.arguments import command, option
from minivim.config.checks import require
from minivim.describe import describe_recipe, figures_table
from minivim.errors import UserError
from minivim.files import write_json
from minivim.runtime import join_processes, one_thread
from minivim.sharding import MeshShape

# What only networks that are trained in steps take.
TRAINED = ("stream", "workers", "start", "freeze", "loss", "ramp", "average")
TRAINED += ("tensorboard",)
MESH = "data=8,fsdp=4,tensor=2; -1: all that are left"


@command(option("--out", default="runs/demo", help="folder of the report"), args.SEED)
def _demo(options: Namespace) -> None:
    """Both stages and the probe on embedded data."""
    from minivim_lab.demo import demo

    print(f"report: {demo(options.out, seed=options.seed)}")


@command(option("name", nargs="?"))
def _recipes(options: Namespace) -> None:
    """List the recipes, or print one in full."""
    if options.name:
        print("\n\n".join(map(describe_recipe, recipes.named(options.name))))
        return
    for (stage, name), make in recipes.RECIPES.items():
        says = (make.__doc__ or "").partition("\n")[0]
        print(f"{stage:10}  {name:18}  {says}".rstrip())


def named(text: str) -> tuple[str, int | float]:
    """A name and its number, such as l1=0.5."""
    name, _, number = text.partition("=")
    with suppress(ValueError):
        return name, int(number) if number.isdecimal() else float(number)
    raise ArgumentTypeError(f"{text} must be a name and a number, such as l1=0.5")


NAMED: Any = {"type": named, "nargs": "+", "action": "extend", "default": []}


def words(text: str) -> tuple[str, ...]:
    """The words of a list with commas, which is not blank."""
    return tuple(args.filled(text).split(","))


@command(
    option("stage", choices=args.STAGES),
    option("recipe"),
    *(*args.DATA, args.SET, args.WORKERS, args.QUIET),
    option("--workdir", required=True, help="an earlier run's is resumed"),
    option("--from", dest="start", metavar="REF", help="initial weights"),
    option("--freeze", type=words, default=(), metavar="encoder,..", help="kept parts"),
    option("--loss", **NAMED, metavar="NAME=WEIGHT", help="registered terms to add"),
    option("--ramp", **NAMED, metavar="TERM=STEPS", help="weights that grow from 0"),
    option("--average", type=float, default=0.0, help="0.999: of weights, over steps"),
    option("--tensorboard", metavar="FOLDER", help="also log the metrics there"),
    option("--stream", action="store_true", help="read tables in order, no copy"),
    option("--mesh", default="data=-1", help=f"devices, as in {MESH}"),
    option("--distributed", action="store_true", help="one of several processes"),
)
def _train(options: Namespace) -> None:
    """Train a recipe, or go on with it."""
    if options.distributed:
        join_processes()
    from minivim import trainer

    recipe = recipes.recipe(options.stage, options.recipe)
    recipe = config.with_overrides(recipe, options.set)
    once = isinstance(recipe, config.ProbeRecipe | config.PaletteRecipe)
    for name in TRAINED if once else ():
        wrong = f"{recipe.stage} {recipe.name} reads its images once"
        flag = {"start": "from"}.get(name, name)
        require(not getattr(options, name), f"{wrong}; leave out --{flag}")
    where: Any = args.data_of(options), options.workdir
    if isinstance(recipe, config.ProbeRecipe):
        for row in trainer.train_probe(recipe, *where).rows():
            print("  ".join(map(str, row)))
        return
    if isinstance(recipe, config.PaletteRecipe):
        from minivim_lab.igpt import train_palette

        _, figures = train_palette(recipe, *where)
    else:
        how = args.given(options, "start", "freeze", "workers", "stream", "quiet")
        how |= {"losses": dict(options.loss), "ramps": dict(options.ramp)}
        if options.tensorboard:
            how["log"] = trainer.training.tensorboard(options.tensorboard)
        how |= {"mesh": MeshShape.parse(options.mesh), "average": options.average}
        model, rows = trainer.train(recipe, *where, **how)
        if jax.process_index():
            return
        if not rows:
            print(f"already finished at step {recipe.run.steps}; nothing was trained")
        figures = {"step": recipe.run.steps} | weights.read_card(where[1])["figures"]
        args.show_classes(model)
    print("  ".join(f"{name} {value:.5g}" for name, value in figures.items()))
    print(f"weights: {options.workdir}")


@command(
    option("recipe"),
    option("--stage", choices=args.STAGES, help="where recipes share a name"),
    option("--topology", default="v4:4x4x4", help="default: %(default)s"),
    option("--mesh", help=f"{MESH} (default: data=-1)"),
    option("--mfu", type=float, default=0.5, help="share of the peak FLOPs"),
    option("--quick", action="store_true", help="compile with little effort"),
    *(args.SET, args.JSON),
)
def _plan(options: Namespace) -> int:
    """Compile for a TPU slice that is not there; exit code 3 if it does not fit."""
    from minivim_lab import plan

    recipe = plan.trainable(options.recipe, options.stage)
    recipe: Any = config.with_overrides(recipe, options.set)
    path = args.writable(options.json, ".json") if options.json else None
    how: Any = args.given(options, "topology", "mfu", "quick")
    how |= {"mesh": MeshShape.parse(options.mesh) if options.mesh else None}
    how |= {"say": partial(print, file=sys.stderr, flush=True)}
    found = plan.plan(recipe, settings=tuple(options.set), **how)
    if path:
        write_json(path, found.as_dict())
    print(plan.table(found))
    return 0 if found.fits else 3


@command(
    option("tokenizer"),
    *(*args.DATA, args.STEP, args.SEED, args.WORKERS, args.QUIET),
    option("--out", required=True, help="a folder for train prior --data"),
    option("--split", choices=("train", "test"), help="default: both"),
    option("--views", type=args.positive, default=1, help="versions of an image"),
    option("--flip", action="store_true", help="mirror views at random"),
    option("--crop", type=float, default=1.0, help="crop views to this share or more"),
    args.count(None, "the first N images of a split"),
)
def _encode(options: Namespace) -> None:
    """Write the codes of images to a folder."""
    changes = args.given(options, "flip", "crop", "seed")
    views = encode.Views(count=options.views, **changes)
    how = args.given(options, "count", "workers", "quiet") | {"name": options.tokenizer}
    tokenizer = args.open_tokenizer(options)
    splits = (options.split,) if options.split else ("train", "test")
    shape = tokenizer.config.image_shape
    spec = args.data_of(options)
    sources = {s: data.open_source(spec, split=s, **shape) for s in splits}
    folder = encode.encode_folder(tokenizer, options.out, sources, views=views, **how)
    for split in splits:
        found = data.open_codes(folder, split)
        shape = " x ".join(map(str, found.take(np.arange(1))["codes"].shape[1:]))
        print(f"{split}: {len(found)} x {shape} codes")
    print(f"codes: {folder}")


@command(
    option("weights", nargs="*", help="default: all that are shipped"),
    option("--data", default="shapes", metavar="SPEC"),
    *(*args.READING, args.SPLIT, args.count(None), args.SEED, args.JSON, args.QUIET),
    args.STEP,
    option("--judge", metavar="REF", help="labelled network that grades"),
    option("--inception", metavar="REF", help="for FID and Inception Score"),
    option("--lpips", metavar="REF", help="see convert, as for --inception"),
    args.TOKENIZER,
    option("--samples", type=args.positive, help="of a prior (default: 512)"),
    option("--neighbours", choices=("judge", "pixels"), help="of samples in training"),
    option("--batch-size", type=args.positive, default=256),
)
def _evaluate(options: Namespace) -> None:
    """Print the figures of weights."""
    from minivim.evaluate import Options, shipped_figures

    path = args.writable(options.json, ".json") if options.json else None
    options.spec = args.data_of(options)
    how = Options(**args.given(options, *(field.name for field in fields(Options))))
    found = shipped_figures(options.weights, how)
    print(figures_table(found))
    if path:
        write_json(path, found)


@command(
    option("study", help="grid, losses, terms, cifar10, optimiser or shipped"),
    option("--data", default="", metavar="SPEC", help="default: the study's own"),
    option("--out", type=args.path, default=Path("runs/reproduce")),
    option("--only", nargs="+", default=[], metavar="ROW"),
    option("--seeds", nargs="+", type=args.natural, default=[], metavar="N"),
    option("--speed", action="store_true", help="also measure images/s"),
    option("--judge", default="", help="labelled network that grades"),
    option("--classifier", default="", help="labelled network that methods use"),
    option("--page", type=args.path, metavar="FOLDER", help="write a page of the book"),
    args.QUIET,
)
def _reproduce(options: Namespace) -> None:
    """Train and compare what the paper compares, in miniature."""
    if options.study == "grid":
        # A short run's figures follow its last digits, and a row is to be found again.
        one_thread()
    from minivim_lab import reproduce

    own = ("command", "modules", "run", "study")
    given = {k: v for k, v in vars(options).items() if k not in own}
    given |= {name: tuple(given[name]) for name in ("only", "seeds")}
    print(reproduce.main(options.study, reproduce.Options(**given)))


@command(
    option("weights", help="a tokenizer or a prior"),
    option("--out", required=True, help="a new folder"),
    option("--platforms", type=words, default=(), metavar="cpu,cuda,tpu"),
    *(args.STEP, *args.DRAWN),
)
def _export(options: Namespace) -> None:
    """Write a model as programs that need JAX alone."""
    from minivim.portable import export

    asked = args.given(options, *args.SAMPLED)
    drawn = {name: x for name, x in asked.items() if x not in (None, 1.0)}
    model = weights.load(options.weights, step=options.step)
    out = export(model, options.out, platforms=options.platforms, **drawn)
    print(f"programs: {out}")


@command(
    option("weights", help="a folder or a shipped name"),
    option("name", metavar="owner/name", help="of the hub"),
    args.TOKENIZER,
    option("--private", action="store_true", help="where it is not there yet"),
)
def _push(options: Namespace) -> None:
    """Upload weights to the Hugging Face hub."""
    from minivim.weights.hub import push

    how = args.given(options, "tokenizer", "private")
    print(f"pushed: {push(options.weights, options.name, **how)}")


FILES = """vit-vqgan, vqgan, llamagen: a tokenizer's weights in the layout of
enhancing-transformers, taming-transformers or LlamaGen; lpips: torchvision's
vgg16-*.pth and the vgg.pth of the lpips package; inception: pytorch-fid's
pt_inception-2015-12-05-*.pth. All also as .safetensors."""


@command(
    option("what", choices=("vit-vqgan", "vqgan", "llamagen", "lpips", "inception")),
    option("files", nargs="+", metavar="FILE", help=FILES),
    option("--out", required=True, help="a folder that load will read"),
    option("--image-size", type=args.positive, help="vqgan, llamagen; default: 256"),
)
def _convert(options: Namespace) -> None:
    """Read the weights of another project."""
    from minivim_lab.convert import converted

    if (Path(options.out) / "run.json").exists():
        raise UserError(f"{options.out} holds a run; give --out another folder")
    model, card = converted(**args.given(options, "what", "files", "image_size"))
    weights.save(options.out, model, card=card)
    print(f"{weights.kind_of(model)}: {options.out}")
