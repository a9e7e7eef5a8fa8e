"""What was done with a site's data: JSON lines, only ever appended, each bound to all before it by SHA-256.

A head beside the log holds the number of lines, their bytes and the last hash, so that a log cut short is noticed too.
Line k is bound by h_k = SHA-256(h_(k-1), line k without its hash), h_0 being empty. There is no secret in it: whoever may
write to the box can write a new log, and only a head kept elsewhere tells.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from primia.consent.files import read_json, write_json
from primia.errors import ConsentError
from primia.files import write_at
from primia.untrusted.documents import parse_object, validated
from primia.untrusted.files import Unusable

MEND = "find out who did it, and put log and head back from a backup, or aside to begin new ones"

_LARGEST = 2**30
"""Bytes of the largest log that is read."""

_LONGEST = 2**20
"""Bytes of the longest line that is written."""


@dataclass(frozen=True)
class AuditEntry:
    """One line: its number from 1, the time in UTC, what happened, and the hash that binds it."""

    number: int
    time: str
    event: Mapping[str, Any]
    hash: str

    def line(self) -> bytes:
        """The entry as it stands in the file."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False).encode() + b"\n"


@dataclass(frozen=True)
class Head:
    """Where a log ends: its lines, their bytes, and the hash of the last."""

    entries: Annotated[int, Field(ge=0, le=_LARGEST)] = 0
    bytes: Annotated[int, Field(ge=0, le=_LARGEST)] = 0
    hash: Annotated[str, Field(max_length=64)] = ""

    def next(self, time: str, event: Mapping[str, Any]) -> AuditEntry:
        """The entry that follows."""
        body = {"number": self.entries + 1, "time": time, "event": event}
        content = json.dumps(body, sort_keys=True, allow_nan=False).encode()
        return AuditEntry(self.entries + 1, time, event, hashlib.sha256(self.hash.encode() + content).hexdigest())

    def after(self, entry: AuditEntry) -> Head:
        """The head once ``entry`` is written."""
        return Head(entry.number, self.bytes + len(entry.line()), entry.hash)


@dataclass
class _Reader:
    """Follows the chain over lines read."""

    path: Path
    head: Head = field(default_factory=Head)

    def entry(self, line: bytes) -> AuditEntry:
        number = self.head.entries + 1
        try:
            content = parse_object(line)
            entry = self.head.next(content["time"], content["event"])
        except (ValueError, KeyError, TypeError):
            raise self._edited(number) from None
        if entry.line() != line:
            raise self._edited(number)
        self.head = self.head.after(entry)
        return entry

    def _edited(self, number: int) -> ConsentError:
        return ConsentError(f"{self.path}: line {number} is not what was written: it was edited, or a line before it was removed; {MEND}")


_HEAD = TypeAdapter(Head)


class AuditLog:
    """The log at ``path``, its head beside it; several processes may append."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._head_path = path.with_suffix(".head")

    def append(self, event: Mapping[str, Any]) -> AuditEntry:
        """Write ``event`` (JSON values, finite numbers) as the next line; it is on the disk when this returns.

        Raises:
            ConsentError: the log was cut or continued by somebody else, is full, or the event could not be read back.
        """
        with self._locked(fcntl.LOCK_EX) as descriptor:
            head = self._end(descriptor)
            entry = self._entry(head, event)
            os.ftruncate(descriptor, head.bytes)  # a line torn by a crash was never acknowledged
            self._write(descriptor, entry, head)
            write_json(self._head_path, asdict(head.after(entry)))
        return entry

    def read(self) -> tuple[AuditEntry, ...]:
        """All entries, verified.

        Raises:
            ConsentError: a line was edited, removed or added; it names the line.
        """
        with self._locked(fcntl.LOCK_SH) as descriptor:
            head = self._head()
            lines = _whole_lines(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
        reader = _Reader(self._path)
        entries = tuple(reader.entry(line) for line in lines)
        self._check(head, len(entries))
        if head.entries and entries[head.entries - 1].hash != head.hash:
            raise ConsentError(
                f"{self._path}: written anew: line {head.entries} is not the one that {self._head_path.name} was made for; {MEND}"
            )
        return entries

    def head(self) -> Head:
        """Where the log ends, to be kept elsewhere: it proves later that the log up to here is unchanged."""
        with self._locked(fcntl.LOCK_SH):
            return self._head()

    def _write(self, descriptor: int, entry: AuditEntry, head: Head) -> None:
        try:
            write_at(descriptor, entry.line(), head.bytes)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> ConsentError:
        return ConsentError(f"{self._path}: cannot be written ({error.strerror}); without an audit log nothing is done here")

    def _entry(self, head: Head, event: Mapping[str, Any]) -> AuditEntry:
        """The next entry, read back before it is written: a line that cannot be read would close the log for good."""
        try:
            entry = head.next(datetime.now(UTC).isoformat(timespec="seconds"), event)
            line = entry.line()
            _Reader(self._path, head).entry(line)
        except (ValueError, TypeError, RecursionError, ConsentError):
            raise ConsentError(
                f"{self._path}: an event that could not be read back is not written: no JSON, too deep or too large"
            ) from None
        if len(line) > _LONGEST or head.bytes + len(line) > _LARGEST:
            raise ConsentError(f"{self._path}: full, or an event of more than {_LONGEST} bytes; put log and head aside to begin new ones")
        return entry

    def _end(self, descriptor: int) -> Head:
        """The head, moved over the one whole line that a crash may have left behind it."""
        head = self._head()
        size = os.fstat(descriptor).st_size
        reader = _Reader(self._path, head if size >= head.bytes else Head())
        for line in _whole_lines(os.pread(descriptor, size - reader.head.bytes, reader.head.bytes)):
            reader.entry(line)
        self._check(head, reader.head.entries)
        return reader.head

    def _check(self, head: Head, entries: int) -> None:
        if entries < head.entries:
            raise ConsentError(f"{self._path}: cut after line {entries}, {head.entries} were written; {MEND}")
        if entries > head.entries + 1:
            raise ConsentError(
                f"{self._path}: line {head.entries + 1} and what follows are not in {self._head_path.name}: "
                f"added by somebody else, or the head is missing; {MEND}"
            )

    def _head(self) -> Head:
        content = read_json(self._head_path, missing={})
        try:
            head: Head = validated(_HEAD, asdict(Head(**content)))
            return head
        except (TypeError, Unusable):
            raise ConsentError(f"{self._head_path}: no head of an audit log; {MEND}") from None

    @contextmanager
    def _locked(self, how: int) -> Iterator[int]:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            if os.fstat(descriptor).st_size > _LARGEST:
                raise ConsentError(f"{self._path}: larger than {_LARGEST} bytes; {MEND}")
            fcntl.flock(descriptor, how)
            yield descriptor
        finally:
            os.close(descriptor)


def _whole_lines(content: bytes) -> list[bytes]:
    return [line + b"\n" for line in content.split(b"\n")[:-1]]
