"""Attacks and shadow models side by side: a small network gains more from that than from several threads inside each operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import torch

Task = TypeVar("Task")
Result = TypeVar("Result")


def side_by_side(tasks: Sequence[Task], run: Callable[[Task], Result], threads: int) -> Iterator[Result]:
    """Results as they come, in no order; each task runs on one thread.

    Where the caller stops early, tasks that have not begun never do, and those that have are not waited for.
    """
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for future in as_completed([pool.submit(run, task) for task in tasks]):
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
