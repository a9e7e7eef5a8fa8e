"""Changed summaries of runs and sweeps: each is shown, or refused with one line; long and wide ones are shown in part, at once."""

from __future__ import annotations

import copy
import io
import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from primia.audits.subject import Summary
from primia.cli.report import trial_table
from primia.cli.terminal import Terminal
from primia.errors import PrimiaError, RunError
from primia.report.compare import compare
from primia.report.comparison_output import comparison_table, to_csv, to_html, to_json
from primia.report.page import render_report
from primia.report.tables import class_table, communication_table, metrics_table, round_table
from primia.runs.results import ROUND_LIMIT, RunResults
from primia.search.folder import SweepFolder
from primia.search.report.page import SweepResults, _drawn, headline, render_sweep
from primia.untrusted.files import Unusable

sweeps = runpy.run_path(str(Path(__file__).parents[1] / "search" / "sweeps.py"))

DEEP: list[object] = []
for _ in range(30):
    DEEP = [DEEP]
VALUES = (None, "", -1, 2**63, float("nan"), [], {}, DEEP, 1e308, 10**300, True, "[/x]\x1b[31m\u202e", [None], {"a": None}, 0, "$\\frac")
GONE = object()
PRIVACY = {
    "unit": "image", "epsilon": 1.0, "epsilon_all_runs": 1.0, "delta": 1e-5, "accountant": "rdp", "noise_multiplier": 1.0,
    "sample_rate": 0.1, "sampling": "Poisson", "steps": 10, "clip": 1.0, "views": 1, "units": 10, "neighbours": "they differ by one image",
}  # fmt: skip


def places(document: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every value in a document; of lists the first."""
    yield path
    for key, value in (
        document.items() if isinstance(document, dict) else list(enumerate(document))[:1] if isinstance(document, list) else ()
    ):
        yield from places(value, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: object) -> Any:
    if not path:
        return [] if value is GONE else value
    document = copy.deepcopy(document)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    if value is GONE:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return document


def changes(document: Any, seed: int, number: int) -> Iterator[tuple[str, Any]]:
    """Drawn ones: each is the place, and the document."""
    every = [(path, value) for path in places(document) for value in (*VALUES, GONE) if not (path[:1] == ("config",) and len(path) > 2)]
    for index in np.random.Generator(np.random.Philox(seed)).choice(len(every), number, replace=False):
        path, value = every[index]
        yield f"{path} = {str(value)[:40]}", changed(document, path, value)


def show(*renderables: Any) -> str:
    terminal = Terminal(file=io.StringIO(), width=80, color_system=None)
    for each in renderables:
        terminal.print(each)
    return str(terminal.file.getvalue())  # type: ignore[attr-defined]


def refused(error: PrimiaError) -> None:
    assert str(error).isprintable() and len(str(error)) < 2100


def private(summary: dict[str, Any]) -> None:
    summary["privacy"]["sites"] = {"hospital-a": PRIVACY}
    summary["data"]["skipped"] = ["a.png"]


@pytest.mark.parametrize("mode", ["federated", "local"])
def test_a_changed_summary_is_shown_or_refused(make_run, mode):
    run, other = make_run("run", mode=mode, site="hospital-a" if mode == "local" else "", change=private), make_run("other")
    document = json.loads((run / "summary.json").read_text())
    read = pages = 0
    for what, text in changes(document, 1, 300):
        (run / "summary.json").write_text(json.dumps(text))
        try:
            results = RunResults.read(run)
            comparison = compare([run, other])
        except PrimiaError as error:
            refused(error)
            continue
        read += 1
        tables = [metrics_table(results.summary), class_table(results.summary), communication_table(results.summary)]
        said = show(*tables, round_table(results.rounds, 1), comparison_table(comparison)) + to_csv(comparison) + to_json(comparison)
        if read % 25 == 0:
            pages += 1
            said += render_report(results) + to_html(comparison)
        assert not {"\x1b", "\u202e"} & set(said), what
    assert 30 < read < 270 and pages


def test_a_changed_summary_is_audited_or_refused(make_run):
    document = json.loads((make_run(change=private) / "summary.json").read_text())
    for what, text in changes({key: document[key] for key in ("name", "privacy")}, 2, 300):
        try:
            Summary.of(text)
        except Unusable as error:
            assert str(error).isprintable(), what


def test_a_changed_sweep_is_shown_or_refused(tmp_path):
    folder = SweepFolder(
        sweeps["make_sweep"](tmp_path / "sweep", sweeps["records"](4), change=lambda s: s.update(privacy=sweeps["PRIVACY"]))
    )
    document, table = json.loads(folder.summary.read_text()), pq.read_table(folder.table)
    pages = read = 0
    for number, (what, text) in enumerate(changes(document, 3, 120)):
        folder.summary.write_text(json.dumps(text))
        values = (float("inf"), float("nan"), -1.0, 1e308, 1e-320, -1, 2**62, 2**53, "a", "\x1b[31m\u202e", None, True)
        column, value = number % table.num_columns, values[number % len(values)]
        if number % 2:
            folder.summary.write_text(json.dumps(document))
            pq.write_table(table.set_column(column, table.column_names[column], pa.array([value] * table.num_rows)), folder.table)
        else:
            pq.write_table(table, folder.table)
        try:
            results = SweepResults.read(folder)
        except PrimiaError as error:
            refused(error)
            continue
        said, read = show(headline(results), trial_table(results)), read + 1
        if read % 20 == 0:
            said, pages = said + render_sweep(folder), pages + 1
        assert not {"\x1b", "\u202e"} & set(said), what
    assert pages


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("timing", "total"), GONE, "timing has no total"),
        (("test", "confusion"), [], "confusion is no table of the 3 classes"),
        (("test", "confusion", 0, 0), 2**63, "test.confusion.0.0"),
        (("test", "per_class"), {}, "test.per_class"),
        (("sites",), {}, "config.run.site is the site that trained alone"),
        (("config", "run", "site"), [], "config.run.site is the site that trained alone"),
    ],
)
def test_what_does_not_fit_is_named(make_run, path, value, said):
    run = make_run(mode="local", site="hospital-a")
    document = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(changed(document, path, value)))
    with pytest.raises(RunError) as caught:
        RunResults.read(run)
    assert said in str(caught.value)


def long_run(run: Path, rounds: int) -> None:
    """Rounds of one site that is validated in every tenth."""
    numbers = np.repeat(np.arange(1, rounds + 1), 2)
    score = np.where(numbers % 10, np.nan, 0.5)
    columns = {
        "round": pa.array(numbers),
        "site": pa.array(["a", "all"] * rounds),
        "status": pa.array(["ok"] * len(numbers)),
        "steps": pa.array(np.full(len(numbers), 2)),
        **{name: pa.array(np.full(len(numbers), 0.1)) for name in ("train_loss", "learning_rate", "seconds")},
        "validation_mcc": pa.array(score, mask=np.isnan(score)),
    }
    pq.write_table(pa.table(columns), run / "rounds.parquet")


def test_a_run_of_a_million_rounds_is_one_page(make_run):
    run = make_run(change=lambda summary: summary.update(rounds=1_000_000, best_round=777_770))
    long_run(run, 1_000_000)
    begun = perf_counter()
    results = RunResults.read(run)
    page = render_report(results)
    assert perf_counter() - begun < 60
    numbers = [item.round for item in results.rounds]
    assert len(numbers) <= ROUND_LIMIT + 1 and 777_770 in numbers and numbers[-1] == 1_000_000
    assert sum(item.validation_mcc is not None for item in results.rounds) >= ROUND_LIMIT // 2
    assert results.steps == 2_000_000 and results.hidden_rounds == 1_000_000 - len(numbers)
    assert len(page) < 2**20 and f"{results.hidden_rounds:,} rounds between them are in rounds.parquet" in page
    assert len(show(round_table(results.rounds, 777_770, results.hidden_rounds)).splitlines()) < ROUND_LIMIT + 20


@pytest.mark.parametrize(("column", "value"), [("round", 2**62), ("train_loss", float("inf")), ("seconds", 1e300), ("validation_mcc", 2.0)])
def test_rounds_that_cannot_be_drawn_are_refused(make_run, column, value):
    run = make_run()
    table = pq.read_table(run / "rounds.parquet")
    place = table.column_names.index(column)
    kind = table.schema.field(place).type
    pq.write_table(table.set_column(place, column, pa.array([value] * table.num_rows, kind)), run / "rounds.parquet")
    with pytest.raises(RunError, match=f"column {column} has values that are not from"):
        RunResults.read(run)


def test_very_many_classes_are_one_page_at_once(make_run):
    names = [f"class-{number}" for number in range(800)]
    run = make_run(classes=names, sites=("a",))
    begun = perf_counter()
    page = render_report(RunResults.read(run))
    assert perf_counter() - begun < 30
    assert "the confusion matrix is not drawn" in page and "all 800 classes" in page and "300 more classes" in page
    assert "more classes, in summary.json" in show(class_table(RunResults.read(run).summary))


def test_very_many_trials_are_drawn_in_part(tmp_path):
    made = sweeps["records"](1500)
    results = SweepResults.read(SweepFolder(sweeps["make_sweep"](tmp_path / "sweep", made)))
    drawn = _drawn(results)
    assert len(drawn) <= 1000 and results.best.number in {record.number for record in drawn}
    assert [record.number for record in drawn] == sorted(record.number for record in drawn)
