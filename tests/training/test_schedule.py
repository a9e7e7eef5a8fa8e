from __future__ import annotations

from math import sqrt

import pytest

from primia.config.settings import TrainingSettings
from primia.training.schedule import learning_rate


def rate(progress: float, **settings: object) -> float:
    return learning_rate(
        TrainingSettings.model_validate({"learning_rate": 1e-2, "end_learning_rate": 1e-4, "restarts": 0} | settings), progress
    )


@pytest.mark.parametrize("progress", [0.0, 0.5, 0.99])
def test_constant(progress: float) -> None:
    assert rate(progress, schedule="constant", restarts=2) == 1e-2


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 1e-2), (0.25, 10**-2.5), (0.5, 1e-3), (0.75, 10**-3.5)])
def test_log_linear_is_linear_in_the_logarithm(progress: float, expected: float) -> None:
    assert rate(progress, schedule="log-linear") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, 1e-2), (0.25, 1e-4 + 0.0099 * (1 + sqrt(0.5)) / 2), (0.5, 0.00505), (0.75, 1e-4 + 0.0099 * (1 - sqrt(0.5)) / 2)],
)
def test_cosine_is_half_a_cosine(progress: float, expected: float) -> None:
    assert rate(progress, schedule="cosine") == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["cosine", "log-linear"])
@pytest.mark.parametrize("restarts", [1, 2])
def test_a_restart_runs_the_course_again(schedule: str, restarts: int) -> None:
    for cycle in range(restarts + 1):
        for within in (0.0, 0.25, 0.9):
            once = rate(within, schedule=schedule)
            assert rate((cycle + within) / (restarts + 1) + 1e-12, schedule=schedule, restarts=restarts) == pytest.approx(once, rel=1e-6)


def test_the_end_is_a_hundredth_of_the_start_unless_given() -> None:
    settings = TrainingSettings(learning_rate=1e-2, end_learning_rate=None, schedule="log-linear", restarts=0)
    assert learning_rate(settings, 1 - 1e-9) == pytest.approx(1e-4)
