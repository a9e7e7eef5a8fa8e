"""Who ends trials early: the right scheduler with the right numbers, told of made-up results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from primia.config.reader import load_config
from primia.search.space.space import Space
from primia.search.tune.schedulers import build_scheduler
from primia.search.tune.trainable import MCC, PERCENT

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
TEXTS = tuple(
    f"search.{key}={text}"
    for key, text in {
        "training.learning_rate": "loguniform(1e-4, 1)",
        "training.optimizer": "choice(adam, sgd, adamw)",
        "training.momentum": "uniform(0, 0.9)",
    }.items()
)


@dataclass(frozen=True)
class Trial:
    """As much of Ray's as a scheduler looks at."""

    trial_id: str
    status: str = "RUNNING"


@dataclass(frozen=True)
class Controller:
    """Who has all trials, others that wait for their start among them."""

    trials: list[Trial]

    def get_live_trials(self) -> list[Trial]:
        return [*self.trials, Trial("next", "PENDING")]


def scheduler(kind: str, *overrides: str) -> TrialScheduler:
    return build_scheduler(Space.of(load_config(None, [*TEXTS, f"search.scheduler={kind}", *overrides])))


def decisions(of: TrialScheduler, percent: float, *scores: float) -> list[str]:
    """What becomes of trials that come to this point one after the other."""
    trials = [Trial(str(number)) for number in range(len(scores))]
    controller: Any = Controller(trials)
    for trial in trials:
        of.on_trial_add(controller, trial)  # type: ignore[arg-type]
    return [of.on_trial_result(controller, trial, {PERCENT: percent, MCC: mcc}) for trial, mcc in zip(trials, scores, strict=True)]  # type: ignore[arg-type]


def test_asha_lets_one_in_so_many_go_on_from_each_rung() -> None:
    assert type(scheduler("asha")) is ASHAScheduler
    worse = [0.9 - number / 100 for number in range(8)]
    assert decisions(scheduler("asha", "search.reduction=4"), 20, 0.9, *worse).count(CONTINUE) <= 3
    assert decisions(scheduler("asha", "search.reduction=2"), 20, *sorted(worse)) == [CONTINUE] * 8, "each better than all before"
    assert decisions(scheduler("asha"), 20, 0.5, 0.1, 0.1) == [CONTINUE, STOP, STOP]


@pytest.mark.parametrize("kind", ["asha", "median"])
def test_every_trial_may_train_the_part_of_its_rounds_that_is_its_grace(kind: str) -> None:
    scores = (0.9, 0.8, 0.7, 0.1)
    assert decisions(scheduler(kind, "search.grace=0.3"), 29, *scores) == [CONTINUE] * 4
    assert decisions(scheduler(kind, "search.grace=0.3"), 30, *scores)[-1] == STOP


def test_median_stopping_needs_a_few_to_compare_with() -> None:
    assert type(scheduler("median")) is MedianStoppingRule
    assert decisions(scheduler("median"), 50, 0.9, 0.8, 0.1, 0.2, 0.85) == [CONTINUE, CONTINUE, CONTINUE, STOP, CONTINUE]


def test_median_stopping_pauses_no_trial_for_another_that_waits() -> None:
    """A trial that pauses lets its process go, which ends it."""
    made = scheduler("median")
    for percent in (50, 60, 70):
        assert decisions(made, percent, 0.9, 0.8) == [CONTINUE] * 2


def test_no_scheduler_ends_nothing() -> None:
    assert type(scheduler("none")) is FIFOScheduler
    assert decisions(scheduler("none"), 90, 0.9, 0.8, 0.7, -1) == [CONTINUE] * 4


@pytest.mark.parametrize("kind", ["asha", "median"])
def test_a_trial_that_failed_counts_for_no_rung(kind: str) -> None:
    """It tells 0 per cent and the lowest value; those that come after it are judged by the others alone."""
    made = scheduler(kind)
    assert decisions(made, 0, *[-1.0] * 9) == [CONTINUE] * 9
    assert decisions(made, 50, 0.9, 0.8, 0.85, 0.1)[-1] == STOP
