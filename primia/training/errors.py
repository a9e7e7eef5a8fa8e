"""Errors of local work."""

from __future__ import annotations

from primia.errors import DataError, TrainingError


class NonFiniteLoss(TrainingError):
    """The loss, the parameters or the outputs became NaN or infinite."""


class LoneImage(DataError):
    """A batch has one image, and BatchNorm on a map of one pixel needs more."""
