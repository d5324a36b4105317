"""The command line: parses, calls, prints. A user's mistake is one line and exit 2."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from minivim.errors import Stopped, UserError

STAGES = ("tokenizer", "prior", "probe", "classifier")


class Parser(argparse.ArgumentParser):
    """argparse with the error in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        options = parser().parse_args(arguments)
        if arguments is None:
            from minivim.runtime import restart_with_environment

            restart_with_environment()
        return options.run(options) or 0
    except UserError as error:
        return _fail(str(error))
    except BrokenPipeError:
        return 0
    except OSError as error:
        place = error.filename or "a file"
        return _fail(
            f"cannot read or write {place} ({error.strerror or error}); free the disk "
            "or choose another place, then run the same command"
        )
    except Stopped as stopped:
        print(f"minivim: {stopped}", file=sys.stderr)
        return 143  # as a shell says of a command that SIGTERM ended
    except KeyboardInterrupt:
        print("minivim: stopped; the same command goes on", file=sys.stderr)
        return 130


def _fail(message: str) -> int:
    print(f"minivim: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def parser() -> Parser:
    """All commands."""
    top = Parser(prog="minivim", description="ViT-VQGAN and VIM, small enough to read.")
    commands = top.add_subparsers(dest="command", required=True, parser_class=Parser)

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(run=run)
        return one

    demo = command("demo", _demo, "both stages and the probe on embedded data")
    demo.add_argument("--out", default="runs/demo", help="folder of the report")
    demo.add_argument("--seed", type=int, default=0)
    one = command("recipes", _recipes, "list the recipes, or print one in full")
    one.add_argument("name", nargs="?")
    one = command("train", _train, "train a recipe, or go on with it")
    one.add_argument("stage", choices=STAGES)
    one.add_argument("recipe")
    _add_data(one)
    one.add_argument("--workdir", required=True, help="an earlier run's is resumed")
    one.add_argument("--set", nargs="+", action="extend", default=[],
                     metavar="key=value")  # fmt: skip
    _add_workers(one)
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
    _add_encode(command("encode", _encode, "write the codes of images to a folder"))
    one = command("reconstruct", _reconstruct, "draw originals beside reconstructions")
    one.add_argument("tokenizer")
    _add_data(one)
    one.add_argument("--out", required=True, help="a .png file")
    _add_subset(one, count=16)
    _add_sample(command("sample", _sample, "draw new images from a prior"))
    _add_complete(command("complete", _complete, "draw the rest of given images"))
    one = command("evaluate", _evaluate, "print the figures of weights")
    one.add_argument("weights", nargs="*", help="default: all that are shipped")
    one.add_argument("--data", default="shapes", metavar="SPEC")
    one.add_argument("--judge", help="labelled network that grades samples")
    one.add_argument("--samples", type=_positive, default=512)
    one.add_argument("--json", help="also write the figures to this file")
    _add_plan(command("plan", _plan, "compile for a TPU slice that is not there"))
    _add_convert(command("convert", _convert, "read the weights of another project"))
    text = "train and compare what the paper compares, in miniature"
    _add_reproduce(command("reproduce", _reproduce, text))
    command("lab", _lab, "open the notebooks in JupyterLab")
    return top


def _positive(text: str) -> int:
    """A count on the command line."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number above zero")
    return int(text)


def _natural(text: str) -> int:
    """A count that may be zero."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text} must be a whole number, 0 or above")
    return int(text)


def _add_data(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--data",
        required=True,
        metavar="SPEC",
        help="shapes, a folder of images, parquet files, or a hub name",
    )


def _add_workers(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--workers", type=_natural, default=0, metavar="N",
        help="decode images in N other processes",
    )  # fmt: skip


def _add_subset(one: argparse.ArgumentParser, count: int | None = None) -> None:
    one.add_argument("--split", default="test", choices=("train", "test"))
    one.add_argument(
        "--count", type=_positive, default=count, help="the first N images"
    )


def _add_encode(one: argparse.ArgumentParser) -> None:
    one.add_argument("tokenizer")
    _add_data(one)
    one.add_argument(
        "--out", required=True, metavar="FOLDER", help="what train prior --data reads"
    )
    one.add_argument("--split", choices=("train", "test"), help="default: both")
    one.add_argument("--count", type=_positive, help="the first N images of a split")
    one.add_argument(
        "--views", type=_positive, default=1,
        help="versions of each training image, all but the first augmented",
    )  # fmt: skip
    one.add_argument("--flip", action="store_true", help="mirror views at random")
    one.add_argument(
        "--crop", type=float, default=1.0, metavar="A",
        help="crop views to a share of at least A of the area",
    )  # fmt: skip
    one.add_argument("--seed", type=int, default=0, help="of the views")
    _add_workers(one)
    one.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_sample(one: argparse.ArgumentParser) -> None:
    one.add_argument("prior")
    one.add_argument("--labels", nargs="+", type=int, help="one row of images each")
    one.add_argument("--count", type=_positive, default=8, help="images per label")
    _add_drawing(one)
    one.add_argument(
        "--acceptance", type=float, metavar="A",
        help="draw more, and keep the share that the classifier likes best",
    )  # fmt: skip
    one.add_argument("--classifier", help="labelled network that chooses; no judge")


def _add_complete(one: argparse.ArgumentParser) -> None:
    one.add_argument("prior")
    one.add_argument("images", metavar="IMAGES", help="an image, or what --data takes")
    one.add_argument("--split", default="test", choices=("train", "test"))
    one.add_argument("--first", type=_positive, default=4, metavar="N",
                     help="the first N images of a data set")  # fmt: skip
    one.add_argument("--keep", type=float, default=0.5, metavar="SHARE",
                     help="of the rows, from the top")  # fmt: skip
    one.add_argument("--count", type=_positive, default=4, help="for each image")
    one.add_argument("--label", type=int, help="of all images (default: none)")
    one.add_argument("--peek", action="store_true",
                     help="let the encoder see what is hidden")  # fmt: skip
    _add_drawing(one)


def _add_drawing(one: argparse.ArgumentParser) -> None:
    one.add_argument("--out", required=True, help="a .png file")
    one.add_argument("--tokenizer", help="default: the one the prior's card names")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--temperature", type=float, default=1.0)
    one.add_argument("--top-k", type=int)
    one.add_argument("--top-p", type=float)
    one.add_argument("--guidance", type=float)


def _add_plan(one: argparse.ArgumentParser) -> None:
    one.add_argument("recipe")
    one.add_argument("--stage", choices=STAGES, help="where recipes share a name")
    one.add_argument("--topology", default="v4:4x4x4", help="default: %(default)s")
    one.add_argument(
        "--mesh", help="data=8,fsdp=4,tensor=2; -1: what is left (default: data=-1)"
    )
    one.add_argument("--set", nargs="+", action="extend", default=[],
                     metavar="key=value")  # fmt: skip
    one.add_argument(
        "--mfu", type=float, default=0.5, help="share of the peak (default: 0.5)"
    )
    one.add_argument(
        "--quick", action="store_true", help="compile with little effort, in minutes"
    )
    one.add_argument("--json", help="also write the figures to this file")


def _add_reproduce(one: argparse.ArgumentParser) -> None:
    one.add_argument("study", help="grid, losses, terms, cifar10 or optimiser")
    one.add_argument(
        "--data", default="", metavar="SPEC", help="default: the study's own"
    )
    one.add_argument("--out", type=Path, default=Path("runs/reproduce"),
                     help="what is there already is not computed again")  # fmt: skip
    one.add_argument("--only", nargs="+", default=[], metavar="ROW")
    one.add_argument("--seeds", nargs="+", type=_natural, default=[], metavar="N")
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

    from minivim import experiments, recipes
    from minivim.config import PaletteRecipe, ProbeRecipe, with_overrides
    from minivim.sharding import MeshShape

    recipe = with_overrides(recipes.recipe(options.stage, options.recipe), options.set)
    once = isinstance(recipe, ProbeRecipe | PaletteRecipe)
    if once and (options.stream or options.workers):
        raise UserError(f"{recipe.stage} {recipe.name} reads its images once; leave "
                        "out --stream and --workers")  # fmt: skip
    if isinstance(recipe, PaletteRecipe):
        _, figures = experiments.train_palette(
            recipe, spec=options.data, workdir=options.workdir
        )
        _print_trained(figures, options.workdir)
        return
    if isinstance(recipe, ProbeRecipe):
        result = experiments.train_probe(
            recipe, spec=options.data, workdir=options.workdir
        )
        for row in result.rows():
            print("  ".join(map(str, row)))
        return
    _, rows = experiments.train(
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
    last = rows[-1] if rows else {}
    figures = {k: v for k, v in last.items() if not isinstance(v, list)}
    _print_trained(figures, options.workdir)


def _print_trained(figures: dict[str, Any], workdir: str) -> None:
    print("  ".join(f"{name} {value:.5g}" for name, value in figures.items()))
    print(f"weights: {workdir}")


def _plan(options: argparse.Namespace) -> int:
    """0: it fits; 3: the compiler says that it does not."""
    from minivim import plan, recipes
    from minivim.config import with_overrides
    from minivim.sharding import MeshShape

    recipe: Any = recipes.trainable(options.recipe, options.stage)
    recipe = with_overrides(recipe, options.set)
    path = _writable(options.json, ".json") if options.json else None
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
        path.write_text(json.dumps(found.as_dict(), indent=1) + "\n")
    print(plan.table(found) if found.fits else plan.verdict(found))
    return 0 if found.fits else 3


def _source(options: argparse.Namespace, tokenizer: Any) -> Any:
    from minivim import data

    return data.open_source(
        options.data, split=options.split, **tokenizer.config.image_shape
    )


def _encode(options: argparse.Namespace) -> None:
    import numpy as np

    from minivim import data, experiments

    views = experiments.Views(
        count=options.views, flip=options.flip, crop=options.crop, seed=options.seed
    )
    tokenizer = _tokenizer(options.tokenizer)
    splits = (options.split,) if options.split else ("train", "test")
    sources = {
        split: data.open_source(
            options.data, split=split, **tokenizer.config.image_shape
        )
        for split in splits
    }
    folder = experiments.encode_folder(
        tokenizer, options.out, sources, name=options.tokenizer, views=views,
        count=options.count, workers=options.workers, quiet=options.quiet,
    )  # fmt: skip
    for split in splits:
        found = data.open_codes(folder, split)
        shape = " x ".join(map(str, found.take(np.arange(1))["codes"].shape[1:]))
        print(f"{split}: {len(found)} x {shape} codes")
    print(f"codes: {folder}")


def _reconstruct(options: argparse.Namespace) -> None:
    import numpy as np

    from minivim import data, metrics, show
    from minivim.experiments import decode_all, encode_all

    tokenizer = _tokenizer(options.tokenizer)
    rows = data.stack(_source(options, tokenizer), options.count)
    images = rows["image"].astype(np.float32) / 255
    recon = decode_all(tokenizer, encode_all(tokenizer, images))
    path = _writable(options.out, ".png")
    path.write_bytes(show.to_png(show.reconstructions(images, recon)))
    print(f"PSNR {float(metrics.psnr(images, recon)):.2f} dB: {path}")


def _sample(options: argparse.Namespace) -> None:
    import numpy as np

    from minivim import prior, show, weights
    from minivim.experiments import decode_all

    tokenizer, model = weights.load_pair(options.prior, options.tokenizer)
    path = _writable(options.out, ".png")
    names = weights.card_of(model).get("class_names") or []
    wanted = options.labels
    if wanted is None and model.config.num_classes:
        wanted = list(range(model.config.num_classes))
    labels = None if wanted is None else np.repeat(wanted, options.count)
    drawing: Any = _drawing(options) | {"labels": labels}
    if options.classifier or options.acceptance is not None:
        images = _rejected(options, model, tokenizer, drawing)
    else:
        count = options.count if labels is None else None
        codes = prior.sample(model, num_samples=count, **drawing)
        images = decode_all(tokenizer, np.asarray(codes))
    if labels is None:
        figure = show.image_grid(images, columns=min(8, options.count))
    else:
        names = names or [str(i) for i in range(model.config.num_classes)]
        figure = show.samples_by_class(images, labels, names)
    path.write_bytes(show.to_png(figure))
    print(f"{len(images)} samples: {path}")


def _drawing(options: argparse.Namespace) -> dict[str, Any]:
    import jax

    names = ("temperature", "top_k", "top_p", "guidance")
    found = {name: getattr(options, name) for name in names}
    return found | {"key": jax.random.key(options.seed)}


def _rejected(
    options: argparse.Namespace, model: Any, tokenizer: Any, drawing: dict[str, Any]
) -> Any:
    """Images that a classifier chose."""
    from minivim import prior, weights

    if not options.classifier or options.acceptance is None:
        raise UserError(
            "rejection needs both, a share and who chooses: --acceptance 0.5 "
            "--classifier FOLDER"
        )
    if drawing["labels"] is None:
        raise UserError(
            "rejection keeps what looks most like its label, and this prior has none; "
            "leave out --acceptance and --classifier"
        )
    chooser = weights.load(options.classifier)
    found = prior.reject(
        model, tokenizer, chooser, acceptance=options.acceptance, **drawing
    )
    return found.images[found.chosen]


def _complete(options: argparse.Namespace) -> None:
    import numpy as np

    from minivim import data, prior, show, weights
    from minivim.data.pixels import decode

    tokenizer, model = weights.load_pair(options.prior, options.tokenizer)
    path, shape = _writable(options.out, ".png"), tokenizer.config.image_shape
    file = Path(options.images)
    if file.is_file() and file.suffix.lower() != ".parquet":
        images = decode(file, options.images, **shape)[None]
    else:
        source = data.open_source(options.images, split=options.split, **shape)
        images = data.stack(source, options.first)["image"]
    label = options.label
    found = prior.complete(
        model,
        tokenizer,
        images,
        rows=round(options.keep * tokenizer.config.grid),
        labels=None if label is None else np.full(len(images), label),
        count=options.count,
        peek=options.peek,
        **_drawing(options),
    )
    path.write_bytes(show.to_png(show.completions(images, found)))
    print(f"{found.images.shape[1]} completions of {len(images)} images: {path}")


def _evaluate(options: argparse.Namespace) -> None:
    from minivim.describe import figures_table
    from minivim.evaluate import shipped_figures

    found = shipped_figures(
        options.weights,
        spec=options.data,
        judge=options.judge,
        samples=options.samples,
    )
    print(figures_table(found))
    if options.json:
        path = _writable(options.json, ".json")
        path.write_text(json.dumps(found, indent=1) + "\n")


def _reproduce(options: argparse.Namespace) -> None:
    from minivim import reproduce

    own = ("command", "run", "study")
    given = {k: v for k, v in vars(options).items() if k not in own}
    given |= {name: tuple(given[name]) for name in ("only", "seeds")}
    print(reproduce.main(options.study, reproduce.Options(**given)))


def _convert(options: argparse.Namespace) -> None:
    from minivim import weights
    from minivim.tokenizer import convert

    if (Path(options.out) / "run.json").exists():
        raise UserError(f"{options.out} holds a run; give --out another folder")
    if options.what == "vit-vqgan":
        state = convert.read_state_dict(options.file)
        model, kind = convert.tokenizer_from_torch(state), "tokenizer"
        card = {
            "converted_from": "the layout of the public PyTorch ViT-VQGAN",
            # That code trains with LPIPS: the probe must refuse these codes.
            "recipe": {"loss": {"perceptual": 0.1}},
        }
    else:
        from minivim.tokenizer.perceptual import lpips_from_torch

        states = map(convert.read_state_dict, (options.vgg16, options.heads))
        model, kind = lpips_from_torch(*states), "perceptual"
        card = {"converted_from": "VGG16 and the linear heads of LPIPS"}
    weights.save(options.out, model, kind=kind, card=card)
    print(f"{kind}: {options.out}")


def _lab(options: argparse.Namespace) -> None:
    import importlib.util

    from minivim.runtime import environment

    folder = Path(__file__).parent.parent / "notebooks"
    if not folder.is_dir():
        raise UserError("the notebooks are not installed; clone the repository")
    if importlib.util.find_spec("jupyterlab") is None:
        raise UserError("JupyterLab is not installed; run pip install -e '.[book]'")
    os.environ.update(environment())
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", str(folder)])


def _tokenizer(ref: str) -> Any:
    from minivim import weights
    from minivim.tokenizer import Tokenizer

    model = weights.load(ref)
    if not isinstance(model, Tokenizer):
        raise UserError(f"{ref} is a {model.card['kind']}, not a tokenizer; name one")
    return model


def _writable(path: str, suffix: str) -> Path:
    """A path to write to, its folder made; raises `UserError` early."""
    file = Path(path)
    if file.suffix != suffix:
        raise UserError(f"--out {path} must end in {suffix}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}); choose another place"
        ) from error
    return file


if __name__ == "__main__":
    sys.exit(main())
