"""Two small labelled networks of different architecture: `Classifier` and `Judge`.

The first may serve inside methods (a perceptual loss, rejection of samples), the
second only judges, so that nothing is graded by what it was tuned against. Both read
images in [0, 1] with sides that are multiples of 8, and are trained to stay right when
an image is a little soft, noisy or shifted, as reconstructions are.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from minivim.batched import in_batches
from minivim.config import ClassifierConfig
from minivim.context import NO_CONTEXT, Context
from minivim.errors import UserError

MAX_SHIFT = 2  # pixels, to each side
MAX_NOISE = 0.06  # standard deviation, drawn from [0, MAX_NOISE] for each image
NORM_EPS = 1e-5

Features = tuple[Float[Array, "B classes"], dict[str, Any]]


class Classifier(nnx.Module):
    """A plain CNN: four 3 x 3 convolutions, each with GroupNorm and ReLU, then a mean.

    The first convolution reads 2 x 2 pixels as one position, since full-size maps are
    slow on a CPU. Channels w, 2w, 2w, 4w at 1/2, 1/4, 1/4, 1/8 of the image's side.
    `aux["features"]` are the four outputs, [B, h, w, channels].
    """

    def __init__(self, config: ClassifierConfig, *, rngs: nnx.Rngs):
        self.config = config
        w = config.width
        widths = (4 * config.channels, w, 2 * w, 2 * w, 4 * w)
        self.convs = nnx.List(
            nnx.Conv(*pair, (3, 3), strides=stride, rngs=rngs)
            for pair, stride in zip(pairwise(widths), (1, 2, 1, 2), strict=True)
        )
        self.norms = nnx.List(
            nnx.GroupNorm(width, num_groups=4, epsilon=NORM_EPS, rngs=rngs)
            for width in widths[1:]
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
    return {"cnn": Classifier, "residual": Judge}[config.kind](config, rngs=rngs)


def require_no_judge(network: Any) -> None:
    """Raise `UserError` for a `Judge`: what reports figures may serve no method."""
    if isinstance(network, Judge):
        raise UserError(
            "this network is a judge, which alone reports figures, so no method may "
            "use it; give a classifier of kind=cnn, such as shapes/classifier"
        )


def classifier_loss(
    model: Classifier | Judge,
    batch: dict[str, Array],
    context: Context = NO_CONTEXT,
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

    Shift: up to 2 pixels, edges repeated. Blur: a mixture of the image and its binomial
    mean, (1, 2, 1) / 4 along both axes. Noise: Gaussian, standard deviation up to 0.06.
    """
    shift_key, blur_key, scale_key, noise_key = jax.random.split(key, 4)
    padded = _extended(images, MAX_SHIFT)
    corners = jax.random.randint(shift_key, (len(images), 2), 0, 2 * MAX_SHIFT + 1)
    images = jax.vmap(
        lambda image, corner: jax.lax.dynamic_slice(
            image, (corner[0], corner[1], 0), images.shape[1:]
        )
    )(padded, corners)
    per_image = (len(images), 1, 1, 1)
    blur = jax.random.uniform(blur_key, per_image)
    x = _extended(images, 1)
    x = (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4
    soft = (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 4
    images = (1 - blur) * images + blur * soft
    scale = jax.random.uniform(scale_key, per_image, maxval=MAX_NOISE)
    noise = scale * jax.random.normal(noise_key, images.shape)
    return jnp.clip(images + noise, 0, 1)


def _extended(images: Array, width: int) -> Array:
    """Images with their edges repeated `width` times."""
    return jnp.pad(images, ((0, 0), (width,) * 2, (width,) * 2, (0, 0)), mode="edge")


def accuracy(
    model: Any, images: ArrayLike, labels: ArrayLike, *, batch_size: int = 256
) -> float:
    """Share of images whose largest logit is the label's, in [0, 1].

    images: uint8, or float in [0, 1], [N, H, W, C]; labels: int [N]. Raises ValueError
    when there is not one label for each image.
    """
    classes, labels = predict(model, images, batch_size=batch_size), np.asarray(labels)
    if classes.shape != labels.shape:
        raise ValueError(f"{len(classes)} images, but labels of shape {labels.shape}")
    return float((classes == labels).mean())


def predict(
    model: Any, images: ArrayLike, *, batch_size: int = 256
) -> Int[np.ndarray, " N"]:
    """The class of the largest logit, for uint8 or float images [N, H, W, C]."""
    return in_batches(lambda x: _classes(model, x), images, batch_size=batch_size)


@nnx.jit
def _classes(model: Any, images: Float[ArrayLike, "B H W C"]) -> Int[Array, " B"]:
    return model(jnp.asarray(images))[0].argmax(-1).astype(jnp.int32)
