"""The Ray actor around :class:`~primia.federation.site.SiteHost`; holds shards, keeps no result of a call."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from primia.federation.plan import SitePlan
from primia.federation.site import HostEvaluation, HostResult, RoundTask, Session, SiteFacts, SiteHost
from primia.federation.update import GlobalModel


class FederatedWorker:
    """Hosts one or more sites. Made again from its arguments after a crash: shards are mapped when first used.

    The constructor checks nothing, since Ray reports an exception there as a dead actor.
    """

    def __init__(self, sites: Sequence[SitePlan], threads: int) -> None:
        torch.set_num_threads(threads)
        self._host = SiteHost(sites)

    def ping(self) -> bool:
        """True as soon as the actor is up."""
        return True

    def describe(self) -> tuple[SiteFacts, ...]:
        """See :meth:`SiteHost.describe`."""
        return self._host.describe()

    def train(self, session: Session, task: RoundTask, start: GlobalModel) -> HostResult:
        """See :meth:`SiteHost.train`."""
        return self._host.train(session, task, start)

    def evaluate(self, session: Session, split: str, sites: Sequence[str], model: GlobalModel) -> HostEvaluation:
        """See :meth:`SiteHost.evaluate`."""
        return self._host.evaluate(session, split, sites, model)
