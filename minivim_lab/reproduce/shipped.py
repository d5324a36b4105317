"""The shipped weights at work: pictures, class by class agreement, rejection, probe.

Everything that is reported comes from a family's `judge`; its `classifier` chooses in
rejection. The probe of the prior without labels stands beside iGPT of the same size,
which is trained here first and goes on where it stopped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from minivim import data, recipes, show, weights
from minivim.config import PaletteRecipe, PriorRecipe, ProbeRecipe, with_overrides
from minivim.data import Source
from minivim.encode import decode_all, encode_all
from minivim.errors import UserError
from minivim.evaluate import judged_figures, prior_figures, tokenizer_figures
from minivim.prior import reject
from minivim.train import probe, train
from minivim.weights import shipped
from minivim_lab.igpt import train_palette

WEIGHTS = ("tokenizer", "prior", "prior-unlabelled", "classifier", "judge")
ACCEPTANCE = 0.5
# Training and test images of a probe.
PROBE = {"shapes": (4096, 2048), "cifar10": (20000, 10000)}
PICTURES = 8


@dataclass(frozen=True, kw_only=True)
class Place:
    """A family of weights, its data, and the folder of the runs of iGPT."""

    family: str
    spec: str
    out: Path
    # Kept by rejection, and drawn without it; in equal numbers of every class.
    samples: int = 2000
    seed: int = 0
    quiet: bool = False

    def load(self, name: str) -> Any:
        return weights.load(f"{self.family}/{name}")

    def source(self, split: str) -> Source:
        shape = self.load("tokenizer").config.image_shape
        return data.open_source(self.spec, split=split, **shape)


def check_there(family: str) -> None:
    """Raises `UserError` where one of a family's weights does not come with us."""
    missing = [f"{family}/{n}" for n in WEIGHTS if f"{family}/{n}" not in shipped()]
    if missing:
        raise UserError(
            f"{', '.join(missing)} is not shipped; make it with python -m "
            f"minivim_lab.make_weights {' '.join(missing)}, or name another family by "
            "--only"
        )


def run(place: Place) -> dict[str, Any]:
    """All figures of a family; a part that is there already is not computed again.

    What they were measured on stands beside them: with other weights or images all are
    measured anew.
    """
    parts = {
        "tokenizer": _tokenizer,
        "prior": _prior,
        "samples": _samples,
        "probe": _probe,
        "igpt": _igpt,
    }
    origin = {
        "family": place.family,
        "of": {name: weights.weights_hash(place.load(name)) for name in WEIGHTS},
        "data": [place.source(split).fingerprint for split in ("train", "test")],
        "samples": place.samples,
        "seed": place.seed,
    }
    file = place.out / place.family / "figures.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    if found.get("origin") != origin:
        found = {"origin": origin}
    for name, measure in parts.items():
        if name not in found:
            found[name] = measure(place)
            file.parent.mkdir(parents=True, exist_ok=True)
            # Where a copy of the pictures lies is nobody's business.
            said = _renamed(found, place.spec, weights.DATA[place.family])
            file.write_text(json.dumps(said, indent=1) + "\n")
    return json.loads(file.read_text())


def _renamed(value: Any, spec: str, name: str) -> Any:
    """The same with another name of the data where a source is described."""
    if isinstance(value, dict):
        return {key: _renamed(item, spec, name) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, spec, name) for item in value]
    source = rf"((?:\d+ of )?){re.escape(spec)}( \((?:train|test)\))"
    if isinstance(value, str) and (match := re.fullmatch(source, value)):
        return f"{match[1]}{name}{match[2]}"
    return value


def _tokenizer(place: Place) -> dict[str, Any]:
    return tokenizer_figures(
        place.load("tokenizer"), place.source("test"), judge=place.load("judge"),
        seed=place.seed, quiet=place.quiet,
    )  # fmt: skip


def _prior(place: Place) -> dict[str, Any]:
    tokenizer, prior = weights.load_pair(f"{place.family}/prior")
    return prior_figures(prior, tokenizer, place.source("test"), quiet=place.quiet)


def _drawn(place: Place, count: int) -> tuple[Any, np.ndarray, list[str]]:
    """A rejection whose `count` first candidates are the draw without it."""
    tokenizer, prior = weights.load_pair(f"{place.family}/prior")
    names = list(weights.card_of(prior)["class_names"])
    labels = np.arange(count, dtype=np.int32) % len(names)
    found = reject(
        prior, tokenizer, place.load("classifier"), key=jax.random.key(place.seed),
        labels=labels, acceptance=ACCEPTANCE, quiet=place.quiet,
    )  # fmt: skip
    return found, labels, names


def _samples(place: Place) -> dict[str, Any]:
    """What the judge says of as many samples before rejection and after it."""
    found, labels, _ = _drawn(place, place.samples)
    tokenizer, prior = weights.load_pair(f"{place.family}/prior")
    train = place.source("train")
    return {
        "acceptance": ACCEPTANCE,
        **{
            side: judged_figures(
                prior, tokenizer, place.load("judge"), place.source("test"),
                samples=place.samples, seed=place.seed, train=train,
                drawn=[(found.images[rows], labels)], quiet=place.quiet,
            )
            for side, rows in (
                ("before", slice(place.samples)), ("after", found.chosen)
            )
        },
    }  # fmt: skip


def _probed(place: Place, prior_ref: str | Path) -> dict[str, Any]:
    tokenizer, prior = weights.load_pair(prior_ref)
    train_size, test_size = PROBE[place.family]
    recipe = ProbeRecipe(
        name="shipped", prior=str(prior_ref), tokenizer="", train_size=train_size,
        test_size=test_size,
    )  # fmt: skip
    found = probe(
        recipe, prior, tokenizer, train=place.source("train"), test=place.source("test")
    )
    card = weights.card_of(prior)
    return {
        "parameters": card["parameters"],
        "train_seconds": card["train_seconds"],
        "steps": card["steps"],
        "images": [found.n_train, found.n_test],
        "block": found.block + 1,
        "accuracy": found.accuracy,
        "blocks": list(found.block_accuracy),
        **{name: pair[1] for name, pair in found.baselines.items()},
    }


def _probe(place: Place) -> dict[str, Any]:
    return _probed(place, f"{place.family}/prior-unlabelled")


def _igpt(place: Place) -> dict[str, Any]:
    """Palette, prior over its pixels, and the same probe."""
    name, runs = f"{place.family}-igpt", place.out / place.family
    palette, prior = runs / "igpt-palette", runs / "igpt"
    first = recipes.recipe("tokenizer", name)
    assert isinstance(first, PaletteRecipe)
    if not (palette / weights.CARD).exists():
        train_palette(first, spec=place.spec, workdir=palette)
    second = with_overrides(recipes.recipe("prior", name), [f"tokenizer={palette}"])
    assert isinstance(second, PriorRecipe)
    if not (prior / weights.CARD).exists():
        train(second, spec=place.spec, workdir=prior, quiet=place.quiet)
    return _probed(place, prior)


# --- the page ----------------------------------------------------------------------


def markdown(found: Sequence[Mapping[str, Any]]) -> str:
    """The section of the results page, from `shipped.json` alone."""
    parts = ["## The shipped weights", summary(found)]
    for family in found:
        name, samples = family["origin"]["family"], family["samples"]
        count = samples["before"]["samples"]
        parts += [
            f"### {name}",
            f"![test images of {name} above their reconstructions]"
            f"(./shipped-{name}-reconstructions.png)",
            f"Samples of `{name}/prior` at temperature 1, as they were drawn:",
            f"![one line of samples for each class of {name}]"
            f"(./shipped-{name}-samples.png)",
            f"Of twice as many, the half that `{name}/classifier` takes most for its "
            "class:",
            f"![the same after rejection](./shipped-{name}-chosen.png)",
            f"The judge's agreement by class, of {count:,} samples:",
            by_class(samples),
        ]
    return "\n\n".join(parts) + "\n"


def summary(found: Sequence[Mapping[str, Any]]) -> str:
    """One line for each figure, one column for each family."""
    columns = [_column(family) for family in found]
    names = [family["origin"]["family"] for family in found]
    lines = [
        f"| figure | {' | '.join(names)} |",
        "|---" * (1 + len(found)) + "|",
    ]
    for title in columns[0]:
        cells = " | ".join(column[title] for column in columns)
        lines.append(f"| {title} | {cells} |")
    return "\n".join(lines)


def _column(family: Mapping[str, Any]) -> dict[str, str]:
    tokenizer, prior = family["tokenizer"], family["prior"]
    before, after = (family["samples"][side] for side in ("before", "after"))
    vim, igpt = family["probe"], family["igpt"]
    agrees, apart = "judge_agrees", "judge_distance_samples"

    def percent(*values: float) -> str:
        return ", ".join(f"{100 * value:.1f} %" for value in values)

    def plain(*values: float, digits: int = 2) -> str:
        return ", ".join(f"{value:.{digits}f}" for value in values)

    return {
        "test images": f"{tokenizer['images']:,}",
        "PSNR, dB": plain(tokenizer["psnr"]),
        "SSIM": plain(tokenizer["ssim"], digits=3),
        "codes used: in 256 images, in all": percent(
            tokenizer["usage_256"], tokenizer["usage"]
        ),
        "perplexity": f"{tokenizer['perplexity']:.0f} of {tokenizer['codes']}",
        "nats per token: with label, without": plain(
            prior["nll"], prior["nll_without_label"], digits=3
        ),
        "judge agrees: real, reconstructed": percent(
            before["judge_on_real"], before["judge_on_recon"]
        ),
        "judge agrees: samples before rejection, after": percent(
            before[agrees], after[agrees]
        ),
        "samples, and real images they are compared with": f"{before['samples']:,}, "
        f"{before['real']['images']:,}",
        "judge distance: before, after": plain(before[apart], after[apart]),
        "judge distance of real images, in halves": plain(before["real"][apart])
        + f" ({' from '.join(f'{half:,}' for half in before['real']['halves'])})",
        "nearer to a training image than reconstructed test images": percent(
            before["neighbours_nearer"]
        ),
        "probe: VIM, iGPT": percent(vim["accuracy"], igpt["accuracy"]),
        "chosen block: VIM, iGPT": f"{vim['block']} of {len(vim['blocks'])}, "
        f"{igpt['block']} of {len(igpt['blocks'])}",
        "probe: pixels, latents": percent(vim["pixels"], vim["latents"]),
        "parameters, M: VIM, iGPT": plain(
            vim["parameters"] / 1e6, igpt["parameters"] / 1e6
        ),
        "steps: VIM, iGPT": f"{vim['steps']:,}, {igpt['steps']:,}",
        "minutes of training: VIM, iGPT": plain(
            vim["train_seconds"] / 60, igpt["train_seconds"] / 60, digits=0
        ),
    }


def by_class(samples: Mapping[str, Any]) -> str:
    """Agreement of every class before and after rejection."""
    before, after = (
        samples[side]["judge_agrees_by_class"] for side in ("before", "after")
    )
    lines = ["| class | before, % | after, % |", "|---|---|---|"]
    lines += [f"| {c} | {100 * before[c]:.0f} | {100 * after[c]:.0f} |" for c in before]
    return "\n".join(lines)


def write_page(places: Sequence[Place], *, page: Path) -> None:
    """`shipped.json`, `shipped.md` and the pictures, in the folder `page`."""
    found = [run(place) for place in places]
    page.mkdir(parents=True, exist_ok=True)
    (page / "shipped.json").write_text(json.dumps(found, indent=1) + "\n")
    (page / "shipped.md").write_text(markdown(found))
    for place in places:
        for name, plot in pictures(place).items():
            file = page / f"shipped-{place.family}-{name}.png"
            file.write_bytes(show.to_png(plot))


def pictures(place: Place) -> dict[str, show.Plot]:
    """Reconstructions, samples, and samples after rejection."""
    tokenizer = place.load("tokenizer")
    images = data.stack(place.source("test"), 2 * PICTURES)["image"]
    recon = decode_all(tokenizer, encode_all(tokenizer, images))
    classes = len(weights.card_of(place.load("prior"))["class_names"])
    drawn, labels, names = _drawn(place, PICTURES * classes)
    plain = drawn.images[: len(labels)]
    return {
        "reconstructions": show.reconstructions(images, recon),
        "samples": show.samples_by_class(plain, labels, names),
        "chosen": show.samples_by_class(drawn.images[drawn.chosen], labels, names),
    }
