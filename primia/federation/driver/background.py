"""Writes files in a background thread while the next round runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWriter:
    """Runs one task at a time; what a task raises is raised by the next call."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._pending: Future[None] | None = None

    def submit(self, task: Callable[[], None]) -> None:
        """Start ``task`` once the one before is done; it must not touch anything that changes meanwhile."""
        self.flush()
        self._pending = self._executor.submit(task)

    def flush(self) -> None:
        """Wait until the last task is done."""
        if self._pending:
            pending, self._pending = self._pending, None
            pending.result()
