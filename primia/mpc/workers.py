"""Threads for loops that release the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from primia.mpc.dpf_layout import PAD

_SMALLEST = 64 * PAD


class Workers:
    """``threads`` threads; with one, everything runs in the caller's."""

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "primia-mpc") if threads > 1 else None

    def ranges(self, total: int, work: Callable[[int, int], None], multiple: int = PAD, smallest: int = _SMALLEST) -> None:
        """Call ``work(first, last)`` for ranges that cover 0 to ``total`` and begin at multiples of ``multiple``.

        No range but the last is shorter than ``smallest``; the first error is raised when all have ended.
        """
        parts = max(1, min(self.threads, total // smallest))
        step = -(-total // (parts * multiple)) * multiple
        bounds = [(first, min(total, first + step)) for first in range(0, total, max(step, 1))]
        waiting = [self._pool.submit(work, *bound) for bound in bounds[1:]] if self._pool else []
        try:
            for bound in bounds[: 1 if self._pool else None]:
                work(*bound)
        finally:
            wait(waiting)
        for future in waiting:
            future.result()
