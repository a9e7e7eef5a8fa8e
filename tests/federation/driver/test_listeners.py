from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from primia.federation.driver.listeners import LogListener, TensorBoardListener
from primia.federation.events import Notice, RoundFinished, RunStarted, SiteFinished, SiteLeftOut

METRICS = {"mcc": 0.5, "accuracy": 0.75, "balanced_accuracy": 0.7, "roc_auc": None, "loss": 0.3}
ROUND = RoundFinished(2, 5, 0.25, 0.01, 1.5, METRICS, {"a": METRICS}, is_best=True)


@pytest.fixture
def records() -> tuple[LogListener, list[logging.LogRecord]]:
    seen: list[logging.LogRecord] = []
    logger = logging.Logger("test", logging.INFO)
    handler = logging.Handler()
    handler.emit = seen.append  # type: ignore[method-assign]
    logger.addHandler(handler)
    return LogListener(logger), seen


def test_a_site_that_is_left_out_is_a_line_without_a_traceback(records: tuple[LogListener, list[logging.LogRecord]]) -> None:
    listener, seen = records
    listener.hear(SiteLeftOut(1, "a", "its actor died"))
    listener.hear(SiteLeftOut(2, "b", "an error stopped it", "Traceback ..."))
    assert [(record.levelname, record.getMessage()) for record in seen] == [
        ("WARNING", "round 1, site a: its actor died"),
        ("WARNING", "round 2, site b: an error stopped it"),
    ]


def test_rounds_and_notices_are_lines(records: tuple[LogListener, list[logging.LogRecord]]) -> None:
    listener, seen = records
    listener.hear(RunStarted(Path("run"), ("a", "b"), 5, 1, 1000, 7))
    listener.hear(ROUND)
    listener.hear(Notice("warning", "look out"))
    listener.hear(SiteFinished(2, "a", 0.1, 1.0))
    lines = [f"{record.levelname} {record.getMessage()}" for record in seen]
    assert lines == [
        "INFO 5 rounds of 2 sites (a, b), 1000 parameters",
        "INFO resumed after round 1",
        "INFO round 2: train loss 0.25000, validation MCC 0.5000, 1.50 s",
        "WARNING look out",
    ]


def test_tensorboard_has_every_scalar_by_site(tmp_path: Path) -> None:
    listener = TensorBoardListener(tmp_path, done=0)
    listener.hear(SiteFinished(2, "a", 0.125, 1.0))
    listener.hear(ROUND)
    listener.close()
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert {"train_loss/a", "train_loss/all", "learning_rate", "seconds/round", "validation_mcc/all", "validation_mcc/a"} <= set(
        board.Tags()["scalars"]
    )
    assert "validation_roc_auc/all" not in board.Tags()["scalars"], "an undefined metric is left out"
    (point,) = board.Scalars("train_loss/a")
    assert (point.step, point.value) == (2, 0.125)
