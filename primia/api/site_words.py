"""What sites say to the one who started the run and packed their images: more than a driver is told.

A site with a box keeps its words to itself. One without was packed by whoever started the run, whose own files its log is among.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from primia.federation.events import Event, SiteLeftOut
from primia.federation.run_spec import RunSetup
from primia.federation.site.log import FILE, SiteLog
from primia.federation.sources import PackedSite


class SiteWords:
    """Completes a run's events by what the logs of sites without a box have come to say since this was made."""

    def __init__(self, setup: RunSetup) -> None:
        self._logs = {
            site.name: SiteLog(setup.folder / "sites" / site.name / FILE) for site in setup.sites if isinstance(site.source, PackedSite)
        }
        self._seen = {name: log.size for name, log in self._logs.items()}

    def complete(self, event: Event) -> Event:
        """The event; of a site that is left out with its own words, where it has written some."""
        if not isinstance(event, SiteLeftOut) or not self._has_news(event.site):
            return event
        return self._said(event)

    def rest(self) -> Iterator[Event]:
        """What was not told by an event: what ends a run is an error alone, and where it is in the sum, it names no site."""
        for name in self._logs:
            if self._has_news(name):
                yield self._said(SiteLeftOut(0, name, ""))

    def _has_news(self, site: str) -> bool:
        return site in self._logs and self._logs[site].size > self._seen[site]

    def _said(self, event: SiteLeftOut) -> SiteLeftOut:
        log = self._logs[event.site]
        self._seen[event.site], entry = log.size, log.last()
        return event if entry is None else replace(event, reason=entry.words, traceback=entry.traceback)
