"""`python -m benchmarks.planted`: plant a bug in the library, and see what catches it.

Every row is a bug that public code has had, as one replacement in one module. A check
of `minivim.checks` on the changed function takes a moment; a test of the suite some
seconds (`--tests`); the chapter that teaches it, executed as the tests do, a minute or
two (`--chapters`).
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from tqdm.auto import tqdm

from benchmarks.constants import HERE, Change, noticed
from minivim import checks
from minivim.config import (
    PriorConfig,
    QuantizerConfig,
    StackConfig,
)
from minivim.metrics.judged import frechet_distance, gaussian
from minivim.prior import Prior, prior_loss
from minivim.prior import sampling as prior_sampling
from minivim.tokenizer import Quantizer, discriminator, losses, perceptual

STACK = StackConfig(blocks=2, width=16, heads=2, hidden=32)
PRIOR = PriorConfig(num_codes=24, grid=3, num_classes=2, stack=STACK)
SIZE = (PRIOR.num_tokens, PRIOR.num_codes)


@dataclass(frozen=True, kw_only=True)
class Planted(Change):
    """A bug, and what catches it: an entry of `OURS` and words of its sentence."""

    item: str  # of the list of what a reference must get right
    test: str
    check: str = ""
    says: str = ""


def quantizer(**how: Any) -> Quantizer:
    """One without projections: its input is looked up as it is."""
    config = QuantizerConfig(num_codes=16, code_dim=8, factorised=False, **how)
    return Quantizer(config, in_width=8, out_width=8, rngs=nnx.Rngs(0))


def vq_loss(z: Any, codebook: Any, beta: float) -> Any:
    q = quantizer(beta=beta, reduction="sum", l2_normalise=False)
    q.codebook[...] = codebook
    return q(z[None])[1]["vq_loss"]


def quantised(reading: Any) -> Callable[[Any, Any], Any]:
    def lookup(r: Any, codebook: Any) -> Any:
        config = QuantizerConfig(
            num_codes=len(codebook), code_dim=8, factorised=False,
            straight_through=reading,
        )  # fmt: skip
        q = Quantizer(config, in_width=8, out_width=8, rngs=nnx.Rngs(0))
        q.codebook[...] = codebook
        return q(r[None])[0][0]

    return lookup


def lazy(critic: Any, images: Any, step: int) -> Any:
    if step % 16:
        return 0.0
    r1 = losses.r1_penalty(critic, images)
    return losses.lazy_r1(r1, gamma=2.5, interval=16)


def distance(*, recon: Any, target: Any) -> Any:
    config = perceptual.PerceptualConfig(widths=(4, 8), convs=(1, 1))
    net = perceptual.LPIPS(config, rngs=nnx.Rngs(0))
    return net(recon=recon, target=target)


def spread(maps: Any) -> Any:
    return discriminator.minibatch_stddev(maps, 4)[:, 0, 0, -1]


def prior() -> Prior:
    return Prior(PRIOR, rngs=nnx.Rngs(0))


def predicted(codes: Any, labels: Any = None) -> Any:
    # A new function each time: a program compiled before would not see the bug.
    return nnx.jit(lambda model, codes, labels: model(codes, labels)[0])(
        prior(), jnp.asarray(codes), labels
    )


def drawn() -> Any:
    draw = jax.jit(
        lambda model: inspect.unwrap(prior_sampling.generate)(
            model, labels=jnp.array([0, 1]), codes=jnp.zeros((2, SIZE[0]), jnp.int32),
            known=0, key=jax.random.key(0), temperature=1.0, keep_logits=True,
        )
    )  # fmt: skip
    codes, logits = draw(prior())
    return codes, jnp.swapaxes(logits, 0, 1)


def of_codes(codes: Any, labels: Any) -> Any:
    batch = {"codes": jnp.asarray(codes), "label": jnp.asarray(labels)}
    loss = nnx.grad(lambda m: prior_loss(m, batch, key=jax.random.key(0))[0])
    return nnx.jit(loss)(prior())["codes"][...]


def features(codes: Any) -> Any:
    plain = inspect.unwrap(Prior._features)
    return jax.jit(lambda model, codes: plain(model, codes))(prior(), codes)


def blocks(codes: Any) -> Any:
    return prior()._run(jnp.asarray(codes), None)[1]


# The checks on the library's own functions, by name, looked up when they are called.
OURS: dict[str, Callable[[], None]] = {
    "beta": lambda: checks.beta(vq_loss),
    "quantise": lambda: checks.quantise(quantised("project")),
    "quantise raw": lambda: checks.quantise(quantised("raw"), "raw"),
    "density": lambda: checks.density(losses.logit_laplace_loss),
    "adversarial": lambda: checks.adversarial(
        losses.logistic_generator_loss, losses.logistic_discriminator_loss
    ),
    "adversarial hinge": lambda: checks.adversarial(
        losses.hinge_generator_loss, losses.hinge_discriminator_loss, hinge=True
    ),
    "r1": lambda: checks.r1(lambda critic, x, step: losses.r1_penalty(critic, x)),
    "r1 lazy": lambda: checks.r1(lazy, gamma=2.5, every=16),
    "perceptual": lambda: checks.perceptual(distance, 8),
    "lpips_scaling": lambda: checks.lpips_scaling(perceptual.normalised),
    "minibatch_stddev": lambda: checks.minibatch_stddev(spread),
    "causal": lambda: checks.causal(predicted, SIZE),
    "teacher_forcing": lambda: checks.teacher_forcing(
        drawn, lambda codes: predicted(codes, jnp.array([0, 1]))
    ),
    "class_token": lambda: checks.class_token(predicted, SIZE),
    "class_table": lambda: checks.class_table(of_codes, SIZE),
    "probe_features": lambda: checks.probe_features(features, blocks, SIZE),
    "frechet": lambda: checks.frechet(
        lambda a, b: frechet_distance(*gaussian(a), *gaussian(b))
    ),
}

Q, T = "tokenizer/quantizer.py", "tests/tokenizer/test_"
PLANTED = (
    Planted(
        item="C1",
        what="beta on the codebook's term",
        module=Q,
        old="vq_loss = config.beta * terms[1]\n"
        '        if config.codebook == "gradient":\n'
        "            vq_loss = terms[0] + vq_loss",
        new="vq_loss = terms[1]\n"
        '        if config.codebook == "gradient":\n'
        "            vq_loss = config.beta * terms[0] + vq_loss",
        check="beta",
        says="beta weighs the codebook's term; it belongs to the encoder's",
        test=T + "quantizer.py::test_beta_scales_only_the_encoder",
        chapter="02_quantizer",
    ),
    Planted(
        item="C1",
        what="commitment of the code to itself",
        module=Q,
        old="distance(z_e, stop(z_q))",
        new="distance(straight_through(z_e, z_q), stop(z_q))",
        check="beta",
        says="the commitment gives the encoder no gradient",
        test=T + "quantizer.py::test_the_two_terms_move_disjoint_parameters",
        chapter="02_quantizer",
    ),
    Planted(
        item="C1",
        what="a codebook without a gradient",
        module=Q,
        old="return distance(stop(z_e), z_q)",
        new="return distance(stop(z_e), stop(z_q))",
        check="beta",
        says="no gradient of the loss reaches the codes",
        test=T + "quantizer.py::test_the_two_terms_move_disjoint_parameters",
        chapter="02_quantizer",
    ),
    Planted(
        item="C2",
        what="lookup before the normalisation",
        module=Q,
        old="codes = nearest_code(z_e, embeddings)",
        new="codes = nearest_code(raw, self.codebook[...])",
        check="quantise",
        says="a code wins by its length",
        test="tests/parity/test_cosine_codes.py",
        chapter="02_quantizer",
    ),
    Planted(
        item="C2",
        what="straight-through around the normalisation",
        module=Q,
        old='carrier = z_e if config.straight_through == "project" else raw',
        new="carrier = raw",
        check="quantise",
        says="the gradient must go through the normalisation of r",
        test=T + "quantizer.py::test_radial_gradient_vanishes_under_project_only",
        chapter="02_quantizer",
    ),
    Planted(
        item="C2",
        what="no straight-through step",
        module=Q,
        old="return z + jax.lax.stop_gradient(z_q - z)",
        new="return jax.lax.stop_gradient(z_q + 0 * z)",
        check="quantise",
        says="no gradient passes the lookup",
        test=T + "quantizer.py",
        chapter="02_quantizer",
    ),
    Planted(
        item="C3",
        what="a mean over dimensions that is called a sum",
        module=Q,
        old='{"sum": jnp.sum,',
        new='{"sum": jnp.mean,',
        test=T + "quantizer.py",
        chapter="02_quantizer",
    ),
    Planted(
        item="D2",
        what="logit-laplace without the change of variables",
        module="tokenizer/losses.py",
        old="math.log(2) + log_scale + volume",
        new="math.log(2) + log_scale + 0 * volume",
        check="density",
        says="and not to 1",
        test=T + "losses.py::test_it_is_a_density",
        chapter="04_losses",
    ),
    Planted(
        item="C4",
        what="R1 of the mean of the scores",
        module="tokenizer/losses.py",
        old="lambda x: jnp.sum(discriminator(x))",
        new="lambda x: jnp.mean(discriminator(x))",
        check="r1",
        says="every picture twice, and R1 is x 0.25",
        test=T + "discriminator.py::test_r1_does_not_depend_on_the_batch_size",
        chapter="04_losses",
    ),
    Planted(
        item="C4",
        what="lazy R1 without the factor of its interval",
        module="tokenizer/losses.py",
        old="return gamma / 2 * interval * r1",
        new="return gamma / 2 * r1",
        check="r1 lazy",
        says="must be multiplied by 16",
        test=T + "objective.py::test_r1_counts_only_where_it_is_due",
        chapter="04_losses",
    ),
    Planted(
        item="C5",
        what="groups handed out in turn",
        module="tokenizer/discriminator.py",
        old='"m -> (g m) h w 1"',
        new='"m -> (m g) h w 1"',
        check="minibatch_stddev",
        says="do not count in their own number",
        test=T + "discriminator.py::test_stddev_stays_within_its_group",
        chapter="10_claims",
    ),
    Planted(
        item="C6",
        what="a perceptual loss that also moves the target",
        module="tokenizer/perceptual.py",
        old="jnp.square(unit(f) - jax.lax.stop_gradient(unit(g)))",
        new="jnp.square(unit(f) - unit(g))",
        check="perceptual",
        says="a gradient reaches the target",
        test=T + "perceptual.py::test_gradients_reach_the_reconstruction_only",
        chapter="04_losses",
    ),
    Planted(
        item="C6",
        what="LPIPS on pixels in [0, 1]",
        module="tokenizer/perceptual.py",
        old="return (2 * images - 1 - jnp.array(SHIFT))",
        new="return (images - jnp.array(SHIFT))",
        check="lpips_scaling",
        says="make [0, 1] to 2 x - 1 first",
        test=T + "perceptual.py::test_lpips_is_the_formula",
        chapter="04_losses",
    ),
    Planted(
        item="C7",
        what="two updates in a step",
        module="training/step.py",
        old="updates, opt_state = update.update(grads, state.optimizer, params)",
        new="updates, opt_state = update.update(grads, update.update("
        "grads, state.optimizer, params)[1], params)",
        test=T + "objective.py::test_one_update_of_each_network_in_a_step",
        chapter="10_claims",
    ),
    Planted(
        item="C8",
        what="a part of the critic that is never trained",
        module="tokenizer/discriminator.py",
        old="return self.out(x)[:, 0]",
        new="return self.out(jax.lax.stop_gradient(x))[:, 0]",
        test=T + "discriminator.py::test_every_parameter_is_trained",
        chapter="04_losses",
    ),
    Planted(
        item="C9",
        what="the saturating loss",
        module="tokenizer/losses.py",
        old="return jnp.mean(jax.nn.softplus(-fake))",
        new="return -jnp.mean(jax.nn.softplus(fake))",
        check="adversarial",
        says="saturates where fakes are obvious",
        test=T + "discriminator.py::test_signs_and_limits_of_the_logistic_loss",
        chapter="04_losses",
    ),
    Planted(
        item="C9",
        what="real and fake exchanged",
        module="tokenizer/losses.py",
        old="jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))",
        new="jnp.mean(jax.nn.softplus(real)) + jnp.mean(jax.nn.softplus(-fake))",
        check="adversarial",
        says="the critic does not learn to raise real logits",
        test=T + "discriminator.py::test_signs_and_limits_of_the_logistic_loss",
        chapter="04_losses",
    ),
    Planted(
        item="C9",
        what="a hinge without a margin",
        module="tokenizer/losses.py",
        old="jnp.mean(jax.nn.relu(1 - real))",
        new="jnp.mean(jax.nn.softplus(1 - real))",
        check="adversarial hinge",
        says="beyond its margin of 1 a hinge has no slope",
        test=T + "discriminator.py::test_hinge_stops_at_its_margin",
        chapter="04_losses",
    ),
    Planted(
        item="C10",
        what="a cache that does not read the newest token",
        module="transformer.py",
        old="seen = jnp.arange(keys.shape[2])[None] <= position",
        new="seen = jnp.arange(keys.shape[2])[None] <= jnp.maximum(position - 1, 0)",
        check="teacher_forcing",
        says="the sampler's logits are wrong at",
        test="tests/prior/test_decoding.py::test_cached_logits_equal_teacher_forcing",
        chapter="06_prior",
    ),
    Planted(
        item="C11",
        what="class 1 has the vector of code 1",
        module="prior/model.py",
        old="return self.classes[...][labels]",
        new="return self.codes[...][labels]",
        check="class_table",
        says="give classes a table",
        test="tests/prior/test_prior.py"
        "::test_codes_and_classes_touch_only_their_own_rows",
        chapter="06_prior",
    ),
    Planted(
        item="C11",
        what="the label is not used",
        module="prior/model.py",
        old="start = self.start(jnp.asarray(labels, jnp.int32))[:, None]",
        new="start = self.start(0 * jnp.asarray(labels, jnp.int32))[:, None]",
        check="class_token",
        says="do not know the class",
        test="tests/prior/test_prior.py"
        "::test_codes_and_classes_touch_only_their_own_rows",
        chapter="06_prior",
    ),
    Planted(
        item="D1",
        what="no causal mask",
        module="transformer.py",
        old="seen = jnp.tri(tokens, dtype=bool) if causal else None",
        new="seen = None",
        check="causal",
        says="the mask lets it look ahead",
        test="tests/prior/test_prior.py"
        "::test_logits_never_depend_on_their_own_or_later_codes",
        chapter="06_prior",
    ),
    Planted(
        item="D1",
        what="an input that is not shifted",
        module="prior/model.py",
        old="self._run(jnp.asarray(codes)[:, :-1], labels, key)",
        new="self._run(jnp.asarray(codes)[:, 1:], labels, key)",
        check="causal",
        says="which it predicts: shift the input by one",
        test="tests/prior/test_prior.py"
        "::test_logits_never_depend_on_their_own_or_later_codes",
        chapter="06_prior",
    ),
    Planted(
        item="C12",
        what="a count that leaves out the biases of a layer",
        module="config/models.py",
        old="h + 9 * d) + 2 * d",
        new="h + 8 * d) + 2 * d",
        test="tests/test_recipes.py::test_counted_parameters_equal_the_closed_form",
        chapter="06_prior",
    ),
    Planted(
        item="C13",
        what="a clipping norm that nobody reads",
        module="training/optim.py",
        old="if not config.clip_norm:",
        new="if config.clip_norm or True:",
        test="tests/test_config.py::test_every_field_changes_something"
        "[prior-optim.clip_norm]",
        chapter="10_claims",
    ),
    Planted(
        item="C14",
        what="usage of a last batch that is not full",
        module="metrics/codebook.py",
        old="full = len(rows) // images",
        new="full = max(1, len(rows) // images - 1)",
        test="tests/metrics/test_codebook.py",
        chapter="05_codebook_usage",
    ),
    Planted(
        item="C15",
        what="brightness cut off instead of rounded",
        module="pictures.py",
        old="np.round(np.clip(images, 0, 1) * 255)",
        new="(np.clip(images, 0, 1) * 255)",
        test="tests/test_known_bugs.py::test_bytes_are_rounded_and_not_cut",
        chapter="10_claims",
    ),
    Planted(
        item="C16",
        what="data from the beginning after an interruption",
        module="data/loader.py",
        old='self._next = int(state["batch"])',
        new='self._next = 0 * int(state["batch"])',
        test="tests/training/test_resume.py::test_data_goes_on_where_it_stopped",
        chapter="10_claims",
    ),
    Planted(
        item="C17",
        what="a decoder without positions",
        module="tokenizer/vit.py",
        old="self.stack(self.positions(x), causal=False)",
        new="self.stack(x, causal=False)",
        test="tests/test_known_bugs.py::test_a_decoder_without_positions_is_caught",
        chapter="03_vit_tokenizer",
    ),
    Planted(
        item="C18",
        what="a schedule that nobody reads",
        module="training/optim.py",
        old="optax.scale_by_learning_rate(rate)",
        new="optax.scale_by_learning_rate(config.peak_lr)",
        test="tests/test_known_bugs.py::test_the_rate_of_the_recipe_is_the_rate_in_use",
        chapter="09_scale",
    ),
    Planted(
        item="C19",
        what="gradients of parts added up",
        module="training/step.py",
        old="lambda x: x / accumulate",
        new="lambda x: x / 1",
        test="tests/training/test_accumulate.py"
        "::test_parts_of_a_batch_give_the_update_of_the_whole",
        chapter="10_claims",
    ),
    Planted(
        item="C20",
        what="an extension that is on by default",
        module="config/models.py",
        old="revive_after: checks.Natural = 0",
        new="revive_after: checks.Natural = 100",
        test="tests/test_recipes.py::test_extensions_are_off_in_the_papers_recipes",
        chapter="05_codebook_usage",
    ),
    Planted(
        item="D6",
        what="a Frechet distance without the cross term",
        module="metrics/judged.py",
        old="np.trace(s1) + np.trace(s2) - 2 * shared)",
        new="np.trace(s1) + np.trace(s2) - 0 * shared)",
        check="frechet",
        says="must be 0 apart",
        test="tests/metrics/test_frechet.py",
        chapter="07_sampling",
    ),
    Planted(
        item="D7",
        what="the class token in the mean of the probe",
        module="prior/model.py",
        old="return jnp.mean(blocks[:, :, 1:].astype(jnp.float32), axis=2)",
        new="return jnp.mean(blocks.astype(jnp.float32), axis=2)",
        check="probe_features",
        says="the class token counts in the mean",
        test="tests/prior/test_prior.py::test_features_are_the_means_over_all_codes",
        chapter="08_probe",
    ),
)


def functions(module: Any) -> Iterator[Any]:
    """The functions and methods that a module defines, without their wrappers."""
    for value in vars(module).values():
        members = vars(value).values() if inspect.isclass(value) else [value]
        for member in members:
            member = getattr(member, "fget", None) or getattr(
                member, "__func__", member
            )
            plain = inspect.unwrap(member)
            if inspect.isfunction(plain) and plain.__module__ == module.__name__:
                yield plain


def codes_of(code: CodeType) -> Iterator[CodeType]:
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield inner
            yield from codes_of(inner)


@contextmanager
def planted(bug: Change) -> Iterator[None]:
    """This process with the bug: the changed functions get their new code and lose it.

    Programs that JAX has compiled keep the old one, so compile anew inside.
    """
    file = bug.file(HERE)
    parts = file.relative_to(HERE).with_suffix("").parts
    module, text = importlib.import_module(".".join(parts)), file.read_text("utf-8")
    before, after = (
        {c.co_qualname: c for c in codes_of(compile(t, str(file), "exec"))}
        for t in (text, bug.changed(text))
    )
    kept = {}
    for plain in set(functions(module)):
        name = plain.__qualname__
        if name in after and before[name] != after[name]:
            kept[plain], plain.__code__ = plain.__code__, after[name]
    try:
        if not kept:
            raise ValueError(f"{bug.what}: no function of {bug.module} has changed")
        yield
    finally:
        for plain, code in kept.items():
            plain.__code__ = code


def complaint(bug: Planted) -> str:
    """What the check says of the bug, or nothing."""
    with planted(bug):
        try:
            OURS[bug.check]()
        except AssertionError as error:
            return str(error)
    return ""


def failing(bug: Planted) -> bool:
    """Whether the row's test fails: in this process, or a copy for what is no code."""
    # Of pyproject.toml's options one checks types, in modules that are imported later.
    command = ["-q", "-x", "--tb=no", "-o", "addopts=", "-m", "not slow", bug.test]
    try:
        with planted(bug):
            jax.clear_caches()
            return pytest.main(command) == pytest.ExitCode.TESTS_FAILED
    except ValueError:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for part in ("minivim", "minivim_lab", "tests", "book", "benchmarks"):
                shutil.copytree(HERE / part, root / part)
            shutil.copy(HERE / "pyproject.toml", root)
            bug.apply(root)
            where = {**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *command], cwd=root, env=where
            )
        return done.returncode == pytest.ExitCode.TESTS_FAILED


def cell_of(bug: Planted) -> int | None:
    """The first cell of the chapter that applies the row's check to something."""
    text = (HERE / "notebooks" / f"{bug.chapter}.ipynb").read_text("utf-8")
    cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
    called = re.compile(rf"\bchecks\.{bug.check.split()[0]}\b") if bug.check else None
    return next(
        (
            i
            for i, c in enumerate(cells)
            if called and called.search("".join(c["source"]))
        ),
        None,
    )


def markdown(found: list[dict[str, Any]]) -> str:
    """A section of the book."""
    lines = [
        "## Planted bugs",
        "",
        "Bugs of public code, each planted into the library: `python -m "
        "benchmarks.planted --tests`. The check of `minivim.checks` says what is "
        "wrong, the test fails, and the chapter applies the check in the cell named "
        "(counted from 0) or has a check of its own.",
        "",
        "| bug | in | check, and what it says | test that fails | chapter, cell |",
        "|---|---|---|---|---|",
    ]
    for one in found:
        said = f"`{one['check']}`: {one['said']}" if one["check"] else "-"
        name = one["test"].split("tests/")[-1].replace("::", ": ")
        cell = "" if one["cell"] is None else f", {one['cell']}"
        lines.append(
            f"| {one['what']} | `{one['module']}` | {said} | `{name}` | "
            f"{one['chapter'][:2].lstrip('0')}{cell} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planted", description=__doc__
    )
    parser.add_argument(
        "--tests", action="store_true", help="run every row's test again"
    )
    parser.add_argument("--chapters", action="store_true", help="and its chapter")
    parser.add_argument("--only", nargs="+", default=[], metavar="ITEM")
    parser.add_argument("--out", type=Path, default=Path("book/results/planted.json"))
    chosen, found, missed = parser.parse_args(), [], []
    known = {}
    if chosen.out.exists():
        known = {one["what"]: one for one in json.loads(chosen.out.read_text("utf-8"))}
    rows = [bug for bug in PLANTED if not chosen.only or bug.item in chosen.only]
    for bug in tqdm(rows, unit="bug"):
        kept = ("item", "what", "module", "check", "test", "chapter")
        one = {name: getattr(bug, name) for name in kept} | {"cell": cell_of(bug)}
        one["said"] = complaint(bug) if bug.check else ""
        one["failed"] = known.get(bug.what, {}).get("failed", False)
        if chosen.tests or not one["failed"]:
            one["failed"] = failing(bug)
        caught = bug.says in one["said"] and one["failed"]
        if chosen.chapters:
            caught &= bool(noticed(bug)["failed"])
        missed += [] if caught else [one]
        found.append(one)
        if not chosen.only:  # every row at once: a test may take its time
            left = [known[b.what] for b in PLANTED[len(found) :] if b.what in known]
            chosen.out.write_text(json.dumps(found + left, indent=1) + "\n")
    for one in missed:
        print("not caught:", one)
    if not chosen.only:
        chosen.out.with_suffix(".md").write_text(markdown(found))
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
