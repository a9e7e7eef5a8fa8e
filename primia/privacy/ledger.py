"""The site's own record of what it has spent: written and on disk before anything that it pays for leaves the site."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from primia.errors import PrivacyError
from primia.privacy.spend import Spend


@dataclass(frozen=True)
class Charge:
    """One release: when (ISO 8601, UTC), for which federation, run and round (0: statistics), of which units, at what cost.

    ``delta`` is what the run's statements are for; composition uses the other three numbers alone.
    """

    time: str
    federation: str
    run: str
    round: int
    unit: str
    noise_multiplier: float
    sample_rate: float
    steps: int
    delta: float

    @property
    def spend(self) -> Spend:
        """What the release costs."""
        return Spend(self.noise_multiplier, self.sample_rate, self.steps)


class Ledger:
    """An append-only file of JSON lines, mode 0600.

    A charge counts from the moment that its line is whole. A last line without its end was cut by a crash before
    :meth:`charge` came back, so what it was for has not left the site: it counts as nothing and is cut off by the next charge.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def charges(self, federation: str | None = None) -> list[Charge]:
        """All charges of all runs of a federation, or of all, oldest first; none where there is no file.

        Raises:
            PrivacyError: the file cannot be read, or a whole line is no charge.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unusable(error) from None
        return [charge for charge in self._parsed(content) if federation in (None, charge.federation)]

    def charge(self, charge: Charge, admit: Callable[[Sequence[Charge]], None]) -> None:
        """Add ``charge`` unless ``admit`` raises, which sees the federation's charges so far; when this returns, it is on disk.

        Only one process at a time does this on a file, so two runs cannot spend the same budget.

        Raises:
            PrivacyError: the file cannot be written; nothing may be released then.
        """
        try:
            with self._locked() as descriptor:
                admit(self.charges(charge.federation))
                os.ftruncate(descriptor, self._whole())
                _write(descriptor, json.dumps(asdict(charge)).encode() + b"\n")
        except OSError as error:
            raise self._unusable(error) from None

    @contextmanager
    def _locked(self) -> Iterator[int]:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            _sync_folder(self._path.parent)
            yield descriptor
        finally:
            os.close(descriptor)

    def _whole(self) -> int:
        """Bytes up to the end of the last whole line."""
        return self._path.read_bytes().rfind(b"\n") + 1

    def _parsed(self, content: bytes) -> list[Charge]:
        charges = []
        for number, line in enumerate(content.split(b"\n")[:-1], start=1):
            try:
                charges.append(Charge(**json.loads(line)))
            except (ValueError, TypeError):
                raise PrivacyError(
                    f"{self._path}: line {number} is no charge, so what is spent is not known; restore the file from a backup"
                ) from None
        return charges

    def _unusable(self, error: OSError) -> PrivacyError:
        return PrivacyError(f"{self._path}: the privacy ledger cannot be used ({error.strerror or error}); nothing is released without it")


def _write(descriptor: int, line: bytes) -> None:
    while line:
        line = line[os.write(descriptor, line) :]
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
