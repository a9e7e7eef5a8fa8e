"""Secure aggregation of many sites in one process, with dropouts at any step: for tests, benchmarks and trying things out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from primia.secagg.driver import DriverRole
from primia.secagg.identity import Identity, PublicIdentity
from primia.secagg.messages import Task
from primia.secagg.ring import RingVector
from primia.secagg.site import SiteRole


@dataclass(frozen=True)
class Dropouts:
    """Sites that are lost just before a step."""

    advertise: frozenset[str] = frozenset()
    share: frozenset[str] = frozenset()
    mask: frozenset[str] = frozenset()
    confirm: frozenset[str] = frozenset()
    unmask: frozenset[str] = frozenset()


def aggregate(
    task: Task, identities: Mapping[str, Identity], vectors: Mapping[str, RingVector], dropouts: Dropouts = Dropouts()
) -> tuple[tuple[str, ...], RingVector]:
    """Names of the sites in the sum, and the sum; ``vectors`` are overwritten.

    Raises:
        ProtocolError: too few sites stayed.
    """
    driver, alive = DriverRole(task), set(task.sites) - dropouts.advertise
    roles = {name: SiteRole(identities[name], task) for name in sorted(alive)}
    rosters = driver.rosters({name: role.advertise() for name, role in roles.items()})
    alive -= dropouts.share
    inboxes = driver.deliver({name: roles[name].share(rosters[name], _trust) for name in sorted(alive)})
    alive -= dropouts.mask
    for name in sorted(alive):
        driver.add([name], roles[name].mask(vectors[name], inboxes[name]))
    alive -= dropouts.confirm
    signatures = {name: roles[name].confirm(driver.survivors) for name in sorted(alive)}
    alive -= dropouts.unmask
    answers = {name: roles[name].unmask(driver.confirmations_for(name, signatures)) for name in sorted(alive)}
    return driver.survivors, driver.open(answers)


def _trust(identity: PublicIdentity) -> None:
    """All keys were made in this process."""
