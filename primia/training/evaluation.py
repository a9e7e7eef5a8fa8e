"""Evaluation by sums: a site gives a confusion matrix and score histograms, which add up over sites.

Pooled metrics are then those of all images together: exactly, except for ROC-AUC, whose error by binning is below
0.001 from some 200 images on. A histogram of few images is nearly the list of their scores, in no order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from primia.data.shard import Dataset
from primia.data.statistics import Normalisation
from primia.errors import NonFiniteLoss
from primia.training.images import normalise_, unit_images

_BINS = 2400
_LARGEST_LOGIT = 40.0
_FINEST = 0.1


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Sums over images.

    ``confusion`` (C, C): rows are the truth, columns the prediction. ``histograms`` (C, 2, bins): scores of class c
    among the images of other classes, and among its own. ``loss_sum``: unweighted cross-entropy.
    """

    confusion: NDArray[np.int64]
    histograms: NDArray[np.uint32]
    loss_sum: float

    @classmethod
    def empty(cls, classes: int) -> Evaluation:
        """No images yet."""
        return cls(np.zeros((classes, classes), np.int64), np.zeros((classes, 2, _BINS), np.uint32), 0.0)

    @classmethod
    def of(cls, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Evaluation:
        """Evaluation of finite logits ``(n, C)`` against labels ``(n,)``."""
        classes = logits.shape[1]
        log_scores = torch.log_softmax(torch.from_numpy(logits).double(), dim=1).numpy()
        confusion = np.bincount(labels * classes + logits.argmax(1), minlength=classes**2).reshape(classes, classes)
        own = labels[:, None] == np.arange(classes)
        flat = (np.arange(classes) * 2 + own) * _BINS + _bins(log_scores)
        histograms = np.bincount(flat.ravel(), minlength=classes * 2 * _BINS).reshape(classes, 2, _BINS)
        return cls(confusion, histograms.astype(np.uint32), float(-log_scores[own].sum()))

    def __add__(self, other: Evaluation) -> Evaluation:
        return Evaluation(self.confusion + other.confusion, self.histograms + other.histograms, self.loss_sum + other.loss_sum)

    @property
    def images(self) -> int:
        """Images evaluated."""
        return int(self.confusion.sum())

    def metrics(self, classes: Sequence[str]) -> dict[str, object]:
        """Metrics as plain numbers, for JSON.

        ``balanced_accuracy`` is the mean recall over the classes that have images, ``roc_auc`` the mean of one against
        rest over the classes for which it is defined; None where there is none. ``mcc`` is 0 where only one class is
        seen or predicted; precision, recall and F1 are 0 where they would divide by 0.
        """
        counts = self.confusion.astype(np.float64)
        hits, support, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
        precision, recall, f1 = _ratio(hits, predicted), _ratio(hits, support), _ratio(2 * hits, support + predicted)
        return {
            "images": self.images,
            "loss": self.loss_sum / self.images if self.images else None,
            "accuracy": float(hits.sum() / self.images) if self.images else None,
            "balanced_accuracy": float(recall[support > 0].mean()) if self.images else None,
            "mcc": _matthews(counts),
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
        for other, own in self.histograms.astype(np.float64):
            pairs = other.sum() * own.sum()
            if pairs:
                areas.append((own * (np.cumsum(other) - other / 2)).sum() / pairs)
        return float(np.mean(areas)) if areas else None


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """``part / whole``, 0 where ``whole`` is 0."""
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def _matthews(counts: NDArray[np.float64]) -> float:
    """Correlation of truth and prediction over any number of classes (Gorodkin, Comput. Biol. Chem. 2004); 0 where one is constant."""
    truth, predicted, images = counts.sum(1), counts.sum(0), counts.sum()
    covariance = images * counts.trace() - truth @ predicted
    variances = (images**2 - truth @ truth) * (images**2 - predicted @ predicted)
    return float(covariance / np.sqrt(variances)) if variances else 0.0


def _bins(log_scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bin of each score (n, C): even in asinh of its logit's distance from chance, so finest there and fine near 0 and 1."""
    with np.errstate(divide="ignore"):
        logits = log_scores - np.log(-np.expm1(log_scores)) + np.log(log_scores.shape[1] - 1)
    extent = np.arcsinh(_LARGEST_LOGIT / _FINEST)
    place = np.arcsinh(np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT) / _FINEST) / extent
    bins: NDArray[np.int64] = np.minimum((place + 1) / 2 * _BINS, _BINS - 1).astype(np.int64)
    return bins


@torch.inference_mode()
def evaluate_model(
    model: nn.Module, data: Dataset, normalisation: Normalisation, classes: int, *, batch_size: int = 256, precision: str = "float32"
) -> Evaluation:
    """Summable metrics of ``model``, which is put into evaluation mode, on all images of ``data``.

    Raises:
        NonFiniteLoss: the model's outputs are not finite.
    """
    device = next(model.parameters()).device
    model.eval()
    evaluation = Evaluation.empty(classes)
    for first in range(0, len(data), batch_size):
        index = np.arange(first, min(first + batch_size, len(data)))
        images = normalise_(unit_images(data, index, device), normalisation)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(images).float()
        if not logits.isfinite().all():
            raise NonFiniteLoss("the model's outputs are not finite in evaluation; lower training.learning_rate")
        evaluation += Evaluation.of(logits.cpu().numpy(), data.labels[index])
    return evaluation
