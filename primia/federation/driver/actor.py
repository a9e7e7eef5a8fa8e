"""The Ray actor that a run's driver lives in."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event as Flag

from primia.federation.driver.actors import Actors
from primia.federation.events import Event
from primia.federation.run_spec import RunSetup


class FederationDriver:
    """The Ray actor that runs one federation. Needs two threads: one for :meth:`run`, one for :meth:`stop`."""

    def __init__(self, setup: RunSetup, actors: Actors) -> None:
        self._setup = setup
        self._actors = actors
        self._stopped = Flag()

    def run(self) -> Iterator[Event]:
        """Events of the run as they happen; the sites' actors are gone when it ends."""
        from primia.federation.driver.hosts import RayHosts
        from primia.federation.driver.run import run_federation  # here: whoever starts the actor needs no torch

        deadline_s = self._setup.settings.federation.round_deadline
        hosts = RayHosts(self._actors, deadline_s, self._stopped)
        try:
            yield from run_federation(self._setup, hosts)
        finally:
            hosts.close(self._setup.charter_id)

    def stop(self) -> None:
        """Ask :meth:`run` to end at once: the round in progress is given up, the last finished one is on disk."""
        self._stopped.set()
