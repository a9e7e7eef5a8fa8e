from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from primia.inference.images import InferenceImages
from primia.inference.predictions import Failure, Prediction, Predictions

CLASSES = ("a", "b")
LOGITS = np.array([[1.0, 1.0 + np.log(3)], [5, 0], [np.nan, 0], [0, 2]], dtype=np.float32)


def images(labels: list[int] | None, count: int = 4) -> InferenceImages:
    names = tuple(f"{number}.png" for number in range(count))
    known = None if labels is None else np.array(labels, dtype=np.int64)
    return InferenceImages(Path("root"), names, known, tuple(map(Path, names)), channels=1, image_size=8)


def predictions(labels: list[int] | None = None, logits: NDArray[np.float32] = LOGITS, **failures: Failure) -> Predictions:
    return Predictions.from_logits(
        images(labels), CLASSES, logits, {int(name[1:]): failure for name, failure in failures.items()}, about={"run": "first"}
    )


def test_rows_are_in_order_with_softmax_probabilities() -> None:
    made = predictions()
    assert [row.file for row in made.rows] == ["0.png", "1.png", "2.png", "3.png"] and len(made) == 4
    assert [row.predicted for row in made.rows] == ["b", "a", None, "b"]
    assert made.rows[0].probabilities == pytest.approx((0.25, 0.75))
    assert made.rows[0].truth is None and not made.has_truth


def test_outputs_that_are_not_finite_are_out_of_range() -> None:
    row = predictions(labels=[0, 0, 1, 1]).rows[2]
    assert row == Prediction("2.png", "out of range", "the model's output is not a finite number", None, None, "b")
    infinite = predictions(logits=np.where(np.isnan(LOGITS), np.float32(np.inf), LOGITS))
    assert infinite.rows[2].status == "out of range"


def test_the_given_reason_counts_and_the_logits_of_a_failure_do_not() -> None:
    made = predictions(labels=[1, 0, 1, 1], _2=Failure("unreadable", "cut short"), _3=Failure("out of range", "layer conv1"))
    assert [(row.file, row.status, row.reason) for row in made.failures] == [
        ("2.png", "unreadable", "cut short"),
        ("3.png", "out of range", "layer conv1"),
    ]
    assert made.evaluation is not None and made.evaluation.images == 2


def test_the_largest_logits_still_give_probabilities() -> None:
    largest = np.finfo(np.float32).max
    made = predictions(labels=[0, 0, 0, 0], logits=np.full((4, 2), [largest, -largest], dtype=np.float32))
    assert made.rows[0].probabilities == (1.0, 0.0)
    json.dumps(made.summary(), allow_nan=False)


def test_summary_with_truth() -> None:
    summary = predictions(labels=[1, 0, 0, 0]).summary()
    assert summary["run"] == "first"
    assert {key: summary[key] for key in ("images", "ok", "unreadable", "out_of_range")} == {
        "images": 4, "ok": 3, "unreadable": 0, "out_of_range": 1,
    }  # fmt: skip
    assert summary["predicted"] == {"a": 1, "b": 2}
    assert summary["failures"] == [{"file": "2.png", "status": "out of range", "reason": "the model's output is not a finite number"}]
    metrics = summary["metrics"]
    assert isinstance(metrics, dict) and metrics["images"] == 3
    assert metrics["accuracy"] == pytest.approx(2 / 3) and metrics["balanced_accuracy"] == pytest.approx(3 / 4)
    assert metrics["mcc"] == pytest.approx(0.5) and metrics["confusion"] == [[1, 1], [0, 1]]


def test_summary_without_truth_or_without_any_prediction_has_no_metrics() -> None:
    assert predictions().summary()["metrics"] is None
    nothing = predictions(labels=[0, 0, 1, 1], logits=np.full((4, 2), np.nan, dtype=np.float32))
    assert nothing.summary()["metrics"] is None and nothing.has_truth
    json.dumps(nothing.summary(), allow_nan=False)
