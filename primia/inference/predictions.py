"""What a model says of each image, and of all of them together: the same for plain and for encrypted prediction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from primia.inference.images import InferenceImages
from primia.training.evaluation import Evaluation

Status = Literal["ok", "unreadable", "out of range"]

_NOT_FINITE = "the model's output is not a finite number"


class Failure(NamedTuple):
    """Why an image has no prediction."""

    status: Status
    reason: str


class Prediction(NamedTuple):
    """One image: ``probabilities`` in the order of the classes, None like ``predicted`` where ``status`` is not ok."""

    file: str
    status: Status
    reason: str | None
    predicted: str | None
    probabilities: tuple[float, ...] | None
    truth: str | None


@dataclass(frozen=True, eq=False)
class Predictions:
    """A row an image, in the order of the images.

    ``evaluation`` covers the images that have a prediction; None where the truth is not known or no image has one.
    ``about``: what made them and what was measured meanwhile, for the summary.
    """

    classes: tuple[str, ...]
    rows: tuple[Prediction, ...]
    evaluation: Evaluation | None
    about: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def from_logits(
        cls,
        images: InferenceImages,
        classes: Sequence[str],
        logits: NDArray[np.float32],
        failures: Mapping[int, Failure],
        about: Mapping[str, object] | None = None,
    ) -> Predictions:
        """Predictions from a model's outputs ``(n, C)`` for all ``images``.

        ``failures`` are by index of the image, whose logits count for nothing. Other rows that are not finite are out
        of range.
        """
        finite = np.isfinite(logits).all(axis=1)
        failed = {int(index): Failure("out of range", _NOT_FINITE) for index in np.flatnonzero(~finite)} | dict(failures)
        rows = tuple(_rows(images, classes, logits, failed))
        return cls(tuple(classes), rows, _evaluation(images.labels, logits, failed), about or {})

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def has_truth(self) -> bool:
        """Whether the true class of the images is known."""
        return bool(self.rows) and self.rows[0].truth is not None

    @property
    def failures(self) -> list[Prediction]:
        """Rows without a prediction."""
        return [row for row in self.rows if row.status != "ok"]

    def summary(self) -> dict[str, object]:
        """Counts, the predicted classes, each image without a prediction, and metrics (None where there are none), for JSON."""
        status = [row.status for row in self.rows]
        predicted = [row.predicted for row in self.rows]
        return {
            **self.about,
            "images": len(self.rows),
            "ok": status.count("ok"),
            "unreadable": status.count("unreadable"),
            "out_of_range": status.count("out of range"),
            "predicted": {name: predicted.count(name) for name in self.classes},
            "failures": [{"file": row.file, "status": row.status, "reason": row.reason} for row in self.failures],
            "metrics": self.evaluation.metrics(self.classes) if self.evaluation else None,
        }


def _rows(
    images: InferenceImages, classes: Sequence[str], logits: NDArray[np.float32], failed: Mapping[int, Failure]
) -> Iterator[Prediction]:
    for index, name in enumerate(images.names):
        truth = None if images.labels is None else classes[images.labels[index]]
        if index in failed:
            status, reason = failed[index]
            yield Prediction(name, status, reason, None, None, truth)
        else:
            probabilities = tuple(softmax(logits[index].astype(np.float64)).tolist())
            yield Prediction(name, "ok", None, classes[int(logits[index].argmax())], probabilities, truth)


def _evaluation(labels: NDArray[np.int64] | None, logits: NDArray[np.float32], failed: Mapping[int, Failure]) -> Evaluation | None:
    ok = [index for index in range(len(logits)) if index not in failed]
    return Evaluation.of(logits[ok], labels[ok]) if labels is not None and ok else None
