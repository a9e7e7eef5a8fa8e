"""Contributions as ring vectors, so that their sum can be taken under masks.

Parameters go modulo 2^32, stochastically rounded; everything else (BatchNorm moments, weights, counts, losses) is little and goes
modulo 2^64, where range is no question. Whole numbers are exact.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from math import ceil, log2

import numpy as np

from primia.data.statistics import PixelSums
from primia.errors import ProtocolError, TrainingError
from primia.federation.messages import Contribution, TrainingFacts
from primia.federation.update import Update, Vector
from primia.secagg.fixed_point import NARROW_BITS, decode_narrow, decode_wide, encode_narrow, encode_wide
from primia.secagg.ring import Layout, RingVector
from primia.training.evaluation import Evaluation

_RANGE_MARGIN = 8.0
_GROWTH = 64.0
_NUMBERS = 6


class UpdateEncoding:
    """A site's weighted update and its counts.

    ``range_`` is the largest change of a parameter that is held, before weighting; beyond it values are clipped and counted.
    ``total_weight``: of all sites; the sum stays exact up to twice that, beyond which decoding refuses it. In the mean update a step is
    about ``range_ * 2^-28``, whatever the number of sites.
    """

    def __init__(self, parameters: int, buffers: int, total_weight: float, range_: float) -> None:
        self.layout = Layout(narrow=parameters, wide=buffers + _NUMBERS)
        self._range = range_
        self._largest_weight = 2.0 * total_weight
        self._scale = 1.0 / ring_step(range_, total_weight)

    def encode(self, contribution: Contribution, key: bytes) -> RingVector:
        """One site's contribution; ``key`` of the rounding, see :func:`rounding_key`.

        Statistics or losses out of range make it a failure, counted in the sum: a refusal would tell of the site's own values.
        """
        update, vector = contribution.update, RingVector.zeros(self.layout)
        buffers = len(update.buffers)
        try:
            vector.wide[: buffers + 1] = encode_wide(np.append(update.buffers.astype(np.float64), contribution.loss_sum), "statistics are")
        except ProtocolError:
            vector.wide[-1] = 1
            return vector
        clipped = encode_narrow(update.parameters, self._scale, self._range * update.weight, key, vector.narrow)
        vector.wide[buffers + 1 :] = (int(update.weight), contribution.samples, contribution.steps, clipped, contribution.failed)
        return vector

    def decode(self, total: RingVector) -> Contribution:
        """The sum of contributions.

        Raises:
            ProtocolError: the sum of the weights is out of range.
        """
        buffers = self.layout.wide - _NUMBERS
        weight, samples, steps, clipped, failed = map(int, total.wide[buffers + 1 :])
        if not failed and not 0 < weight <= self._largest_weight:
            raise ProtocolError(
                f"the sites' weights sum to {weight}, out of range for sites of {self._largest_weight / 2:g} images together at the start: "
                "a site has grown, or sends what is no update; start a new run"
            )
        update = Update(decode_narrow(total.narrow, self._scale), decode_wide(total.wide[:buffers]).astype(np.float32), float(weight))
        return Contribution(update, samples, steps, float(decode_wide(total.wide[buffers : buffers + 1])[0]), clipped, failed)


def ring_step(range_: float, total_weight: float) -> float:
    """A step of a weighted update in the ring, a power of two."""
    return float(2.0 ** (ceil(log2(range_)) + ceil(log2(total_weight)) + 1 - NARROW_BITS))


def next_range(mean_update: Vector, range_: float, clipped: int) -> float:
    """The next round's range: the power of two from 8 times the largest change of the mean update on; 64 times the last after clipping.

    It follows from what all know, the global models, so it tells nothing new.
    """
    if clipped:
        return range_ * _GROWTH
    largest = float(np.abs(mean_update).max(initial=0.0)) * _RANGE_MARGIN
    return 2.0 ** ceil(log2(largest)) if largest > 0 else _RANGE_MARGIN


def rounding_key(seed: int, site: str, round_: int) -> bytes:
    """Key of a site's stochastic rounding. It hides nothing, and is derived so that the same seed gives the same model."""
    return hashlib.sha256(f"rounding/{seed}/{site}/{round_}".encode()).digest()[:16]


class FactsEncoding:
    """Training facts as whole numbers, exact."""

    def __init__(self, classes: int, channels: int) -> None:
        self._classes, self._channels = classes, channels
        self.layout = Layout(narrow=0, wide=classes + 2 * channels + 4)

    def encode(self, facts: TrainingFacts) -> RingVector:
        """One site's facts."""
        pixels, vector = facts.pixels, RingVector.zeros(self.layout)
        numbers = [*facts.class_counts, *pixels.total, *pixels.squares, pixels.count, facts.steps, facts.images, facts.sites]
        vector.wide[:] = np.array(numbers, np.int64).view(np.uint64)
        return vector

    def decode(self, total: RingVector) -> TrainingFacts:
        """The sum of facts."""
        numbers = total.wide.view(np.int64)
        counts, sums, squares, rest = np.split(numbers, np.cumsum([self._classes, self._channels, self._channels]))
        count, steps, images, sites = map(int, rest)
        pixels = PixelSums(count, tuple(sums.tolist()), tuple(squares.tolist()))
        return TrainingFacts(counts.copy(), pixels, steps, images, sites)


class EvaluationEncoding:
    """Confusion counts and score histograms, exact, the sum of losses, and the number of sites without a finite one.

    Such sites are counted in the sum and not named: by how far a model must be scaled until a site fails, its losses could be found.
    """

    def __init__(self, classes: int) -> None:
        self._empty = Evaluation.empty(classes)
        self.layout = Layout(narrow=self._empty.histograms.size, wide=self._empty.confusion.size + 2)

    def encode(self, evaluation: Evaluation | None) -> RingVector:
        """One site's evaluation; None where the model's outputs on its images are not finite."""
        vector = RingVector.zeros(self.layout)
        try:
            if evaluation is None:
                raise ProtocolError("not finite")
            vector.wide[-2] = encode_wide(np.array([evaluation.loss_sum]), "the sum of losses is")[0]
        except ProtocolError:
            vector.wide[-1] = 1
            return vector
        vector.narrow[:] = evaluation.histograms.ravel()
        vector.wide[:-2] = evaluation.confusion.ravel().view(np.uint64)
        return vector

    def decode(self, total: RingVector) -> Evaluation:
        """The sum of evaluations.

        Raises:
            TrainingError: a site's outputs are not finite; says of how many sites.
        """
        if failed := int(total.wide[-1]):
            raise TrainingError(
                f"the model's outputs or its loss are not finite, or out of range, at {failed} site(s); lower training.learning_rate"
            )
        return replace(
            self._empty,
            confusion=total.wide[:-2].view(np.int64).reshape(self._empty.confusion.shape).copy(),
            histograms=total.narrow.reshape(self._empty.histograms.shape).copy(),
            loss_sum=float(decode_wide(total.wide[-2:-1])[0]),
        )
