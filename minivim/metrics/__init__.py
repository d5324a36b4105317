"""Figures of merit; each is named after what it measures, and by what."""

from minivim.metrics.codebook import (
    CodebookUsage,
    codebook_usage,
    expected_unique,
    usage_by_image_batch,
)
from minivim.metrics.image import (
    lpips_per_image,
    psnr,
    psnr_per_image,
    ssim,
    ssim_per_image,
)
from minivim.metrics.judged import (
    frechet_distance,
    gaussian,
    inception_score,
    judge_distance,
)
