"""MNIST as torchvision keeps it, unpacked or still in its four ``.gz`` files; nothing is downloaded here."""

from __future__ import annotations

import gzip
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from primia.data.catalogue import Catalogue, digest
from primia.data.closed import refuse_box
from primia.data.decode import resize
from primia.data.packed import new_folder
from primia.errors import DataError
from primia.untrusted.files import read_file

CLASSES = tuple("0123456789")

_AGAIN = "delete its files and run primia-ray data fetch mnist --output {root}"
_LARGEST = 60_000 * 28 * 28 + 16
"""Bytes of the largest of MNIST's files, unpacked."""


def mnist_catalogue(root: Path, *, image_size: int, channels: int) -> Catalogue:
    """The 60,000 training images, to be split, and the 10,000 test images; each its own patient.

    ``root`` is torchvision's (it holds ``MNIST/raw``). Raises :class:`DataError` if files are missing or broken.
    """
    parts = [_part(root, name) for name in ("train", "t10k")]
    images = np.concatenate([part[0] for part in parts])
    labels = np.concatenate([part[1] for part in parts]).astype(np.int64)
    splits = [""] * len(parts[0][1]) + ["test"] * len(parts[1][1])

    def read(index: int) -> NDArray[np.uint8]:
        pixels = np.asarray(resize(Image.fromarray(images[index]), image_size))
        return np.repeat(pixels[None], channels, axis=0)

    sources = [f"{split or 'train'}/{number}" for number, split in enumerate(splits)]
    return Catalogue(
        name="MNIST",
        classes=CLASSES,
        labels=labels,
        patients=sources,
        sources=sources,
        sites=[""] * len(labels),
        splits=splits,
        read=read,
        channels=channels,
        image_size=image_size,
        fingerprint=digest(("mnist", labels.tobytes(), images[::97].tobytes())),
    )


def _part(root: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images, labels = _idx(root, f"{name}-images-idx3-ubyte"), _idx(root, f"{name}-labels-idx1-ubyte")
    if images.ndim != 3 or min(images.shape) < 1 or labels.shape != images.shape[:1] or labels.max() >= len(CLASSES):
        raise DataError(f"{root}: the {name} files are not MNIST's images and labels; {_AGAIN.format(root=root)}")
    return images, labels


def _idx(root: Path, name: str) -> NDArray[np.uint8]:
    """An idx file (LeCun's format: magic with type and number of axes, axes as big-endian int32, bytes)."""
    path = next((path for path in (root / "MNIST" / "raw" / name, root / "MNIST" / "raw" / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise DataError(f"{root}: no MNIST here ({name} is missing); fetch it with primia-ray data fetch mnist --output {root}")
    refuse_box(path)
    try:
        content = read_file(path, _LARGEST, follow=True)
        if path.suffix == ".gz":
            content = gzip.GzipFile(fileobj=BytesIO(content)).read(_LARGEST + 1)
        axes = content[3]
        shape = np.frombuffer(content, dtype=">i4", count=axes, offset=4)
        return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, IndexError, ValueError) as error:
        raise DataError(f"{path}: broken ({error}); {_AGAIN.format(root=root)}") from None


def download(root: Path) -> None:
    """Fetch MNIST into a new folder ``root`` through torchvision; :class:`DataError` without a network, and then nothing is left."""
    from torchvision.datasets import MNIST  # here: it takes a second that reading MNIST does not need

    with new_folder(root) as scratch:
        try:
            MNIST(str(scratch), download=True)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"MNIST cannot be downloaded ({reason}); copy its four .gz files into {root / 'MNIST' / 'raw'} yourself"
            ) from None
