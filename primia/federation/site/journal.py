"""What a site remembers of the sums that it helped to open, so that no second one can be taken over other sites.

Two sums of the same contributions over different sites tell, by subtraction, what one site added. A round that is repeated after a
crash has the same contributions, and so has a round of another run that begins with the same model on the same terms. So before a site
helps to open a sum, it writes down which sites the sum is over: under federation, run, round and purpose, and under the name of the work
(:mod:`primia.federation.site.work`), whatever it was called. It helps with no other sum of any of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from primia.errors import ConsentError, ProtocolError
from primia.files import private_folder, sync, write_at

_LONGEST = 1_000
_MOST_SITES = 100_000
_LARGEST_ROUND = 2**63
"""Letters of a text, sites and the round of the largest entry."""

_LARGEST = 256 * 2**20
"""Bytes of the largest journal: more than a million sums."""

_COHORT = "cohort"
_ANY = ""
"""The federation of lines of an earlier version, which did not name it."""

_BEGINNINGS = (b'{"federation": ', b'{"run": ')
_MEND = "restore the file from a backup: without it sums that were opened already could be opened again over other sites"


@dataclass(frozen=True)
class Sum:
    """A sum over ``sites``; ``work``: name of what each of them contributes to it, empty where there is none."""

    federation: str
    run: str
    round: int
    purpose: str
    sites: tuple[str, ...]
    work: str = ""

    @classmethod
    def cohort(cls, federation: str, run: str, sites: Iterable[str]) -> Sum:
        """Return what a run's sites are remembered by: a digest, since whoever begins runs may name as many sites as they like."""
        digest = hashlib.sha256(json.dumps(sorted(sites)).encode()).hexdigest()
        return cls(federation, run, 0, _COHORT, (digest,))

    @property
    def can_be_written(self) -> bool:
        """Whether all is of the types and lengths of an entry; the same is asked of what is read."""
        texts = [self.federation, self.run, self.purpose, self.work, *self.sites]
        is_short = len(self.sites) <= _MOST_SITES and all(type(text) is str and len(text) <= _LONGEST for text in texts)
        return is_short and type(self.round) is int and abs(self.round) < _LARGEST_ROUND

    def of(self, federation: str) -> list[Hashable]:
        """Return what it is known by in a federation."""
        known: list[Hashable] = [(federation, self.run, self.round, self.purpose)]
        return [*known, self.work] if self.work else known


class Agreements:
    """Which sites each sum is over."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[str, ...]] = {}

    def check(self, asked: Sum) -> bool:
        """Whether something of this is not known yet.

        Raises:
            ProtocolError: the sum was agreed on with other sites.
        """
        sites = tuple(sorted(asked.sites))
        for key in (*asked.of(asked.federation), *asked.of(_ANY)):
            known = self._known.get(key, sites)
            if known != sites:
                raise ProtocolError(_refusal(asked, set(known) ^ set(sites)))
        return any(key not in self._known for key in asked.of(asked.federation))

    def add(self, agreed: Sum) -> None:
        """Remember; what was agreed on first stays."""
        for key in agreed.of(agreed.federation):
            self._known.setdefault(key, tuple(sorted(agreed.sites)))


class Journal:
    """An append-only file of JSON lines, mode 0600; several processes may agree at the same time, one after the other."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def agree(self, asked: Sum) -> None:
        """Remember the sites of a sum, on the disk when this returns.

        Raises:
            ProtocolError: others were agreed on before, or the names are none that could be read again.
            ConsentError: the file cannot be read or written, or is full; names the line.
        """
        if not asked.can_be_written:
            raise ProtocolError("a sum has a name that the journal does not hold: names are short texts, a round is a number")
        with self._locked() as descriptor:
            known, end = self._read(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
            if known.check(asked):
                line = b"\n" * (end > 0) + _line(asked)
                if end + len(line) > _LARGEST:
                    raise ConsentError(f"{self._path}: full; no other sum is opened here until the box is made again")
                os.ftruncate(descriptor, end)
                write_at(descriptor, line, end)

    def _read(self, content: bytes) -> tuple[Agreements, int]:
        """What was agreed on, and where the next line belongs: a line torn by a crash was never acknowledged."""
        known, end = Agreements(), 0
        lines = content.split(b"\n")
        for number, line in enumerate(lines, 1):
            is_torn = not line.endswith(b"}") and (number == len(lines) or line.startswith(_BEGINNINGS))
            if not is_torn and line:
                known.add(self._entry(number, line))
            if not is_torn or line.startswith(_BEGINNINGS):
                end = end + len(line) + (number > 1)
        return known, end

    def _entry(self, number: int, line: bytes) -> Sum:
        try:
            entry = json.loads(line)
            names = {key: entry[key] for key in ("run", "round", "purpose")}
            work = entry.get("work", "")
            # An earlier version gave several names, which this one asks for no more.
            work = "" if type(work) is list else work
            agreed = Sum(entry.get("federation", _ANY), sites=tuple(entry["sites"]), work=work, **names)
            if type(entry["sites"]) is not list or not agreed.can_be_written:
                raise ValueError("other types")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ConsentError(f"{self._path}: line {number} is not what was written; {_MEND}") from None
        is_list_of_cohort = agreed.purpose == _COHORT and agreed.federation == _ANY
        return Sum.cohort(_ANY, agreed.run, agreed.sites) if is_list_of_cohort else agreed

    @contextmanager
    def _locked(self) -> Iterator[int]:
        try:
            private_folder(self._path.parent)
            is_new = not self._path.exists()
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ConsentError(f"{self._path}: cannot be written ({error.strerror}); without it no sum is opened here") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
            if is_new:
                sync(self._path.parent)
        except OSError as error:
            raise ConsentError(f"{self._path}: cannot be written ({error.strerror}); without it no sum is opened here") from None
        finally:
            os.close(descriptor)


def _line(agreed: Sum) -> bytes:
    entry = asdict(replace(agreed, sites=tuple(sorted(agreed.sites))))
    text = json.dumps({key: value for key, value in entry.items() if value or key != "work"})
    # Names may hold braces, and by its last one a whole line is told from one that a crash has cut.
    return (text[:-1].replace("}", "\\u007d") + "}").encode()


def _refusal(asked: Sum, differ: Iterable[str]) -> str:
    if asked.purpose == _COHORT:
        return "this run was of other sites before; bring the same sites back, or start a new run"
    return (
        f"{asked.purpose} of round {asked.round} was agreed on with other sites before ({', '.join(sorted(differ))} differ): opening both "
        "sums would tell what they add; bring the same sites back, or start a new run"
    )
