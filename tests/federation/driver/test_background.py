from __future__ import annotations

import threading

import pytest

from primia.federation.driver.background import BackgroundWriter


def test_tasks_run_in_order_and_flush_waits() -> None:
    writer, done, gate = BackgroundWriter(), [], threading.Event()

    def first() -> None:
        gate.wait(5)
        done.append(1)

    writer.submit(first)
    assert done == []
    gate.set()
    writer.submit(lambda: done.append(2))
    writer.flush()
    assert done == [1, 2]


def test_an_error_is_raised_once_by_the_next_call() -> None:
    writer = BackgroundWriter()
    writer.submit(lambda: int("x"))  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="invalid literal"):
        writer.flush()
    writer.flush()
