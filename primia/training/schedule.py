"""Learning-rate schedules over the whole run, the same at every site."""

from __future__ import annotations

from math import cos, pi

from primia.config.settings import TrainingSettings

_END_FRACTION = 0.01


def learning_rate(settings: TrainingSettings, progress: float) -> float:
    """The rate at ``progress`` in [0, 1) of the run, whose end is never reached.

    ``log-linear`` (PriMIA's) is linear in the logarithm from start to end rate; ``cosine`` is half a cosine between
    them (Loshchilov and Hutter, ICLR 2017, eq. 5). With r restarts the course is run r + 1 times.
    """
    start = settings.learning_rate
    end = settings.end_learning_rate or start * _END_FRACTION
    within = progress * (settings.restarts + 1) % 1.0
    if settings.schedule == "constant":
        return start
    if settings.schedule == "cosine":
        return end + (start - end) * (1 + cos(pi * within)) / 2
    return float(start * (end / start) ** within)
