"""A population: what is exchanged for what, who has a turn, and how settings are changed."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from primia.config.reader import load_config
from primia.search.records import TrialRecord
from primia.search.space.space import Space
from primia.search.tune.population import Population
from primia.search.tune.schedulers import build_scheduler
from primia.search.tune.trainable import ASSIGNMENT, MCC, PERCENT

BASE = {"training.learning_rate": 0.01, "training.optimizer": "sgd", "training.momentum": 0.5}
TEXTS = tuple(
    f"search.{key}={text}"
    for key, text in {
        "training.learning_rate": "loguniform(1e-4, 1)",
        "training.optimizer": "choice(adam, sgd, adamw)",
        "training.momentum": "uniform(0, 0.9)",
    }.items()
)


def population(*overrides: str) -> Population:
    made = build_scheduler(Space.of(load_config(None, [*TEXTS, "search.scheduler=pbt", *overrides])))
    assert isinstance(made, Population)
    return made


@dataclass(eq=False)
class Member:
    """As much of a Ray trial as a population looks at."""

    trial_id: str
    status: str = "PAUSED"

    def is_finished(self) -> bool:
        return False


@dataclass
class Controller:
    """Who has all members."""

    members: list[Member]

    def get_trials(self) -> list[Member]:
        return self.members


def of_four(made: Population, *scores: float) -> Any:
    """Four members that wait, with these scores."""
    members = [Member(name) for name in "abcd"]
    states = [SimpleNamespace(last_score=score, last_train_time=0, last_perturbation_time=0) for score in scores]
    made._trial_state = dict(zip(members, states, strict=True))
    return Controller(members)


@pytest.mark.parametrize(
    ("scores", "heirs", "models"), [((0.9, 0.1, 0.2, 0.05), "d", "a"), ((0.1, 0.1, 0.1, 0.1), "", "d"), ((0.3, 0.1, 0.3, 0.2), "b", "c")]
)
def test_the_worst_takes_over_from_the_best_but_not_from_its_equal(scores: tuple[float, ...], heirs: str, models: str) -> None:
    made = population()
    of_four(made, *scores)
    lower, upper = made._quantiles()
    assert ("".join(member.trial_id for member in lower), "".join(member.trial_id for member in upper)) == (heirs, models)


def test_members_that_are_equally_far_take_turns() -> None:
    """Each is set back after its turn, as by an exchange, and does not keep the others waiting."""
    made = population("search.grace=0.25")
    controller = of_four(made, 0.1, 0.1, 0.1, 0.1)
    ran = []
    for _ in range(8):
        member = made.choose_trial_to_run(controller)
        assert member is not None
        ran.append(member.trial_id)
        made.on_trial_result(controller, member, {PERCENT: 10, MCC: 0.5})
    assert ran == list("abcdabcd")
    made._trial_state[controller.members[1]].last_train_time = -1
    least = made.choose_trial_to_run(controller)
    assert least is not None and least.trial_id == "b", "who is least far comes first"
    controller.members.clear()
    assert made.choose_trial_to_run(controller) is None


def test_population_based_training_exchanges_after_its_grace() -> None:
    made = population("search.grace=0.25")
    assert made._perturbation_interval == 25, "per cent of the rounds"


def explored(times: int, *overrides: str) -> list[dict[str, Any]]:
    explore = population(*overrides)._custom_explore_fn
    assert explore
    given = {ASSIGNMENT: {"number": 3, "replica": 1, "parameters": BASE, "record": "of an earlier part"}}
    return [explore(given) for _ in range(times)]


def test_what_is_taken_over_is_changed_within_the_space() -> None:
    space = Space.of(load_config(None, TEXTS))
    changed = [each[ASSIGNMENT] for each in explored(20)]
    assert {each["record"] for each in changed} == {None}, "its record was of other settings"
    parameters = [each["parameters"] for each in changed]
    assert all(space.point(space.settings(values)) == values for values in parameters)
    assert all(values != BASE for values in parameters) and len({str(values) for values in parameters}) > 5


def test_changes_follow_from_the_seed_alone() -> None:
    assert explored(5) == explored(5)
    assert explored(5)[0] != explored(5, "search.seed=2")[0]


def test_numbers_move_by_a_fifth_or_are_drawn_anew() -> None:
    moved = [each[ASSIGNMENT]["parameters"]["training.learning_rate"] for each in explored(60)]
    aside = [rate for rate in moved if rate == pytest.approx(0.008) or rate == pytest.approx(0.012)]
    assert 30 <= len(aside) < 60


def test_a_record_is_no_part_of_what_is_changed() -> None:
    """The configuration that it was made from stays as it is: it is the other trial's."""
    explore = population()._custom_explore_fn
    assert explore
    record = TrialRecord(1, "running", BASE, "trials/0001")  # type: ignore[arg-type]
    given = {ASSIGNMENT: {"number": 1, "replica": 0, "parameters": BASE, "record": record}}
    explore(given)
    assert given == {ASSIGNMENT: {"number": 1, "replica": 0, "parameters": BASE, "record": record}}
