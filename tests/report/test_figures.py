from __future__ import annotations

from xml.etree import ElementTree

import matplotlib
import pytest

from primia.report import figures
from primia.runs.results import RunResults


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_curves_name_sites_and_the_best_round(make_run):
    results = RunResults.read(make_run())
    said = texts(figures.training_curves(results.rounds, 5))
    assert {"hospital-a", "hospital-b", "hospital-c", "all sites"} <= set(said)
    assert f"best: round 5, {results.rounds[4].validation_mcc:.3f}" in said


def test_many_sites_become_a_band(make_run):
    said = texts(figures.training_curves(RunResults.read(make_run(sites=[f"s{i}" for i in range(9)])).rounds, 5))
    assert "lowest to highest site" in said
    assert "s0" not in said


def test_one_round_can_be_drawn(make_run):
    said = texts(figures.training_curves(RunResults.read(make_run(rounds=1)).rounds, 1))
    assert any(text.startswith("best: round 1") for text in said)


def test_constant_learning_rate_needs_no_picture(make_run):
    assert figures.learning_rate_curve(RunResults.read(make_run("constant", rate=lambda round_: 1e-3)).rounds) is None
    assert figures.learning_rate_curve(RunResults.read(make_run("falling")).rounds)


def test_a_steep_learning_rate_is_labelled_with_plain_numbers(make_run):
    svg = figures.learning_rate_curve(RunResults.read(make_run("steep", rate=lambda round_: 10.0**-round_)).rounds)
    assert svg is not None and "0.0001<" in svg and "math" not in svg


def test_confusion_counts_and_shares():
    said = texts(figures.confusion_matrix([[30, 10], [0, 0]], ["sick", "well"]))
    assert {"30", "75 %", "10", "25 %", "sick", "well", "truth", "predicted"} <= set(said)


@pytest.mark.parametrize("name", ["$x^2$", "<b>&", "_under $"])
def test_names_are_drawn_as_they_are(name):
    assert name in texts(figures.confusion_matrix([[1, 0], [0, 1]], [name, "b"]))


def test_the_same_numbers_give_the_same_picture_and_global_style_stays():
    before = matplotlib.rcParams["axes.grid"], matplotlib.rcParams["svg.fonttype"]
    assert figures.score_dots({"a": [0.5]}, "MCC") == figures.score_dots({"a": [0.5]}, "MCC")
    assert before == (matplotlib.rcParams["axes.grid"], matplotlib.rcParams["svg.fonttype"])


@pytest.mark.filterwarnings("error")
def test_names_with_signs_that_steer_are_drawn_as_their_codes():
    names = ["\x1b[31m", "\u202eb", "a\nb"]
    svg = figures.confusion_matrix([[3, 0, 0], [0, 3, 0], [0, 0, 3]], names)
    assert not {"\x1b", "\u202e"} & set(svg)
    assert "\\x1b[31m" in texts(svg) and "a\\nb" in texts(svg)


def test_the_confusion_matrix_of_very_many_classes_is_not_drawn():
    classes = figures.CLASS_LIMIT + 1
    assert figures.confusion_matrix([[1] * classes] * classes, [str(number) for number in range(classes)]) is None
