"""Models as programs that need JAX alone, neither this package nor its files.

`jax.export` traces a function once, for any number of rows and several kinds of device.
The weights are constants in the program: one file is all there is. JAX promises that
its releases of the next six months will read it.
"""

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct as Spec
from jax import export as programs

from minivim import fast, weights
from minivim.config.checks import require
from minivim.errors import explained
from minivim.files import whole_folder, write_json
from minivim.prior import Prior, knows_null, sample
from minivim.prior.model import class_names
from minivim.prior.sampling import generate
from minivim.tokenizer import Tokenizer
from minivim.weights.hub import public

CARD, PLATFORMS = "program.json", ("cpu", "cuda", "rocm", "tpu")
MOST_BYTES = 2_000_000_000  # of weights: the format ends at 2 GiB


def export(
    model: Any, folder: str | Path, *, platforms: Sequence[str] = (), **options: Any
) -> Path:
    """Write the functions of a tokenizer or a prior, and a card of what they take.

    Of a tokenizer `encode`, `decode` and `reconstruct`, with pixels in [0, 1]. Of a
    prior `logits(codes, labels)` and `sample(seed, labels)`, which draws what
    `minivim.sample(key=jax.random.key(seed))` does; `options` are its temperature,
    top_k, top_p and guidance, for good. `platforms` are some of `PLATFORMS`, by default
    this machine's. Raises `UserError` for what cannot be exported or written.
    """
    platforms = tuple(platforms) or (programs.default_export_platform(),)
    told = f"platforms {','.join(platforms)}: choose some of {', '.join(PLATFORMS)}"
    require(len({*platforms} & {*PLATFORMS}) == len(platforms), f"{told}, each once")
    told = "jax.export writes programs with flatbuffers, which is not installed"
    require(find_spec("flatbuffers") is not None, f"{told}; pip install flatbuffers")
    size = sum(x.nbytes for x in weights.flat_weights(model).values())
    told = f"{size / 1e9:.1f} GB of weights are too many for a program, which holds 2"
    require(size <= MOST_BYTES, f"{told}; use the weights with minivim")
    functions, shapes = _functions(model, options), {}
    remedy = "parts of your own may not depend on the number of rows, len(x) included"
    with whole_folder(Path(folder)) as place:
        place.mkdir(parents=True)
        for name, (function, *specs) in functions.items():
            program = programs.export(jax.jit(function), platforms=platforms)
            problem = f"{name} of this {type(model).__name__} cannot be exported"
            with fast.traced_for(platforms), explained(problem, remedy):
                found = program(*specs)
            (place / f"{name}.jax").write_bytes(found.serialize())
            both = {"takes": found.in_avals, "gives": found.out_avals}
            shapes[name] = {k: [x.str_short() for x in v] for k, v in both.items()}
        source = public(weights.identity(model))
        card = {"kind": weights.kind_of(model), "functions": shapes, "source": source}
        card |= {"platforms": platforms, "options": options}
        if isinstance(model, Prior):
            null = model.null_class if knows_null(model) else None
            card |= {"class_names": class_names(model), "label_for_none": null}
        card |= {"licence": model.card.get("licence"), "jax": jax.__version__}
        write_json(place / CARD, card)
    return Path(folder)


def _functions(model: Any, options: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """By name a function of arrays, and what it takes."""
    told = f"a {type(model).__name__} is no tokenizer and no prior; give one of these"
    require(isinstance(model, Tokenizer | Prior), told)
    [b], c = programs.symbolic_shape("b"), model.config
    codes, labels = Spec((b, c.num_tokens), jnp.int32), Spec((b,), jnp.int32)
    if isinstance(model, Tokenizer):
        told = f"a tokenizer draws nothing; leave out {', '.join(options)}"
        require(not options, told)
        images = Spec((b, c.image_size, c.image_size, c.channels), jnp.float32)
        both = {"encode": (model._encode, images), "decode": (model._decode, codes)}
        return both | {
            "reconstruct": (lambda x: model._decode(model._encode(x)), images)
        }
    # For what `sample` refuses; nothing is drawn.
    some = {"labels": [0]} if c.num_classes else {"num_samples": 1}
    trial = partial(sample, model, **some, **options)
    jax.eval_shape(lambda key: trial(key=key), jax.random.key(0))

    def draw(seed: jax.Array, labels: jax.Array) -> jax.Array:
        how: Any = {"temperature": 1.0, "key": jax.random.key(seed)} | options
        none = jnp.zeros((labels.shape[0], c.num_tokens), jnp.int32)
        return generate(model, labels=labels, codes=none, known=0, **how)[0]

    logits = (lambda codes, labels: model(codes, labels)[0], codes, labels)
    return {"sample": (draw, Spec((), jnp.int32), labels), "logits": logits}
