"""Prediction in the clear: batches through the network while the next ones are decoded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from primia.data.decode import BadImage
from primia.data.statistics import Normalisation
from primia.errors import ConfigError
from primia.inference.images import InferenceImages
from primia.inference.predictions import Failure
from primia.training.images import as_unit, normalise_

_AHEAD = 1
"""Batches that are decoded while the network has another."""

Progress = Callable[[int, int], None]
"""Called with the number of images done, and that of all."""


class Outputs(NamedTuple):
    """Logits ``(n, classes)`` of all images, NaN for those that ``failures`` names by index."""

    logits: NDArray[np.float32]
    failures: dict[int, Failure]


@torch.inference_mode()
def plain_outputs(
    model: nn.Module,
    normalisation: Normalisation,
    images: InferenceImages,
    classes: int,
    *,
    batch_size: int,
    on_progress: Progress | None = None,
) -> Outputs:
    """What ``model``, in evaluation mode, gives for every image. Images that cannot be read are failures, the rest go on.

    At most three batches of pixels are in memory. ``on_progress`` is called before the first and after every batch.

    Raises:
        ConfigError: ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: must be 1 or more")
    report = on_progress or (lambda done, total: None)
    outputs = Outputs(np.full((len(images), classes), np.nan, np.float32), {})
    report(0, len(images))
    with closing(_decoded(images, batch_size)) as batches:
        for first, batch in enumerate(batches):
            _fill(model, normalisation, first * batch_size, batch, outputs)
            report(first * batch_size + len(batch), len(images))
    return outputs


_Decoded = NDArray[np.uint8] | BadImage


def _fill(model: nn.Module, normalisation: Normalisation, first: int, batch: list[_Decoded], outputs: Outputs) -> None:
    """Fill in the outputs of ``batch``, whose first image has the index ``first``."""
    readable = {first + offset: image for offset, image in enumerate(batch) if not isinstance(image, BadImage)}
    outputs.failures.update(
        {first + offset: Failure("unreadable", image.reason) for offset, image in enumerate(batch) if isinstance(image, BadImage)}
    )
    if readable:
        pixels = torch.from_numpy(np.stack(list(readable.values())))
        outputs.logits[list(readable)] = model(normalise_(as_unit(pixels), normalisation)).numpy()


def _decoded(images: InferenceImages, batch_size: int) -> Generator[list[_Decoded], None, None]:
    """Every batch in order, decoded in threads; when closed early, what has not begun is dropped."""

    def attempt(index: int) -> _Decoded:
        try:
            return images.read(index)
        except BadImage as error:
            return error

    pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
    ahead: deque[list[Future[_Decoded]]] = deque()
    try:
        for first in range(0, len(images), batch_size):
            ahead.append([pool.submit(attempt, index) for index in range(first, min(first + batch_size, len(images)))])
            if len(ahead) > _AHEAD:
                yield [future.result() for future in ahead.popleft()]
        while ahead:
            yield [future.result() for future in ahead.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)
