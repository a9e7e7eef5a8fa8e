"""Every command's display of what strangers wrote: no exception, the names as they are, and nothing that steers a terminal."""

from __future__ import annotations

import io
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Group
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from primia import api
from primia.cli import inference_display, site_display, sweep_display, train, tune
from primia.cli import main as entry
from primia.cli.progress import TrainingDisplay
from primia.cli.terminal import Terminal, bars
from primia.consent import mock
from primia.consent.grants import Grant
from primia.data.shard import Row, ShardHeader, write_shard
from primia.errors import DataError
from primia.federation.events import Notice, RoundFinished, RunFinished, RunStarted, SiteLeftOut
from primia.untrusted.shown import visible

ROOT = Path(__file__).parents[1]
make_run = runpy.run_path(str(ROOT / "report" / "conftest.py"))["make_run"]
sweeps = runpy.run_path(str(ROOT / "search" / "sweeps.py"))

NAMES = ("[/x]", "[bold]a", "\x1b[31m", "\u202eb", "two\nlines", ":smile:")
STEERING = ("\x1b", "\u202e", "two\n")


def shown(text: str, names: tuple[str, ...] = NAMES) -> None:
    assert not [sign for sign in STEERING if sign in text]
    for name in names:
        assert visible(name) in text, name


def screen(width: int = 250) -> Terminal:
    return Terminal(file=io.StringIO(), width=width, color_system=None)


def text_of(terminal: Terminal) -> str:
    return str(terminal.file.getvalue())  # type: ignore[attr-defined]


def said(*words: object) -> str:
    result = CliRunner().invoke(entry.app, list(map(str, words)), env={"COLUMNS": "250"})
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.mark.parametrize("kind", [str, Text])
def test_cells_headings_titles_captions_and_lines_are_text(kind: Callable[[str], Any]) -> None:
    terminal = screen()
    table = Table(title=kind(NAMES[0] + NAMES[2]), caption=kind(NAMES[1]))
    for name in NAMES:
        table.add_column(kind(name), footer=kind(name), min_width=20)
    table.add_row(*map(kind, NAMES))
    table.add_row(Group(*map(kind, NAMES)))
    terminal.print(table)
    shown(text_of(terminal))
    for name in NAMES:
        terminal.say(kind(name), "yellow")
        terminal.print(kind(name), name)
        terminal.rule(kind(name))
    shown(text_of(terminal))


def test_what_a_bar_is_of_is_text() -> None:
    terminal = Terminal(file=io.StringIO(), width=250, color_system=None, force_terminal=True)
    with bars(terminal) as progress:
        for name in NAMES:
            progress.add_task(f"{name} " * 3, total=2)
    assert not {"\x1b[31m", "\u202e"} & set(text_of(terminal).split())
    assert "\\x1b[31m" in text_of(terminal) and "[/x]" in text_of(terminal)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        (tmp_path / "packed" / split).mkdir(parents=True)
        header = ShardHeader("north", split, tuple(sorted(NAMES)), 1, 8, False, "f")
        rows = [Row(np.zeros((1, 8, 8), np.uint8), number % len(NAMES), f"p{number}", f"{number}.png") for number in range(12)]
        write_shard(tmp_path / "packed" / split / "north.arrow", header, rows)
    return tmp_path / "packed"


def test_data(packed: Path, tmp_path: Path) -> None:
    shown(said("data", "stats", packed))
    shown(said("data", "show", packed, "-o", tmp_path / "sheet.png"))


def test_very_many_classes_have_no_column_each(tmp_path: Path) -> None:
    (tmp_path / "packed" / "train").mkdir(parents=True)
    header = ShardHeader("north", "train", tuple(f"c{number}" for number in range(1_000)), 1, 8, False, "f")
    write_shard(tmp_path / "packed" / "train" / "north.arrow", header, [Row(np.zeros((1, 8, 8), np.uint8), 0, "p", "a.png")])
    text = said("data", "stats", tmp_path / "packed")
    assert "1,000 classes" in text and "c17" not in text


def test_site(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mock, "LEAST_IMAGES", 8)
    said("site", "init", tmp_path / "box", "--data", packed, "--site", "north")
    shown(said("site", "show", tmp_path / "box"))
    terminal = screen()
    peers = {name: SimpleNamespace(document="{}", pinned="2026-01-02", by=name) for name in NAMES}
    monkeypatch.setattr("primia.secagg.identity.PublicIdentity.fingerprint", property(lambda self: self.name))
    terminal.print(site_display._peers(SimpleNamespace(peers=lambda: peers)))  # type: ignore[arg-type]
    grants = [Grant(name, f"{name}2026") for name in NAMES]
    spent = [SimpleNamespace(federation=name, spent=None) for name in NAMES]
    terminal.print(site_display._grants(grants, {}, spent))  # type: ignore[arg-type]
    terminal.say(site_display._event({"purpose": NAMES[0], **{name: {name: name} for name in NAMES}}))
    shown(text_of(terminal))


def spoilt(summary: dict[str, Any]) -> None:
    summary["status"] = "".join(NAMES)


def test_report_and_compare(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, sites=NAMES[:4], classes=NAMES, change=spoilt, seed=2) for name in ("[bold]a", "\x1b[31m")]
    shown(said("report", runs[0]), NAMES[:4])
    shown(said("compare", *runs, "-o", tmp_path / "c.html"), ("[bold]a", "\x1b[31m"))
    for page in (runs[0] / "report.html", tmp_path / "c.html"):
        assert not {"\x1b", "\u202e"} & set(page.read_text()), page


def record() -> Any:
    (made,) = sweeps["records"](1).values()
    return replace(made, number=2, state=sweeps["State"].FAILED, value=None, curve=(), cause="".join(NAMES), parameters={"a.b": NAMES[1]})


def test_sweeps(tmp_path: Path) -> None:
    made = sweeps["records"](1) | {2: record()}
    folder = sweeps["make_sweep"](
        tmp_path / "sweep", made | {2: replace(record(), parameters={})}, change=lambda s: s.update(name=NAMES[2])
    )
    shown(said("report", folder), NAMES[:4])
    assert not {"\x1b", "\u202e"} & set((folder / "report.html").read_text())
    terminal = screen()
    sweep_display.SweepDisplay(terminal)._print(record(), 2)
    tune._show_result(terminal, folder)
    shown(text_of(terminal))


def test_infer_and_evaluate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    terminal = screen()
    failure = {"status": "unreadable", "file": "".join(NAMES), "reason": "".join(NAMES)}
    summary = {"synthetic": True, "unreadable": 1, "out_of_range": 0, "images": 1, "ok": 0, "predicted": dict.fromkeys(NAMES, 1)}
    inference_display.show_summary(terminal, {**summary, "metrics": None, "failures": [failure]})
    shown(text_of(terminal))
    make_run(tmp_path / "run", classes=NAMES)
    metrics = runpy.run_path(str(ROOT / "report" / "conftest.py"))["metrics"](np.eye(len(NAMES), dtype=int), NAMES)
    found = {**metrics, "sites": dict.fromkeys(NAMES, metrics), "skipped": list(NAMES)}
    monkeypatch.setattr(api, "evaluate", lambda *given, **options: found)
    shown(said("evaluate", tmp_path / "run", "--data", tmp_path))


def test_train(tmp_path: Path) -> None:
    terminal = screen()
    everything = "".join(NAMES)
    scores = {name: {"mcc": 0.5} for name in NAMES[:3]}
    with TrainingDisplay(terminal) as display:
        display.pack(everything, 1, 2)
        for event in (
            RunStarted(Path("run"), NAMES, 3, 0, 1, 1),
            RoundFinished(1, 3, 0.5, 0.01, 1.0, {"mcc": 0.5}, scores, True),
            SiteLeftOut(1, everything, everything, "".join(NAMES[:4]) + "\nat line 2"),
            Notice("warning", everything),
            RunFinished("interrupted", Path(everything), {"rounds": 1}),
        ):
            display.show(event)  # type: ignore[arg-type]
    folder = make_run(tmp_path / "run", sites=NAMES[:4], classes=NAMES)
    train._show_result(terminal, api.Run(folder))
    shown(text_of(terminal))


def test_an_error_is_one_line_of_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise DataError("".join(NAMES))

    monkeypatch.setattr(entry, "app", fail)
    monkeypatch.setattr(sys, "exit", lambda code: None)
    entry.main()
    error = capsys.readouterr().err
    shown(error)
    assert error.count("\n") == 1


def test_settings_are_text_on_a_terminal_and_exact_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = ["config", "show", "--set", "data.path=\x1b[31m", "--set", "data.source=folder"]
    assert "path = \x1b[31m" in said(*given)
    monkeypatch.setattr("primia.cli.config.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    assert "path = \\x1b[31m" in said(*given)


def test_no_command_prints_by_another_way() -> None:
    for file in Path(entry.__file__).parent.glob("*.py"):
        text = file.read_text()
        assert file.name == "terminal.py" or "Console(" not in text, file
        assert "from_markup" not in text and "markup=True" not in text, file
