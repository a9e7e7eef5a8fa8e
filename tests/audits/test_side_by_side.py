from __future__ import annotations

import threading
from time import sleep

import pytest
import torch

from primia.audits.side_by_side import side_by_side


def test_every_task_gives_its_result_on_one_thread_of_torch():
    def run(task: int) -> tuple[int, int]:
        return task * task, torch.get_num_threads()

    assert sorted(side_by_side(range(5), run, 2)) == [(task * task, 1) for task in range(5)]


def test_tasks_run_at_the_same_time():
    meeting = threading.Barrier(2, timeout=10)
    assert len(list(side_by_side(range(2), lambda _: meeting.wait(), 2))) == 2


def test_an_error_reaches_the_caller_and_what_has_not_begun_never_does():
    begun = []

    def run(task: int) -> int:
        begun.append(task)
        if task == 0:
            raise ValueError("task 0")
        sleep(0.01)  # so that the caller hears of it long before the last task
        return task

    with pytest.raises(ValueError, match="task 0"):
        list(side_by_side(range(1000), run, 1))
    assert len(begun) < 1000
