"""Named vectors in a safetensors file that is whole or not there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from primia.files import atomic_path


def save_vectors(path: Path, vectors: Mapping[str, NDArray[Any]]) -> None:
    """Write vectors, atomically.

    Raises:
        RunError: the file cannot be written (full disk, unwritable folder).
    """
    with atomic_path(path) as temporary:
        try:
            save_file(dict(vectors), temporary)
        except SafetensorError as error:  # its way of reporting a full disk
            raise OSError(str(error)) from error
