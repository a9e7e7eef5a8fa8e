"""Was this image trained on? Scores of images, higher for those that more likely were."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import nn
from torch.nn import functional as F

from primia.audits.roc import Scores
from primia.data.shard import Dataset
from primia.data.statistics import Normalisation
from primia.training.images import normalise_, unit_images

_BATCH = 256
_SMALLEST_DEVIATION = 1e-3


@dataclass(frozen=True, eq=False)
class ShadowScores:
    """Confidences of images under shadow models: ``values`` (shadows, images), and which shadow was trained on which image."""

    values: Scores
    trained_on: NDArray[np.bool_]


@torch.inference_mode()
def confidences(model: nn.Module, data: Dataset, normalisation: Normalisation) -> Scores:
    """For each image log(p / (1 - p)), p being the probability of its true class: ``(len(data),)``.

    Carlini et al., "Membership Inference Attacks From First Principles", IEEE S&P 2022, section IV-B: with this scale the scores
    of one image over many models are about normal. The largest logit but the true one's enters as log-sum-exp, so nothing overflows.
    """
    model.eval()
    device = next(model.parameters()).device
    scores = []
    for first in range(0, len(data), _BATCH):
        index = np.arange(first, min(first + _BATCH, len(data)))
        logits = model(normalise_(unit_images(data, index, device), normalisation)).double().cpu()
        own = F.one_hot(torch.from_numpy(data.labels[index]), logits.shape[1]).bool()
        scores.append((logits[own] - logits.masked_fill(own, -torch.inf).logsumexp(dim=1)).numpy())
    return np.concatenate(scores)


def loss_threshold(confidence: Scores) -> Scores:
    """Minus the loss: Yeom et al., IEEE CSF 2018, section 3.2 (adversary 2). Members tend to have a smaller loss."""
    scores: Scores = -np.logaddexp(0.0, -confidence)
    return scores


def likelihood_ratio(confidence: Scores, shadows: ShadowScores) -> Scores:
    """Online LiRA: log N(score; of models that were trained on the image) - log N(score; of the others), Carlini et al., algorithm 1.

    Each image has means of its own; the deviations are those of all images together, which their section VI-C
    found to be better where there are fewer than 64 shadow models.
    """
    inside, outside = _gaussian(shadows.values, shadows.trained_on), _gaussian(shadows.values, ~shadows.trained_on)
    ratio: Scores = norm.logpdf(confidence, *inside) - norm.logpdf(confidence, *outside)
    return ratio


def outlier_score(confidence: Scores, shadows: ShadowScores) -> Scores:
    """Offline LiRA (their equation 4): how far the score lies above those of models that were not trained on the image, in deviations."""
    mean, deviation = _gaussian(shadows.values, ~shadows.trained_on)
    score: Scores = (confidence - mean) / deviation
    return score


def _gaussian(values: Scores, chosen: NDArray[np.bool_]) -> tuple[Scores, float]:
    """Mean of each image ``(images,)`` over the chosen shadows, and the deviation around these means over all images."""
    counts = chosen.sum(axis=0)
    means = np.where(chosen, values, 0.0).sum(axis=0) / counts
    squares = np.where(chosen, (values - means) ** 2, 0.0).sum()
    # One degree of freedom an image went into its mean.
    deviation = float(np.sqrt(squares / max(1, counts.sum() - len(counts))))
    return means, max(_SMALLEST_DEVIATION, deviation)
