from __future__ import annotations

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from primia.search.records import State
from primia.search.report.importance import FEWEST_TRIALS, Parameter, importances, text_of, varied_parameters

sweeps = runpy.run_path(str(Path(__file__).parents[1] / "sweeps.py"))
SPACE = dict(line.split(" = ", 1) for line in sweeps["SPACE"].splitlines())


def searched(trials: int, seed: int = 1):
    records = list(sweeps["records"](trials, seed).values())
    return records, varied_parameters(records, SPACE)


@pytest.mark.parametrize(
    ("expression", "values", "scale", "kept"),
    [
        ("loguniform(1e-5, 1)", [0.1, 1e-5, 0.1], "log", (1e-5, 0.1)),
        ("loguniform(1e-5, 1) only if a.b = 1", [0.1, 0.0], "linear", (0.0, 0.1)),  # 0 from elsewhere has no place on a log axis
        ("uniform(0, 1)", [0.5, 0.25], "linear", (0.25, 0.5)),
        ("randint(1, 9)", [9, 1], "linear", (1, 9)),
        ("choice(64, 8, 16)", [64, 8], "category", (8, 64)),
        ("choice(sgd, adam)", ["sgd", "adam"], "category", ("adam", "sgd")),
        ("bool", [True, False], "category", (False, True)),
    ],
)
def test_scale_is_what_the_expression_says(expression, values, scale, kept):
    parameter = Parameter.of("a.c", expression, values)
    assert (parameter.scale, parameter.values) == (scale, kept)


def test_categories_stand_side_by_side_and_numbers_where_they_are():
    assert [Parameter.of("a.b", "choice(8, 64)", [8, 64]).position(value) for value in (8, 64)] == [0.0, 1.0]
    assert Parameter.of("a.b", "uniform(0, 1)", [0.25, 0.5]).position(0.25) == 0.25


def test_values_are_written_short():
    assert [text_of(value) for value in (None, True, False, 0.00123456, 12345678, "adam")] == [
        "–",
        "yes",
        "no",
        "0.001235",
        "12345678",
        "adam",
    ]


def test_only_what_was_varied_and_does_not_follow_is_a_parameter():
    records, parameters = searched(20)
    names = [parameter.name for parameter in parameters]
    assert names == [name for name in SPACE if name != "federation.rounds"]
    same = [replace(record, parameters=record.parameters | {"training.batch_size": 16}) for record in records]
    assert "training.batch_size" not in [parameter.name for parameter in varied_parameters(same, SPACE)]
    assert varied_parameters([replace(record, value=None) for record in records], SPACE) == []


@pytest.mark.parametrize(
    ("key", "expression", "is_searched"),
    [
        ("federation.server_learning_rate", ".5 * training.learning_rate", False),
        ("federation.rounds", "100 / training.batch_size", False),
        ("federation.rounds", "100 / training.batch_size only if training.batch_size > 8 else randint(1, 9)", True),
        ("federation.rounds", "randint(1, 9)", True),
    ],
)
def test_what_can_be_drawn_is_a_parameter(key, expression, is_searched):
    made = sweeps["records"](2).values()
    varied = [replace(record, parameters={key: 1 + place}) for place, record in enumerate(made)]
    assert [parameter.name for parameter in varied_parameters(varied, {key: expression})] == [key] * is_searched


def test_the_setting_that_decides_has_the_largest_share():
    importance = importances(*searched(100))
    assert next(iter(importance.shares)) == "training.learning_rate"
    assert importance.shares["training.learning_rate"] > 0.5
    assert sum(importance.shares.values()) == pytest.approx(1.0)
    assert set(importance.shares) == set(SPACE) - {"federation.rounds"}
    assert list(importance.shares.values()) == sorted(importance.shares.values(), reverse=True)


def test_failed_and_running_trials_do_not_count():
    records, parameters = searched(40)
    ended = [record for record in records if record.state in (State.COMPLETE, State.PRUNED)]
    others = [replace(record, number=100 + record.number, state=State.RUNNING, value=0.99) for record in records]
    assert importances([*records, *others], parameters) == importances(ended, parameters)
    assert importances(records, parameters).trials == len(ended)


def test_too_few_trials_or_settings_have_no_importance():
    records, parameters = searched(40)
    complete = [record for record in records if record.state == State.COMPLETE]
    assert importances(complete[: FEWEST_TRIALS - 1], parameters) is None
    assert importances(complete[:FEWEST_TRIALS], parameters) is not None
    assert importances(complete, parameters[:1]) is None


def test_equal_values_tell_nothing():
    records, parameters = searched(20)
    assert importances([replace(record, value=0.5, state=State.COMPLETE) for record in records], parameters) is None


def test_it_is_repeatable_and_says_nothing(recwarn, capfd):
    import optuna

    before = optuna.logging.get_verbosity()
    assert importances(*searched(20)) == importances(*searched(20))
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before


def test_optuna_is_loaded_only_when_it_is_needed():
    code = "import sys, primia.search.report.page; print('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
