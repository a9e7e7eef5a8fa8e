"""What the round loop tells its audience (terminal, log, TensorBoard) while it runs; plain picklable data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Metrics = Mapping[str, object]


@dataclass(frozen=True)
class RunStarted:
    """The federation is ready; rounds up to ``done`` were already there (resume). ``steps``: of a round, all sites together."""

    folder: Path
    training_sites: tuple[str, ...]
    rounds: int
    done: int
    parameters: int
    steps: int


@dataclass(frozen=True)
class RoundStarted:
    """A round begins with these sites."""

    round: int
    sites: tuple[str, ...]


@dataclass(frozen=True)
class SiteFinished:
    """A site delivered its update; ``loss`` where it is not only in the sum."""

    round: int
    site: str
    loss: float | None
    seconds: float


@dataclass(frozen=True)
class SiteLeftOut:
    """A site is left out of a round; round 0: what ended the run, which the run's error does not say in full.

    A run tells the kind of ``reason`` alone. Where the site's images were packed by the one who started the run, the command line and
    :func:`primia.api.train` put the words and the ``traceback`` of the site's own log in its place.
    """

    round: int
    site: str
    reason: str
    traceback: str = ""


@dataclass(frozen=True)
class RoundFinished:
    """A round is done.

    ``learning_rate`` is that of its start. ``train_loss`` is None where it may not be told (differential privacy); ``validation`` is pooled
    over the selecting sites, None where it was not due.
    """

    round: int
    rounds: int
    train_loss: float | None
    learning_rate: float
    seconds: float
    validation: Metrics | None
    site_validation: Mapping[str, Metrics]
    is_best: bool


@dataclass(frozen=True)
class Notice:
    """One line for the log and the terminal. ``level`` is one of info, warning, error."""

    level: str
    text: str


@dataclass(frozen=True)
class RunFinished:
    """The run's end. ``status``: complete, stopped (early stopping), pruned (ended from outside) or interrupted."""

    status: str
    folder: Path
    summary: Mapping[str, object]


Event = RunStarted | RoundStarted | SiteFinished | SiteLeftOut | RoundFinished | Notice | RunFinished
