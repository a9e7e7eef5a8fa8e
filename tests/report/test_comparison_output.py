from __future__ import annotations

import csv
import io
import json

import pytest
from rich.console import Console

from primia.errors import ConfigError, RunError
from primia.report.compare import compare
from primia.report.comparison_output import check_output, comparison_table, to_csv, to_html, to_json, write_comparison


@pytest.fixture
def comparison(make_run):
    runs = [make_run(f"fed-{seed}", seed=seed, skill=0.8 + seed / 20) for seed in (1, 2)]
    runs.append(make_run("pooled-1", mode="pooled"))
    runs.append(make_run("alone <b>[red]", mode="local", site="hospital-a", change=lambda s: s["test"].update(roc_auc=None)))
    return compare(runs)


def text_of(comparison, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(comparison_table(comparison))
    return console.export_text()


def test_csv_has_a_row_a_run_with_full_precision(comparison):
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert [row["name"] for row in rows] == ["fed-1", "fed-2", "pooled-1", "alone <b>[red]"]
    assert [float(row["test_mcc"]) for row in rows] == [run.scores.test_mcc for run in comparison.runs]
    assert [int(row["steps"]) for row in rows] == [136] * 4
    assert rows[3]["test_roc_auc"] == ""
    assert rows[3]["own_site_test_mcc"] != ""


def test_csv_has_no_formula(make_run):
    written = to_csv(compare([make_run("=1+1"), make_run("-b", mode="pooled")]))
    rows = list(csv.DictReader(io.StringIO(written)))
    assert [row["name"] for row in rows] == ["'=1+1", "'-b"]
    assert rows[0]["worst_site_mcc"].startswith("0.")


def test_json_has_groups_runs_and_the_verdict(comparison):
    document = json.loads(to_json(comparison))
    assert document["comparable"] is True
    assert document["conclusions"] == list(comparison.conclusions)
    federated = document["groups"][0]
    assert federated["seeds"] == [1, 2]
    statistic = comparison.groups[0].statistic("test_mcc")
    assert federated["scores"]["test_mcc"] == {"mean": statistic.mean, "sd": statistic.sd, "n": 2}
    assert document["groups"][1]["scores"]["own_site_test_mcc"] is None
    assert len(document["runs"]) == 4


def test_html_escapes_and_tells_all(comparison):
    page = to_html(comparison)
    assert "alone &lt;b&gt;[red]" in page
    assert "<b>" not in page
    assert "Synthetic images." in page
    assert "<script" not in page
    assert "The runs are comparable" in page
    assert f"{comparison.groups[0].statistic('test_mcc').mean:.3f}" in page


def test_html_of_unlike_runs_says_so(make_run):
    page = to_html(compare([make_run("a"), make_run("b", fingerprint="beef")]))
    assert "Not comparable as they are." in page
    assert "the images differ" in page
    assert "The runs are comparable" not in page


def test_terminal_fits_and_ends_with_the_conclusion(comparison):
    text = text_of(comparison)
    assert max(map(len, text.splitlines())) <= 80
    assert " ".join(text.split()).endswith(comparison.conclusions[-1])
    assert "comparable: the same images" in text
    row = next(line for line in text_of(comparison, 120).splitlines() if "fed-2" in line).split()
    scores = comparison.runs[1].scores
    assert row[:5] == ["fed-2", "2", "6", "136", f"{scores.test_mcc:.3f}"]
    mean, deviation = (next(line for line in text.splitlines() if label in line).split() for label in ("mean of 2", "± sd"))
    statistic = comparison.groups[0].statistic("test_mcc")
    assert mean[3] == f"{statistic.mean:.3f}"
    assert deviation[2] == f"{statistic.sd:.3f}"


def test_a_single_run_is_not_called_comparable(make_run):
    alone = compare([make_run("x")])
    assert "comparable" not in text_of(alone)
    assert "comparable" not in to_html(alone)


def test_own_site_column_only_where_a_site_trained_alone(make_run, comparison):
    assert "own" in text_of(comparison).split("federated")[0]
    assert "own" not in text_of(compare([make_run("x"), make_run("y", mode="pooled")])).split("federated")[0]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".html"])
def test_suffix_names_the_format(comparison, tmp_path, suffix):
    write_comparison(comparison, tmp_path / f"c{suffix}")
    expected = {".csv": to_csv, ".json": to_json, ".html": to_html}[suffix](comparison)
    assert (tmp_path / f"c{suffix}").read_text() == expected


def test_other_suffixes_and_unwritable_places(comparison, tmp_path):
    with pytest.raises(ConfigError, match=r"\.csv, \.json or \.html"):
        check_output(tmp_path / "c.xlsx")
    (tmp_path / "c.csv").write_text("precious")
    with pytest.raises(RunError, match=r"c\.csv exists; give another --output, or --overwrite"):
        check_output(tmp_path / "c.csv")
    check_output(tmp_path / "c.csv", overwrite=True)
    (tmp_path / "folder.csv").mkdir()
    for place in ("folder.csv", "nowhere/c.csv"):
        with pytest.raises(RunError, match="cannot write"):
            check_output(tmp_path / place, overwrite=True)
    with pytest.raises(RunError, match="cannot write"):
        write_comparison(comparison, tmp_path / "nowhere" / "c.csv")
