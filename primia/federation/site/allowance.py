"""How many lines a log takes of what costs its writer nothing."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

_AT_ONCE = 1000.0
_PER_SECOND = 0.1


class Allowance:
    """So many lines at once, and one more every ten seconds; what is beyond is counted.

    Calls that are refused need no grant, so whoever reaches a site could fill the log until it takes no more. With at most 3 kB a line,
    filling a GiB takes more than a month, in which the lines say what goes on.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._left = _AT_ONCE
        self._time = clock()
        self.unlisted = 0
        """Lines that were not written since the last one that was."""

    def take(self) -> bool:
        """Whether one more line may be written; the caller tells :attr:`unlisted` in it, and sets that back."""
        now = self._clock()
        self._left = min(_AT_ONCE, self._left + (now - self._time) * _PER_SECOND)
        self._time = now
        if self._left < 1:
            self.unlisted += 1
            return False
        self._left -= 1
        return True
