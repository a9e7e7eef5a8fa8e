"""Errors of local work."""

from __future__ import annotations

from primia.errors import TrainingError


class NonFiniteLoss(TrainingError):
    """The loss, the parameters or the outputs became NaN or infinite."""
