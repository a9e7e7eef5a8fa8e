"""Files that are either whole or not there, and that their owner alone can read, whatever the umask.

Every folder and file of this project comes from here: images, shards, run folders, predictions and keys are all as confidential
as the patients' images. Folders have mode 0700, files 0600 from the first byte on, temporary ones too. What a library writes by
itself goes to a path that exists already (:func:`atomic_path`), or into a private folder that :func:`keep_private` goes over.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from primia.errors import RunError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER_MODE = 0o700
FILE_MODE = 0o600
UMASK = 0o077
"""For processes that are started by this project and write files of their own, as Ray's do."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def private_folder(path: Path) -> Path:
    """Make the folder ``path``, and those above it that are missing, with mode 0700; one that is there stays as it is.

    Raises:
        OSError: it cannot be made, or something else is there, a link too where it leads to no folder.
    """
    if path.is_dir():
        return path
    if path.parent != path:
        private_folder(path.parent)
    try:
        path.mkdir(FOLDER_MODE)
        path.chmod(FOLDER_MODE)
    except FileExistsError:
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
    return path


def own_folder(path: Path) -> Path:
    """As :func:`private_folder`, and one that is there already, perhaps made by an earlier version, loses all rights of others.

    Raises:
        OSError: it cannot be made or changed, or it is a link, which could lead anywhere.
    """
    if path.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, "a link, where a folder of this project belongs", str(path))
    private_folder(path)
    if stat.S_IMODE(path.stat().st_mode) & UMASK:
        path.chmod(FOLDER_MODE)
    return path


def keep_private(root: Path) -> None:
    """Take all rights of group and others from ``root`` and everything in it, for what a library has written; links are left alone."""
    for path in (root, *root.rglob("*")):
        with suppress(FileNotFoundError):  # a temporary file may be gone since
            if not path.is_symlink():
                path.chmod(FOLDER_MODE if path.is_dir() else FILE_MODE)


def new_file(path: Path) -> BinaryIO:
    """Open a new file with mode 0600 for writing; FileExistsError where there is anything, even a link to nothing."""
    return os.fdopen(_created(path, _NEW), "wb")


def open_to_append(path: Path) -> IO[str]:
    """Open a text file at its end, made with mode 0600 where it is missing.

    Raises:
        OSError: it cannot be opened, or is a link, a hard link or no file: what is written would land elsewhere.
    """
    descriptor = _created(path, _APPEND)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no file of its own: a link or a device", str(path))
    return os.fdopen(descriptor, "a", encoding="utf-8")


def copy_private(source: Path, target: Path) -> None:
    """Copy a file's content to the new file ``target``, which only its owner can read whatever the mode of ``source``."""
    with source.open("rb") as read, new_file(target) as written:
        shutil.copyfileobj(read, written)


@contextmanager
def private_umask() -> Iterator[None]:
    """Start processes whose files are private: umask 0077 while they are started, which they take over."""
    before = os.umask(UMASK)
    try:
        yield
    finally:
        os.umask(before)


def check_free(path: Path, *, overwrite: bool = False) -> None:
    """Raise :class:`RunError` where no file can be put at ``path``: its folder is missing, or something is there already.

    A file may be replaced with ``overwrite``.
    """
    if not path.parent.is_dir():
        raise RunError(f"cannot write {path}: there is no folder {path.parent}; make it, or give another --output")
    if path.is_dir():
        raise RunError(f"cannot write {path}: it is a folder; give another --output")
    if path.exists() and not overwrite:
        raise RunError(f"{path} exists; give another --output, or --overwrite to replace it")


@contextmanager
def scratch_file(folder: Path) -> Iterator[BinaryIO]:
    """A file without a name in ``folder``, gone when closed."""
    with tempfile.TemporaryFile(dir=folder) as file:
        yield file


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give the path of an empty file with mode 0600 beside ``path``; on success it is renamed to ``path``, on failure removed.

    Whatever opens it to write keeps its mode. It is on the disk before it has its name.

    Raises:
        RunError: the file cannot be written (full disk, unwritable folder).
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        new_file(temporary).close()
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
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

    # ``save`` reads an array's memory as it lies, whatever its strides.
    atomic_bytes(path, save({name: np.asarray(value, order="C") for name, value in vectors.items()}))


def write_at(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset`` and have it on the disk; OSError where there is no room, of which ``pwrite`` may tell late."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
    os.fsync(descriptor)


def _created(path: Path, flags: int) -> int:
    descriptor = os.open(path, flags, FILE_MODE)
    with suppress(PermissionError):  # somebody else's file that this user may write to
        os.fchmod(descriptor, FILE_MODE)
    return descriptor


def sync(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
