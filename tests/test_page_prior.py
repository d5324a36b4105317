"""The prior in the page draws JAX's codes: for a seed, and for any given noise."""

import json
import subprocess
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import minivim
from book import page_decoder
from minivim.config import PriorConfig
from minivim.prior import Prior, filter_logits, guide
from tests import tiny
from tests.test_page_decoder import SOURCE, STATIC, _in_16_bits, _node

PRIOR = (STATIC / "prior.js").read_text(encoding="utf-8")

# Settings come in on standard input, with noise or a seed; codes and logits go out.
HARNESS = """
(async () => {
  const prior = await minivim.Prior.load(data);
  const { num_codes } = prior.config;
  const asked = JSON.parse(require("fs").readFileSync(0, "utf8"));
  const found = asked.map(({ seed, noise, ...how }) => {
    const given = noise ?? minivim.gumbel(seed, prior.tokens, num_codes);
    const draw = new minivim.Draw(prior, { ...how, noise: given });
    const codes = [...draw.finish()];
    return { codes, logits: draw.seen.map(({ logits }) => [...logits]) };
  });
  process.stdout.write(JSON.stringify(found));
})();
"""


def _run(prior, asked, folder, source=PRIOR, **changes) -> Any:
    """What the page draws for each of `asked`, or its error message."""
    data = page_decoder.prior_data(prior)
    for name, value in changes.items():
        data["config"]["stack"][name] = value
    script = folder / "run.js"
    text = [SOURCE, source, f"const data = {json.dumps(data)};", HARNESS]
    script.write_text("\n".join(text), encoding="utf-8")
    done = subprocess.run(
        [_node(), str(script)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stderr if done.returncode else json.loads(done.stdout)


@cache
def _tiny():
    """Other sizes than the shipped ones, and an epsilon that cannot be overlooked."""
    stack = replace(tiny.STACK, blocks=2, heads=4, norm_eps=0.1)
    config = PriorConfig(num_codes=12, grid=3, num_classes=2, stack=stack)
    prior = Prior(config, rngs=nnx.Rngs(0))
    # Larger tables and biases, so that none of them is without effect.
    state = nnx.state(prior, nnx.Param)
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(state))))
    moved = jax.tree.map(
        lambda x: x + jax.random.normal(next(keys), x.shape) / 4, state
    )
    nnx.update(prior, moved)
    return _in_16_bits(prior)


def _difference(prior, asked, found, limit=1e-3):
    """How far the logits of one draw are from JAX's; its codes must follow from them.

    JAX sees all codes at once, so the page's cache is checked as well.
    """
    codes = jnp.array([found["codes"]])
    logits = prior(codes, jnp.array([asked["label"]]))[0][0]
    if asked["guidance"] != 1:
        null = prior(codes, jnp.array([prior.null_class]))[0][0]
        logits = guide(conditional=logits, null=null, scale=asked["guidance"])
    how = {"temperature": asked["temperature"], "top_k": asked["topK"]}
    wanted = np.asarray(filter_logits(logits, **how)) + np.asarray(asked["noise"])
    difference = np.abs(np.asarray(logits) - np.array(found["logits"])).max()
    if difference < limit:
        assert np.array_equal(wanted.argmax(-1), codes[0])
    return difference


def _noise(prior, seed):
    shape = prior.config.num_tokens, prior.config.num_codes
    return np.random.default_rng(seed).gumbel(size=shape).astype(np.float32)


SETTINGS = [(1.0, None, 1), (0.6, 20, 1), (1.0, None, 2.5), (1.4, 5, 0.5)]


def _asked(prior, label, setting, seed):
    temperature, top_k, guidance = setting
    how = {"label": label, "temperature": temperature, "guidance": guidance}
    top_k = top_k and min(top_k, prior.config.num_codes - 4)
    noise = _noise(prior, seed).tolist()
    return how | {"topK": top_k, "noise": noise}


def test_codes_of_given_noise_are_jax_codes(tmp_path, record_property):
    prior = minivim.load("shapes/prior")
    asked = [_asked(prior, i, setting, i) for i, setting in enumerate(SETTINGS, 2)]
    # `_difference` wants the noise as a matrix, the page one row after another.
    flat = [one | {"noise": sum(one["noise"], [])} for one in asked]
    found = _run(prior, flat, tmp_path)
    worst = max(map(_difference, [prior] * 4, asked, found))
    print(f"largest difference of logits: {worst:.1e}")
    record_property("largest_difference", float(worst))
    assert worst < 1e-3


@pytest.mark.parametrize(
    "how", [{}, {"temperature": 0.7, "top_k": 20, "guidance": 2.0}]
)
def test_a_seed_gives_the_codes_of_the_package(how, tmp_path):
    prior = minivim.load("shapes/prior")
    page = {"topK" if name == "top_k" else name: value for name, value in how.items()}
    seeds = [0, 8, 2**31 - 1]
    asked = [{"label": i, "seed": seed, **page} for i, seed in enumerate(seeds)]
    found = _run(prior, asked, tmp_path)
    for i, seed in enumerate(seeds):
        codes = minivim.sample(prior, key=jax.random.key(seed), labels=[i], **how)
        assert found[i]["codes"] == np.asarray(codes)[0].tolist()


def _tiny_difference(folder, source=PRIOR):
    asked = [_asked(_tiny(), i % 2, setting, i) for i, setting in enumerate(SETTINGS)]
    flat = [one | {"noise": sum(one["noise"], [])} for one in asked]
    found = _run(_tiny(), flat, folder, source=source)
    assert isinstance(found, list), found
    return max(map(_difference, [_tiny()] * 4, asked, found))


def test_other_sizes(tmp_path):
    assert _tiny_difference(tmp_path) < 1e-3


MUTATIONS = {
    "no class token": ("row(this.classes, label)", "row(this.codes, label)"),
    "no rows": ("addTo(x, this.row(this.rows, Math.floor(position / grid)));", ""),
    "no final norm": ("affine(layerNorm(x, this.norm, norm_eps), ", "affine(x, "),
    "one head": ("score / Math.sqrt(d)", "score / Math.sqrt(width)"),
    "values late": ("at * width);\n        addTo", "0);\n        addTo"),
    "guidance the wrong way": ("(wanted[k] - value)", "(value - wanted[k])"),
    "a cache for both": ("(x, cache, at);", "(x, this.streams[0].cache, at);"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mistake_is_noticed(name, tmp_path):
    old, new = MUTATIONS[name]
    assert PRIOR.count(old) == 1
    assert not _tiny_difference(tmp_path, source=PRIOR.replace(old, new)) < 1e-3


CHOICES = {
    "one code too few": ("value >= smallest", "value > smallest"),
    "a temperature upside down": ("value / divisor", "value * divisor"),
    "the same noise everywhere": (
        "value + this.noise[start + k]",
        "value + this.noise[k]",
    ),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_mistake_in_drawing_is_noticed(name, tmp_path):
    old, new = CHOICES[name]
    assert PRIOR.count(old) == 1
    with pytest.raises(AssertionError):
        _tiny_difference(tmp_path, source=PRIOR.replace(old, new))


def test_what_it_cannot_compute_is_refused(tmp_path):
    told = "prior.js computes stack.activation=gelu, not relu"
    assert told in _run(_tiny(), [], tmp_path, activation="relu")
    told = "prior.js does not know the setting stack.rope"
    assert told in _run(_tiny(), [], tmp_path, rope=True)
