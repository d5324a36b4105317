"""How close a reconstruction is: PSNR, SSIM and LPIPS, per image, then averaged."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from minivim.config.checks import require
from minivim.data.arrays import unit_pair
from minivim.tokenizer.perceptual import LPIPS

# Wang et al. 2004: an 11 x 11 Gaussian window, and the constants for a range of 1.
SSIM_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
_lpips = nnx.jit(lambda network, a, b: network(recon=a, target=b))


def psnr(a: Any, b: Any) -> Array:
    """Peak signal-to-noise ratio: decibels per image first, their mean afterwards.

        mean_b [ -10 log10 MSE_b ],  MSE_b over the H, W, C of image b, peak 1

    a, b: uint8, or float in [0, 1], [B, H, W, C]. Infinite if any pair is identical.
    Averaging the MSE first gives less (Jensen). `UserError` for unequal shapes.
    """
    return psnr_per_image(a, b).mean()


def psnr_per_image(a: Any, b: Any) -> Float[Array, " B"]:
    """PSNR of each image pair in dB, see `psnr`."""
    x, y = unit_pair(a, b)
    return -10 * jnp.log10(jnp.square(x - y).mean(axis=(1, 2, 3)))


def ssim_per_image(a: Any, b: Any) -> Float[Array, " B"]:
    """Structural similarity of each image pair (Wang et al. 2004), in [-1, 1].

        mean of (2 mu_a mu_b + C1) (2 s_ab + C2)
                / ((mu_a^2 + mu_b^2 + C1) (s_a^2 + s_b^2 + C2))

    Moments under a Gaussian window (11 x 11, sigma 1.5) at every position where it
    fits into the image, per channel; C1 = 0.01^2, C2 = 0.03^2 (data range 1).
    Images and errors as for `psnr`, and none smaller than the window.
    """
    x, y = unit_pair(a, b)
    told = f"SSIM needs {SSIM_WINDOW} pixels a side, got {x.shape[1:3]}"
    require(min(x.shape[1:3]) >= SSIM_WINDOW, f"{told}; give larger images")
    mu_x, mu_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mu_x**2, _blur(y * y) - mu_y**2
    cov = _blur(x * y) - mu_x * mu_y
    luminance = (2 * mu_x * mu_y + _C1) / (mu_x**2 + mu_y**2 + _C1)
    structure = (2 * cov + _C2) / (var_x + var_y + _C2)
    return (luminance * structure).mean(axis=(1, 2, 3))


def ssim(a: Any, b: Any) -> Array:
    """Structural similarity, mean over images. See `ssim_per_image`."""
    return ssim_per_image(a, b).mean()


def lpips_per_image(network: LPIPS, a: Any, b: Any) -> Float[Array, " B"]:
    """LPIPS of each image pair [B, H, W, C] in [0, 1], with products in float32."""
    with jax.default_matmul_precision("highest"):
        return _lpips(network, *unit_pair(a, b))


def _blur(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """Gaussian window mean at every valid position, as a product with band matrices."""
    offset = jnp.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = jnp.exp(-(offset**2) / (2 * _SIGMA**2))

    def band(size: int) -> Float[Array, "valid size"]:
        row = jnp.arange(size - SSIM_WINDOW + 1)[:, None]
        places = row, row + jnp.arange(SSIM_WINDOW)
        return jnp.zeros((len(row), size)).at[places].set(weights / weights.sum())

    rows, cols = band(x.shape[1]), band(x.shape[2])
    # Variances are differences of these means: bfloat16 would leave nothing of them.
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, cols, precision="highest")
