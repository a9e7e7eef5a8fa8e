"""What went wrong at a site, in full: for those who may read its files, mode 0600."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from primia.errors import PrimiaError
from primia.untrusted.files import Unusable, read_end

FILE = "errors.log"

_INDENT = "  "

_LARGEST = 16 * 2**20
"""Bytes after which a new file is begun; the one before is kept as ``errors.log.1``, and none before that."""

_LONGEST = 20_000
_LONGEST_LINE = 2_000
"""Letters of the longest traceback, of which the end says most, and of the longest error's words."""

_LONGEST_ENTRY = 2**18
"""Bytes that an error with its traceback is within."""


@dataclass(frozen=True)
class LogEntry:
    """What was ``asked`` for and what the error said, in one line; ``traceback`` where it is a bug."""

    asked: str
    words: str
    traceback: str = ""


class SiteLog:
    """A text file that is only appended to: a line for each error, below it the traceback, indented."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, asked: str, error: Exception) -> None:
        """Append an error; where that fails, the error that is to be logged matters more, so nothing is raised."""
        lines = [f"{datetime.now(UTC).isoformat(timespec='seconds')} {asked}: {words_of(error)}"]
        if not isinstance(error, PrimiaError):
            text = "".join(traceback.format_exception(error))[-_LONGEST:]
            lines += [_INDENT + line for line in text.splitlines()]
        with suppress(OSError):
            if self.size > _LARGEST:
                self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "a", encoding="utf-8") as file:  # noqa: PTH123 - by descriptor
                file.write("\n".join(lines) + "\n")

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def last(self) -> LogEntry | None:
        """The last error; None where there is none, or the file cannot be read."""
        try:
            lines = read_end(self.path, _LONGEST_ENTRY).decode("utf-8", "replace").splitlines()
        except (OSError, Unusable):
            return None
        begun = next((index for index in reversed(range(len(lines))) if lines[index] and not lines[index].startswith(_INDENT)), None)
        if begun is None:
            return None
        asked, _, words = lines[begun].partition(" ")[2].partition(": ")
        return LogEntry(asked, words, "\n".join(line.removeprefix(_INDENT) for line in lines[begun + 1 :]))


def words_of(error: Exception) -> str:
    """What an error says, in one line; of a bug its class too."""
    said = " ".join(str(error)[:_LONGEST_LINE].split())
    return said if isinstance(error, PrimiaError) else f"{type(error).__name__}: {said}"
