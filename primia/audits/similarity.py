"""How alike two pictures are: SSIM as people see it, PSNR as pixels have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

_SIGMA = 1.5
_SMALLEST_SIDE = 16
_LARGEST_PSNR = 99.0


@dataclass(frozen=True)
class Similarity:
    """SSIM (1: the same picture, about 0: unrelated ones) and PSNR in dB (0 for black against white, at most 99)."""

    ssim: float
    psnr: float


def similarity(picture: Tensor, original: Tensor) -> Similarity:
    """Compare two pictures ``(1, C, H, W)`` of values from 0 to 1.

    SSIM is that of Wang, Bovik, Sheikh and Simoncelli (IEEE TIP 2004) with their Gaussian window of 11 pixels and deviation
    1.5. Pictures too small for it are enlarged twofold.
    """
    if min(original.shape[-2:]) < _SMALLEST_SIDE:
        picture, original = (F.interpolate(image, scale_factor=2.0) for image in (picture, original))
    ssim: Tensor = structural_similarity_index_measure(picture, original, sigma=_SIGMA, data_range=1.0)  # type: ignore[assignment]
    psnr = peak_signal_noise_ratio(picture, original, data_range=1.0)
    return Similarity(float(ssim), min(float(psnr), _LARGEST_PSNR))


def mean_similarity(values: Sequence[Similarity]) -> Similarity:
    """The mean of both over several pictures."""
    return Similarity(sum(value.ssim for value in values) / len(values), sum(value.psnr for value in values) / len(values))


def correlation(picture: Tensor, original: Tensor) -> float:
    """Pearson's correlation of two pictures' pixels, 0 where one is flat: unlike SSIM it cannot favour pictures of little contrast."""
    a, b = picture.flatten() - picture.mean(), original.flatten() - original.mean()
    return float(F.cosine_similarity(a, b, dim=0))
