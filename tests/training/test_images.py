from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from primia.data.statistics import Normalisation
from primia.training.images import normalise_, unit_images


class Bytes:
    labels: NDArray[np.int64] = np.zeros(2, np.int64)
    images: NDArray[np.uint8] = np.array([0, 51, 102, 255] * 6, np.uint8).reshape(2, 3, 2, 2)

    def __len__(self) -> int:
        return 2

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.images[indices]


def test_bytes_become_floats_from_0_to_1_in_order() -> None:
    images = unit_images(Bytes(), np.array([1, 0]), torch.device("cpu"))
    assert images.shape == (2, 3, 2, 2) and images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(images[0, 2].flatten(), torch.tensor([0.0, 0.2, 0.4, 1.0]))


def test_each_channel_is_normalised_by_its_own_statistics() -> None:
    images = torch.full((1, 3, 1, 1), 0.5)
    normalise_(images, Normalisation((0.5, 0.25, 0.0), (1.0, 0.5, 0.25)))
    assert images.flatten().tolist() == [0.0, 0.5, 2.0]
