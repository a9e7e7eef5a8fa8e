"""What a site remembers of the sums that it helped to open, so that no second one can be taken over other sites.

Two sums of the same contributions over different sites tell, by subtraction, what one site added. A round that is repeated after a
crash has the same contributions, and so has a round of another run that begins with the same model on the same terms. So before a site
helps to open a sum, it writes down which sites the sum is over, twice: under run, round and purpose, and under the work
(:mod:`primia.federation.work`), whatever it was called. It helps with no other sum of either.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from primia.errors import ConsentError, ProtocolError
from primia.files import private_folder, sync

_LONGEST = 1_000
_MOST_SITES = 100_000
_LARGEST_ROUND = 2**63
"""Letters of a text, sites and the round of the largest entry."""

_BEGINNING = b'{"run": '
_MEND = "restore the file from a backup: without it sums that were opened already could be opened again over other sites"


class Agreements:
    """Which sites each sum is over."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[str, ...]] = {}

    def check(self, run: str, round_: int, purpose: str, sites: tuple[str, ...], work: str) -> bool:
        """Whether something of this is not known yet.

        Raises:
            ProtocolError: the sum was agreed on with other sites.
        """
        keys = _keys(run, round_, purpose, work)
        for key in keys:
            known = self._known.get(key, sites)
            if known != sites:
                differ = ", ".join(sorted(set(known) ^ set(sites)))
                raise ProtocolError(
                    f"{purpose} of round {round_} was agreed on with other sites before ({differ} differ): opening both sums would tell "
                    "what they add; bring the same sites back, or start a new run"
                )
        return any(key not in self._known for key in keys)

    def add(self, run: str, round_: int, purpose: str, sites: tuple[str, ...], work: str) -> None:
        """Remember; what was agreed on first stays."""
        for key in _keys(run, round_, purpose, work):
            self._known.setdefault(key, sites)


class Journal:
    """An append-only file of JSON lines, mode 0600; several processes may agree at the same time, one after the other."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def agree(self, run: str, round_: int, purpose: str, sites: Iterable[str], work: str = "") -> None:
        """Remember the sites of a sum, on the disk when this returns; ``work``: digest of what the contributions follow from.

        Raises:
            ProtocolError: others were agreed on before, or the names are none that could be read again.
            ConsentError: the file cannot be read or written; names the line.
        """
        names = tuple(sites)
        if not _is_entry(run, round_, purpose, names, work):
            raise ProtocolError(
                "a sum has a name that the journal does not hold: run, purpose and sites are short texts, a round is a number"
            )
        names = tuple(sorted(names))
        with self._locked() as descriptor:
            content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
            known, end = self._read(content)
            if known.check(run, round_, purpose, names, work):
                entry = {"run": run, "round": round_, "purpose": purpose, "sites": names} | ({"work": work} if work else {})
                os.ftruncate(descriptor, end)
                os.pwrite(descriptor, b"\n" * (end > 0) + json.dumps(entry).encode(), end)
                os.fsync(descriptor)

    def _read(self, content: bytes) -> tuple[Agreements, int]:
        """What was agreed on, and where the next line belongs: a line torn by a crash was never acknowledged."""
        known, end = Agreements(), 0
        lines = content.split(b"\n")
        for number, line in enumerate(lines, 1):
            is_torn = not line.endswith(b"}") and (number == len(lines) or line.startswith(_BEGINNING))
            if not is_torn and line:
                known.add(*self._entry(number, line))
            if not is_torn or line.startswith(_BEGINNING):
                end = end + len(line) + (number > 1)
        return known, end

    def _entry(self, number: int, line: bytes) -> tuple[str, int, str, tuple[str, ...], str]:
        try:
            entry = json.loads(line)
            run, round_, purpose, sites, work = entry["run"], entry["round"], entry["purpose"], entry["sites"], entry.get("work", "")
            if type(sites) is not list or not _is_entry(run, round_, purpose, sites, work):
                raise ValueError("other types")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ConsentError(f"{self._path}: line {number} is not what was written; {_MEND}") from None
        return run, round_, purpose, tuple(sites), work

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


def _is_entry(run: object, round_: object, purpose: object, sites: Sequence[object], work: object) -> bool:
    """Whether all is of the types and lengths of an entry; the same is asked of what is written and of what is read."""
    texts = [run, purpose, work, *sites]
    is_short = len(sites) <= _MOST_SITES and all(type(text) is str and len(text) <= _LONGEST for text in texts)
    return is_short and type(round_) is int and abs(round_) < _LARGEST_ROUND


def _keys(run: str, round_: int, purpose: str, work: str) -> list[Hashable]:
    return [(run, round_, purpose), *([work] if work else [])]
