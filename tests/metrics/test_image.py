"""PSNR and SSIM against closed forms and an independent formulation."""

import jax.numpy as jnp
import numpy as np
import pytest

from minivim.errors import UserError
from minivim.metrics import psnr, psnr_per_image, ssim, ssim_per_image


def images(seed, shape=(2, 20, 17, 3)):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def ssim_by_loops(a, b):
    """SSIM of one [H, W] pair in float64, straight from the paper, window by window."""
    y, x = np.mgrid[-5:6, -5:6]
    window = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    window /= window.sum()
    a, b, values = a.astype(np.float64), b.astype(np.float64), []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            values.append(
                (2 * mp * mq + 1e-4)
                * (2 * cov + 9e-4)
                / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
            )
    return np.mean(values)


def test_psnr_of_a_known_error():
    a = np.full((1, 4, 4, 3), 0.5, np.float32)
    assert float(psnr(a, a + 0.1)) == pytest.approx(20, abs=1e-4)
    assert float(psnr(a, a - 0.01)) == pytest.approx(40, abs=1e-3)
    assert jnp.isinf(psnr(a, a))


def test_psnr_is_the_mean_of_the_images_decibels():
    a = np.zeros((2, 4, 4, 3), np.float32)
    b = a + np.array([0.1, 0.01], np.float32).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(psnr_per_image(a, b), [20, 40], rtol=1e-5)
    assert float(psnr(a, b)) == pytest.approx(30, abs=1e-4)


def test_ssim_matches_an_independent_formulation():
    a = images(0)
    b = np.clip(a + 0.2 * (images(1) - 0.5), 0, 1)
    expected = [
        np.mean([ssim_by_loops(a[i, ..., c], b[i, ..., c]) for c in range(3)])
        for i in range(2)
    ]
    np.testing.assert_allclose(ssim_per_image(a, b), expected, atol=2e-5)
    assert float(ssim(a, b)) == pytest.approx(np.mean(expected), abs=2e-5)


def test_ssim_matches_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = images(2, (1, 32, 32, 3)), images(3, (1, 32, 32, 3))
    expected = metrics.structural_similarity(
        a[0],
        b[0],
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=-1,
    )
    # scikit-image also crops the border where its window left the image.
    assert float(ssim(a, b)) == pytest.approx(expected, abs=2e-5)


def test_ssim_limits():
    a = images(4)
    assert float(ssim(a, a)) == pytest.approx(1, abs=1e-5)
    assert float(ssim(a, 1 - a)) < 0
    assert float(ssim(a, images(5))) == pytest.approx(float(ssim(images(5), a)))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_takes_bytes_and_refuses_what_cannot_be_compared(metric):
    a = (images(6) * 255).astype(np.uint8)
    b = (images(7) * 255).astype(np.uint8)
    assert float(metric(a, b)) == float(metric(a / np.float32(255), b / 255))
    with pytest.raises(UserError, match="in pairs"):
        metric(a, b[:1])
    with pytest.raises(UserError, match="divide by 255"):
        metric(a, b.astype(np.float32))


def test_ssim_refuses_images_below_its_window():
    tiny = images(7, (1, 8, 32, 3))
    with pytest.raises(UserError, match="11 pixels a side"):
        ssim(tiny, tiny)
