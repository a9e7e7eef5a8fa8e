"""From a dataset's bytes to a network's input."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from primia.data.shard import Dataset
from primia.data.statistics import Normalisation


def unit_images(data: Dataset, index: NDArray[np.int64], device: torch.device) -> Tensor:
    """The images at ``index`` as floats from 0 to 1, ``(k, C, H, W)``, in the memory format that convolutions like best."""
    return as_unit(torch.from_numpy(data.gather(index)).to(device))


def as_unit(pixels: Tensor) -> Tensor:
    """Bytes ``(k, C, H, W)`` as floats from 0 to 1, in the memory format that convolutions like best."""
    return pixels.to(torch.float32, memory_format=torch.channels_last).div_(255)


def normalise_(images: Tensor, normalisation: Normalisation) -> Tensor:
    """Bring images in place to zero mean and unit deviation by ``normalisation``."""
    mean = torch.tensor(normalisation.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(normalisation.std, device=images.device).view(1, -1, 1, 1)
    return images.sub_(mean).div_(std)
