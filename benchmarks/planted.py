"""`python -m benchmarks.planted`: plant a bug in the library, and see what catches it.

Every row is a bug that public code has had, as one replacement in one module. A check
of `minivim.checks` on the changed function says what is wrong, and a test of the suite
fails. The chapter that teaches it applies the check in a cell.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.constants import HERE, Change, study, tested
from minivim import checks
from minivim.config import PriorConfig, QuantizerConfig, StackConfig
from minivim.metrics.judged import frechet_distance, gaussian
from minivim.prior import Prior, prior_loss
from minivim.prior import sampling as prior_sampling
from minivim.tokenizer import Quantizer, discriminator, losses, perceptual
from minivim_lab.tables import markdown_table

STACK = StackConfig(blocks=2, width=16, heads=2, hidden=32)
PRIOR = PriorConfig(num_codes=24, grid=3, num_classes=2, stack=STACK)
SIZE = (PRIOR.num_tokens, PRIOR.num_codes)


@dataclass(frozen=True)
class Planted(Change):
    """A bug, and what catches it: a test, and perhaps an entry of `OURS`."""

    item: str  # of the list of what a reference must get right
    test: str
    check: str = ""


def quantizer(codebook: Any, **how: Any) -> Quantizer:
    """One without projections: its input is looked up as it is."""
    sizes = {"num_codes": len(codebook), "code_dim": 8, "factorised": False}
    config = QuantizerConfig(**sizes, **how)
    q = Quantizer(config, in_width=8, out_width=8, rngs=nnx.Rngs(0))
    q.codebook[...] = codebook
    return q


def vq_loss(z: Any, codebook: Any, beta: float) -> Any:
    q = quantizer(codebook, beta=beta, reduction="sum", l2_normalise=False)
    return q(z[None])[1]["vq_loss"]


def quantised(reading: Any) -> Callable[[Any, Any], Any]:
    return lambda r, codes: quantizer(codes, straight_through=reading)(r[None])[0][0]


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

T = "tests/tokenizer/test_"
# Which bug, the chapter that teaches it and the module; from, to; the item, the test
# that fails, and if there is one the check of `OURS`.
PLANTED = (
    Planted("beta on the codebook's term", "02_quantizer", "tokenizer/quantizer.py",
        "vq_loss = config.beta * terms[1]\n"
        '        if config.codebook == "gradient":\n'
        "            vq_loss = terms[0] + vq_loss",
        "vq_loss = terms[1]\n"
        '        if config.codebook == "gradient":\n'
        "            vq_loss = config.beta * terms[0] + vq_loss",
        "C1", T + "quantizer.py::test_beta_scales_only_the_encoder", "beta"),
    Planted("commitment of the code to itself",
        "02_quantizer", "tokenizer/quantizer.py",
        "distance(z_e, stop(z_q))",
        "distance(straight_through(z_e, z_q), stop(z_q))",
        "C1", T + "quantizer.py::test_the_two_terms_move_disjoint_parameters", "beta"),
    Planted("a codebook without a gradient", "02_quantizer", "tokenizer/quantizer.py",
        "return distance(stop(z_e), z_q)",
        "return distance(stop(z_e), stop(z_q))",
        "C1", T + "quantizer.py::test_the_two_terms_move_disjoint_parameters", "beta"),
    Planted("lookup before the normalisation", "02_quantizer", "tokenizer/quantizer.py",
        "codes = nearest_code(z_e, embeddings)",
        "codes = nearest_code(raw, self.codebook[...])",
        "C2", "tests/parity/test_cosine_codes.py", "quantise"),
    Planted("straight-through around the normalisation",
        "02_quantizer", "tokenizer/quantizer.py",
        'carrier = z_e if config.straight_through == "project" else raw',
        "carrier = raw",
        "C2", T + "quantizer.py::test_radial_gradient_vanishes_under_project_only",
        "quantise"),
    Planted("no straight-through step", "02_quantizer", "tokenizer/quantizer.py",
        "return z + jax.lax.stop_gradient(z_q - z)",
        "return jax.lax.stop_gradient(z_q + 0 * z)",
        "C2", T + "quantizer.py", "quantise"),
    Planted("a mean over dimensions that is called a sum",
        "02_quantizer", "tokenizer/quantizer.py",
        '{"sum": jnp.sum,',
        '{"sum": jnp.mean,',
        "C3", T + "quantizer.py"),
    Planted("logit-laplace without the change of variables",
        "04_losses", "tokenizer/losses.py",
        "math.log(2) + log_scale + volume",
        "math.log(2) + log_scale + 0 * volume",
        "D2", T + "losses.py::test_it_is_a_density", "density"),
    Planted("R1 of the mean of the scores", "04_losses", "tokenizer/losses.py",
        "lambda x: jnp.sum(discriminator(x))",
        "lambda x: jnp.mean(discriminator(x))",
        "C4", T + "discriminator.py::test_r1_does_not_depend_on_the_batch_size", "r1"),
    Planted("lazy R1 without the factor of its interval",
        "04_losses", "tokenizer/losses.py",
        "return gamma / 2 * interval * r1",
        "return gamma / 2 * r1",
        "C4", T + "objective.py::test_r1_counts_only_where_it_is_due", "r1 lazy"),
    Planted("groups handed out in turn", "10_claims", "tokenizer/discriminator.py",
        '"m -> (g m) h w 1"',
        '"m -> (m g) h w 1"',
        "C5", T + "discriminator.py::test_stddev_stays_within_its_group",
        "minibatch_stddev"),
    Planted("a perceptual loss that also moves the target",
        "04_losses", "tokenizer/perceptual.py",
        "jnp.square(unit(f) - jax.lax.stop_gradient(unit(g)))",
        "jnp.square(unit(f) - unit(g))",
        "C6", T + "perceptual.py::test_gradients_reach_the_reconstruction_only",
        "perceptual"),
    Planted("LPIPS on pixels in [0, 1]", "04_losses", "tokenizer/perceptual.py",
        "return (2 * images - 1 - jnp.array(SHIFT))",
        "return (images - jnp.array(SHIFT))",
        "C6", T + "perceptual.py::test_lpips_is_the_formula", "lpips_scaling"),
    Planted("two updates in a step", "10_claims", "training/step.py",
        "updates, opt_state = update.update(grads, state.optimizer, params)",
        "updates, opt_state = update.update(grads, update.update(grads, "
        "state.optimizer, params)[1], params)",
        "C7", T + "objective.py::test_one_update_of_each_network_in_a_step"),
    Planted("a part of the critic that is never trained",
        "04_losses", "tokenizer/discriminator.py",
        "return self.out(x)[:, 0]",
        "return self.out(jax.lax.stop_gradient(x))[:, 0]",
        "C8", T + "discriminator.py::test_every_parameter_is_trained"),
    Planted("the saturating loss", "04_losses", "tokenizer/losses.py",
        "return jnp.mean(jax.nn.softplus(-fake))",
        "return -jnp.mean(jax.nn.softplus(fake))",
        "C9", T + "discriminator.py::test_signs_and_limits_of_the_logistic_loss",
        "adversarial"),
    Planted("real and fake exchanged", "04_losses", "tokenizer/losses.py",
        "jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))",
        "jnp.mean(jax.nn.softplus(real)) + jnp.mean(jax.nn.softplus(-fake))",
        "C9", T + "discriminator.py::test_signs_and_limits_of_the_logistic_loss",
        "adversarial"),
    Planted("a hinge without a margin", "04_losses", "tokenizer/losses.py",
        "jnp.mean(jax.nn.relu(1 - real))",
        "jnp.mean(jax.nn.softplus(1 - real))",
        "C9", T + "discriminator.py::test_hinge_stops_at_its_margin",
        "adversarial hinge"),
    Planted("a cache that does not read the newest token", "06_prior", "transformer.py",
        "seen = jnp.arange(keys.shape[2])[None] <= position",
        "seen = jnp.arange(keys.shape[2])[None] <= jnp.maximum(position - 1, 0)",
        "C10", "tests/prior/test_decoding.py::"
        "test_cached_logits_equal_teacher_forcing", "teacher_forcing"),
    Planted("class 1 has the vector of code 1", "06_prior", "prior/model.py",
        "return self.classes[...][labels]",
        "return self.codes[...][labels]",
        "C11", "tests/prior/test_prior.py::"
        "test_codes_and_classes_touch_only_their_own_rows", "class_table"),
    Planted("the label is not used", "06_prior", "prior/model.py",
        "start = self.start(jnp.asarray(labels, jnp.int32))[:, None]",
        "start = self.start(0 * jnp.asarray(labels, jnp.int32))[:, None]",
        "C11", "tests/prior/test_prior.py::"
        "test_codes_and_classes_touch_only_their_own_rows", "class_token"),
    Planted("no causal mask", "06_prior", "transformer.py",
        "seen = jnp.tri(tokens, dtype=bool) if causal else None",
        "seen = None",
        "D1", "tests/prior/test_prior.py::"
        "test_logits_never_depend_on_their_own_or_later_codes", "causal"),
    Planted("an input that is not shifted", "06_prior", "prior/model.py",
        "self._run(jnp.asarray(codes)[:, :-1], labels, key)",
        "self._run(jnp.asarray(codes)[:, 1:], labels, key)",
        "D1", "tests/prior/test_prior.py::"
        "test_logits_never_depend_on_their_own_or_later_codes", "causal"),
    Planted("a count that leaves out the biases of a layer",
        "06_prior", "config/models.py",
        "h + 9 * d) + 2 * d",
        "h + 8 * d) + 2 * d",
        "C12", "tests/test_recipes.py::test_counted_parameters_equal_the_closed_form"),
    Planted("a clipping norm that nobody reads", "10_claims", "training/optim.py",
        "if not config.clip_norm:",
        "if config.clip_norm or True:",
        "C13", "tests/test_config.py::"
        "test_every_field_changes_something[prior-optim.clip_norm]"),
    Planted("usage of a last batch that is not full",
        "05_codebook_usage", "metrics/codebook.py",
        "full = len(rows) // images",
        "full = max(1, len(rows) // images - 1)",
        "C14", "tests/metrics/test_codebook.py"),
    Planted("brightness cut off instead of rounded", "10_claims", "pictures.py",
        "np.round(np.clip(images, 0, 1) * 255)",
        "(np.clip(images, 0, 1) * 255)",
        "C15", "tests/test_known_bugs.py::test_bytes_are_rounded_and_not_cut"),
    Planted("data from the beginning after an interruption",
        "10_claims", "data/loader.py",
        'self._next = int(state["batch"])',
        'self._next = 0 * int(state["batch"])',
        "C16", "tests/training/test_resume.py::test_data_goes_on_where_it_stopped"),
    Planted("a decoder without positions", "03_vit_tokenizer", "tokenizer/vit.py",
        "self.stack(self.positions(x), causal=False)",
        "self.stack(x, causal=False)",
        "C17", "tests/test_known_bugs.py::test_a_decoder_without_positions_is_caught"),
    Planted("a schedule that nobody reads", "09_scale", "training/optim.py",
        "optax.scale_by_learning_rate(rate)",
        "optax.scale_by_learning_rate(config.peak_lr)",
        "C18", "tests/test_known_bugs.py::"
        "test_the_rate_of_the_recipe_is_the_rate_in_use"),
    Planted("gradients of parts added up", "10_claims", "training/step.py",
        "lambda x: x / accumulate",
        "lambda x: x / 1",
        "C19", "tests/training/test_accumulate.py::"
        "test_parts_of_a_batch_give_the_update_of_the_whole"),
    Planted("an extension that is on by default",
        "05_codebook_usage", "config/models.py",
        "revive_after: checks.Natural = 0",
        "revive_after: checks.Natural = 100",
        "C20", "tests/test_recipes.py::test_extensions_are_off_in_the_papers_recipes"),
    Planted("a Frechet distance without the cross term",
        "07_sampling", "metrics/judged.py",
        "np.trace(s1) + np.trace(s2) - 2 * shared)",
        "np.trace(s1) + np.trace(s2) - 0 * shared)",
        "D6", "tests/metrics/test_frechet.py", "frechet"),
    Planted("the class token in the mean of the probe", "08_probe", "prior/model.py",
        "return jnp.mean(blocks[:, :, 1:].astype(jnp.float32), axis=2)",
        "return jnp.mean(blocks.astype(jnp.float32), axis=2)",
        "D7", "tests/prior/test_prior.py::test_features_are_the_means_over_all_codes",
        "probe_features"),
)  # fmt: skip


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
    importlib.import_module(".".join(parts))
    text = file.read_text("utf-8")
    before, after = (
        {c.co_qualname: c for c in codes_of(compile(t, str(file), "exec"))}
        for t in (text, bug.changed(text))
    )
    changed = {n: c for n, c in after.items() if n in before and before[n] != c}
    kept = {
        one: one.__code__
        for one in gc.get_objects()
        if isinstance(one, FunctionType)
        and one.__code__.co_filename == str(file)
        and one.__qualname__ in changed
    }
    if not kept:
        raise ValueError(f"{bug.what}: no function of {bug.module} has changed")
    try:
        for one in kept:
            one.__code__ = changed[one.__qualname__]
        yield
    finally:
        for one, code in kept.items():
            one.__code__ = code


def complaint(bug: Planted) -> str:
    """What the check says of the bug, or nothing."""
    with planted(bug):
        try:
            OURS[bug.check]()
        except AssertionError as error:
            return str(error)
    return ""


def measured(bug: Planted) -> dict[str, Any]:
    """The row as it is recorded: what the check says, and whether the test fails."""
    kept = ("item", "what", "module", "check", "test", "chapter")
    return {name: getattr(bug, name) for name in kept} | {
        "cell": cell_of(bug),
        "said": complaint(bug) if bug.check else "",
        "failed": tested(bug, "-x", "-m", "not slow", bug.test)["failed"] > 0,
    }


def cell_of(bug: Planted) -> int | None:
    """The first cell of the chapter that applies the row's check to something."""
    text = (HERE / "notebooks" / f"{bug.chapter}.ipynb").read_text("utf-8")
    cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
    called = re.compile(rf"\bchecks\.{bug.check.split()[0]}\b" if bug.check else "$^")
    found = (i for i, c in enumerate(cells) if called.search("".join(c["source"])))
    return next(found, None)


def markdown(found: list[dict[str, Any]]) -> str:
    """A section of the book."""
    rows = []
    for one in found:
        said = f"`{one['check']}`: {one['said']}" if one["check"] else "-"
        name = one["test"].split("tests/")[-1].replace("::", ": ")
        cell = "" if one["cell"] is None else f", {one['cell']}"
        chapter = one["chapter"][:2].lstrip("0") + cell
        rows.append([one["what"], f"`{one['module']}`", said, f"`{name}`", chapter])
    titles = "bug", "in", "check, and what it says", "test that fails", "chapter, cell"
    return (
        "## Planted bugs\n\n"
        "Bugs of public code, each planted into the library: `python -m "
        "benchmarks.planted`. The check of `minivim.checks` says what is wrong, the "
        "test fails, and the chapter applies the check in the cell named (counted from "
        "0) or has a check of its own.\n\n"
        f"{markdown_table(titles, rows)}\n"
    )


def main() -> int:
    found = study("planted", PLANTED, measured, markdown)
    missed = [
        one for one in found if not one["failed"] or (one["check"] and not one["said"])
    ]
    for one in missed:
        print("not caught:", one)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
