"""Two small labelled networks of different architecture: `Classifier` and `Judge`.

The first may serve inside methods (a perceptual loss, rejection of samples), the
second only judges, so that nothing is graded by what it was tuned against. Both read
images in [0, 1] with sides that are multiples of 8, and are trained to stay right when
an image is a little soft, noisy or shifted, as reconstructions are.
"""

from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from minivim.batched import features_and_logits
from minivim.card import Carded
from minivim.config import ClassifierConfig
from minivim.config.checks import require
from minivim.context import NO_CONTEXT, Context
from minivim.errors import UserError

MAX_SHIFT = 2  # pixels, to each side
MAX_NOISE = 0.06  # standard deviation, drawn from [0, MAX_NOISE] for each image
NORM_EPS = 1e-5

Images = Float[Array, "B H W C"]
Features = tuple[Float[Array, "B classes"], dict[str, Any]]


class Classifier(Carded):
    """A plain CNN: four 3 x 3 convolutions, each with GroupNorm and ReLU, then a mean.

    Channels w, 2w, 2w, 4w at 1/2, 1/4, 1/4, 1/8 of the image's side: the first reads
    2 x 2 pixels as one position. `aux["features"]` are the four outputs, [B, h, w, C].
    """

    def __init__(self, config: ClassifierConfig, *, rngs: nnx.Rngs):
        self.config = config
        w = config.width
        widths = (4 * config.channels, w, 2 * w, 2 * w, 4 * w)
        self.convs = nnx.List(
            nnx.Conv(*pair, (3, 3), strides=stride, rngs=rngs)
            for pair, stride in zip(pairwise(widths), (1, 2, 1, 2), strict=True)
        )
        norms = (nnx.GroupNorm(c, 4, epsilon=NORM_EPS, rngs=rngs) for c in widths[1:])
        self.norms = nnx.List(norms)
        self.head = nnx.Linear(4 * w, config.num_classes, rngs=rngs)

    def __call__(self, images: Images) -> Features:
        x, features = patches(2 * images - 1, 2), []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.relu(norm(conv(x)))
            features.append(x)
        return self.head(x.mean(axis=(1, 2))), {"features": features}

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """`UserError` unless images of shape [H, W, C] can be read."""
        channels = self.config.channels
        fits = shape[2] == channels and not (shape[0] % 8 or shape[1] % 8)
        remedy = f"use {channels} channels and sides that are multiples of 8"
        require(fits, f"images of shape {shape} do not fit this classifier; {remedy}")


class Judge(Carded):
    """A residual network on 4 x 4 patches: `x + Conv3x3(SiLU(LN(x)))`, three times.

    The width is 2w throughout; `aux["features"]` are the outputs of the three blocks.
    """

    def __init__(self, config: ClassifierConfig, *, rngs: nnx.Rngs):
        self.config = config
        w = 2 * config.width
        self.stem = nnx.Linear(16 * config.channels, 2 * w, rngs=rngs)
        self.merge = nnx.Linear(2 * w, w, rngs=rngs)
        norms = (nnx.LayerNorm(w, epsilon=NORM_EPS, rngs=rngs) for _ in range(4))
        self.norms = nnx.List(norms)
        self.convs = nnx.List(nnx.Conv(w, w, (3, 3), rngs=rngs) for _ in range(3))
        self.head = nnx.Linear(w, config.num_classes, rngs=rngs)

    def __call__(self, images: Images) -> Features:
        *norms, last = self.norms
        x = self.merge(jax.nn.silu(self.stem(patches(2 * images - 1, 4))))
        features = []
        for conv, norm in zip(self.convs, norms, strict=True):
            x = x + conv(jax.nn.silu(norm(x)))
            features.append(x)
        return self.head(jax.nn.silu(last(x)).mean(axis=(1, 2))), {"features": features}


def patches(images: Float[Array, "B H W C"], size: int) -> Float[Array, "B h w D"]:
    """Each size x size square of pixels as one position of size^2 C channels."""
    return rearrange(images, "b (h p) (w q) c -> b h w (p q c)", p=size, q=size)


def build(config: ClassifierConfig, *, rngs: nnx.Rngs) -> Classifier | Judge:
    """The network that `config.kind` names: "cnn" or "residual"."""
    return {"cnn": Classifier, "residual": Judge}[config.kind](config, rngs=rngs)


def require_classifier(network: Any) -> Classifier:
    """The network, if a method may use it: `UserError` for a `Judge` and all others."""
    if isinstance(network, Classifier):
        return network
    what = f"a {type(network).__name__} is no classifier"
    if isinstance(network, Judge):
        what = "this network is a judge, which alone reports figures"
        what += ", so no method may use it"
    remedy = "give a classifier of kind=cnn, such as shapes/classifier"
    raise UserError(f"{what}; {remedy}")


def classifier_loss(
    model: Classifier | Judge,
    batch: dict[str, Array],
    context: Context = NO_CONTEXT,
    *,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """`-mean_b log softmax(f(augment(x_b)))[y_b]` in nats, with `accuracy` as metric.

    batch: "image" [B, H, W, C] in [0, 1], "label" [B]. No augmentation without a key.
    """
    images, labels = batch["image"], batch["label"]
    images = images if key is None else augment(images, key=key)
    logits, aux = model(images)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    metrics = {"accuracy": (logits.argmax(-1) == labels).mean()}
    batch, outputs = batch | {"image": images}, aux | {"logits": logits}
    return context.with_own(loss, metrics, outputs, batch)


def augment(images: Images, *, key: PRNGKeyArray) -> Images:
    """Shift, blur and noise, each drawn for every image; the values stay in [0, 1].

    Shift: up to 2 pixels, edges repeated. Blur: a mixture of the image and its binomial
    mean, (1, 2, 1) / 4 along both axes. Noise: Gaussian, standard deviation up to 0.06.
    """
    shift_key, blur_key, scale_key, noise_key = jax.random.split(key, 4)
    corners = jax.random.randint(shift_key, (len(images), 2), 0, 2 * MAX_SHIFT + 1)
    cut = partial(jax.lax.dynamic_slice, slice_sizes=images.shape[1:])
    starts = (*corners.T, jnp.zeros_like(corners[:, 0]))
    images = jax.vmap(cut)(_extended(images, MAX_SHIFT), starts)
    per_image = (len(images), 1, 1, 1)
    blur = jax.random.uniform(blur_key, per_image)
    x = _extended(images, 1)
    x = (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4
    soft = (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 4
    images = (1 - blur) * images + blur * soft
    scale = jax.random.uniform(scale_key, per_image, maxval=MAX_NOISE)
    return jnp.clip(images + scale * jax.random.normal(noise_key, images.shape), 0, 1)


def _extended(images: Array, width: int) -> Array:
    """Images with their edges repeated `width` times."""
    return jnp.pad(images, ((0, 0), (width,) * 2, (width,) * 2, (0, 0)), mode="edge")


def accuracy(model: Any, images: Any, labels: Any, *, batch_size: int = 256) -> float:
    """Share of images whose largest logit is the label's, in [0, 1].

    images: uint8, or float in [0, 1], [N, H, W, C]; `ValueError` for unequal lengths.
    """
    classes, labels = predict(model, images, batch_size=batch_size), np.asarray(labels)
    if classes.shape != labels.shape:
        raise ValueError(f"{len(classes)} images, but labels of shape {labels.shape}")
    return float((classes == labels).mean())


def predict(model: Any, images: Any, *, batch_size: int = 256) -> np.ndarray:
    """The classes int32 [N] of the largest logits, as `accuracy` takes images."""
    _, logits = features_and_logits(model, images, batch_size=batch_size)
    return logits.argmax(axis=-1).astype(np.int32)
