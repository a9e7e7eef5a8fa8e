from __future__ import annotations

import json

from primia.runs.summary import RunSummary


def read(run):
    return RunSummary.of(json.loads((run / "summary.json").read_text()))


def test_typed_summary_is_kept(make_run):
    summary = read(make_run())
    assert RunSummary.of(summary) is summary


def test_fields_of_later_versions_are_ignored(make_run):
    assert read(make_run(change=lambda s: s.update(later={"epsilon": 3.0}))).mode == "federated"


def test_without_a_test_split_validation_is_judged(make_run):
    summary = read(make_run(change=lambda s: s.update(test=None)))
    assert summary.judged_split == "validation"
    assert summary.judged == summary.validation


def test_training_sites_of_each_mode(make_run):
    assert read(make_run("f")).training_sites == ("hospital-a", "hospital-b", "hospital-c")
    assert read(make_run("p", mode="pooled")).training_sites == ("hospital-a", "hospital-b", "hospital-c")
    local = read(make_run("l", mode="local", site="hospital-b"))
    assert local.training_sites == ("hospital-b",)
    assert local.kind == "local hospital-b"


def test_of_many_sites_the_worst_are_listed(make_run):
    summary = read(make_run(sites=[f"s{i}" for i in range(8)]))
    assert [name for name, _ in summary.sites_on("test", 3)] == ["s7", "s6", "s5"]
    assert [name for name, _ in summary.sites_on("test", 8)] == [f"s{i}" for i in range(8)]


def test_a_lone_site_is_not_called_worst(make_run):
    summary = read(make_run(sites=["only"]))
    assert not summary.is_worst("only", "test")


def test_worst_is_marked_on_the_judged_split_only(make_run):
    summary = read(make_run())
    assert summary.is_worst("hospital-c", "test")
    assert not summary.is_worst("hospital-c", "validation")
    assert not summary.is_worst("hospital-a", "test")
