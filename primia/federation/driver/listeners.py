"""Those who write down what the round loop tells: the run's log, and TensorBoard."""

from __future__ import annotations

import logging
from functools import singledispatchmethod
from pathlib import Path
from typing import Protocol

from torch.utils.tensorboard import SummaryWriter

from primia.federation.events import Event, Notice, RoundFinished, RunFinished, RunStarted, SiteFinished, SiteLeftOut
from primia.files import keep_private, own_folder

_SCALARS = ("mcc", "accuracy", "balanced_accuracy", "roc_auc", "loss")


class Listener(Protocol):
    """Takes every event of a run."""

    def hear(self, event: Event) -> None:
        """Write one event down."""
        ...

    def close(self) -> None:
        """The run is over."""
        ...


class LogListener:
    """Writes ``run.log``: a line for each event."""

    def __init__(self, logger: logging.Logger) -> None:
        self._log = logger

    @singledispatchmethod
    def hear(self, event: Event) -> None:
        """Write one event down; sites' single deliveries are in ``rounds.parquet`` and not here."""

    @hear.register
    def _(self, event: RunStarted) -> None:
        sites = ", ".join(event.training_sites[:8]) + (" ..." if len(event.training_sites) > 8 else "")
        self._log.info("%s rounds of %s sites (%s), %s parameters", event.rounds, len(event.training_sites), sites, event.parameters)
        if event.done:
            self._log.info("resumed after round %s", event.done)

    @hear.register
    def _(self, event: SiteLeftOut) -> None:
        self._log.warning("round %s, site %s: %s", event.round, event.site, event.reason)

    @hear.register
    def _(self, event: RoundFinished) -> None:
        mcc = f"{event.validation['mcc']:.4f}" if event.validation else "-"
        loss = "-" if event.train_loss is None else f"{event.train_loss:.5f}"
        self._log.info("round %s: train loss %s, validation MCC %s, %.2f s", event.round, loss, mcc, event.seconds)

    @hear.register
    def _(self, event: Notice) -> None:
        self._log.log(logging.getLevelNamesMapping()[event.level.upper()], event.text)

    @hear.register
    def _(self, event: RunFinished) -> None:
        self._log.info("%s", event.status)

    def close(self) -> None:
        """Nothing to do: the handler belongs to the run folder."""


class TensorBoardListener:
    """Writes TensorBoard scalars a round; a resume overwrites what came after its checkpoint."""

    def __init__(self, folder: Path, done: int) -> None:
        self._folder = own_folder(folder)
        self._writer = SummaryWriter(str(folder), purge_step=done + 1 if done else None)
        keep_private(folder)

    @singledispatchmethod
    def hear(self, event: Event) -> None:
        """Write one event down, where it has scalars."""

    @hear.register
    def _(self, event: SiteFinished) -> None:
        if event.loss is not None:
            self._writer.add_scalar(f"train_loss/{event.site}", event.loss, event.round)

    @hear.register
    def _(self, event: RoundFinished) -> None:
        if event.train_loss is not None:
            self._writer.add_scalar("train_loss/all", event.train_loss, event.round)
        self._writer.add_scalar("learning_rate", event.learning_rate, event.round)
        self._writer.add_scalar("seconds/round", event.seconds, event.round)
        for site, metrics in {"all": event.validation or {}, **event.site_validation}.items():
            for name in _SCALARS:
                value = metrics.get(name)
                if isinstance(value, float):
                    self._writer.add_scalar(f"validation_{name}/{site}", value, event.round)
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()
        keep_private(self._folder)
