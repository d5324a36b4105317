"""Commands about figures and weights: evaluate, reproduce and convert."""

from __future__ import annotations

import argparse
from pathlib import Path

from minivim.cli.arguments import (
    Command,
    Parser,
    add_seed,
    add_subset,
    natural,
    positive,
    writable,
)
from minivim.errors import UserError
from minivim.files import write_json


def add_commands(command: Command) -> None:
    """evaluate, reproduce and convert."""
    _add_evaluate(command("evaluate", _evaluate, "print the figures of weights"))
    text = "train and compare what the paper compares, in miniature"
    _add_reproduce(command("reproduce", _reproduce, text))
    _add_convert(command("convert", _convert, "read the weights of another project"))


def _add_evaluate(one: argparse.ArgumentParser) -> None:
    one.add_argument("weights", nargs="*", help="default: all that are shipped")
    one.add_argument("--data", default="shapes", metavar="SPEC")
    add_subset(one)
    one.add_argument("--judge", metavar="REF", help="labelled network that grades")
    one.add_argument(
        "--inception", metavar="REF", help="for FID and Inception Score: see convert"
    )
    one.add_argument("--lpips", metavar="REF", help="for LPIPS: see convert")
    one.add_argument(
        "--samples", type=positive, metavar="N", help="of a prior (default: 512)"
    )
    one.add_argument(
        "--neighbours", choices=("judge", "pixels"),
        help="seek the training images nearest to samples, by features or pixels",
    )  # fmt: skip
    one.add_argument("--batch-size", type=positive, default=256)
    add_seed(one, "of samples and of halves")
    one.add_argument("--json", help="also write the figures to this file")
    one.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_reproduce(one: argparse.ArgumentParser) -> None:
    one.add_argument("study", help="grid, losses, terms, cifar10, optimiser or shipped")
    one.add_argument(
        "--data", default="", metavar="SPEC", help="default: the study's own"
    )
    one.add_argument("--out", type=Path, default=Path("runs/reproduce"),
                     help="what is there already is not computed again")  # fmt: skip
    one.add_argument("--only", nargs="+", default=[], metavar="ROW")
    one.add_argument("--seeds", nargs="+", type=natural, default=[], metavar="N")
    one.add_argument("--speed", action="store_true", help="also measure images/s")
    one.add_argument("--judge", default="", help="labelled network that grades")
    one.add_argument(
        "--classifier", default="", help="labelled network that methods use"
    )
    one.add_argument(
        "--page", type=Path, metavar="FOLDER", help="write a page of the book"
    )
    one.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_convert(one: argparse.ArgumentParser) -> None:
    kinds = one.add_subparsers(dest="what", required=True, parser_class=Parser)
    text = "a tokenizer in the layout of the public PyTorch ViT-VQGAN"
    other = kinds.add_parser("vit-vqgan", help=text, description=text)
    other.add_argument("file", help=".safetensors, or what torch.save wrote")
    other.add_argument("--out", required=True, help="a folder that load will read")
    text = "LPIPS: torchvision's VGG16 and the linear heads of the lpips package"
    other = kinds.add_parser("lpips", help=text, description=text)
    other.add_argument("vgg16", help="vgg16-*.pth or .safetensors")
    other.add_argument("heads", help="the vgg.pth of the lpips package")
    other.add_argument("--out", required=True, help="a folder that load will read")
    text = "InceptionV3 as FID uses it, from pytorch-fid"
    other = kinds.add_parser("inception", help=text, description=text)
    other.add_argument("file", help="pt_inception-2015-12-05-*.pth or .safetensors")
    other.add_argument("--out", required=True, help="a folder that load will read")


def _evaluate(options: argparse.Namespace) -> None:
    from minivim.describe import figures_table
    from minivim.evaluate import shipped_figures

    path = writable(options.json, ".json") if options.json else None
    found = shipped_figures(
        options.weights,
        spec=options.data,
        judge=options.judge,
        inception=options.inception,
        lpips=options.lpips,
        split=options.split,
        count=options.count,
        **({"samples": options.samples} if options.samples else {}),
        neighbours=options.neighbours,
        batch_size=options.batch_size,
        seed=options.seed,
        quiet=options.quiet,
    )
    print(figures_table(found))
    if path:
        write_json(path, found)


def _reproduce(options: argparse.Namespace) -> None:
    from minivim.runtime import one_thread

    if options.study == "grid":
        # A short run's figures follow its last digits, and a row is to be found again.
        one_thread()
    from minivim_lab import reproduce

    own = ("command", "run", "study")
    given = {k: v for k, v in vars(options).items() if k not in own}
    given |= {name: tuple(given[name]) for name in ("only", "seeds")}
    print(reproduce.main(options.study, reproduce.Options(**given)))


def _convert(options: argparse.Namespace) -> None:
    from minivim import weights
    from minivim_lab import convert

    if (Path(options.out) / "run.json").exists():
        raise UserError(f"{options.out} holds a run; give --out another folder")
    if options.what == "vit-vqgan":
        state = convert.read_state_dict(options.file)
        model, kind = convert.tokenizer_from_torch(state), "tokenizer"
        card = {
            "converted_from": "the layout of the public PyTorch ViT-VQGAN",
            "labels_seen": "a perceptual loss, as the public code has it",
        }
    elif options.what == "inception":
        from minivim_lab import inception

        state = convert.read_state_dict(options.file)
        model, kind = inception.inception_from_torch(state), "inception"
        card = {
            "converted_from": "InceptionV3 of 2015, as pytorch-fid has it",
            "labels_seen": "ImageNet",
        }
    else:
        from minivim.tokenizer.perceptual import lpips_from_torch

        states = map(convert.read_state_dict, (options.vgg16, options.heads))
        model, kind = lpips_from_torch(*states), "perceptual"
        card = {
            "converted_from": "VGG16 and the linear heads of LPIPS",
            "labels_seen": "ImageNet",
        }
    weights.save(options.out, model, kind=kind, card=card)
    print(f"{kind}: {options.out}")
