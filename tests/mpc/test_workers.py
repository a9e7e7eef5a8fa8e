from __future__ import annotations

import threading
import time

import pytest

from primia.mpc.dpf_layout import PAD
from primia.mpc.workers import Workers


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("total", [0, 1, PAD, 64 * PAD, 64 * PAD + 1, 130 * PAD, 1000 * PAD - 7])
@pytest.mark.parametrize(("multiple", "smallest"), [(PAD, 64 * PAD), (4, 16), (16, 32)])
def test_ranges_cover_everything_once(threads: int, total: int, multiple: int, smallest: int) -> None:
    bounds: list[tuple[int, int]] = []
    Workers(threads).ranges(total, lambda first, last: bounds.append((first, last)), multiple, smallest)
    bounds.sort()
    assert [place for first, last in bounds for place in (first, last)][1:-1:2] == [first for first, _ in bounds[1:]]
    assert (bounds[0][0], bounds[-1][1]) == (0, total) if total else not bounds
    assert len(bounds) <= threads and all(first % multiple == 0 for first, _ in bounds)
    assert all(last - first >= smallest for first, last in bounds[:-1])


def test_large_work_is_shared_and_one_thread_is_the_callers() -> None:
    def names(threads: int) -> set[str]:
        found = set()
        Workers(threads).ranges(1000 * PAD, lambda first, last: found.add(threading.current_thread().name))
        return found

    assert names(1) == {threading.current_thread().name}
    assert any(name.startswith("primia-mpc") for name in names(3))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("failing", ["first", "last"])
def test_an_error_is_raised(threads: int, failing: str) -> None:
    def work(first: int, last: int) -> None:
        if (first == 0) if failing == "first" else (last == 300 * PAD):
            raise ZeroDivisionError(failing)

    with pytest.raises(ZeroDivisionError, match=failing):
        Workers(threads).ranges(300 * PAD, work)


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_is_raised_when_all_have_ended(failing: int) -> None:
    """Nobody writes to an array any more that the caller gives up."""
    ended = []

    def work(first: int, last: int) -> None:
        number = first * 3 // (300 * PAD)
        if number == failing:
            raise ZeroDivisionError
        time.sleep(0.1 * number)
        ended.append(number)

    with pytest.raises(ZeroDivisionError):
        Workers(3).ranges(300 * PAD, work)
    assert sorted(ended) == [number for number in range(3) if number != failing]
