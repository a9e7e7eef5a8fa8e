"""The Ray actor around :class:`~primia.federation.site.host.SiteHost`; holds shards, keeps no result of a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray

from primia.errors import ConfigError, ModelError
from primia.federation.refusals import Kind

if TYPE_CHECKING:
    from primia.federation.sources import SiteSource


class FederatedWorker:
    """Hosts one or more sites: the boxes or shards that it is started with, whatever a driver says later.

    Made again from its arguments after a crash: shards are mapped when first used.
    The constructor checks nothing, since Ray reports an exception there as a dead actor.
    """

    def __init__(self, sites: Sequence[SiteSource], threads: int) -> None:
        import torch  # here: whoever starts an actor names this class, and needs neither torch nor what a site does
        import torch._dynamo  # which the first optimiser loads: it takes a second, in which others start as well

        from primia.federation.site.host import SiteHost

        torch.set_num_threads(threads)
        torch.backends.cudnn.deterministic = True  # else a GPU adds up the gradients of ResNet-18's convolutions in any order
        self._host = SiteHost(sites)

    def ping(self) -> bool:
        """True as soon as the actor is up."""
        return True

    def node(self) -> str:
        """The node that it runs on."""
        return ray.get_runtime_context().get_node_id()

    def call(self, method: str, *arguments: object) -> Any:
        """A call of :class:`SiteHost` by its name.

        What goes wrong at a site is in the answer, without its words; what escapes is a bug, or follows from the settings alone.

        Raises:
            NoSuchCall: no such call; nothing else of the host can be reached.
        """
        from primia.federation.site.gate import NoSuchCall

        try:
            return self._host(method, *arguments)
        except (ConfigError, ModelError, NoSuchCall):
            raise
        except Exception:
            raise RuntimeError(Kind.FAILED.value) from None
