"""The mock half of a site's dataset: synthetic pictures that have a shard's form and nothing of its content.

All that is taken from the private half is its header: class names, channels, image size, site and split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from primia.data.anatomy import Anatomy
from primia.data.demo import CLASSES, mark, site_style
from primia.data.radiograph import radiograph
from primia.data.randomness import stream
from primia.data.shard import Row, Shard, ShardHeader, write_shard
from primia.errors import ConsentError

LEAST_IMAGES = 64
"""Images of a mock shard over all classes, so that usual batches can be filled."""

LEAST_PER_CLASS = 4
LARGEST_DRAWN = 128
"""Pixels up to which pictures are drawn; larger ones are enlarged from there."""

_SEED = 20200
_FINGERPRINT = "mock"


def write_mock(path: Path, header: ShardHeader) -> int:
    """Write a shard of drawn radiographs, as many of each class, for a private shard with ``header``; gives their number.

    Classes that the demonstration set does not know get its findings in turn. The same header draws the same pictures.
    """
    mock = replace(header, synthetic=True, fingerprint=_FINGERPRINT)
    return write_shard(path, mock, _rows(mock))


def check_mock(shard: Shard) -> None:
    """Raise :class:`ConsentError` unless ``shard`` says of itself that it is a mock half: a dry run opens no other."""
    if not shard.synthetic or shard.header.fingerprint != _FINGERPRINT:
        raise ConsentError(
            f"{shard.path}: no mock half, and a dry run opens nothing else; make the box of site {shard.site!r} again, or ask for its grant"
        )


def _rows(header: ShardHeader) -> Iterator[Row]:
    each = max(LEAST_PER_CLASS, ceil(LEAST_IMAGES / len(header.classes)))
    for number in range(each):
        for label, name in enumerate(header.classes):
            patient = f"mock-{label}-{number}"
            finding = name if name in CLASSES else CLASSES[label % len(CLASSES)]
            grey = _picture(header, finding, patient)
            yield Row(np.repeat(grey[None], header.channels, axis=0), label, patient, f"{patient}.png")


def _picture(header: ShardHeader, finding: str, patient: str) -> NDArray[np.uint8]:
    rng = stream(_SEED, header.site, header.split, patient)
    drawn = mark(radiograph(Anatomy.draw(rng), finding, site_style(_SEED, 0), rng, min(header.image_size, LARGEST_DRAWN)))
    size = (header.image_size, header.image_size)
    return np.asarray(Image.fromarray(drawn).resize(size, Image.Resampling.BILINEAR))
