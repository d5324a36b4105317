"""Random changes to training images, drawn anew on every use, as functions of a key."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def augment(
    images: Float[Array, "B H W C"],
    *,
    flip: bool = False,
    crop: float = 1.0,
    key: PRNGKeyArray,
) -> Float[Array, "B H W C"]:
    """Crop to at least the share `crop` of the area; mirror each with chance 1/2."""
    if crop < 1:
        images = random_crop(images, min_area=crop, key=jax.random.fold_in(key, 2))
    return random_flip(images, key=key) if flip else images


def random_flip(
    images: Float[Array, "B H W C"], *, key: PRNGKeyArray
) -> Float[Array, "B H W C"]:
    """Mirror each image with probability one half."""
    mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def random_crop(
    images: Float[Array, "B H W C"], *, min_area: float, key: PRNGKeyArray
) -> Float[Array, "B H W C"]:
    """Cut a random part of the same shape out of each image and scale it up to it.

    The share of the area is uniform in [min_area, 1], the place uniform among those
    inside the image; bilinear. With min_area = 1 the images stay as they are.
    """
    area_key, place_key = jax.random.split(key)
    kind = jnp.promote_types(images.dtype, jnp.float32)
    count, size = images.shape[0], jnp.array(images.shape[1:3], kind)
    area = jax.random.uniform(area_key, (count, 1), kind, min_area, 1.0)
    side = jnp.sqrt(area) * size
    start = jax.random.uniform(place_key, (count, 2), kind) * (size - side)

    def cut(image: Array, start: Array, side: Array) -> Array:
        scale = size / side
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), scale, -start * scale, "linear"
        )

    return jax.vmap(cut)(images, start, side)
