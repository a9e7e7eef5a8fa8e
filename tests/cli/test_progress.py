from __future__ import annotations

import io
from pathlib import Path

import pytest

from primia.cli.progress import TrainingDisplay
from primia.cli.terminal import Terminal
from primia.federation.events import Notice, RoundFinished, RoundStarted, RunFinished, RunStarted, SiteFinished, SiteLeftOut


def shown(*events: object, width: int = 80, terminal: bool = False) -> str:
    console = Terminal(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    with TrainingDisplay(console) as display:
        for event in events:
            display.show(event)  # type: ignore[arg-type]
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def round_(number: int, mcc: float, sites: dict[str, float], best: bool = False) -> RoundFinished:
    metrics = {name: {"mcc": value} for name, value in sites.items()}
    return RoundFinished(number, 3, 0.5, 0.01, 1.25, {"mcc": mcc}, metrics, best)


STARTED = RunStarted(Path("run"), ("a", "b"), 3, 0, 1234, 7)


def test_a_line_a_round_under_one_heading() -> None:
    text = shown(
        STARTED, RoundStarted(1, ("a", "b")), round_(1, 0.1, {"a": 0.2, "b": 0.3}, best=True), round_(2, 0.05, {"a": 0.1, "b": 0.0})
    )
    lines = text.splitlines()
    assert lines[0].startswith("3 rounds, 2 training sites, 7 optimiser steps a round, 1,234 parameters")
    assert lines[1].split() == ["round", "loss", "val.", "MCC", "a", "b", "time"]
    assert lines[2].split() == ["1/3", "0.5000", "0.100", "0.200", "0.300", "1.2", "s", "*"]
    assert lines[3].split() == ["2/3", "0.5000", "0.050", "0.100", "0.000", "1.2", "s"]


def test_of_many_sites_only_the_worst_is_shown() -> None:
    text = shown(STARTED, round_(1, 0.5, {f"site-{number}": number / 10 for number in range(9)}))
    assert "worst site" in text.splitlines()[1] and "0.000" in text.splitlines()[2]
    assert all(len(line) <= 80 for line in text.splitlines())


def test_the_first_traceback_is_shown_and_later_ones_are_a_line() -> None:
    text = shown(STARTED, SiteLeftOut(1, "a", "boom", "Traceback [x]\nboom"), SiteLeftOut(2, "b", "bang", "Traceback [y]\nbang"))
    assert "ERROR round 1, site a: boom" in text and "Traceback [x]" in text
    assert "warning round 2, site b: bang" in text and "Traceback [y]" not in text


def test_what_ends_a_run_is_of_no_round() -> None:
    assert "warning site a: x.arrow: damaged" in shown(SiteLeftOut(0, "a", "x.arrow: damaged"))


def test_names_are_never_markup() -> None:
    text = shown(Notice("warning", "file [red]x[/red].png"), SiteLeftOut(1, "[bold]a", "[link]", ""))
    assert "file [red]x[/red].png" in text and "[bold]a: [link]" in text


def test_an_interrupted_run_says_how_to_go_on() -> None:
    text = shown(STARTED, RunFinished("interrupted", Path("runs/x"), {"rounds": 2}))
    assert "interrupted after round 2; go on with: primia-ray train --resume runs/x" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_are_for_terminals(terminal: bool) -> None:
    text = shown(STARTED, RoundStarted(1, ("a", "b")), SiteFinished(1, "a", 0.1, 1.0), terminal=terminal)
    assert ("rounds" in text.replace("3 rounds", "")) is terminal
