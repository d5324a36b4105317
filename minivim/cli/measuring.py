"""Commands about figures and weights: evaluate, reproduce and convert."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import fields
from pathlib import Path

from minivim import weights
from minivim.cli import arguments as args
from minivim.cli.arguments import command, option
from minivim.describe import figures_table
from minivim.errors import UserError
from minivim.files import write_json
from minivim.runtime import one_thread


@command(
    option("weights", nargs="*", help="default: all that are shipped"),
    option("--data", default="shapes", metavar="SPEC", dest="spec"),
    *(args.SPLIT, args.count(None), args.SEED, args.JSON, args.QUIET),
    option("--judge", metavar="REF", help="labelled network that grades"),
    option("--inception", metavar="REF", help="for FID and Inception Score"),
    option("--lpips", metavar="REF", help="see convert, as for --inception"),
    option("--samples", type=args.positive, help="of a prior (default: 512)"),
    option("--neighbours", choices=("judge", "pixels"), help="of samples in training"),
    option("--batch-size", type=args.positive, default=256),
)
def _evaluate(options: Namespace) -> None:
    """Print the figures of weights."""
    from minivim.evaluate import Options, shipped_figures

    path = args.writable(options.json, ".json") if options.json else None
    how = Options(**args.given(options, *(field.name for field in fields(Options))))
    found = shipped_figures(options.weights, how)
    print(figures_table(found))
    if path:
        write_json(path, found)


@command(
    option("study", help="grid, losses, terms, cifar10, optimiser or shipped"),
    option("--data", default="", metavar="SPEC", help="default: the study's own"),
    option("--out", type=Path, default=Path("runs/reproduce")),
    option("--only", nargs="+", default=[], metavar="ROW"),
    option("--seeds", nargs="+", type=args.natural, default=[], metavar="N"),
    option("--speed", action="store_true", help="also measure images/s"),
    option("--judge", default="", help="labelled network that grades"),
    option("--classifier", default="", help="labelled network that methods use"),
    option("--page", type=Path, metavar="FOLDER", help="write a page of the book"),
    args.QUIET,
)
def _reproduce(options: Namespace) -> None:
    """Train and compare what the paper compares, in miniature."""
    if options.study == "grid":
        # A short run's figures follow its last digits, and a row is to be found again.
        one_thread()
    from minivim_lab import reproduce

    own = ("command", "run", "study")
    given = {k: v for k, v in vars(options).items() if k not in own}
    given |= {name: tuple(given[name]) for name in ("only", "seeds")}
    print(reproduce.main(options.study, reproduce.Options(**given)))


FILES = """vit-vqgan: a tokenizer in the layout of the public PyTorch ViT-VQGAN; lpips:
torchvision's vgg16-*.pth and the vgg.pth of the lpips package; inception: pytorch-fid's
pt_inception-2015-12-05-*.pth. All also as .safetensors."""


@command(
    option("what", choices=("vit-vqgan", "lpips", "inception")),
    option("files", nargs="+", metavar="FILE", help=FILES),
    option("--out", required=True, help="a folder that load will read"),
)
def _convert(options: Namespace) -> None:
    """Read the weights of another project."""
    from minivim_lab import convert, inception

    if (Path(options.out) / "run.json").exists():
        raise UserError(f"{options.out} holds a run; give --out another folder")
    wanted = 2 if options.what == "lpips" else 1
    if len(options.files) != wanted:
        files = "vgg16 and heads" if wanted == 2 else "one file"
        raise UserError(
            f"convert {options.what} takes {files}, got {len(options.files)}; see "
            "minivim convert --help"
        )
    states = [convert.read_state_dict(file) for file in options.files]
    if options.what == "vit-vqgan":
        model, kind = convert.tokenizer_from_torch(*states), "tokenizer"
        origin = "the layout of the public PyTorch ViT-VQGAN"
        seen = "a perceptual loss, as the public code has it"
    elif options.what == "inception":
        model, kind = inception.inception_from_torch(*states), "inception"
        origin, seen = "InceptionV3 of 2015, as pytorch-fid has it", "ImageNet"
    else:
        model, kind = convert.lpips_from_torch(*states), "perceptual"
        origin, seen = "VGG16 and the linear heads of LPIPS", "ImageNet"
    card = {"converted_from": origin, "labels_seen": seen}
    weights.save(options.out, model, kind=kind, card=card)
    print(f"{kind}: {options.out}")
