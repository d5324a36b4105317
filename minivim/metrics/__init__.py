"""Figures of merit; each is named after what it measures, and by what."""

from minivim.metrics.codebook import (
    CodebookUsage,
    CodeCounter,
    codebook_usage,
    expected_unique,
    usage_by_image_batch,
)
from minivim.metrics.frechet import frechet_distance, judge_distance
from minivim.metrics.image import (
    lpips_per_image,
    psnr,
    psnr_per_image,
    ssim,
    ssim_per_image,
)
from minivim.metrics.moments import Moments, gaussian
from minivim.metrics.score import ClassScore, inception_score, judge_score
