"""Files and folders from strangers: regular files of bounded size, reached through no link."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

DOCUMENT_LIMIT = 16 * 2**20
"""Bytes of the largest JSON document or settings file that is read."""

ENTRY_LIMIT = 1_000_000
DEPTH_LIMIT = 32
"""Files of the largest folder that is looked through, and levels of folders in it."""

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Unusable(ValueError):
    """A file that is not as this project writes it; the text says in what, on one line."""


def read_file(path: Path, limit: int = DOCUMENT_LIMIT, *, follow: bool = False) -> bytes:
    """The content of a regular file of at most ``limit`` bytes; ``follow`` a link where the user names the file.

    Raises:
        OSError: it is missing, not readable, or a folder.
        Unusable: a link, a device, or too large.
    """
    status = path.stat() if follow else path.lstat()
    _check_regular(status, limit)
    descriptor = os.open(path, _READ if follow else _READ | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        _check_regular(os.fstat(descriptor), limit)  # it may be another one by now
        content = file.read(limit + 1)
    if len(content) > limit:
        raise Unusable(f"larger than {limit} bytes")
    return content


def read_end(path: Path, limit: int) -> bytes:
    """The last ``limit`` bytes of a regular file; errors as of :func:`read_file`."""
    check_regular(path)
    descriptor = os.open(path, _READ | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        file.seek(max(0, os.fstat(descriptor).st_size - limit))
        return file.read(limit)


def check_regular(path: Path, *, follow: bool = False) -> None:
    """Errors as of :func:`read_file`, for a file that something else opens."""
    _check_regular(path.stat() if follow else path.lstat(), None)


def check_folder(root: Path) -> None:
    """Look through a folder that will be read and written: all in it must be regular files and folders.

    ``root`` itself may be a link, since the user names it.

    Raises:
        OSError: it cannot be listed.
        Unusable: it holds a link or a device, or too much.
    """
    waiting, count = [(os.fspath(root), 0)], 0
    while waiting:
        folder, depth = waiting.pop()
        for entry in _entries(folder, depth):
            count += 1
            if count > ENTRY_LIMIT:
                raise Unusable(f"more than {ENTRY_LIMIT} files")
            if entry.is_dir(follow_symlinks=False):
                waiting.append((entry.path, depth + 1))
            elif not entry.is_file(follow_symlinks=False):
                kind = "a symbolic link" if entry.is_symlink() else "neither a file nor a folder"
                raise Unusable(f"{printable(os.path.relpath(entry.path, root))} is {kind}")


def is_real_folder(path: Path) -> bool:
    """Whether there is a folder at ``path``, and not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def printable(text: object, limit: int = 300) -> str:
    """``text`` on one line that a terminal can show, cut at ``limit``."""
    line = " ".join(str(text).split()).encode("utf-8", "backslashreplace").decode()
    line = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)
    return line if len(line) <= limit else f"{line[:limit]} ..."


def _entries(folder: str, depth: int) -> list[os.DirEntry[str]]:
    if depth > DEPTH_LIMIT:
        raise Unusable(f"folders more than {DEPTH_LIMIT} deep")
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        if not depth:
            raise
        return []  # a folder that went since: a sweep may be running


def _check_regular(status: os.stat_result, limit: int | None) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise Unusable("a symbolic link")
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise Unusable("no regular file")
    if limit is not None and status.st_size > limit:
        raise Unusable(f"{status.st_size} bytes, more than {limit}")
