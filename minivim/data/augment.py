"""Random changes to training images, drawn anew on every use, as functions of a key."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def augment(
    images: Float[Array, "B H W C"], *, flip=False, crop=1.0, key: PRNGKeyArray
) -> Float[Array, "B H W C"]:
    """Crop each image to at least the share `crop` of its area; mirror some.

    The share of the area is uniform in [crop, 1] and the place uniform inside the
    image; the part is scaled up to it, bilinear. Half of the images are mirrored.
    """
    if crop < 1:
        area_key, place_key = jax.random.split(jax.random.fold_in(key, 2))
        kind = jnp.promote_types(images.dtype, jnp.float32)
        count, size = images.shape[0], jnp.array(images.shape[1:3], kind)
        side = size * jnp.sqrt(jax.random.uniform(area_key, (count, 1), kind, crop, 1))
        start = jax.random.uniform(place_key, (count, 2), kind) * (size - side)

        def cut(image: Array, start: Array, side: Array) -> Array:
            scale = size / side
            return jax.image.scale_and_translate(
                image, image.shape, (0, 1), scale, -start * scale, "linear"
            )

        images = jax.vmap(cut)(images, start, side)
    if flip:
        mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    return images
