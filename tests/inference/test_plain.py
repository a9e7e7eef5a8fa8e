from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from primia.data.decode import BadImage
from primia.data.statistics import Normalisation
from primia.errors import ConfigError
from primia.inference.images import InferenceImages
from primia.inference.plain import plain_outputs
from primia.inference.predictions import Failure

NORMALISATION = Normalisation((0.25,), (0.5,))


@dataclass(frozen=True, eq=False)
class Images(InferenceImages):
    """Image ``i`` has all pixels ``i``; those in ``bad`` cannot be read. ``asked``: the images read so far."""

    bad: tuple[int, ...] = ()
    asked: list[int] = field(default_factory=list)

    def read(self, index: int) -> NDArray[np.uint8]:
        self.asked.append(index)
        if index in self.bad:
            raise BadImage(self.paths[index], "cut short")
        return np.full((1, 4, 4), index, dtype=np.uint8)


def images_of(count: int, bad: tuple[int, ...] = ()) -> Images:
    names = tuple(f"{index}.png" for index in range(count))
    return Images(Path(), names, None, tuple(map(Path, names)), channels=1, image_size=4, bad=bad)


class Mean(nn.Module):
    """Logits: the mean of the image, and the size of the batch."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([images.mean((1, 2, 3)), torch.full((len(images),), float(len(images)))], dim=1)


def test_every_image_gets_the_output_for_its_own_normalised_pixels() -> None:
    outputs = plain_outputs(Mean(), NORMALISATION, images_of(10), 2, batch_size=4)
    assert outputs.failures == {}
    assert outputs.logits[:, 0] == pytest.approx((np.arange(10) / 255 - 0.25) / 0.5, abs=1e-6)
    assert outputs.logits[:, 1].tolist() == [4] * 8 + [2] * 2


@pytest.mark.parametrize("bad", [(0,), (2, 4), (3, 4, 5), tuple(range(7))])
def test_unreadable_images_are_named_and_the_rest_go_on(bad: tuple[int, ...]) -> None:
    outputs = plain_outputs(Mean(), NORMALISATION, images_of(7, bad), 2, batch_size=3)
    assert outputs.failures == {index: Failure("unreadable", "cut short") for index in bad}
    good = [index for index in range(7) if index not in bad]
    assert outputs.logits[good, 0] == pytest.approx((np.array(good) / 255 - 0.25) / 0.5, abs=1e-6)
    assert np.isnan(outputs.logits[list(bad)]).all()


def test_progress_is_counted_in_images() -> None:
    calls: list[tuple[int, int]] = []
    plain_outputs(Mean(), NORMALISATION, images_of(5, (1,)), 2, batch_size=2, on_progress=lambda *call: calls.append(call))
    assert calls == [(0, 5), (2, 5), (4, 5), (5, 5)]


def test_outputs_that_are_not_finite_are_no_crash() -> None:
    outputs = plain_outputs(Mean(), Normalisation((0.0,), (0.0,)), images_of(3), 2, batch_size=2)
    assert not np.isfinite(outputs.logits[:, 0]).any()


def test_no_more_than_one_batch_is_decoded_ahead() -> None:
    images = images_of(100)
    seen: list[int] = []

    def look(done: int, total: int) -> None:
        seen.append(len(images.asked) - done)

    plain_outputs(Mean(), NORMALISATION, images, 2, batch_size=5, on_progress=look)
    assert max(seen) <= 5


def test_an_interruption_drops_what_has_not_begun_and_leaves_no_thread() -> None:
    images = images_of(100)

    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plain_outputs(Mean(), NORMALISATION, images, 2, batch_size=5, on_progress=interrupt)
    assert len(images.asked) <= 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_a_batch_of_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch size 0"):
        plain_outputs(Mean(), NORMALISATION, images_of(1), 2, batch_size=0)
