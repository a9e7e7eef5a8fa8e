"""Files of a site box: for the owner's eyes only, whole or not there, and changed by one process at a time."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from primia.errors import ConsentError
from primia.files import atomic_text
from primia.untrusted.documents import read_object

LOCK_FILE = "lock"
OTHERS = 0o077
"""Mode bits of group and others."""


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of ``folder``: alone to write, ``shared`` to read. Not to be taken twice by one thread.

    Raises:
        ConsentError: the lock file cannot be opened.
    """
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConsentError(
            f"{folder / LOCK_FILE}: cannot be locked ({error.strerror}); is this a site box that you may write to?"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_private(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, with mode 0600 from the start; :class:`RunError` on a full or unwritable disk."""
    atomic_text(path, text)


def write_json(path: Path, content: object) -> None:
    """:func:`write_private` of ``content`` as JSON."""
    write_private(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def read_json(path: Path, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    """The object in the JSON file ``path``, or ``missing`` where there is none.

    Raises:
        ConsentError: the file is missing and ``missing`` not given, or it holds no JSON object.
    """
    try:
        return read_object(path)
    except FileNotFoundError:
        if missing is not None:
            return missing
        raise ConsentError(f"{path}: missing from the site box; restore it from a backup, or make the box again") from None
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise ConsentError(f"{path}: cannot be read ({reason}); restore it from a backup, or make the box again") from None


def check_mode(path: Path, what: str, mend: str) -> None:
    """Raise :class:`ConsentError` where group or others have any right on ``path``, which is ``what``."""
    mode = path.stat().st_mode & 0o7777
    if mode & OTHERS:
        raise ConsentError(f"{path}: {what} with mode {mode:04o}, others may read it; {mend}")


def check_no_links(root: Path) -> None:
    """Raise :class:`ConsentError` at a symbolic link under ``root``: Syft follows them, out of the box if need be."""
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                raise ConsentError(f"{path}: neither a file nor a folder, which a site box may not hold; remove it")
            if stat.S_ISLNK(mode):
                raise ConsentError(f"{path}: a symbolic link, which a site box may not hold; put the file itself there")
