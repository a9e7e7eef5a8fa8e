"""Evaluation by sums: what a site gives is a confusion matrix and score histograms, never an image's score.

Sums over sites give the pooled metrics exactly, except for ROC-AUC, whose histograms have bins that are fine near 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_f1_score,
    multiclass_matthews_corrcoef,
    multiclass_precision,
    multiclass_recall,
)

from primia.data.shard import Dataset
from primia.data.statistics import Normalisation
from primia.training.images import normalised, unit_images

_BINS = 4000
_EDGES = 1 / (1 + np.exp(-np.linspace(-16, 16, _BINS - 1)))


@dataclass(frozen=True)
class Evaluation:
    """``confusion`` (C, C), rows are the truth; ``histograms`` (C, 2, bins): scores of class c among other and own images."""

    confusion: NDArray[np.int64]
    histograms: NDArray[np.int64]
    loss_sum: float

    @classmethod
    def empty(cls, classes: int) -> Evaluation:
        """No images yet."""
        return cls(np.zeros((classes, classes), np.int64), np.zeros((classes, 2, _BINS), np.int64), 0.0)

    @classmethod
    def of(cls, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Evaluation:
        """Evaluation of logits ``(n, C)`` against labels ``(n,)``."""
        classes = logits.shape[1]
        log_scores = torch.log_softmax(torch.from_numpy(logits).double(), dim=1).numpy()
        confusion = np.bincount(labels * classes + logits.argmax(1), minlength=classes**2).reshape(classes, classes)
        bins = np.searchsorted(_EDGES, np.exp(log_scores))
        own = np.eye(classes, dtype=np.int64)[labels]
        flat = (np.arange(classes) * 2 + own) * _BINS + bins
        histograms = np.bincount(flat.ravel(), minlength=classes * 2 * _BINS).reshape(classes, 2, _BINS)
        return cls(confusion, histograms, float(-log_scores[np.arange(len(labels)), labels].sum()))

    def __add__(self, other: Evaluation) -> Evaluation:
        return Evaluation(self.confusion + other.confusion, self.histograms + other.histograms, self.loss_sum + other.loss_sum)

    @property
    def images(self) -> int:
        """Images evaluated."""
        return int(self.confusion.sum())

    def metrics(self, classes: Sequence[str]) -> dict[str, object]:
        """Metrics by torchmetrics; None where one is undefined."""
        number = len(classes)
        truth, predicted = (
            torch.from_numpy(np.repeat(index, self.confusion.ravel())) for index in np.indices((number, number)).reshape(2, -1)
        )
        support = self.confusion.sum(1)
        precision = multiclass_precision(predicted, truth, number, average=None)
        recall = multiclass_recall(predicted, truth, number, average=None)
        f1 = multiclass_f1_score(predicted, truth, number, average=None)
        return {
            "images": self.images,
            "loss": self.loss_sum / max(1, self.images),
            "accuracy": float(multiclass_accuracy(predicted, truth, number, average="micro")),
            "balanced_accuracy": float(recall.numpy()[support > 0].mean()) if self.images else None,
            "mcc": float(multiclass_matthews_corrcoef(predicted, truth, number)),
            "roc_auc": self._roc_auc(),
            "confusion": self.confusion.tolist(),
            "per_class": {
                name: {"precision": float(precision[i]), "recall": float(recall[i]), "f1": float(f1[i]), "support": int(support[i])}
                for i, name in enumerate(classes)
            },
        }

    def _roc_auc(self) -> float | None:
        """Macro mean over classes of P(score of an own image > of another) + P(equal bin) / 2."""
        areas = []
        for other, own in self.histograms:
            pairs = int(other.sum()) * int(own.sum())
            if pairs:
                below = np.cumsum(other) - other
                areas.append(float((own * (below + other / 2)).sum()) / pairs)
        return float(np.mean(areas)) if areas else None


@torch.inference_mode()
def evaluate_model(
    model: nn.Module, data: Dataset, normalisation: Normalisation, classes: int, *, batch_size: int = 256, precision: str = "float32"
) -> Evaluation:
    """Summable metrics of ``model``, which is put into evaluation mode, on all images of ``data``."""
    device = next(model.parameters()).device
    model.eval()
    evaluation = Evaluation.empty(classes)
    for first in range(0, len(data), batch_size):
        index = np.arange(first, min(first + batch_size, len(data)))
        images = normalised(unit_images(data, index, device), normalisation)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(images)
        evaluation += Evaluation.of(logits.float().cpu().numpy(), data.labels[index])
    return evaluation
