from __future__ import annotations

import json

import pytest
from rich.console import Console

from primia.report.tables import class_table, communication_table, evaluation_tables, metrics_table, round_table
from primia.runs.results import RunResults


def shown(*renderables, width=80):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    for renderable in renderables:
        console.print(renderable)
    return console.export_text()


def document(run):
    return json.loads((run / "summary.json").read_text())


def row(text, label):
    return next(line for line in text.splitlines() if line.strip().startswith(label)).split()


def test_numbers_are_the_summarys(make_run):
    summary = document(make_run())
    summary["test"] |= {"images": 4321, "accuracy": 0.7654, "balanced_accuracy": 0.6543, "mcc": 0.5432, "roc_auc": None}
    text = shown(metrics_table(summary))
    assert row(text, "all sites") == ["all", "sites", "4,321", "76.5", "%", "65.4", "%", "0.543", "–"]
    site = summary["sites"]["hospital-a"]["test"]
    assert row(text, "hospital-a")[1:] == ["60", "90.0", "%", "90.0", "%", f"{site['mcc']:.3f}", "0.912"]


def test_the_worst_site_alone_is_marked(make_run):
    text = shown(metrics_table(document(make_run())))
    assert [line.split()[0] for line in text.splitlines() if "(worst)" in line] == ["hospital-c"]


def test_a_local_run_has_validation_at_its_own_site_only(make_run):
    text = shown(metrics_table(document(make_run(mode="local", site="hospital-b"))))
    test, validation = text.split("validation")
    assert "hospital-a" in test
    assert "hospital-a" not in validation
    assert "hospital-b" in validation


def test_without_a_test_split_there_is_no_test_block(make_run):
    def forget(summary):
        summary["test"] = None
        for site in summary["sites"].values():
            site["test"] = None

    text = shown(metrics_table(document(make_run(change=forget))))
    assert "test" not in text
    assert "(worst)" in text


def test_a_hundred_sites_stay_readable(make_run):
    text = shown(metrics_table(document(make_run(sites=[f"s{i:03d}" for i in range(100)]))))
    assert "… and 80 better sites" in text
    assert len(text.splitlines()) < 60


def test_class_table_has_per_class_metrics_and_the_confusion_matrix(make_run):
    summary = document(make_run())
    text = shown(class_table(summary))
    per_class = summary["test"]["per_class"]["viral"]
    assert row(text, "viral") == ["viral", "60", f"{100 * per_class['precision']:.1f}", "%", "85.0", "%", "85.0", "%"]
    assert row(text.split("rows: truth")[1], "viral") == ["viral", *map(str, summary["test"]["confusion"][2])]


def test_class_table_with_no_evaluation(make_run):
    assert "no evaluation" in shown(class_table(document(make_run(change=lambda s: s.update(test=None, validation=None)))))


def test_long_class_names_are_numbered_and_numbers_stay_whole(make_run):
    classes = [f"a class of long name {i}" for i in range(10)]
    summary = document(make_run(classes=classes, sites=[f"s{i}" for i in range(99)]))
    text = shown(class_table(summary))
    assert f"{summary['test']['confusion'][0][0]:,}" in text.split("rows: truth")[1]


def test_evaluation_tables_take_a_plain_dict_and_drop_a_huge_matrix(make_run):
    summary = document(make_run(classes=[f"c{i}" for i in range(16)]))
    assert len(evaluation_tables(summary["test"], "other hospital")) == 1


def test_round_table_lists_validated_rounds_and_marks_the_best(make_run):
    results = RunResults.read(make_run())
    text = shown(round_table(results.rounds, best_round=5))
    fifth = results.rounds[4]
    scores = [f"{fifth.sites[name].validation_mcc:.3f}" for name in ("hospital-a", "hospital-b", "hospital-c")]
    assert row(text, "* 5") == ["*", "5", f"{fifth.train_loss:.4f}", f"{fifth.validation_mcc:.3f}", *scores, "7.78e-05", "2.4", "s"]
    assert "–" in row(text, "3 ")


def test_round_table_of_many_sites_has_the_lowest(make_run):
    results = RunResults.read(make_run(sites=[f"s{i}" for i in range(8)]))
    lowest = min(site.validation_mcc for site in results.rounds[0].sites.values())
    text = shown(round_table(results.rounds))
    assert "lowest site" in text
    assert f"{lowest:.3f}" in row(text, "1 ")


def test_rounds_without_validation_are_left_out(make_run):
    first = RunResults.read(make_run()).rounds[0]
    unvalidated = type(first)(2, 8, 0.5, 1e-3, 1.0, None, {})
    assert len(round_table([first, unvalidated]).rows) == 1


def test_communication_sums(make_run):
    summary = document(make_run())
    summary["communication"]["up_bytes"] = 44_700_000
    text = shown(communication_table(summary))
    assert row(text, "all sites")[2:4] == ["44.7", "MB"]
    assert row(text, "hospital-b")[1:] == ["1.2", "MB", "2.4", "MB"]


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_wider_than_the_terminal(make_run, width):
    run = make_run(sites=["a hospital with a really long name, indeed", "b" * 70, "c"])
    summary = document(run)
    rounds = RunResults.read(run).rounds
    text = shown(metrics_table(summary), class_table(summary), round_table(rounds, 5), communication_table(summary), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("0.850") >= 1


def test_markup_in_names_is_text(make_run):
    run = make_run(sites=["[red]a[/red]", "[/]b", "c"], classes=["[bold]x", "y", "z"])
    summary = document(run)
    rounds = RunResults.read(run).rounds
    text = shown(metrics_table(summary), class_table(summary), round_table(rounds), communication_table(summary), width=120)
    assert text.count("[red]a[/red]") >= 4
    assert "[bold]x" in text
