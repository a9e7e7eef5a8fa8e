"""Image files to uint8 arrays of one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from primia.errors import DataError
from primia.untrusted.files import Unusable, check_regular

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
DICOM_SUFFIXES = (".dcm", ".dicom")


PIXEL_LIMIT = 2**26
"""Pixels of the largest picture that is decoded, twice those of a mammogram: a few bytes of a file may stand for any number."""


class BadImage(DataError):
    """One image file cannot be read, for ``reason``."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: cannot be read as an image ({reason}); mend or remove it, or skip it with data.on_bad_image = skip")
        self.path = path
        self.reason = reason


def decode(path: Path, *, channels: int, image_size: int) -> NDArray[np.uint8]:
    """The image at ``path`` as uint8 ``(channels, image_size, image_size)``, upright by its EXIF orientation.

    The whole picture is stretched to the square with an antialiasing filter: nothing is cropped and no
    border is added, but the aspect ratio is not kept. 16-bit grey values are scaled by their full range
    (65535 becomes 255); 32-bit integers and floats, which have none, by the picture's own smallest and
    largest value. Transparency is ignored; of several frames the first is taken. Raises :class:`BadImage`, also for what is no
    regular file and for more than :data:`PIXEL_LIMIT` pixels.
    """
    try:
        check_regular(path, follow=True)
        with Image.open(path) as image:
            image.draft("L" if channels == 1 else "RGB", (2 * image_size, 2 * image_size))
            if image.width * image.height > PIXEL_LIMIT:
                raise Unusable(f"{image.width} x {image.height} pixels, more than {PIXEL_LIMIT}")
            return _fit(ImageOps.exif_transpose(image), channels, image_size)
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them trip over
        raise BadImage(path, _reason(error)) from error


def resize(image: Image.Image, image_size: int) -> Image.Image:
    """``image`` stretched to ``image_size`` squared, antialiased."""
    return image.resize((image_size, image_size), Image.Resampling.BILINEAR)


def _fit(image: Image.Image, channels: int, image_size: int) -> NDArray[np.uint8]:
    if image.mode.startswith(("I", "F")):
        grey = resize(Image.fromarray(_unit_range(image)), image_size)
        pixels = np.clip(np.asarray(grey) * 255 + 0.5, 0, 255).astype(np.uint8)
        return np.repeat(pixels[None], channels, axis=0)
    if image.mode in ("P", "PA"):
        image = image.convert("RGB")
    pixels = np.asarray(resize(image.convert("L" if channels == 1 else "RGB"), image_size))
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _unit_range(image: Image.Image) -> NDArray[np.float32]:
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float32)
        grey /= 65535
        return grey
    values = np.asarray(image).astype(np.float64)
    lowest, highest = float(values.min()), float(values.max())
    values -= lowest
    values /= max(highest - lowest, 1e-300)
    return values.astype(np.float32)


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file, or a link to nothing"
    if isinstance(error, UnidentifiedImageError):
        return "its content is no image of a known format"
    return " ".join(str(error).split()) or type(error).__name__
