"""Settings: overrides, impossible values, and no field without an effect (C13)."""

import dataclasses
import json
import re
import subprocess
import sys
import tempfile
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.interpreters.partial_eval import dce_jaxpr

from minivim import data, recipes, trainer, training, weights
from minivim.config import (
    ClassifierConfig,
    ClassifierRecipe,
    OptimConfig,
    PaletteRecipe,
    PriorConfig,
    ProbeRecipe,
    StackConfig,
    TokenizerConfig,
    as_dict,
    from_dict,
    leaves,
    with_overrides,
)
from minivim.context import Context
from minivim.describe import build_abstract
from minivim.errors import UserError
from minivim.tokenizer import Players
from minivim.training import Workdir, fit, learning_rate, optimizer
from minivim.training.step import TrainState
from minivim_lab import igpt
from tests import tiny

# --- overrides ---------------------------------------------------------------------


def test_overrides_reach_nested_settings():
    recipe = with_overrides(
        recipes.recipe("tokenizer", "shapes"),
        ["model.encoder.width=64", "decoder.heads=8", "num_codes=32", "flip=true",
         "peak_lr=2e-4", "tanh=blocks"],
    )  # fmt: skip
    assert recipe.model.encoder.width == 64
    assert recipe.model.decoder.heads == 8
    assert recipe.model.quantizer.num_codes == 32
    assert recipe.flip is True
    assert recipe.optim.peak_lr == 2e-4
    assert recipe.model.tanh == "blocks"
    assert recipe.model.decoder.width == 128  # the rest stays


def test_overrides_are_checked_together():
    # Neither alone would be legal: 36 is no multiple of 8 heads, 9 none of 128.
    recipe = recipes.recipe("prior", "shapes")
    changed = with_overrides(recipe, ["stack.width=36", "stack.heads=9"])
    assert (changed.model.stack.width, changed.model.stack.heads) == (36, 9)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("widht=3", "no setting 'widht'; did you mean .*width"),
        ("qqq=3", "no setting 'qqq'; see minivim recipes"),
        (
            "width=64",
            "ambiguous; write one of model.encoder.width, model.decoder.width",
        ),
        ("steps=many", "run.steps=many is not a whole number"),
        ("steps=1e3", "run.steps=1e3 is not a whole number"),
        ("peak_lr=fast", "optim.peak_lr=fast is not a finite number"),
        ("flip=maybe", "flip=maybe is not true or false"),
        ("flip", "write it as key=value"),
        ("stage=prior", "no setting 'stage'"),
    ],
)
def test_an_override_that_cannot_be_is_explained(setting, message):
    with pytest.raises(UserError, match=message):
        with_overrides(recipes.recipe("tokenizer", "shapes"), [setting])


def test_a_value_may_hold_an_equals_sign():
    recipe = with_overrides(recipes.recipe("prior", "shapes"), ["tokenizer=runs/a=b"])
    assert recipe.tokenizer == "runs/a=b"


# --- impossible values -------------------------------------------------------------

IMPOSSIBLE = {
    "tokenizer": [
        ("patch_size=5", "patch_size=5 does not divide image_size=32"),
        ("image_size=30", "does not divide image_size=30"),
        ("encoder.heads=3", "heads=3 does not divide width=128"),
        ("encoder.width=0", "width=0 must be above zero"),
        ("decoder.blocks=-1", "blocks=-1 must be above zero"),
        ("encoder.precision=float16", "overflows in the l2 norms"),
        ("encoder.precision=int8", "use float32 or bfloat16"),
        ("encoder.activation=selu", "use gelu or relu or tanh"),
        ("encoder.remat=true", "use none or dots or full"),
        ("encoder.dropout=0.1", "set encoder.dropout=0"),
        ("encoder.norm_eps=0", "norm_eps=0.0 must be above zero; set norm_eps=1e-06"),
        ("num_codes=1", "num_codes=1 must be 2 or more"),
        ("code_dim=0", "code_dim=0 must be above zero"),
        ("beta=-1", "beta=-1.0 must not be negative"),
        ("straight_through=around", "use project or raw"),
        ("reduction=max", "use sum or mean"),
        ("factorised=false", "set code_dim=128 and equal widths"),
        ("codebook=kmeans", "use gradient or ema"),
        ("ema_decay=1", r"ema_decay=1.0 is not in \[0, 1\)"),
        ("revive_after=-1", "revive_after=-1 must not be negative"),
        ("positions=none", "use learnt or sincos"),
        ("output=tanh", "use sigmoid or laplace or linear"),
        ("tanh=off", "use head or blocks"),
        ("steps=0", "steps=0 must be above zero"),
        ("batch_size=0", "batch_size=0 must be above zero"),
        ("log_every=0", "log_every=0 must be above zero"),
        ("seed=-1", r"seed=-1 is not in 0\.\.4294967295; set seed=0"),
        ("seed=4294967296", "seed=4294967296 is not in"),
        ("run.seed=9223372036854775808", "seed=9223372036854775808 is not in"),
        ("keep=0", "keep=0 must be above zero"),
        ("accumulate=0", "accumulate=0 must be above zero"),
        ("accumulate=3", "accumulate=3 does not divide batch_size=64"),
        ("adversarial=-1", "adversarial=-1.0 must not be negative"),
        ("perceptual=0.1", "set perceptual_net=FOLDER"),
        ("logit_laplace=0.1", "set model.output=laplace"),
        ("discriminator.width=6", "multiple of 4"),
        ("discriminator.kind=resnet", "use stylegan2 or patchgan"),
        ("discriminator.loss=wgan", "use logistic or hinge"),
        ("r1_gamma=-1", "r1_gamma=-1.0 must not be negative"),
        ("r1_interval=0", "r1_interval=0 must be above zero"),
        ("lr_ratio=0", "set lr_ratio=1"),
        ("beta1=1", r"beta1=1.0 is not in \[0, 1\)"),
        ("peak_lr=0", "peak_lr=0.0 must be above zero"),
        ("peak_lr=nan", "is not a finite number"),
        ("b2=1", r"b2=1.0 is not in \[0, 1\)"),
        ("warmup_steps=-5", "must not be negative"),
        ("clip_norm=-1", "must not be negative"),
        ("first_moment=float16", "use float32 or bfloat16 or int8"),
        ("second_moment=none", "use full or factored"),
        ("decay_end=50", "set decay_end=0 for the last step"),
        ("weight_decay=-1", "must not be negative"),
        ("schedule=linear", "use constant or cosine or exponential"),
        ("vq=-1", "vq=-1.0 must not be negative"),
        ("crop=0", r"crop=0.0 is not in \(0, 1\]; set crop=1.0"),
        ("crop=1.5", r"crop=1.5 is not in \(0, 1\]"),
    ],
    "prior": [
        ("grid=0", "grid=0 must be above zero"),
        ("num_codes=1", "num_codes=1 must be 2 or more"),
        ("num_classes=-1", "num_classes=-1 must not be negative; set num_classes=0"),
        ("stack.dropout=1", r"not in \[0, 1\)"),
        ("label_dropout=1", r"not in \[0, 1\)"),
        ("num_classes=0", "label_dropout needs a class token"),
        ("codes=stream", "use cache or fly"),
        ("flip=true", "flip=True, crop=1.0 .*; set codes=fly or views=8"),
        ("crop=0.5", "flip=False, crop=0.5 .*; set codes=fly or views=8"),
        ("crop=0", r"crop=0.0 is not in \(0, 1\]"),
        ("views=0", "views=0 must be above zero"),
        ("views=8", "nothing changes are the same; set flip=true or views=1"),
    ],
    "probe": [
        ("held_out=0", r"not in \(0, 1\)"),
        ("train_size=0", "must be above zero"),
        ("seed=-1", "seed=-1 is not in"),
    ],
    "classifier": [
        ("num_classes=1", "num_classes=1 must be 2 or more"),
        ("kind=vit", "use cnn or residual"),
        ("model.width=30", "multiple of 4"),
        ("image_size=36", "multiple of 8"),
    ],
}


CASES = [(stage, *pair) for stage, pairs in IMPOSSIBLE.items() for pair in pairs]
TRY_ALL = """
import json, sys
from minivim import UserError, recipes
from minivim.config import with_overrides
for stage, setting, _ in json.load(sys.stdin):
    try:
        with_overrides(recipes.recipe(stage, "shapes"), [setting])
        print("accepted")
    except UserError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def answers():
    """What a user is told: in a process whose arguments are not checked for types."""
    done = subprocess.run(
        [sys.executable, "-c", TRY_ALL], input=json.dumps(CASES), check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    return dict(zip(map(tuple, CASES), done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize(("stage", "setting", "message"), CASES)
def test_an_impossible_value_is_refused_before_anything_compiles(
    answers, stage, setting, message
):
    assert re.search(message, answers[stage, setting, message])


def test_an_exponential_schedule_needs_a_final_rate():
    with pytest.raises(UserError, match="set final_lr=1e-5"):
        OptimConfig(peak_lr=1.0, warmup_steps=0, schedule="exponential")


def test_views_are_of_cached_codes():
    with pytest.raises(UserError, match="set codes=cache or views=1"):
        dataclasses.replace(tiny.PRIOR_RECIPE, codes="fly", flip=True, views=2)


def test_sincos_positions_need_a_width_divisible_by_four():
    odd = StackConfig(blocks=1, width=18, heads=2, hidden=8)
    with pytest.raises(UserError, match="positions=learnt"):
        dataclasses.replace(tiny.TOKENIZER, encoder=odd, positions="sincos")


# --- files -------------------------------------------------------------------------


@pytest.mark.parametrize("key", recipes.RECIPES, ids="-".join)
def test_dictionaries_round_trip(key):
    recipe = recipes.RECIPES[key]()
    assert from_dict(type(recipe), as_dict(recipe)) == recipe
    for name, value in leaves(recipe).items():
        assert isinstance(value, str | int | float | bool | tuple), name


def test_a_dictionary_of_another_version_is_refused():
    values = as_dict(tiny.PRIOR) | {"rotary": True}
    with pytest.raises(UserError, match="PriorConfig has no rotary"):
        from_dict(PriorConfig, values)


# --- no dead keys (C13) ------------------------------------------------------------


build = trainer.build


def built(recipe: Any, *, rngs: nnx.Rngs) -> nnx.Module:
    return build(recipe)


class Setup(NamedTuple):
    """What an observation may use: a recipe, and a patcher that is undone."""

    recipe: Any
    patch: pytest.MonkeyPatch

    def ready(self) -> tiny.Ready:
        """The recipe made ready on a few random pictures, its model filled by NumPy."""
        self.patch.setattr(trainer, "build", lambda recipe: tiny.build(built, recipe))
        if self.recipe.stage == "classifier":
            # Larger pictures, because these networks halve them three times.
            rows = {"image": tiny.images(24, 16), "label": np.arange(24) % 3}
            labels = ("a", "b", "c")
            source = data.ArraySource(rows, class_names=labels)
            return tiny.ready(self.recipe, source)
        if self.recipe.stage == "prior":
            return tiny.ready(self.recipe, network=tiny.tokenizer())
        return tiny.ready(self.recipe, network=trainer.frozen_network(self.recipe))


def shapes(setup: Setup) -> Any:
    """Names and shapes of the parameters, the discriminator's among them."""
    if setup.recipe.stage == "tokenizer" and setup.recipe.loss.adversarial:
        model = nnx.eval_shape(lambda: Players(setup.recipe))
    else:
        model = build_abstract(setup.recipe)
    state = nnx.state(model, nnx.Param)
    return [(path, leaf.shape) for path, leaf in nnx.to_flat_state(state)]


def moment(parts: trainer.Setup) -> Context:
    """What the step tells the loss."""
    return Context(step=2, due=True, frozen=parts.frozen)


def traced(setup: Setup, pick: Callable) -> Any:
    """A program of the first batch and all that it holds, but for what is not used.

    `pick` chooses from the loss and the model's state after it; nothing is compiled.
    """
    _, parts, batches, _ = setup.ready()
    graph, state = nnx.split(parts.model)
    batch = jax.tree.map(jnp.asarray, next(batches))

    def whole(state):
        model = nnx.merge(graph, state)
        value, _ = parts.loss(model, batch, moment(parts), key=jax.random.key(3))
        return value, nnx.state(model)

    closed = jax.make_jaxpr(pick(whole))(state)
    used, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.out_avals))
    held = [hash(np.asarray(array).tobytes()) for array in closed.consts]
    return re.sub("0x[0-9a-f]+", "", str(used)), held


def loss(setup: Setup) -> Any:
    """What the loss computes."""
    return traced(setup, lambda whole: lambda state: whole(state)[0])


def written(setup: Setup) -> Any:
    """What the forward pass writes into the model, such as EMA statistics."""
    return traced(setup, lambda whole: lambda state: whole(state)[1])


def program(setup: Setup) -> Any:
    """What the gradient computes, for what changes the backward pass alone."""
    return traced(setup, lambda whole: jax.grad(lambda state: whole(state)[0]))


def batch(setup: Setup) -> Any:
    """The first batch."""
    found = next(setup.ready().batches)
    return {name: np.asarray(found[name]).tolist() for name in ("label",)} | {
        "names": sorted(found)
    }


def evaluation(setup: Setup) -> Any:
    """The rows that an evaluation reads."""
    return {name: rows.shape for name, rows in setup.ready().test.items()}


def rates(setup: Setup) -> Any:
    """The schedule that the step is made with."""
    recipe = setup.recipe
    schedule = learning_rate(recipe.optim, steps=recipe.run.steps)
    return [float(schedule(step)) for step in range(0, recipe.run.steps + 1)]


def updates(setup: Setup) -> Any:
    """Three updates by large gradients of a kernel and a bias."""
    recipe = setup.recipe
    update = optimizer(recipe.optim, steps=recipe.run.steps)
    # No product of a row and a column, so that factoring it tells.
    params = {"kernel": jnp.array([[1.0, 2.0], [3.0, 5.0]]), "bias": jnp.ones(2)}
    state, found = update.init(params), []
    for size in (3.0, -2.0, 5.0):
        grads = jax.tree.map(lambda p, size=size: size * p, params)
        change, state = update.update(grads, state, params)
        found.append([np.asarray(x).tolist() for x in jax.tree.leaves(change)])
    return found


def events(setup: Setup) -> Any:
    """Rows, evaluations and checkpoints of a loop whose steps do nothing."""
    found: list[Any] = []

    class Recorder(Workdir):
        def __init__(self):
            pass

        def restore(self, like):
            return None

        def log(self, row):
            found.append(("row", row["step"], "eval_x" in row))

        def save(self, state, position):
            found.append(("save", int(state.step)))

        def settle(self):
            pass

        wait = settle

    def step(state, batch, *, at):
        numbers = {name: np.float32(1) for name in ("loss", "grad_norm", "lr")}
        return state._replace(step=state.step + 1), numbers

    class NoData:
        def __next__(self):
            return {}

        def get_state(self):
            return {}

        def set_state(self, state):
            raise AssertionError

    run, state = setup.recipe.run, TrainState(jnp.int32(0), {}, {})
    fit(state, step, NoData(), run, workdir=Recorder(), evaluate=lambda p: {"x": 1.0},
        quiet=True)  # fmt: skip
    return found


class Seen(Exception):
    """Ends a call whose arguments are all that matters."""


def recorder(found: list) -> Callable:
    def record(*arguments, **options):
        found.append((arguments, sorted(options.items())))
        raise Seen

    return record


def made(setup: Setup) -> Any:
    """How the step is made; tests/training/test_accumulate.py has the effects."""
    found: list[Any] = []
    setup.patch.setattr(tiny, "make_step", recorder(found))
    with pytest.raises(Seen):
        setup.ready().step()
    [(_, options)] = found
    return [value for name, value in options if name == "accumulate"]


def kept(setup: Setup) -> Any:
    """How the workdir is made; tests/training/test_checkpoint.py has the effects."""
    found: list[Any] = []
    setup.patch.setattr(training, "Workdir", recorder(found))
    setup.patch.setattr(trainer, "frozen_network", lambda recipe: tiny.tokenizer())
    setup.patch.setattr(data, "open_source", lambda *a, **options: tiny.source())
    with pytest.raises(Seen):
        trainer.train(setup.recipe, data="shapes", workdir="never")
    [((_, identity), options)] = found
    assert not any("keep" in name for name in identity)  # a run may change it
    return options


def optims(setup: Setup) -> Any:
    """What the step is made with, for each network; tests/tokenizer/test_objective.py
    shows that each moves its own."""
    return setup.ready().parts.optim


def opened(setup: Setup) -> Any:
    """What training asks of the data."""
    found: list[Any] = []
    setup.patch.setattr(data, "open_source", recorder(found))
    with pytest.raises(Seen):
        trainer.train(setup.recipe, data="shapes", workdir="never")
    return found


def loaded(setup: Setup) -> Any:
    """Which weights training loads."""
    found: list[Any] = []
    setup.patch.setattr(weights, "load", recorder(found))
    setup.patch.setattr(weights, "load_pair", recorder(found))
    call = {"prior": trainer.train, "probe": trainer.train_probe}
    if setup.recipe.stage == "tokenizer":
        with pytest.raises(Seen):
            setup.ready()
        return found
    with pytest.raises(Seen):
        call[setup.recipe.stage](setup.recipe, "shapes", workdir="never")
    return found


def painted(setup: Setup) -> Any:
    """The palette that training fits."""

    def opened(spec, *, image_size, channels, **options):
        image = tiny.images(24, image_size)[..., :channels]
        return data.ArraySource({"image": image, "label": np.zeros(24, np.int32)})

    setup.patch.setattr(data, "open_source", opened)
    with tempfile.TemporaryDirectory() as folder:
        model, _ = igpt.train_palette(setup.recipe, "shapes", workdir=folder)
    return np.asarray(model.quantizer.codebook[...]).tolist()


def probed(setup: Setup) -> Any:
    """What the probe is called with; tests/test_probe.py has the effects."""
    found: list[Any] = []

    def record(prior, tokenizer, train, test, **options):
        found.append((len(train["label"]), len(test["label"]), sorted(options.items())))
        raise Seen

    setup.patch.setattr(trainer, "linear_probe", record)
    with pytest.raises(Seen):
        trainer.probe(
            setup.recipe, tiny.prior(), tiny.tokenizer(),
            train=tiny.source(), test=tiny.source(),
        )  # fmt: skip
    return found


def refused(setup: Setup) -> Any:
    """Nothing to observe: any other value is an error."""
    raise AssertionError("unreachable: the other value is refused")


class Change(NamedTuple):
    """Another legal value, what shows its effect, and what must hold beside it."""

    value: Any
    observe: Callable[[Setup], Any]
    given: tuple[str, ...] = ()


STACK = {
    "blocks": Change(3, shapes),
    "width": Change(32, shapes),
    "heads": Change(4, loss),
    "hidden": Change(48, shapes),
    "activation": Change("relu", loss),
    "dropout": Change(0.5, loss),
    "norm_eps": Change(0.1, loss),
    "unroll": Change(2, program),
    "remat": Change("dots", program),
    "precision": Change("bfloat16", loss),
}
# The paper gives its tokenizers no dropout.
DRY = STACK | {"dropout": Change(0.5, refused), "blocks": Change(2, shapes)}
CNN = {
    "channels": Change(8, shapes),
    "multipliers": Change((1, 2, 2), shapes),
    "res_blocks": Change(2, shapes),
    "attention": Change((0, 1), shapes),
    "features": Change(12, shapes),
    "groups": Change(4, loss),
    "norm_eps": Change(0.1, loss),
}
OPTIM = {
    "peak_lr": Change(1.0, rates),
    "warmup_steps": Change(5, rates),
    "schedule": Change("exponential", rates),
    "final_lr": Change(1e-5, rates),
    "decay_start": Change(6, rates),
    "decay_end": Change(9, rates),
    "b1": Change(0.5, updates),
    "b2": Change(0.5, updates),
    "eps": Change(1.0, updates),
    "weight_decay": Change(0.5, updates),
    "clip_norm": Change(0.01, updates, ("eps=1.0",)),
    "first_moment": Change("int8", updates),
    "second_moment": Change("factored", updates),
}
RUN = {
    "steps": Change(10, events),
    "batch_size": Change(4, batch),
    "seed": Change(5, batch),
    "log_every": Change(3, events),
    "eval_every": Change(2, events),
    "checkpoint_every": Change(3, events),
    "eval_size": Change(3, evaluation),
    "keep": Change(3, kept),
    "accumulate": Change(2, made),
}


ON = ("loss.adversarial=0.1",)
PERCEPTUAL = ("perceptual_net=shapes/classifier",)
CRITIC = {
    "kind": Change("patchgan", shapes, (*ON, "image_size=32")),
    "width": Change(8, shapes, ON),
    "max_width": Change(8, shapes, (*ON, "discriminator.width=8")),
    "stddev_group": Change(0, shapes, ON),
    "loss": Change("hinge", loss, ON),
    "r1_gamma": Change(0.0, loss, ON),
    "r1_interval": Change(3, loss, ON),
    "start": Change(4, loss, ON),
    "lr_ratio": Change(0.5, optims, ON),
    "beta1": Change(0.0, optims, ON),
    "beta2": Change(0.5, optims, ON),
}


def under(prefix: str, changes: dict[str, Change]) -> dict[str, Change]:
    return {f"{prefix}.{name}": change for name, change in changes.items()}


def with_cnn(recipe: Any) -> Any:
    model = dataclasses.replace(recipe.model, encoder=tiny.CNN, decoder=tiny.CNN)
    return dataclasses.replace(recipe, model=model)


# By stage; after a comma another network of that stage, whose table holds its own
# fields and leaves the rest to the first.
TABLES: dict[str, tuple[Any, dict[str, Change]]] = {
    "tokenizer": (
        tiny.TOKENIZER_RECIPE,
        {
            "model.image_size": Change(16, opened),
            "model.patch_size": Change(2, shapes),
            "model.channels": Change(1, opened),
            "model.tanh": Change("blocks", shapes),
            "model.positions": Change("sincos", shapes),
            "model.output": Change("linear", loss),
            "model.pixel_map": Change("affine", loss, ("output=laplace",)),
            "model.quantizer.num_codes": Change(32, shapes),
            "model.quantizer.code_dim": Change(8, shapes),
            "model.quantizer.l2_normalise": Change(False, loss),
            "model.quantizer.straight_through": Change("raw", program),
            "model.quantizer.reduction": Change("sum", loss),
            "model.quantizer.beta": Change(1.0, loss),
            "model.quantizer.factorised": Change(False, shapes, ("code_dim=16",)),
            "model.quantizer.codebook": Change("ema", loss),
            "model.quantizer.ema_decay": Change(0.5, written, ("codebook=ema",)),
            "model.quantizer.revive_after": Change(1, written),
            "loss.vq": Change(0.5, loss),
            "loss.l2": Change(0.5, loss),
            "loss.l1": Change(0.5, loss),
            "loss.logit_laplace": Change(0.5, loss, ("output=laplace",)),
            "loss.perceptual": Change(0.5, loss, PERCEPTUAL),
            "loss.adversarial": Change(0.5, shapes),
            "perceptual_net": Change(
                "elsewhere", loaded, (*PERCEPTUAL, "perceptual=0.1")
            ),
            "loss_precision": Change("bfloat16", loss, ON),
            **under("discriminator", CRITIC),
            "flip": Change(True, loss),
            "crop": Change(0.5, loss),
            **under("model.encoder", DRY),
            **under("model.decoder", DRY),
            **under("optim", OPTIM),
            **under("run", RUN),
        },
    ),
    "tokenizer, cnn": (
        with_cnn(tiny.TOKENIZER_RECIPE),
        {**under("model.encoder", CNN), **under("model.decoder", CNN)},
    ),
    "palette": (
        PaletteRecipe(name="tiny", model=tiny.PALETTE, images=12),
        {
            "model.image_size": Change(16, painted),
            "model.patch_size": Change(2, painted),
            "model.num_codes": Change(32, painted),
            "model.channels": Change(1, painted),
            "images": Change(8, painted),
            "steps": Change(1, painted),
            "seed": Change(1, painted),
        },
    ),
    "prior": (
        tiny.PRIOR_RECIPE,
        {
            "model.num_codes": Change(32, shapes),
            "model.grid": Change(4, shapes),
            "model.num_classes": Change(5, shapes),
            "tokenizer": Change("elsewhere", loaded),
            "label_dropout": Change(0.9, loss),
            "codes": Change("fly", batch),
            "flip": Change(True, loss, ("codes=fly",)),
            "crop": Change(0.5, loss, ("codes=fly",)),
            "views": Change(4, loss, ("flip=true", "views=2")),
            **under("model.stack", STACK),
            **under("optim", OPTIM),
            **under("run", RUN),
        },
    ),
    "probe": (
        ProbeRecipe(
            name="tiny", prior="one", tokenizer="two", train_size=12, test_size=6
        ),
        {
            "prior": Change("another", loaded),
            "tokenizer": Change("another", loaded),
            "train_size": Change(8, probed),
            "test_size": Change(8, probed),
            "held_out": Change(0.5, probed),
            "seed": Change(1, probed),
        },
    ),
    "classifier": (
        ClassifierRecipe(
            name="tiny",
            model=ClassifierConfig(kind="cnn", num_classes=tiny.CLASSES, width=4),
            optim=tiny.OPTIM,
            run=tiny.RUN,
            image_size=16,
        ),
        {
            "model.kind": Change("residual", shapes),
            "model.num_classes": Change(5, shapes),
            "model.width": Change(8, shapes),
            "model.channels": Change(1, opened),
            "image_size": Change(32, opened),
            **under("optim", OPTIM),
            **under("run", RUN),
        },
    ),
}
COSMETIC = {"name": "a title; two runs that differ in it alone are the same run"}


@pytest.mark.parametrize("kind", TABLES)
def test_every_field_has_an_entry(kind):
    recipe, table = TABLES[kind]
    stage = TABLES[kind.partition(",")[0]][1]
    networks = {field.rpartition(".")[0] for field in table} if "," in kind else set()
    shared = {f for f in stage if f.rpartition(".")[0] not in networks}
    assert set(table) | shared | set(COSMETIC) == set(leaves(recipe))


def test_every_recipe_has_a_table():
    known = [set(leaves(recipe)) for recipe, _ in TABLES.values()]
    for make in recipes.RECIPES.values():
        assert set(leaves(make())) in known


@pytest.mark.parametrize(
    ("kind", "field"),
    [(kind, field) for kind, (_, table) in TABLES.items() for field in table],
)
def test_every_field_changes_something(kind, field, monkeypatch):
    recipe, table = TABLES[kind]
    change = table[field]
    recipe = with_overrides(recipe, list(change.given))
    assert leaves(recipe)[field] != change.value
    setting = [f"{field}={change.value}"]
    if change.observe is refused:
        with pytest.raises(UserError):
            with_overrides(recipe, setting)
        return
    changed = with_overrides(recipe, setting)
    assert leaves(changed)[field] == change.value
    assert {k: v for k, v in leaves(changed).items() if k != field} == {
        k: v for k, v in leaves(recipe).items() if k != field
    }
    before, after = (
        observed(change.observe, r, monkeypatch) for r in (recipe, changed)
    )
    assert before != after, f"{field} changes nothing"


SEEN: dict[tuple[Callable, Any], Any] = {}


def observed(observe: Callable, recipe: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What an observation gives, once for each recipe: most fields share the first."""
    if (observe, recipe) not in SEEN:
        with monkeypatch.context() as patch:
            SEEN[observe, recipe] = observe(Setup(recipe, patch))
    return SEEN[observe, recipe]


def test_the_driver_notices_a_dead_field(monkeypatch):
    later = with_overrides(tiny.TOKENIZER_RECIPE, ["eval_every=2", "peak_lr=1"])
    pair = (tiny.TOKENIZER_RECIPE, later)
    one, other = (observed(loss, recipe, monkeypatch) for recipe in pair)
    assert one == other
    one, other = (observed(rates, recipe, monkeypatch) for recipe in pair)
    assert one != other


def test_every_config_class_is_reached():
    reached = set()

    def visit(config):
        reached.add(type(config))
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if dataclasses.is_dataclass(value):
                visit(value)

    for recipe, _ in TABLES.values():
        visit(recipe)
    from minivim import config

    classes = {
        value
        for value in vars(config).values()
        if isinstance(value, type)
        and dataclasses.is_dataclass(value)
        and value.__module__.startswith(f"{config.__name__}.")
    }
    assert reached == classes
    assert {TokenizerConfig, PriorConfig} <= reached
    assert typing.get_args(config.Recipe)
