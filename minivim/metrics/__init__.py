"""Figures of merit: how much of the codebook is used, how close images are."""

from minivim.metrics.codebook import (
    CodebookUsage,
    codebook_usage,
    expected_unique,
    usage_by_image_batch,
)
from minivim.metrics.frechet import frechet_distance, gaussian, judge_distance
from minivim.metrics.image import psnr, psnr_per_image, ssim, ssim_per_image

__all__ = [
    "CodebookUsage",
    "codebook_usage",
    "expected_unique",
    "frechet_distance",
    "gaussian",
    "judge_distance",
    "psnr",
    "psnr_per_image",
    "ssim",
    "ssim_per_image",
    "usage_by_image_batch",
]
