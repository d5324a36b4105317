"""Two small labelled networks of different architecture: `Classifier` and `Judge`.

The first may serve inside methods (a perceptual loss, rejection of samples), the
second only judges, so that nothing is graded by what it was tuned against. Both read
images in [0, 1] with sides that are multiples of 8, and are trained to stay right when
an image is a little soft, noisy or shifted, as reconstructions are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from minivim.config import ClassifierConfig
from minivim.sharding import fetch

MAX_SHIFT = 2  # pixels, to each side
MAX_NOISE = 0.06  # standard deviation, drawn from [0, MAX_NOISE] for each image
NORM_EPS = 1e-5

Features = tuple[Float[Array, "B classes"], dict[str, Any]]


class Classifier(nnx.Module):
    """A plain CNN: four 3 x 3 convolutions, each with GroupNorm and ReLU, then a mean.

    The first convolution reads 2 x 2 pixels as one position, for full-size maps are
    the slow part on a CPU. Channels w, 2w, 2w, 4w at 1/2, 1/4, 1/4, 1/8 of the image's
    side.
    `aux["features"]` are the four outputs, [B, h, w, channels].
    """

    def __init__(self, config: ClassifierConfig, *, rngs: nnx.Rngs):
        self.config = config
        w = config.width
        self.convs = nnx.List(
            nnx.Conv(inputs, outputs, (3, 3), strides=stride, rngs=rngs)
            for inputs, outputs, stride in (
                (4 * config.channels, w, 1),
                (w, 2 * w, 2),
                (2 * w, 2 * w, 1),
                (2 * w, 4 * w, 2),
            )
        )
        self.norms = nnx.List(
            nnx.GroupNorm(m * w, num_groups=4, epsilon=NORM_EPS, rngs=rngs)
            for m in (1, 2, 2, 4)
        )
        self.head = nnx.Linear(4 * w, config.num_classes, rngs=rngs)

    def __call__(self, images: Float[Array, "B H W C"]) -> Features:
        """Logits [B, classes] and `aux` with the feature maps."""
        x, features = patches(2 * images - 1, 2), []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.relu(norm(conv(x)))
            features.append(x)
        return self.head(x.mean(axis=(1, 2))), {"features": features}


class Judge(nnx.Module):
    """A residual network on 4 x 4 patches: `x + Conv3x3(SiLU(LN(x)))`, three times.

    The width is 2w and the grid a quarter of the image's side throughout.
    `aux["features"]` are the outputs of the three blocks, [B, h, w, channels].
    """

    def __init__(self, config: ClassifierConfig, *, rngs: nnx.Rngs):
        self.config = config
        width = 2 * config.width
        self.stem = nnx.Linear(16 * config.channels, 2 * width, rngs=rngs)
        self.merge = nnx.Linear(2 * width, width, rngs=rngs)
        self.norms = nnx.List(
            nnx.LayerNorm(width, epsilon=NORM_EPS, rngs=rngs) for _ in range(4)
        )
        self.convs = nnx.List(
            nnx.Conv(width, width, (3, 3), rngs=rngs) for _ in range(3)
        )
        self.head = nnx.Linear(width, config.num_classes, rngs=rngs)

    def __call__(self, images: Float[Array, "B H W C"]) -> Features:
        """Logits [B, classes] and `aux` with the feature maps."""
        *norms, last = self.norms
        x = self.merge(jax.nn.silu(self.stem(patches(2 * images - 1, 4))))
        features = []
        for conv, norm in zip(self.convs, norms, strict=True):
            x = x + conv(jax.nn.silu(norm(x)))
            features.append(x)
        pooled = jax.nn.silu(last(x)).mean(axis=(1, 2))
        return self.head(pooled), {"features": features}


def patches(images: Float[Array, "B H W C"], size: int) -> Float[Array, "B h w D"]:
    """Each size x size square of pixels as one position of size^2 C channels."""
    return rearrange(images, "b (h p) (w q) c -> b h w (p q c)", p=size, q=size)


def build(config: ClassifierConfig, *, rngs: nnx.Rngs) -> Classifier | Judge:
    """The network that `config.kind` names: "cnn" or "residual"."""
    network = {"cnn": Classifier, "residual": Judge}[config.kind]
    return network(config, rngs=rngs)


def classifier_loss(
    model: Classifier | Judge,
    batch: dict[str, Array],
    *,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Cross-entropy in nats on augmented images, with `accuracy` as metric.

        L = - mean_b log softmax(f(augment(x_b)))[y_b]

    batch: "image" float32 [B, H, W, C] in [0, 1], "label" int32 [B]. No augmentation
    without a key.
    """
    images, labels = batch["image"], batch["label"]
    if key is not None:
        images = augment(images, key=key)
    logits, _ = model(images)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, {"accuracy": (logits.argmax(-1) == labels).mean()}


def augment(
    images: Float[Array, "B H W C"], *, key: PRNGKeyArray
) -> Float[Array, "B H W C"]:
    """Shift, blur and noise, each drawn for every image; the values stay in [0, 1].

    Shift: up to 2 pixels, edges repeated. Blur: a mixture of the image and its 3 x 3
    binomial mean. Noise: Gaussian, standard deviation up to 0.06.
    """
    shift_key, blur_key, scale_key, noise_key = jax.random.split(key, 4)
    count, height, width, channels = images.shape
    margin = ((0, 0), (MAX_SHIFT, MAX_SHIFT), (MAX_SHIFT, MAX_SHIFT), (0, 0))
    padded = jnp.pad(images, margin, mode="edge")
    corners = jax.random.randint(shift_key, (count, 2), 0, 2 * MAX_SHIFT + 1)
    images = jax.vmap(
        lambda image, corner: jax.lax.dynamic_slice(
            image, (corner[0], corner[1], 0), (height, width, channels)
        )
    )(padded, corners)
    per_image = (count, 1, 1, 1)
    blur = jax.random.uniform(blur_key, per_image)
    images = (1 - blur) * images + blur * _soften(images)
    scale = jax.random.uniform(scale_key, per_image, maxval=MAX_NOISE)
    noise = scale * jax.random.normal(noise_key, images.shape)
    return jnp.clip(images + noise, 0, 1)


def _soften(images: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Binomial mean (1, 2, 1) / 4 along both axes, edges repeated."""
    x = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    x = (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4
    return (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 4


def accuracy(
    model: Callable[..., Any],
    images: ArrayLike,
    labels: ArrayLike,
    *,
    batch_size: int = 256,
) -> float:
    """Share of images whose largest logit is the label's, in [0, 1].

    images: uint8, or float in [0, 1], [N, H, W, C]; labels: int [N]. Raises ValueError
    when there is not one label for each image.
    """
    found = predict(model, images, batch_size=batch_size)
    labels = np.asarray(labels)
    if found.shape != labels.shape:
        raise ValueError(f"{len(found)} images, but labels of shape {labels.shape}")
    return float((found == labels).mean())


def agreement(
    one: Callable[..., Any],
    other: Callable[..., Any],
    images: ArrayLike,
    *,
    batch_size: int = 256,
) -> float:
    """Share of images on which two networks name the same class, in [0, 1]."""
    first, second = (predict(m, images, batch_size=batch_size) for m in (one, other))
    return float((first == second).mean())


def predict(
    model: Callable[..., Any], images: ArrayLike, *, batch_size: int = 256
) -> Int[np.ndarray, " N"]:
    """The class of the largest logit, for uint8 or float images [N, H, W, C]."""
    array = np.asarray(images)
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / 255
    chunks = range(0, len(array), batch_size)
    found = [fetch(_classes(model, array[i : i + batch_size])) for i in chunks]
    return np.concatenate(found).astype(np.int32)


@nnx.jit
def _classes(
    model: Callable[..., Any], images: Float[ArrayLike, "B H W C"]
) -> Int[Array, " B"]:
    return model(jnp.asarray(images))[0].argmax(-1)
