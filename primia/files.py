"""Files that are either whole or not there: temporary name in the same folder, fsync, rename."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from primia.errors import RunError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it is fsynced and renamed to ``path``, on failure removed.

    Raises:
        RunError: the file cannot be written (full disk, unwritable folder).
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def atomic_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write ``data`` to ``path``, atomically; errors as :func:`atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def atomic_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, atomically; errors as :func:`atomic_path`."""
    atomic_bytes(path, text.encode())


def atomic_vectors(path: Path, vectors: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays of any layout to ``path`` as safetensors, atomically; errors as :func:`atomic_path`."""
    # Here: they load numpy, and the command line imports this module to write text.
    import numpy as np
    from safetensors.numpy import save

    # ``save`` reads an array's memory as it lies, whatever its strides; ``save_file`` would make a file that its owner alone can read.
    atomic_bytes(path, save({name: np.asarray(value, order="C") for name, value in vectors.items()}))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
