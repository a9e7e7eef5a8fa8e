"""What sites do, free of Ray: train and evaluate for a session, and give away what may be added up.

A :class:`SiteHost` serves one site or many virtual ones. What leaves it is in :mod:`primia.federation.exchange`: sums, sealed or
masked contributions, the metrics that a site tells of itself, and why a site is left out.
"""

from __future__ import annotations

import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from primia.data.statistics import Normalisation
from primia.errors import ConsentError, PrimiaError, TrainingError
from primia.federation.encoding import EvaluationEncoding, FactsEncoding, UpdateEncoding, rounding_key
from primia.federation.exchange import (
    Charter,
    Contribution,
    HostEvaluation,
    HostFacts,
    HostReply,
    HostResult,
    Inbox,
    RoundTask,
    Session,
    SiteFailure,
    SiteReport,
    TrainingFacts,
    evaluation_terms,
    facts_terms,
    round_terms,
)
from primia.federation.member import Member
from primia.federation.outbox import MaskedOutbox, Outbox, PlainOutbox, SealedOutbox
from primia.federation.plan import POOLED, SPLITS, SitePlan
from primia.federation.site_state import SiteState
from primia.federation.stages import Stage, build_stages, encode
from primia.federation.update import GlobalModel, Update
from primia.privacy.errors import BudgetSpent
from primia.secagg.messages import Roster, Task
from primia.training.evaluation import Evaluation
from primia.training.learner import Learner, LocalResult, LocalWork

if TYPE_CHECKING:
    from primia.privacy.sampling import Units
    from primia.privacy.site import SitePrivacy

_CACHED_LEARNERS = 4
"""Federations at work at the same time whose networks are kept."""


class SiteHost:
    """Holds the shards of its sites and works on them."""

    def __init__(self, sites: Sequence[SitePlan]) -> None:
        self._members = {site.name: Member(site) for site in sites}
        self._learners: OrderedDict[str, Learner] = OrderedDict()

    def join(self, charter: Charter, sites: Sequence[str]) -> HostReply:
        """The public keys of each named site whose owner allows the federation."""

        def step(member: Member) -> object:
            member.admit(charter)
            return member.identity(charter).public

        return self._each(sites, step)

    def facts(self, charter: Charter, sites: Sequence[str], inboxes: Mapping[str, Inbox]) -> HostFacts:
        """Facts on each named site; one that may not tell them is left out, any other fault is raised."""
        encoding = FactsEncoding(len(charter.classes), charter.channels)
        outbox: Any = PlainOutbox()
        if inboxes:
            outbox = MaskedOutbox(charter, "facts", inboxes, facts_terms(charter), lambda facts, _: encoding.encode(facts))
        counts, failures = {}, []
        for member in self._named(sites):
            try:
                member.note(charter, {"purpose": "facts", "outcome": "delivers"})
                if not charter.is_secure or member.name in inboxes:
                    outbox.put(member, _training_facts(charter, member))
                counts[member.name] = _told_counts(charter, member)
            except (ConsentError, BudgetSpent) as error:
                failures.append(_failure(member.name, error))
        return HostFacts(outbox.total, tuple(counts), counts, tuple(failures))

    def train(self, session: Session, task: RoundTask, start: GlobalModel) -> HostResult:
        """Local work of each named site from ``start``; a site that fails is reported and the others go on."""
        outbox = self._update_outbox(session, task, start)
        reports, failures = [], []
        for member in self._named(task.sites):
            try:
                reports.append(self._train_site(session, task, member, start, outbox))
            except Exception as error:
                failures.append(_failure(member.name, error))
                with suppress(PrimiaError):  # a log that cannot be written is the failure itself, most likely
                    member.note(session.charter, {"purpose": "train", "round": task.round, "outcome": f"left out: {failures[-1].reason}"})
        return HostResult(outbox.total, tuple(reports), tuple(failures), outbox.sealed)

    def evaluate(
        self, session: Session, split: str, sites: Sequence[str], model: GlobalModel, inboxes: Mapping[str, Inbox]
    ) -> HostEvaluation:
        """Metrics of ``model`` on one split of each named site of this host; with FedBN on the site's own BatchNorm layers."""
        charter, learner = session.charter, self._learner(session)
        encoding = EvaluationEncoding(len(charter.classes))
        outbox: Any = PlainOutbox()
        if inboxes:
            terms = evaluation_terms(session, split, model)
            outbox = MaskedOutbox(charter, split, inboxes, terms, lambda value, _: encoding.encode(value))
        metrics, delivered, failures = {}, [], []
        for member in self._named(sites):
            try:
                if charter.keeps_evaluations and not inboxes:
                    raise ConsentError(
                        f"site {member.name!r} alone has {split} images, so a sum would be its own; set "
                        "secure_aggregation.site_metrics = yes if it may be told"
                    )
                evaluation = self._evaluate_site(session, learner, member, split, model)
                told = evaluation.metrics(charter.classes)
                outbox.put(member, evaluation)
                delivered.append(member.name)
                if not charter.keeps_evaluations:
                    metrics[member.name] = told
            except Exception as error:
                failures.append(_failure(member.name, error))
        return HostEvaluation(outbox.total, tuple(delivered), metrics, tuple(failures))

    def advertise(self, charter: Charter, task: Task, sites: Sequence[str]) -> HostReply:
        """First step of secure aggregation: each site's fresh keys."""
        return self._each(sites, lambda member: member.advertise(charter, task))

    def share(self, charter: Charter, purpose: str, rosters: Mapping[str, Roster]) -> HostReply:
        """Second step: each site's sealed shares, by recipient."""
        return self._each(rosters, lambda member: member.share(charter, purpose, rosters[member.name]))

    def confirm(self, charter: Charter, purpose: str, sites: Sequence[str], survivors: Sequence[str]) -> HostReply:
        """Fourth step: each site's signature on who delivered."""
        return self._each(sites, lambda member: member.confirm(charter, purpose, survivors))

    def unmask(self, charter: Charter, purpose: str, confirmations: Mapping[str, Mapping[str, bytes]]) -> HostReply:
        """Last step: the shares that open the sum."""

        def step(member: Member) -> object:
            shares = member.role(charter, purpose).unmask(confirmations[member.name])
            member.finish(charter, purpose)
            return shares

        return self._each(confirmations, step)

    def statements(self, charter: Charter, sites: Sequence[str]) -> HostReply:
        """What each site that has spent privacy in this run says of it."""
        return self._each([name for name in sites if self._members[name].has_spent(charter)], lambda member: member.statement(charter))

    def leave(self, charter: str) -> None:
        """Forget a federation: an actor may serve many, one after the other."""
        self._learners.pop(charter, None)
        for member in self._members.values():
            member.leave(charter)

    def _named(self, sites: Iterable[str]) -> Iterator[Member]:
        return (self._members[name] for name in sites if name in self._members)

    def _each(self, sites: Iterable[str], step: Callable[[Member], object]) -> HostReply:
        values, failures = {}, []
        for member in self._named(sites):
            try:
                values[member.name] = step(member)
            except PrimiaError as error:
                failures.append(_failure(member.name, error))
        return HostReply(values, tuple(failures))

    def _update_outbox(self, session: Session, task: RoundTask, start: GlobalModel) -> Outbox[Contribution]:
        charter, flat = session.charter, self._learner(session).flat
        if charter.is_sealed:
            return SealedOutbox(charter, task)
        if not charter.is_secure:
            return PlainOutbox(lambda contribution: contribution.update.nbytes)
        encoding = UpdateEncoding(flat.parameter_count, flat.buffer_count, session.total_weight, task.range)
        seed = charter.settings.run.seed
        terms = round_terms(session, task, start)
        return MaskedOutbox(
            charter, "train", task.inboxes, terms, lambda value, site: encoding.encode(value, rounding_key(seed, site, task.round))
        )

    def _train_site(
        self, session: Session, task: RoundTask, member: Member, start: GlobalModel, outbox: Outbox[Contribution]
    ) -> SiteReport:
        charter, learner, data = session.charter, self._learner(session), member.dataset("train")
        member.admit(charter)
        steps = task.steps or member.steps(charter)
        privacy = member.privacy(charter, steps)
        if privacy:
            privacy.admit(task.round, steps)
            _protect(learner, member.units(privacy), privacy)
        state = self._state(session, member)
        state.load_model(learner, start)
        state.load_optimizer(learner, task.round - 1)
        work = LocalWork(member.name, task.round, task.rounds, (task.round - 1) * steps, steps, _normalisation(session, member))
        result = learner.train(data, work)
        state.save(learner, task.round, keep=task.keep)
        contribution = self._contribution(session, learner, result, float(member.unit_count(charter)), start)
        # Before anything leaves: no use of the data goes unrecorded, and no privacy is spent without an account.
        event = {"purpose": "train", "round": task.round, "images": len(data), "steps": steps, "outcome": "delivers"}
        statement: Mapping[str, object] | None = None
        if privacy:
            privacy.charge(task.round, steps)
            statement = member.statement(charter)
            if statement["epsilon_all_runs"] is not None:
                event |= {"epsilon": statement["epsilon_all_runs"], "delta": statement["delta"]}
        member.note(charter, event)
        size = outbox.put(member, contribution)
        return _report(charter, member, result, size, statement)

    def _contribution(self, session: Session, learner: Learner, result: LocalResult, weight: float, start: GlobalModel) -> Contribution:
        parameters = learner.parameters()
        np.subtract(parameters, start.parameters, out=parameters)
        update = encode(self._stages(session), Update(parameters, learner.buffers(), weight), start)
        loss = 0.0 if session.charter.settings.privacy.is_on or result.loss is None else result.loss
        return Contribution(update, result.samples, result.steps, loss * result.samples)

    def _evaluate_site(self, session: Session, learner: Learner, member: Member, split: str, model: GlobalModel) -> Evaluation:
        member.admit(session.charter)
        member.note(session.charter, {"purpose": split, "round": model.round, "outcome": "delivers"})
        self._state(session, member).load_model(learner, model)
        return learner.evaluate(member.dataset(split), _normalisation(session, member))

    def _stages(self, session: Session) -> tuple[Stage, ...]:
        return build_stages(session.charter.settings, self._learner(session).flat, session.total_weight)

    def _state(self, session: Session, member: Member) -> SiteState:
        charter = session.charter
        return SiteState(charter.state_folder / member.name, charter.settings.federation, self._learner(session).flat)

    def _learner(self, session: Session) -> Learner:
        key = session.charter.id
        if key not in self._learners:
            self._learners[key] = _new_learner(session)
        self._learners.move_to_end(key)
        while len(self._learners) > _CACHED_LEARNERS:
            self._learners.popitem(last=False)
        return self._learners[key]


def _new_learner(session: Session) -> Learner:
    privacy = session.charter.settings.privacy
    if privacy.is_by_site:
        from primia.privacy.learner import PrivateLearner

        return PrivateLearner(session.learner, clipping=privacy.clipping, physical_batch=privacy.physical_batch)
    return Learner(session.learner)


def _protect(learner: Learner, units: Units, privacy: SitePrivacy) -> None:
    from primia.privacy.learner import PrivateLearner

    if not isinstance(learner, PrivateLearner):
        raise AssertionError("a site with a privacy budget trains privately")
    learner.protect(units, privacy.mechanism)


def _training_facts(charter: Charter, member: Member) -> TrainingFacts:
    """What a site adds to the facts: its images where it trains, its steps where it owns images (``pooled`` owns none).

    Under differential privacy class counts are not told, pixel sums only with noise; the number of images is taken as public.
    """
    facts, plan = TrainingFacts.zero(len(charter.classes), charter.channels), member.plan
    if plan.train and plan.name != POOLED:
        facts += TrainingFacts(facts.class_counts, facts.pixels, member.steps(charter), 0, 1)
    if plan.trains:
        privacy, counts, pixels = charter.settings.privacy, member.class_counts("train"), facts.pixels
        if not privacy.is_on:
            pixels = member.pixels
        elif privacy.statistics == "noisy":
            pixels = member.noisy_pixels(charter)
        told = np.zeros_like(counts) if privacy.is_on else counts
        facts += TrainingFacts(told, pixels, 0, int(counts.sum()), 0)
    return facts


def _told_counts(charter: Charter, member: Member) -> dict[str, Any]:
    """Images by class of the splits that a site speaks of: of those for training neither with secure aggregation nor with privacy."""
    told: tuple[str, ...] = SPLITS
    if charter.is_secure or charter.settings.privacy.is_on:
        told = tuple(split for split in SPLITS if split != "train")
    if charter.is_secure and not charter.settings.secure_aggregation.site_metrics:
        told = ()
    return {split: member.class_counts(split) for split in told if member.plan.shards(split)}


def _normalisation(session: Session, member: Member) -> Normalisation:
    """The federation's, or the site's own from its training images where it is to use that and has some."""
    own = session.charter.settings.data.normalisation == "site" and member.plan.trains
    return member.pixels.normalisation() if own else session.normalisation


def _report(charter: Charter, member: Member, result: LocalResult, size: int, privacy: Mapping[str, object] | None) -> SiteReport:
    report = SiteReport(member.name, result.learning_rate, result.seconds, size, privacy=privacy)
    if charter.is_secure:
        return report
    loss = None if charter.settings.privacy.is_on else result.loss
    return replace(report, samples=result.samples, steps=result.steps, loss=loss)


def _failure(site: str, error: Exception) -> SiteFailure:
    if isinstance(error, TrainingError):
        return SiteFailure(site, str(error), fatal=True)
    if isinstance(error, PrimiaError):
        return SiteFailure(site, str(error), spent=isinstance(error, BudgetSpent))
    return SiteFailure(site, f"{type(error).__name__}: {error}", traceback.format_exc())
