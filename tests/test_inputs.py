"""Odd values given to the public functions: the right answer, or one line."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minivim import classifier, complete, load, load_pair, metrics, reject, sample
from minivim.config import ClassifierConfig
from minivim.errors import UserError
from minivim.prior.sampling import filter_logits
from tests import tiny

KEY, NAN = jax.random.key(0), float("nan")
IMAGES = np.asarray(jax.random.uniform(KEY, (2, 8, 8, 3)))
CODES, RAGGED = np.arange(8).reshape(2, 4), [[1], [2, 3]]
TOK, PRIOR = tiny.tokenizer(), tiny.prior()
CNN = ClassifierConfig(kind="cnn", num_classes=3, width=4)


def draw(**how):
    return sample(PRIOR, **{"key": KEY, "labels": [0, 1], **how})


def finish(images=IMAGES, **how):
    return complete(PRIOR, TOK, images, **{"key": KEY, **how}).codes


def choose(**how):
    network = classifier.build(CNN, rngs=nnx.Rngs(0))
    how = {"key": KEY, "labels": [0, 1], "quiet": True, **how}
    return reject(PRIOR, TOK, network, **how).codes


def score(codes=CODES, labels=None, **how):
    return PRIOR(codes, labels, **how)[0]


def usage(codes, **how):
    return metrics.codebook_usage(codes, **{"num_codes": 24, **how}).usage


def under_jit(f, *values):
    return jax.jit(f)(*values)


# What is called, and a call that must give the same.
SAME = {
    "labels under jit": (
        lambda: under_jit(lambda x: draw(labels=x), jnp.array([0, 1])), draw
    ),
    "labels under vmap": (
        lambda: jax.vmap(lambda x: draw(labels=x))(jnp.array([[0, 1]]))[0], draw
    ),
    "key under jit": (lambda: under_jit(lambda x: draw(key=x), KEY), draw),
    "prefix under jit": (
        lambda: under_jit(lambda x: draw(prefix=x), jnp.array([[3], [4]])),
        lambda: draw(prefix=[[3], [4]]),
    ),
    "temperature under jit": (
        lambda: under_jit(lambda x: draw(temperature=x), 0.5),
        lambda: draw(temperature=0.5),
    ),
    "top_p, guidance under jit": (
        lambda: under_jit(lambda p, s: draw(top_p=p, guidance=s), 0.5, 2.0),
        lambda: draw(top_p=0.5, guidance=2.0),
    ),
    "an older key": (lambda: draw(key=jax.random.PRNGKey(0)), draw),
    "numbers of NumPy": (
        lambda: draw(temperature=np.float64(0.5), top_k=np.int64(5)),
        lambda: draw(temperature=0.5, top_k=5),
    ),
    "a count of NumPy": (
        lambda: draw(labels=None, num_samples=np.int64(2)),
        lambda: draw(labels=None, num_samples=2),
    ),
    "a range of labels": (lambda: draw(labels=range(2)), draw),
    "labels of a byte": (lambda: draw(labels=np.arange(2, dtype=np.uint8)), draw),
    "an empty prefix": (lambda: draw(prefix=[[], []]), draw),
    **{
        f"temperature {t}": (
            lambda t=t: draw(temperature=t), lambda: draw(top_k=1)
        )
        for t in (1e-30, 1e-39, 1e-45, 1e-300, np.float64(1e-300))
    },
    "completion with numbers of NumPy": (
        lambda: finish(rows=np.int64(1), count=np.int64(1)), finish
    ),
    "rejection with numbers of NumPy": (
        lambda: choose(acceptance=np.float32(0.5), batch_size=np.int64(256)), choose
    ),
    "images under vmap": (
        lambda: jax.vmap(TOK.encode)(IMAGES[None])[0], lambda: TOK.encode(IMAGES)
    ),
    "images of bytes, in the call": (
        lambda: TOK(np.full((1, 8, 8, 3), 255, np.uint8))[0],
        lambda: TOK(np.ones((1, 8, 8, 3), np.float32))[0],
    ),
    "codes of 64 bits": (
        lambda: TOK.decode(CODES.astype(np.uint64)), lambda: TOK.decode(CODES)
    ),
    "codes under vmap": (
        lambda: jax.vmap(TOK.decode)(CODES[None])[0], lambda: TOK.decode(CODES)
    ),
    "lists, in the call": (
        lambda: score(CODES.tolist(), [0, 1]), lambda: score(CODES, np.arange(2))
    ),
    "lists of codes": (
        lambda: PRIOR.features(CODES.tolist()), lambda: PRIOR.features(CODES)
    ),
}  # fmt: skip
KEYS = ["a key is no", "give one, such as jax.random.key(0)"]
NOT_JIT = ["cannot be part of a compiled program; call it outside, or use sample"]
NOT_CODES = ["do not fit; give whole numbers from 0 to 23, [B, 4] in raster order"]
PREFIX = ["a prefix of shape", "does not fit; give [B, P] codes with P at most 4"]
TOLD = {
    "an integer key": (lambda: draw(key=0), [*KEYS, "int"]),
    "a key of NumPy": (lambda: draw(key=np.int64(3)), KEYS),
    "no key": (lambda: draw(key=None), [*KEYS, "NoneType"]),
    "several keys": (lambda: draw(key=jax.random.split(KEY)), [*KEYS, "(2,)"]),
    "a generator": (lambda: draw(key=np.random.default_rng(0)), KEYS),
    "an integer key, completion": (lambda: finish(key=0), KEYS),
    "an integer key, rejection": (lambda: choose(key=0), KEYS),
    "an integer key, tokenizer": (lambda: TOK(IMAGES, key=0), KEYS),
    "an integer key, prior": (lambda: score(key=0), KEYS),
    **{
        f"temperature {t}": (
            lambda t=t: draw(temperature=t),
            ["must be above zero; use top_k=1 for greedy draws"],
        )
        for t in (0, 0.0, -1, NAN, "1", None, True, np.array([0.5, 0.5]))
    },
    **{
        f"top_k {k}": (lambda k=k: draw(top_k=k), ["is out of range; use 1 to 24"])
        for k in (0, 25, 3.0, True, "3")
    },
    "top_k under jit": (
        lambda: under_jit(lambda k: draw(top_k=k), 3), ["is out of range; use 1 to 24"]
    ),
    "top_p as text": (lambda: draw(top_p="0.5"), ["is no probability"]),
    "guidance as text": (lambda: draw(guidance="2"), ["must be a number from 0"]),
    **{
        f"num_samples {n}": (
            lambda n=n: draw(labels=None, num_samples=n), ["is no whole number"]
        )
        for n in (2.0, True, "2")
    },
    "num_samples under jit": (
        lambda: under_jit(lambda n: draw(num_samples=n), 2), ["is no whole number"]
    ),
    "none": (lambda: draw(labels=None, num_samples=0), ["how many samples?"]),
    "no labels": (lambda: draw(labels=np.zeros(0, int)), ["how many samples?"]),
    "a label": (lambda: draw(labels=1), ["give one whole number for each image"]),
    "labels in rows": (lambda: draw(labels=RAGGED), ["labels make no array"]),
    "labels between": (lambda: draw(labels=[0.5]), ["labels of type float64"]),
    "labels beyond": (lambda: draw(labels=[3]), ["label 3 is out of range; use 0 to"]),
    "labels of 64 bits": (lambda: draw(labels=[2**40]), ["is out of range"]),
    "a prefix between": (lambda: draw(prefix=[[0.5], [1.7]]), [*PREFIX, "float64"]),
    "a prefix of whole floats": (lambda: draw(prefix=[[1.0], [2.0]]), PREFIX),
    "a prefix of booleans": (lambda: draw(prefix=[[True], [False]]), PREFIX),
    "a prefix of text": (lambda: draw(prefix=[["a"], ["b"]]), PREFIX),
    "a prefix in one row": (lambda: draw(prefix=[1, 2]), PREFIX),
    "a prefix in rows": (lambda: draw(prefix=RAGGED), ["prefixes make no array"]),
    "a prefix that is a number": (lambda: draw(prefix=3), PREFIX),
    **{
        f"rows {rows}": (lambda r=rows: finish(rows=r), ["keep 1 to 1"])
        for rows in (0, 1.0, "1", True)
    },
    "a count between": (lambda: finish(count=2.0), ["must be above zero; use 1 or"]),
    "no images": (lambda: finish(IMAGES[:0]), ["are no images; give one or more"]),
    "completion under jit": (lambda: under_jit(finish, IMAGES), NOT_JIT),
    "rejection under jit": (
        lambda: under_jit(lambda x: choose(labels=x), jnp.arange(2)), NOT_JIT
    ),
    **{
        f"batch_size {n}": (lambda n=n: choose(batch_size=n), ["give 1 or more"])
        for n in (0, -1, 2.0)
    },
    "rejection of none": (
        lambda: choose(labels=np.zeros(0, int)), ["no labels of pictures to draw"]
    ),
    "acceptance as text": (lambda: choose(acceptance="1"), ["the share that is kept"]),
    "a tiny acceptance": (lambda: choose(acceptance=1e-300), ["too many candidates"]),
    "encode nothing": (lambda: TOK.encode(IMAGES[:0]), ["are no images"]),
    "codes of floats": (lambda: TOK.decode(CODES * 1.0), [*NOT_CODES, "float64"]),
    "codes of booleans": (lambda: TOK.decode(CODES > 0), NOT_CODES),
    "decode nothing": (lambda: TOK.decode(CODES[:0]), NOT_CODES),
    "codes in rows": (lambda: TOK.decode(RAGGED), ["codes make no array"]),
    "codes beyond 32 bits": (
        lambda: TOK.decode(CODES + 2**40), ["this tokenizer has 0 to 23"]
    ),
    "integers, in the call": (
        lambda: TOK(np.zeros((1, 8, 8, 3), int)), ["images of type int64"]
    ),
    "another size, in the call": (
        lambda: TOK(IMAGES[:, :4]), ["do not fit this model"]
    ),
    "one image, in the call": (lambda: TOK(IMAGES[0]), ["have no batch axis"]),
    "codes of floats, in the call": (lambda: score(CODES * 1.0), NOT_CODES),
    "codes beyond, in the call": (lambda: score(CODES + 20), ["this prior has 0 to"]),
    "more codes, in the call": (lambda: score(CODES[:1].repeat(2, 1)), NOT_CODES),
    "no codes, in the call": (lambda: score(CODES[:0]), NOT_CODES),
    "labels beyond, in the call": (
        lambda: score(labels=np.array([0, 4])), ["label 4 is out of range; use 0 to 3"]
    ),
    "labels between, in the call": (
        lambda: score(labels=np.array([0.5, 1])), ["labels of type float64"]
    ),
    "more labels, in the call": (
        lambda: score(labels=np.arange(3)), ["3 labels for 2 rows of codes"]
    ),
    "features of floats": (lambda: PRIOR.features(CODES * 1.0), NOT_CODES),
    "features of codes beyond": (
        lambda: PRIOR.features(CODES + 20), ["this prior has 0 to 23"]
    ),
    "psnr of none": (lambda: metrics.psnr(IMAGES[:0], IMAGES[:0]), ["are no images"]),
    "psnr of codes": (lambda: metrics.psnr(CODES, CODES), ["have no known range"]),
    "usage of floats": (lambda: usage(CODES + 0.5), ["give whole numbers"]),
    "usage of booleans": (lambda: usage(CODES > 0), ["give whole numbers"]),
    "usage in rows": (lambda: usage(RAGGED), ["codes make no array"]),
    "usage of none": (lambda: usage(CODES[:0]), ["needs at least one token"]),
    "usage of no code": (lambda: usage(CODES, num_codes=0), ["num_codes is 0"]),
    "usage under jit": (lambda: under_jit(usage, CODES), ["call it outside of jit"]),
    "usage in batches of none": (
        lambda: metrics.usage_by_image_batch(CODES, num_codes=24, images=0),
        ["images=0 must be above zero"],
    ),
    "usage in batches of one row": (
        lambda: metrics.usage_by_image_batch(CODES[0], num_codes=24, images=2),
        ["give codes [N, T]"],
    ),
    "a normal distribution of NaN": (
        lambda: metrics.gaussian(np.full((3, 3), NAN)), ["NaN or infinity"]
    ),
    "a normal distribution of a row": (
        lambda: metrics.gaussian(np.zeros(3)), ["[N, D]"]
    ),
    "distributions of other sizes": (
        lambda: metrics.frechet_distance(
            np.zeros(2), np.eye(2), np.zeros(3), np.eye(3)
        ),
        ["of one size"],
    ),
    "weights by number": (lambda: load(3), ["3 is no name of weights"]),
    "weights without a name": (lambda: load(None), ["None is no name of weights"]),
    "weights in a list": (lambda: load_pair(["a"]), ["is no name of weights"]),
    "weights with a NUL": (lambda: load("a\0b"), ["there are no weights at"]),
}  # fmt: skip


def outcome(call):
    """What a call gives, as text, and whether it is an array, or what it told."""
    try:
        found = call()
    except UserError as error:
        return ["told", str(error)]
    except Exception as error:
        return ["raised", f"{type(error).__name__}: {error}"]
    return ["gave", np.asarray(found).tolist()]


@pytest.fixture(scope="module")
def outcomes():
    """Of all calls, in a process whose signatures nobody checks."""
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", SAME)
def test_odd_but_right(outcomes, name):
    found, wanted = outcomes["same"][name]
    assert found[0] == wanted[0] == "gave", (found, wanted)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TOLD)
def test_wrong_and_told(outcomes, name):
    kind, text = outcomes["told"][name]
    assert kind == "told", (kind, text)
    assert "\n" not in text and len(text) < 400
    for words in TOLD[name][1]:
        assert words in text


@pytest.mark.parametrize("temperature", [1e-4, 1e-30, 1e-45, 1e-300, 0.5, 1.0, np.inf])
def test_temperatures_of_any_size(temperature):
    """Finite like the logits; the largest stays so, and from 1e-30 on no bit moves."""
    logits = jnp.array([[-30.0, 1.0, 0.0, 40.0, 40.0]])
    found = filter_logits(logits, temperature=temperature)
    assert np.isfinite(found).all()
    best = np.flatnonzero(np.asarray(found[0]) == np.asarray(found[0]).max())
    assert set(best) >= {3, 4}
    if temperature >= 1e-30:
        np.testing.assert_array_equal(found, logits / temperature)


def main() -> None:
    """Print what all calls give."""
    same = {name: [outcome(f) for f in calls] for name, calls in SAME.items()}
    told = {name: outcome(call) for name, (call, _) in TOLD.items()}
    print(json.dumps({"same": same, "told": told}))


if __name__ == "__main__":
    main()
