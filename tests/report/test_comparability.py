from __future__ import annotations

from dataclasses import replace

import pytest

from primia.report.comparability import caveats, differences, differing_settings
from primia.runs.results import RunResults


@pytest.fixture
def read(make_run):
    def runs(**options):
        return {name: RunResults.read(make_run(name, **given)) for name, given in options.items()}

    return runs


def test_modes_and_seeds_of_one_experiment_compare(read):
    runs = read(fed={"seed": 1}, fed2={"seed": 2}, pooled={"mode": "pooled"}, alone={"mode": "local", "site": "hospital-a"})
    assert differences(runs) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fingerprint": "beef"}, "the images differ: fingerprint 5eed (a), beef (b)"),
        ({"settings": {"training": {"batch_size": 64}}}, "training.batch_size = 16 (a), 64 (b)"),
        (
            {"settings": {"training": {"end_learning_rate": 1e-5, "schedule": "log-linear"}}},
            "training.schedule = cosine (a), log-linear (b)",
        ),
        ({"settings": {"federation": {"proximal_mu": 0.1}}}, "federation.proximal_mu = 0.0 (a), 0.1 (b)"),
        ({"rounds": 5}, "optimisation steps differ by 18 %: 136 (a), 112 (b)"),
        ({"change": lambda s: s["test"].update(images=120)}, "numbers of test images differ: 180 (a), 120 (b)"),
    ],
)
def test_what_differs_is_said(read, options, said):
    assert said in differences(read(a={}, b=options))


def test_steps_within_two_per_cent_are_equal(read):
    runs = read(a={}, b={"mode": "pooled"})
    a, b = replace(runs["a"], steps=1000), runs["b"]
    assert differences({"a": a, "b": replace(b, steps=981)}) == []
    assert "optimisation steps differ by 2 %" in differences({"a": a, "b": replace(b, steps=979)})[0]


@pytest.mark.parametrize("change", [{"run": {"output": "elsewhere"}}, {"data": {"cache": "tmp"}}, {"resources": {"threads": 7}}])
def test_places_and_threads_change_no_result(read, change):
    assert differences(read(a={}, b={"settings": change})) == []


def test_settings_without_effect_in_a_mode_are_not_held_against_it(read):
    fedprox = {"federation": {"proximal_mu": 0.1, "weighting": "uniform"}}
    assert differences(read(fed={"settings": fedprox}, pooled={"mode": "pooled"})) == []


def test_a_config_of_another_version_is_compared_key_by_key(read):
    old = read(a={}, b={"settings": {"model": {"depth": 4}}})
    assert differing_settings(old) == {}
    old = read(c={"settings": {"model": {"depth": 3}}}, d={"settings": {"model": {"depth": 4}}})
    assert differing_settings(old) == {"model.depth": {"c": "3", "d": "4"}}


def test_unlike_fingerprints_include_a_missing_one(read):
    runs = read(a={}, b={})
    unknown = replace(runs["b"], fingerprint=None)
    assert differences({"a": runs["a"], "b": unknown}) == ["the images differ: fingerprint 5eed (a), unknown (b)"]


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ({"a": {}}, "the images are synthetic: nothing here says anything about clinical use"),
        ({"a": {}, "b": {}}, "federated with seed 1 is there 2 times: repeats of a seed are no independent runs"),
        ({"a": {"seed": 1}, "b": {"seed": 2, "mode": "pooled"}}, "seeds differ: 1 (federated), 2 (pooled)"),
        ({"a": {"change": lambda s: s.update(status="stopped")}}, "a was stopped after round 6"),
        ({"a": {"change": lambda s: s.update(test=None)}}, "a has no test images, so it takes no part in the conclusion"),
        ({"a": {}}, "faults, each a site left out of a round: a (1)"),
        ({"a": {}, "b": {"change": lambda s: s["versions"].update(torch="2.0")}}, "versions of torch differ: 2.14.1 (a), 2.0 (b)"),
        ({"a": {"mode": "local", "site": "hospital-b"}}, "no run of hospital-a, hospital-c alone, so the best single site may be missing"),
    ],
)
def test_what_the_reader_has_to_know(read, runs, said):
    assert said in caveats(read(**runs))


def test_a_clean_comparison_has_no_caveat(read):
    def clean(summary):
        summary |= {"faults": [], "synthetic": False}

    assert caveats(read(a={"change": clean}, b={"mode": "pooled", "change": clean})) == []
