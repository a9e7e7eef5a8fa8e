"""What each call must be like for a site to answer it: the conditions that the gate holds against a driver.

A driver that follows the protocol meets them all. They are the site's own: nothing in them rests on what the driver says of itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from primia.config.settings import Settings
from primia.errors import ProtocolError
from primia.federation.messages import Charter, Inbox, RoundTask, Session
from primia.federation.policies import RunPolicies
from primia.federation.site.gate import Visit, names_of
from primia.federation.site.member import Member
from primia.federation.update import GlobalModel
from primia.secagg.messages import Roster, Task

EVALUATED = ("validation", "test")
"""Splits that an evaluation may be of: one of the training images would tell which of them the model knows by heart."""

_SMALLEST_SUM = 2

_DEVICES = {"auto": ("cpu", "cuda"), "cpu": ("cpu",), "cuda": ("cuda",)}
"""Where a learner may work, by ``resources.device``."""


def join(charter: Charter, sites: Sequence[str]) -> Visit:
    """Meeting: who a site is."""
    return Visit(charter, names_of(sites), "join", check=lambda member: _check_charter(charter))


def facts(charter: Charter, sites: Sequence[str], inboxes: Mapping[str, Inbox]) -> Visit:
    """Facts, masked for the sites that have an inbox."""

    def check(member: Member) -> None:
        _check_charter(charter)
        _check_images(member, charter)
        if member.name in inboxes:
            _expect(charter, member, "facts", 0)

    return Visit(charter, names_of(sites), "facts", check=check)


def train(session: Session, task: RoundTask, start: GlobalModel) -> Visit:
    """A round. The site writes its line itself, with what is spent, before its contribution leaves."""
    charter = session.charter

    def check(member: Member) -> None:
        _check_session(session, member)
        _check_round(charter, task, start)
        if member.name not in charter.training:
            raise ProtocolError(f"site {member.name!r} does not train in this federation")
        if charter.is_secure:
            _expect(charter, member, "train", task.round)
            if member.name not in task.inboxes:
                raise ProtocolError(f"site {member.name!r} was given no shares of others, so that nothing would hide its update")

    return Visit(charter, names_of(task.sites), "train", task.round, session, check, is_logged=False)


def evaluate(session: Session, split: str, sites: Sequence[str], model: GlobalModel, inboxes: Mapping[str, Inbox]) -> Visit:
    """An evaluation, masked for the sites that have an inbox."""
    charter = session.charter

    def check(member: Member) -> None:
        _check_session(session, member)
        if split not in EVALUATED:
            raise ProtocolError(f"a model is evaluated on {' and '.join(EVALUATED)} images, not on {split!r}; nothing is told")
        if not member.images(charter).has(split):
            raise ProtocolError(f"site {member.name!r} has no {split} images")
        if not 0 <= model.round <= charter.settings.federation.rounds:
            raise ProtocolError(f"a model of round {model.round} in a run of {charter.settings.federation.rounds}; nothing is told")
        if member.name in inboxes:
            _expect(charter, member, split, model.round)

    return Visit(charter, names_of(sites), split, model.round, session, check)


def advertise(charter: Charter, task: Task, sites: Sequence[str]) -> Visit:
    """The beginning of an aggregation."""

    def check(member: Member) -> None:
        _check_charter(charter)
        _check_task(charter, task, member.name)

    return Visit(charter, names_of(sites), task.purpose, task.round, check=check, is_logged=False)


def share(charter: Charter, purpose: str, rosters: Mapping[str, Roster]) -> Visit:
    """Shares for neighbours."""
    return Visit(charter, names_of(rosters), purpose, is_logged=False)


def confirm(charter: Charter, purpose: str, sites: Sequence[str], survivors: Sequence[str]) -> Visit:
    """A signature on who delivered: as many as the terms demand, of those that the sum was begun with."""

    def check(member: Member) -> None:
        task, delivered = member.role(charter, purpose).task, set(survivors)
        needed = _SMALLEST_SUM
        if purpose == "train":
            needed = max(needed, RunPolicies.of(charter.settings.federation, charter.settings.run.seed).quorum.needed(len(task.sites)))
        if not delivered <= set(task.sites):
            raise ProtocolError(f"the driver's list of who delivered cannot be true at site {member.name!r}; the sum is not opened")
        if len(delivered) < needed:
            raise ProtocolError(
                f"{len(delivered)} of {len(task.sites)} sites delivered, site {member.name!r} helps to open no sum over fewer than {needed}"
            )

    return Visit(charter, names_of(sites), purpose, check=check, is_logged=False)


def unmask(charter: Charter, purpose: str, confirmations: Mapping[str, Mapping[str, bytes]]) -> Visit:
    """The shares that open a sum."""
    return Visit(charter, names_of(confirmations), purpose, is_logged=False)


def statements(charter: Charter, sites: Sequence[str]) -> Visit:
    """What was spent."""
    return Visit(charter, names_of(sites), "statement")


def _check_charter(charter: Charter) -> None:
    """A charter that contradicts itself."""
    if len(set(charter.sites)) < len(charter.sites) or not set(charter.training) <= set(charter.sites):
        raise ProtocolError("the charter names a site twice, or lets one train that is not of the federation")


def _check_images(member: Member, charter: Charter, size: int | None = None) -> None:
    """The images that a charter, or a session with its ``size``, speaks of are of the kind that the site has."""
    for classes, channels, pixels in member.images(charter).kinds:
        if (classes, channels) != (charter.classes, charter.channels) or size not in (None, pixels):
            raise ProtocolError(f"site {member.name!r} has images of other classes, channels or size; nothing is done")


def _check_session(session: Session, member: Member) -> None:
    """A session says nothing else than its charter and the images: a site books by the charter, and works by the session."""
    charter, spec = session.charter, session.learner
    settings = charter.settings
    _check_charter(charter)
    _check_images(member, charter, spec.image_size)
    proximal_mu = settings.federation.proximal_mu if settings.run.mode == "federated" else 0.0
    planned = (settings.model, settings.training, settings.augmentation, proximal_mu, settings.resources.precision)
    if (spec.model, spec.training, spec.augmentation, spec.proximal_mu, spec.precision) != planned:
        raise ProtocolError("the session's learner has other settings than the charter; nothing is done")
    if (spec.classes, spec.channels) != (charter.classes, charter.channels) or not 0 < session.total_weight < inf:
        raise ProtocolError("the session has other classes or channels than the charter, or no weight; nothing is done")
    if spec.device not in _DEVICES[settings.resources.device] or not _are_class_weights(settings, spec.class_weights, len(spec.classes)):
        raise ProtocolError("the session has a device or class weights that the charter does not ask for; nothing is done")


def _are_class_weights(settings: Settings, weights: Sequence[float] | None, classes: int) -> bool:
    if not settings.training.class_weights:
        return weights is None
    return weights is not None and len(weights) == classes and min(weights) > 0


def _check_round(charter: Charter, task: RoundTask, start: GlobalModel) -> None:
    rounds = charter.settings.federation.rounds
    if task.rounds != rounds or not 1 <= task.round <= rounds or start.round != task.round - 1:
        raise ProtocolError(
            f"round {task.round} of {task.rounds} from a model of round {start.round}, in a run of {rounds}; nothing is done"
        )
    if charter.is_secure and not 0 < task.range < inf:
        raise ProtocolError(f"a range of {task.range} holds no update; nothing is done")
    if task.steps is not None and (charter.settings.run.mode == "federated" or task.steps < 1):
        raise ProtocolError(f"{task.steps} steps were asked for, where each site's own pass is a round; nothing is done")


def _check_task(charter: Charter, task: Task, site: str) -> None:
    """An aggregation that is not of this federation, or is over other sites than its terms say."""
    strangers = set(task.sites) - set(charter.sites)
    if strangers:
        raise ProtocolError(f"site {site!r} was asked to aggregate with {sorted(strangers)[0]!r}, which is not of this federation")
    settings, aggregation = charter.settings, charter.settings.secure_aggregation
    given = (task.federation, task.run, task.threshold, task.neighbours)
    if not charter.is_secure or given != (settings.federation.identity, charter.run, aggregation.threshold, aggregation.neighbours):
        raise ProtocolError(f"site {site!r} was asked to aggregate on other terms than those of its federation")
    if len(set(task.sites)) < max(_SMALLEST_SUM, len(task.sites)):
        raise ProtocolError(f"site {site!r} was asked to aggregate with fewer than two sites, or with one twice; that would hide nothing")
    if not _is_due(charter, task):
        raise ProtocolError(f"site {site!r} was asked for {task.purpose!r} of round {task.round} over sites that are not due in it")


def _is_due(charter: Charter, task: Task) -> bool:
    """Whether purpose, round and sites belong together: all sites that are drawn for a round, however many can take part in it."""
    federation = charter.settings.federation
    if task.purpose == "train":
        drawn = RunPolicies.of(federation, charter.settings.run.seed).draw.draw(charter.training, task.round)
        return 1 <= task.round <= federation.rounds and set(task.sites) == set(drawn)
    if task.purpose == "facts":
        return task.round == 0 and set(task.sites) <= set(charter.training)
    return task.purpose in EVALUATED and 0 <= task.round <= federation.rounds


def _expect(charter: Charter, member: Member, purpose: str, round_: int) -> None:
    """A masked contribution is asked for in the aggregation that was begun for it."""
    if member.role(charter, purpose).task.round != round_:
        raise ProtocolError(f"site {member.name!r} has begun no aggregation for {purpose} of round {round_}")
