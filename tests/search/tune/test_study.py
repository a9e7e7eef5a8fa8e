"""What is suggested, and what it depends on: on nothing but the seed, the trial's number, and what is known by then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from statistics import mean

import pytest

from primia.config.reader import load_config
from primia.errors import ConfigError
from primia.search.records import State, TrialRecord, Value
from primia.search.space.grammar import parse_expression
from primia.search.space.space import Space
from primia.search.tune.study import SweepStudy
from primia.search.tune.warm_start import Known

RATE, MOMENTUM, DECAY = "training.learning_rate", "training.momentum", "training.weight_decay"
WIDE = {
    RATE: "loguniform(1e-5, 1)",
    "training.optimizer": "choice(adam, sgd)",
    MOMENTUM: "uniform(0, 0.99)",
    "training.batch_size": "choice(8, 16, 32)",
    "augmentation.rotation": "quniform(0, 90, 5)",
}
LINE = {DECAY: "uniform(0, 1)"}
GRID = {MOMENTUM: "quniform(0, 0.2, 0.1)", "training.optimizer": "choice(sgd, adam)"}
Values = Mapping[str, Value]


def space(texts: Mapping[str, str], *overrides: str) -> Space:
    return Space.of(load_config(None, [*(f"search.{key}={text}" for key, text in texts.items()), *overrides]))


def record(number: int, parameters: Values, value: float | None = None, state: State = State.COMPLETE, **others: object) -> TrialRecord:
    return replace(TrialRecord(number, state, parameters, f"trials/{number:04d}", value=value, rounds=3), **others)  # type: ignore[arg-type]


def height(values: Values) -> float:
    """A score; of :data:`LINE` the value itself."""
    return float(values.get(DECAY, values.get(MOMENTUM, 0.0)))


def go_on(study: SweepStudy, numbers: Iterable[int], score: Callable[[Values], float] = height) -> dict[int, Values]:
    """Trials one after the other, each trained to the end."""
    suggested: dict[int, Values] = {}
    for number in numbers:
        values = study.suggest(number)
        if values is None:
            break
        suggested[number] = values
        study.learn(record(number, values, score(values)))
    return suggested


def average(suggested: Mapping[int, Values], numbers: range) -> float:
    return mean(float(suggested[number][DECAY]) for number in numbers)


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_same_seed_and_results_give_the_same_suggestions(algorithm: str) -> None:
    options = (f"search.algorithm={algorithm}", "search.random_trials=4")
    first, second = (go_on(SweepStudy(space(WIDE, *options)), range(1, 13)) for _ in range(2))
    assert first == second
    other = go_on(SweepStudy(space(WIDE, *options, "search.seed=2")), range(1, 13))
    assert other[1] == first[1], "the settings as given"
    assert not [number for number in range(2, 13) if other[number] == first[number]]


def test_suggestions_are_points_of_the_space() -> None:
    wide = space(WIDE, "search.random_trials=4")
    for values in list(go_on(SweepStudy(wide), range(1, 13)).values())[1:]:
        assert wide.point(wide.settings(values)) == values


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
@pytest.mark.parametrize("done", [1, 3, 8])
def test_a_resumed_study_suggests_what_an_uninterrupted_one_does(algorithm: str, done: int) -> None:
    wide = space(WIDE, f"search.algorithm={algorithm}", "search.random_trials=4")
    whole = go_on(SweepStudy(wide), range(1, 13))
    resumed = SweepStudy(wide)
    for number in range(1, done + 1):
        resumed.recall(number, whole[number])
        resumed.learn(record(number, whole[number], height(whole[number])))
    assert go_on(resumed, range(done + 1, 13)) == {number: whole[number] for number in range(done + 1, 13)}


def test_a_study_resumed_with_failed_and_pruned_trials_does_so_too() -> None:
    wide = space(WIDE, "search.random_trials=3")
    states = [State.COMPLETE, State.FAILED, State.PRUNED, State.COMPLETE, State.PRUNED, State.COMPLETE, State.FAILED, State.PRUNED]
    studies, told = [SweepStudy(wide), SweepStudy(wide)], {}
    for number, state in enumerate(states, 1):
        values = studies[0].suggest(number)
        assert values is not None
        told[number] = record(number, values, None if state is State.FAILED else height(values), state)
        studies[0].learn(told[number])
    for number, each in told.items():
        studies[1].recall(number, each.parameters)
        studies[1].learn(each)
    assert go_on(studies[0], range(9, 13)) == go_on(studies[1], range(9, 13))


def test_the_estimator_goes_where_values_were_good() -> None:
    line = space(LINE, "search.try_given=no", "search.random_trials=8")
    high = go_on(SweepStudy(line), range(1, 31))
    low = go_on(SweepStudy(line), range(1, 31), lambda values: -height(values))
    assert average(high, range(20, 31)) > 0.8 and average(low, range(20, 31)) < 0.2
    by_chance = go_on(SweepStudy(space(LINE, "search.try_given=no", "search.algorithm=random")), range(1, 31))
    assert 0.25 < average(by_chance, range(20, 31)) < 0.75


def test_a_failed_trial_teaches_nothing_and_a_pruned_one_something() -> None:
    """As long as no trial has a value, the estimator draws as at random."""
    at_random = go_on(SweepStudy(space(WIDE, "search.algorithm=random")), range(1, 13))
    for state, value in ((State.FAILED, None), (State.COMPLETE, None), (State.PRUNED, 0.5)):
        study = SweepStudy(space(WIDE, "search.random_trials=2"))
        suggested = {}
        for number in range(1, 13):
            values = suggested[number] = study.suggest(number)
            study.learn(record(number, values or {}, value, state))
        assert (suggested == at_random) == (value is None)


def test_among_pruned_trials_the_better_ones_lead() -> None:
    study = SweepStudy(space(LINE, "search.try_given=no", "search.random_trials=8"))
    suggested: dict[int, Values] = {}
    for number in range(1, 31):
        values = suggested[number] = study.suggest(number) or {}
        study.learn(record(number, values, height(values), State.PRUNED))
    assert average(suggested, range(20, 31)) > 0.8


def test_trials_at_the_same_time_know_of_each_other() -> None:
    """Where one is being tried already, the next one keeps away."""
    alone, beside = (SweepStudy(space(LINE, "search.random_trials=4", "search.max_concurrent=4")) for _ in range(2))
    for study in (alone, beside):
        go_on(study, range(1, 11))
    for number in (11, 12, 13):
        beside.suggest(number)
    assert alone.suggest(14) != beside.suggest(14)


def test_the_settings_as_given_come_first() -> None:
    wide = space(WIDE, "training.learning_rate=0.01", "training.optimizer=sgd", "training.momentum=0.25", "training.batch_size=16")
    assert SweepStudy(wide).suggest(1) == wide.given() != {}
    without = space(WIDE, "training.learning_rate=0.01", "search.try_given=no")
    assert SweepStudy(without).suggest(1) != without.given()


def test_given_settings_outside_the_space_are_tried_all_the_same_and_teach_nothing() -> None:
    outside = space({RATE: "loguniform(1e-5, 1e-4)"}, "training.learning_rate=0.5", "search.random_trials=2")
    study = SweepStudy(outside)
    assert study.suggest(1) == {}
    study.learn(record(1, {}, 0.9))
    values = study.suggest(2)
    assert values is not None and 1e-5 <= float(values[RATE]) <= 1e-4
    resumed = SweepStudy(outside)
    resumed.recall(1, {})
    resumed.learn(record(1, {}, 0.9))
    assert resumed.suggest(2) == values


def test_a_grid_gives_every_combination_once_and_ends() -> None:
    study = SweepStudy(space(GRID, "search.algorithm=grid", "search.try_given=no"))
    suggested = list(go_on(study, range(1, 99)).values())
    assert suggested[-1] == {"training.optimizer": "adam"}, "momentum has no effect there"
    assert sorted(float(values[MOMENTUM]) for values in suggested[:-1]) == [0.0, 0.1, 0.2]
    assert study.suggest(99) is None


def test_a_resumed_grid_goes_on_where_it_was() -> None:
    grid = space(GRID, "search.algorithm=grid")
    whole, resumed = go_on(SweepStudy(grid), range(1, 99)), SweepStudy(grid)
    assert len(whole) == 4, "the settings as given, and the three other combinations"
    for number in (1, 2, 3):
        resumed.recall(number, whole[number])
        resumed.learn(record(number, whole[number], 0.1))
    assert go_on(resumed, range(4, 99)) == {4: whole[4]}


def test_what_earlier_trials_came_to_is_known_from_the_start() -> None:
    line = space(LINE, "search.try_given=no")
    known = [Known({DECAY: number / 20}, (number / 20,)) for number in range(1, 20)]
    assert average(go_on(SweepStudy(line, known), range(1, 9)), range(1, 9)) > 0.8, "the first ones are not drawn at random"


def test_what_earlier_trials_were_is_not_drawn_again() -> None:
    for algorithm in ("random", "tpe"):
        wide = space(WIDE, f"search.algorithm={algorithm}")
        before = go_on(SweepStudy(wide), range(1, 6))
        after = go_on(SweepStudy(wide, [Known(values, (0.5,)) for values in before.values()]), range(1, 6))
        assert after[1] == before[1] == wide.given(), "what is to be beaten is trained under the same conditions"
        assert not [values for number, values in after.items() if number > 1 and values in before.values()]
    grid = space(GRID, "search.algorithm=grid", "search.try_given=no")
    before = go_on(SweepStudy(grid), range(1, 3))
    after = go_on(SweepStudy(grid, [Known(values, (0.5,)) for values in before.values()]), range(1, 99))
    assert [*before.values(), *after.values()] == [*go_on(SweepStudy(grid), range(1, 99)).values()]


def test_known_good_settings_are_tried_after_the_given_ones() -> None:
    line = space({MOMENTUM: "uniform(0, 0.9)"}, "training.optimizer=sgd", "training.momentum=0.5")
    study = SweepStudy(line, [Known({MOMENTUM: 0.375})])
    assert [study.suggest(1), study.suggest(2)] == [{MOMENTUM: 0.5}, {MOMENTUM: 0.375}]
    assert study.suggest(3) not in ({MOMENTUM: 0.5}, {MOMENTUM: 0.375})


def test_a_point_that_contradicts_itself_is_drawn_again() -> None:
    """Bounds that another setting reverses, and settings that exclude each other: the check before has not met all points."""
    texts = {
        "training.end_learning_rate": "loguniform(1e-3, training.learning_rate) only if training.learning_rate != 0.5",
        "training.learning_rate": "loguniform(1e-4, 1e-2)",
    }
    base = load_config(None, ["training.schedule=cosine", *(f"search.{key}={text}" for key, text in texts.items())])
    unchecked = Space(base, {key: parse_expression(key, texts[key]) for key in (RATE, "training.end_learning_rate")})
    first, *found = go_on(SweepStudy(unchecked), range(1, 25)).values()
    assert first == {}, "as given, which is no point of the space"
    assert all(float(values[RATE]) > 1e-3 for values in found) and len({values[RATE] for values in found}) > 20


def test_where_hardly_any_point_is_possible_the_contradiction_is_told() -> None:
    text = "loguniform(1e-3, training.learning_rate)"
    base = load_config(
        None, ["training.schedule=cosine", "training.learning_rate=1e-4", "training.end_learning_rate=1e-5", "search.try_given=no"]
    )
    key = "training.end_learning_rate"
    with pytest.raises(ConfigError, match="end_learning_rate"):
        SweepStudy(Space(base, {key: parse_expression(key, text)})).suggest(2)


def test_of_two_objectives_the_second_counts_too() -> None:
    """The value is the same everywhere; less of it is cheaper."""
    line = space(LINE, "search.try_given=no", "search.random_trials=8", "search.second_objective=bytes", "search.scheduler=none")
    suggested: dict[int, Values] = {}
    study = SweepStudy(line)
    for number in range(1, 31):
        values = suggested[number] = study.suggest(number) or {}
        study.learn(record(number, values, 0.5, second=height(values)))
    assert average(suggested, range(20, 31)) < 0.25


def test_a_trial_without_its_second_objective_counts_as_failed() -> None:
    line = space(WIDE, "search.random_trials=2", "search.second_objective=bytes", "search.scheduler=none")
    at_random = go_on(SweepStudy(space(WIDE, "search.algorithm=random")), range(1, 9))
    assert go_on(SweepStudy(line), range(1, 9)) == at_random
