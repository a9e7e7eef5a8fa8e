"""The site's own record of what it has spent: written and on disk before anything that it pays for leaves the site."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from primia.errors import PrivacyError
from primia.files import sync
from primia.privacy.spend import Spend
from primia.untrusted.documents import parse_object, validated
from primia.untrusted.files import Unusable, printable, read_file

_LIMIT = 256 * 2**20
"""Bytes of the largest ledger: a million charges."""

_LEAST_NOISE, _MOST_NOISE = 1e-6, 1e7
"""Settings have from a thousandth to 100,000; where the square of it is 0 or infinite, nothing can be accounted for."""

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_Text = Annotated[str, Field(max_length=1000)]


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


class _Written(BaseModel):
    """A charge as a line of the file: what counts less than it cost, or cannot be counted, is no charge."""

    model_config = ConfigDict(strict=True, extra="forbid")

    time: _Text
    federation: _Text
    run: _Text
    round: Annotated[int, Field(ge=0, le=10**9)]
    unit: Annotated[str, Field(pattern=r"^[a-z]{1,20}$")]
    noise_multiplier: Annotated[float, Field(ge=_LEAST_NOISE, le=_MOST_NOISE)]
    sample_rate: Annotated[float, Field(gt=0.0, le=1.0)]
    steps: Annotated[int, Field(ge=0, le=10**12)]
    delta: Annotated[float, Field(gt=0.0, lt=1.0)]


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
            content = read_file(self._path, _LIMIT)
        except FileNotFoundError:
            return []
        except (OSError, Unusable) as error:
            raise self._unusable(error) from None
        return [charge for charge in self._parsed(content) if federation in (None, charge.federation)]

    def charge(self, charge: Charge, admit: Callable[[Sequence[Charge]], None]) -> None:
        """Add ``charge`` unless ``admit`` raises, which sees the federation's charges so far; when this returns, it is on disk.

        Only one process at a time does this on a file, so two runs cannot spend the same budget.

        Raises:
            PrivacyError: the file cannot be written, or the charge is none; nothing may be released then.
        """
        try:
            validated(_Written, asdict(charge))
            with self._locked() as descriptor:
                admit(self.charges(charge.federation))
                os.ftruncate(descriptor, self._whole())
                _write(descriptor, json.dumps(asdict(charge)).encode() + b"\n")
        except (OSError, Unusable) as error:
            raise self._unusable(error) from None

    @contextmanager
    def _locked(self) -> Iterator[int]:
        descriptor = os.open(self._path, _APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            sync(self._path.parent)
            yield descriptor
        finally:
            os.close(descriptor)

    def _whole(self) -> int:
        """Bytes up to the end of the last whole line."""
        return read_file(self._path, _LIMIT).rfind(b"\n") + 1

    def _parsed(self, content: bytes) -> list[Charge]:
        charges = []
        for number, line in enumerate(content.split(b"\n")[:-1], start=1):
            try:
                written: _Written = validated(_Written, parse_object(line))
            except Unusable as error:
                raise PrivacyError(
                    f"{self._path}: line {number} is no charge, so what is spent is not known; restore the file from a backup ({error})"
                ) from None
            charges.append(Charge(**written.model_dump()))
        return charges

    def _unusable(self, error: OSError | Unusable) -> PrivacyError:
        reason = (isinstance(error, OSError) and error.strerror) or printable(error)
        return PrivacyError(f"{self._path}: the privacy ledger cannot be used ({reason}); nothing is released without it")


def _write(descriptor: int, line: bytes) -> None:
    while line:
        line = line[os.write(descriptor, line) :]
    os.fsync(descriptor)
