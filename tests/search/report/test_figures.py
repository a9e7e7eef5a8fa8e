from __future__ import annotations

import re
import runpy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from primia.search.records import State
from primia.search.report import figures
from primia.search.report.importance import Parameter, varied_parameters

sweeps = runpy.run_path(str(Path(__file__).parents[1] / "sweeps.py"))
SPACE = dict(line.split(" = ", 1) for line in sweeps["SPACE"].splitlines())
RECORDS = list(sweeps["records"](20).values())
BEST = max((record for record in RECORDS if record.state == State.COMPLETE), key=lambda record: record.value)


def texts(svg: str) -> list[str]:
    """What is written in a picture; it must be whole XML."""
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def shape(svg: str) -> tuple[float, float]:
    root = ElementTree.fromstring(svg)
    return float(root.get("width").removesuffix("pt")), float(root.get("height").removesuffix("pt"))


def without(*states: State):
    return [record for record in RECORDS if record.state not in states]


def test_history_names_each_state_that_there_is():
    assert {"best so far", "complete", "pruned", "failed"} <= set(texts(figures.history(RECORDS, BEST)))
    assert "unfinished" not in texts(figures.history(RECORDS, BEST))
    assert not {"pruned", "failed"} & set(texts(figures.history(without(State.PRUNED, State.FAILED), BEST)))
    running = [replace(RECORDS[0], state=State.RUNNING)]
    assert "unfinished" in texts(figures.history(running, None))
    assert "best so far" not in texts(figures.history(running, None))


def test_history_rings_the_best():
    assert figures.history(RECORDS, BEST) != figures.history(RECORDS, None)


def test_curves_name_the_best_and_the_states():
    said = texts(figures.curves(RECORDS, BEST))
    assert {f"best: trial {BEST.number}", "complete", "pruned"} <= set(said)
    assert "failed" not in said  # the failed ones were never validated


def test_curves_end_where_the_trial_ended():
    def last_x(svg: str) -> float:
        return max(float(text) for text in texts(svg) if text.replace(".", "").isdigit())

    short = [replace(record, curve=record.curve[:3]) for record in RECORDS if record.planned_rounds == sweeps["ROUNDS"]]
    assert last_x(figures.curves(short, None)) <= 4
    assert last_x(figures.curves(RECORDS, BEST)) > 50


def test_a_single_validation_is_visible():
    one = replace(RECORDS[0], curve=((1, 0.3),))
    drawn = [len(re.findall(r"<use [^>]*fill: #1f2933", figures.curves([record], record))) for record in (one, RECORDS[0])]
    assert drawn[0] > drawn[1] == 0


def test_importance_is_written_beside_each_bar():
    said = texts(figures.importance_bars({"training.learning_rate": 0.75, "training.momentum": 0.25}))
    assert any(text.startswith("training.learning_rate") and text.endswith("75 %") for text in said)
    assert any(text.startswith("training.momentum") and text.endswith("25 %") for text in said)


def test_parallel_coordinates_have_an_axis_for_each_parameter_and_the_value():
    parameters = varied_parameters(RECORDS, SPACE)
    said = texts(figures.parallel_coordinates(RECORDS, parameters, BEST))
    assert {parameter.name for parameter in parameters} <= set(said)
    assert figures.VALUE in said
    assert {"adam", "sgd", "yes", "no", "8", "16", "32", "64"} <= set(said)
    assert "federation.rounds" not in said


def test_lines_pass_by_parameters_without_effect():
    optimizer = Parameter.of("training.optimizer", "choice(adam, sgd)", ["adam", "sgd"])
    momentum = Parameter.of("training.momentum", "uniform(0, 1)", [0.5, 0.9])
    adam, sgd = (replace(RECORDS[0], parameters=values) for values in (
        {"training.optimizer": "adam"},
        {"training.optimizer": "sgd", "training.momentum": 0.9},
    ))  # fmt: skip
    dots = [figures.parallel_coordinates([record], [optimizer, momentum], None).count("<use") for record in (adam, sgd)]
    assert dots == [2, 3]


def test_a_log_axis_has_powers_at_equal_distances():
    parameter = Parameter.of("a.b", "loguniform(1e-5, 1e-1)", [1e-5, 1e-3, 1e-1])
    assert [figures._along(parameter, value) for value in parameter.values] == pytest.approx([0.0, 0.5, 1.0])
    assert figures._along(Parameter.of("a.b", "uniform(0, 1)", [0.0, 0.25, 1.0]), 0.25) == 0.25
    assert figures._along(Parameter.of("a.b", "uniform(0, 1)", [0.5]), 0.5) == 0.5


@pytest.mark.parametrize("name", [name for name in SPACE if name != "federation.rounds"])
def test_slices_name_their_parameter(name):
    parameter = next(item for item in varied_parameters(RECORDS, SPACE) if item.name == name)
    said = texts(figures.slice_of(RECORDS, parameter, BEST))
    assert {name, figures.VALUE} <= set(said)
    if parameter.scale == "category":
        assert set(parameter.labels) <= set(said)


def test_a_slice_on_a_log_axis_is_labelled_in_plain_numbers():
    parameter = next(item for item in varied_parameters(RECORDS, SPACE) if item.scale == "log")
    assert {"0.0001", "0.001"} <= set(texts(figures.slice_of(RECORDS, parameter, BEST)))


NARROW = {
    "less than a decade": ("loguniform(1e-5, 1e-2)", [0.003, 0.00312, 0.0035, 0.004, 0.0045]),
    "around one power": ("loguniform(1e-5, 1e-2)", [0.00093, 0.001, 0.0011]),
    "whole numbers": ("loguniform(3, 4)", [3, 4]),
    "many decades": ("loguniform(1e-9, 1e-1)", [1e-9, 3e-5, 1e-1]),
    "few that touch": ("uniform(1, 2)", [1.667, 1.753, 1.762]),
    "few that almost touch": ("uniform(1, 2)", [0.1, 0.9, 0.91]),
    "steps": ("quniform(0, 30, 5)", [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]),
    "hardly any range": ("uniform(1, 2)", [1.000101, 1.000321]),
}


@pytest.mark.parametrize("case", NARROW)
def test_tick_labels_of_a_slice_are_few_and_have_room(case):
    parameter = Parameter.of("a.b", *NARROW[case])
    records = [replace(RECORDS[0], parameters={"a.b": value}) for value in parameter.values]
    figure = ElementTree.fromstring(figures.slice_of(records, parameter, None))
    axis = next(node for node in figure.iter() if node.get("id") == "matplotlib.axis_1")
    labels = [node for node in axis.iter("{http://www.w3.org/2000/svg}text") if node.text]
    assert 2 <= len(labels) <= 4
    places = [float(node.get("x")) for node in labels]
    for (left, right), (here, there) in zip(pairwise(labels), pairwise(places), strict=True):
        assert there - here > 5.7 * (len(left.text) + len(right.text)) / 2


def test_front_is_joined_and_named():
    records = [replace(record, second=float(record.number)) for record in without(State.FAILED)]
    chosen = [record for record in records if record.number in (1, 10)]
    said = texts(figures.front(records, chosen, "epsilon", in_bytes=False))
    assert {"front", "epsilon", "1", "10"} <= set(said)
    assert "front" not in texts(figures.front(records, [], "epsilon", in_bytes=False))


def test_points_of_a_front_that_all_but_touch_share_a_label():
    far, near, nearly = (replace(RECORDS[0], number=number, value=value, second=second) for number, value, second in (
        (101, 0.2, 1.0),
        (102, 0.8, 9.0),
        (103, 0.801, 9.01),
    ))  # fmt: skip
    assert {"101", "102, 103"} <= set(texts(figures.front([far, near, nearly], [far, near, nearly], "epsilon", in_bytes=False)))


def test_bytes_are_written_in_their_unit():
    records = [replace(record, second=1e9 * record.number) for record in without(State.FAILED)]
    assert any(text.endswith(" GB") for text in texts(figures.front(records, [], "bytes moved", in_bytes=True)))


def test_names_bring_no_markup_and_no_formulas():
    evil = "<script>$x^2$</script>"
    parameter = Parameter.of(evil, "choice(a, b)", [evil, "b"])
    records = [replace(record, parameters={evil: (evil, "b")[record.number % 2]}) for record in RECORDS]
    for svg in (figures.slice_of(records, parameter, None), figures.parallel_coordinates(records, [parameter], None)):
        assert "<script" not in svg
        assert evil in texts(svg)


def test_pictures_are_narrow_enough_to_stand_side_by_side():
    parameters = varied_parameters(RECORDS, SPACE)
    pair = (figures.history(RECORDS, BEST), figures.curves(RECORDS, BEST), figures.parallel_coordinates(RECORDS, parameters, BEST))
    assert [shape(svg)[0] for svg in pair] == pytest.approx([4.4 * 72] * 3)
    assert shape(figures.history(RECORDS, BEST)) == shape(figures.curves(RECORDS, BEST))
