"""What sites do, free of Ray: train and evaluate for a session, and give away what may be added up.

A :class:`SiteHost` serves one site or many virtual ones. Who may call it is in :mod:`primia.federation.site.gate`, what each call must be
like in :mod:`primia.federation.site.visits`. What leaves it is in :mod:`primia.federation.messages`: sums, sealed or masked contributions,
the metrics that a site tells of itself, and why a site is left out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from primia.config.settings import PrivacySettings
from primia.data.statistics import Normalisation
from primia.errors import LoneImage, PrimiaError, ProtectionError, TrainingError
from primia.federation.encoding import EvaluationEncoding, FactsEncoding, UpdateEncoding, rounding_key
from primia.federation.messages import (
    Charter,
    Contribution,
    HostEvaluation,
    HostFacts,
    HostReply,
    HostResult,
    Inbox,
    Metrics,
    RoundTask,
    Session,
    SiteFailure,
    SiteReport,
    TrainingFacts,
    evaluation_terms,
    facts_terms,
    model_digest,
    round_terms,
)
from primia.federation.plan import POOLED, SPLITS
from primia.federation.refusals import kind_of
from primia.federation.site import visits
from primia.federation.site.gate import Entry, Gate, Gated, farewell, site_call
from primia.federation.site.member import Member
from primia.federation.site.outbox import LateOutbox, MaskedOutbox, Outbox, PlainOutbox, SealedOutbox
from primia.federation.site.state import SiteState
from primia.federation.site.work import evaluation_work, training_work
from primia.federation.sources import SiteSource
from primia.federation.stages import Stage, build_stages, encode
from primia.federation.update import GlobalModel, Update
from primia.secagg.messages import Roster, Task
from primia.secagg.ring import RingVector
from primia.training.evaluation import Evaluation
from primia.training.learner import Learner, LearnerSpec, LocalResult, LocalWork

if TYPE_CHECKING:
    from primia.privacy.sampling import Units
    from primia.privacy.site import SitePrivacy

T = TypeVar("T")

_CACHED_LEARNERS = 4
"""Federations at work at the same time whose networks are kept."""

_Wanted = tuple[LearnerSpec, PrivacySettings]
"""What a learner is made for; of other settings it is made anew."""


class SiteHost(Gated):
    """Works on its sites: the boxes or shards that it is made with. Each call passes the gate (:mod:`primia.federation.site.gate`)."""

    def __init__(self, sites: Sequence[SiteSource]) -> None:
        self._gate = Gate(map(Member, sites), _failure)
        self._learners: OrderedDict[str, tuple[_Wanted, Learner]] = OrderedDict()

    @site_call(visits.join)
    def join(self, entry: Entry, charter: Charter, sites: Sequence[str]) -> HostReply:
        """The public keys of each named site whose owner allows the federation."""
        return entry.reply(lambda member: member.identity(charter).public)

    @site_call(visits.facts)
    def facts(self, entry: Entry, charter: Charter, sites: Sequence[str], inboxes: Mapping[str, Inbox]) -> HostFacts:
        """Facts on each named site; one that may not or cannot tell them is left out."""
        encoding = FactsEncoding(len(charter.classes), charter.channels)
        outbox: Any = PlainOutbox()
        if inboxes:
            outbox = MaskedOutbox(charter, "facts", inboxes, facts_terms(charter), lambda facts, _: encoding.encode(facts))

        def step(member: Member) -> dict[str, Any]:
            told = _told_counts(charter, member)
            if not charter.is_secure or member.name in inboxes:
                outbox.put(member, _training_facts(charter, member))
            return told

        counts = entry.each(step)
        return HostFacts(outbox.total, tuple(counts), counts, tuple(entry.failures))

    @site_call(visits.train)
    def train(self, entry: Entry, session: Session, task: RoundTask, start: GlobalModel) -> HostResult:
        """Local work of each named site from ``start``; a site that fails is reported and the others go on."""
        outbox = LateOutbox(lambda: self._update_outbox(session, task, start))
        reports = entry.each(lambda member: self._train_site(session, task, member, start, outbox))
        return HostResult(outbox.total, tuple(reports.values()), tuple(entry.failures), outbox.sealed)

    @site_call(visits.evaluate)
    def evaluate(
        self, entry: Entry, session: Session, split: str, sites: Sequence[str], model: GlobalModel, inboxes: Mapping[str, Inbox]
    ) -> HostEvaluation:
        """Metrics of ``model`` on one split of each named site of this host; with FedBN on the site's own BatchNorm layers.

        Under secure aggregation an evaluation leaves in a masked sum only, besides the metrics that sites may tell of themselves.
        """
        charter = session.charter

        def make() -> Outbox[Evaluation | None]:
            if not inboxes:
                return PlainOutbox()
            encoding = EvaluationEncoding(len(charter.classes))
            digest = model_digest(model)
            terms, work = evaluation_terms(session, split, model.round, digest), evaluation_work(digest, split)
            return MaskedOutbox(charter, split, inboxes, terms, lambda value, _: encoding.encode(value), work)

        outbox = LateOutbox(make)

        def step(member: Member) -> Metrics | None:
            is_masked, normalisation = member.name in inboxes, _normalisation(session, member)
            if charter.keeps_evaluations and not is_masked:
                raise ProtectionError(
                    f"site {member.name!r} alone has {split} images, so a sum would be its own; set "
                    "secure_aggregation.site_metrics = yes if it may be told"
                )
            evaluate = partial(self._evaluated, session, member, split, normalisation, model)
            evaluation = _counted(charter, member, f"evaluation of {split}", evaluate)
            told = None if charter.keeps_evaluations or evaluation is None else evaluation.metrics(charter.classes)
            if is_masked or not charter.is_secure:
                outbox.put(member, evaluation)
            return told

        told = entry.each(step)
        metrics = {name: value for name, value in told.items() if value is not None}
        return HostEvaluation(outbox.total, tuple(told), metrics, tuple(entry.failures))

    @site_call(visits.advertise)
    def advertise(self, entry: Entry, charter: Charter, task: Task, sites: Sequence[str]) -> HostReply:
        """First step of secure aggregation: each site's fresh keys."""
        return entry.reply(lambda member: member.advertise(charter, task))

    @site_call(visits.share)
    def share(self, entry: Entry, charter: Charter, purpose: str, rosters: Mapping[str, Roster]) -> HostReply:
        """Second step: each site's sealed shares, by recipient."""
        return entry.reply(lambda member: member.share(charter, purpose, rosters[member.name]))

    @site_call(visits.confirm)
    def confirm(self, entry: Entry, charter: Charter, purpose: str, sites: Sequence[str], survivors: Sequence[str]) -> HostReply:
        """Fourth step: each site's signature on who delivered."""
        return entry.reply(lambda member: member.confirm(charter, purpose, survivors))

    @site_call(visits.unmask)
    def unmask(self, entry: Entry, charter: Charter, purpose: str, confirmations: Mapping[str, Mapping[str, bytes]]) -> HostReply:
        """Last step: the shares that open the sum."""
        return entry.reply(lambda member: member.unmask(charter, purpose, confirmations[member.name]))

    @site_call(visits.statements)
    def statements(self, entry: Entry, charter: Charter, sites: Sequence[str]) -> HostReply:
        """What each site that has spent privacy in this run says of it."""
        told = entry.each(lambda member: member.statement(charter) if member.has_spent(charter) else None)
        return HostReply({name: value for name, value in told.items() if value is not None}, tuple(entry.failures))

    @farewell
    def leave(self, charter: str) -> None:
        """Forget a federation: an actor may serve many, one after the other."""
        self._learners.pop(charter, None)

    def _update_outbox(self, session: Session, task: RoundTask, start: GlobalModel) -> Outbox[Contribution]:
        charter, flat = session.charter, self._learner(session).flat
        if not charter.is_secure:
            return SealedOutbox(charter, task) if charter.is_sealed else PlainOutbox(lambda contribution: contribution.update.nbytes)
        encoding = UpdateEncoding(flat.parameter_count, flat.buffer_count, session.total_weight, task.range)
        seed, digest = session.learner.seed, model_digest(start)
        terms, work = round_terms(session, task, digest), training_work(digest, seed, task.round)

        def to_ring(value: Contribution, site: str) -> RingVector:
            return encoding.encode(value, rounding_key(seed, site, task.round))

        return MaskedOutbox(charter, "train", task.inboxes, terms, to_ring, work)

    def _train_site(
        self, session: Session, task: RoundTask, member: Member, start: GlobalModel, outbox: Outbox[Contribution]
    ) -> SiteReport:
        charter, learner = session.charter, self._learner(session)
        data = member.images(charter).dataset("train")
        steps = task.steps or member.steps(charter)
        privacy = member.privacy(charter, steps)
        if privacy:
            # Before noise is drawn: whatever comes of the work, also that the noised model is not finite, tells of what is charged.
            privacy.charge(task.round, steps)
            _protect(learner, member.units(charter, privacy), privacy)
        work = LocalWork(member.name, task.round, task.rounds, (task.round - 1) * steps, steps, _normalisation(session, member))
        errors = (TrainingError, LoneImage) if charter.is_secure else ()
        train = partial(self._trained, session, task, member, work, start)
        done = _counted(charter, member, f"train of round {work.round}", train, *errors)
        result, contribution = done or (None, Contribution.of_failure(start))
        # Before anything leaves: no use of the data goes unrecorded, and no privacy is spent without an account.
        event = {"purpose": "train", "round": task.round, "images": len(data), "steps": steps, "outcome": "delivers"}
        statement: Mapping[str, object] | None = None
        if privacy:
            statement = member.statement(charter)
            if statement["epsilon_all_runs"] is not None:
                event |= {"epsilon": statement["epsilon_all_runs"], "delta": statement["delta"]}
        member.note(charter, event)
        size = outbox.put(member, contribution)
        return _report(charter, member, result, size, statement)

    def _trained(
        self, session: Session, task: RoundTask, member: Member, work: LocalWork, start: GlobalModel
    ) -> tuple[LocalResult, Contribution]:
        """Work on the site's images: how it went, and what comes of it."""
        charter, learner, state = session.charter, self._learner(session), self._state(session, member)
        data = member.images(charter).dataset("train")
        state.load_model(learner, start)
        state.load_optimizer(learner, work.round - 1)
        result = learner.train(data, work)
        state.save(learner, work.round, keep=() if charter.settings.run.dry_run else task.keep)
        return result, self._contribution(session, learner, result, float(member.unit_count(charter)), start)

    def _evaluated(self, session: Session, member: Member, split: str, normalisation: Normalisation, model: GlobalModel) -> Evaluation:
        learner = self._learner(session)
        self._state(session, member).load_model(learner, model)
        return learner.evaluate(member.images(session.charter).dataset(split), normalisation)

    def _contribution(self, session: Session, learner: Learner, result: LocalResult, weight: float, start: GlobalModel) -> Contribution:
        parameters = learner.parameters()
        np.subtract(parameters, start.parameters, out=parameters)
        update = encode(self._stages(session), Update(parameters, learner.buffers(), weight), start)
        loss = 0.0 if session.charter.settings.privacy.is_on or result.loss is None else result.loss
        return Contribution(update, result.samples, result.steps, loss * result.samples)

    def _stages(self, session: Session) -> tuple[Stage, ...]:
        return build_stages(session.charter.settings, self._learner(session).flat, session.total_weight)

    def _state(self, session: Session, member: Member) -> SiteState:
        charter = session.charter
        return SiteState(member.learner_folder(charter), charter.settings.federation, self._learner(session).flat)

    def _learner(self, session: Session) -> Learner:
        key, wanted = session.charter.id, (session.learner, session.charter.settings.privacy)
        known, learner = self._learners.get(key, (None, None))
        if learner is None or known != wanted:
            learner = _new_learner(session)
            self._learners[key] = wanted, learner
        self._learners.move_to_end(key)
        while len(self._learners) > _CACHED_LEARNERS:
            self._learners.popitem(last=False)
        return learner


def _new_learner(session: Session) -> Learner:
    privacy = session.charter.settings.privacy
    if privacy.is_by_site:
        from primia.privacy.learner import PrivateLearner

        return PrivateLearner(session.learner, physical_batch=privacy.physical_batch)
    return Learner(session.learner)


def _protect(learner: Learner, units: Units, privacy: SitePrivacy) -> None:
    from primia.privacy.learner import PrivateLearner

    if not isinstance(learner, PrivateLearner):
        raise AssertionError("a site with a privacy budget trains privately")
    learner.protect(units, privacy.mechanism)


def _training_facts(charter: Charter, member: Member) -> TrainingFacts:
    """What a site adds to the facts: its images where it trains, its steps where it owns images (``pooled`` owns none).

    Under differential privacy class counts are not told, pixel sums only with noise; the number of images, or of patients where those
    are protected, is taken as public.
    """
    facts, images = TrainingFacts.zero(len(charter.classes), charter.channels), member.images(charter)
    if images.has("train") and member.name != POOLED:
        facts += TrainingFacts(facts.class_counts, facts.pixels, member.steps(charter), 0, 1)
    if member.name in charter.training:
        privacy, counts, pixels = charter.settings.privacy, images.class_counts("train"), facts.pixels
        if not privacy.is_on:
            pixels = images.pixels
        elif privacy.statistics == "noisy":
            pixels = member.noisy_pixels(charter)
        told = np.zeros_like(counts) if privacy.is_on else counts
        facts += TrainingFacts(told, pixels, 0, member.unit_count(charter), 0)
    return facts


def _told_counts(charter: Charter, member: Member) -> dict[str, Any]:
    """Images by class of the splits that a site speaks of: of those for training neither with secure aggregation nor with privacy."""
    told: tuple[str, ...] = SPLITS
    if charter.is_secure or charter.settings.privacy.is_on:
        told = tuple(split for split in SPLITS if split != "train")
    if charter.is_secure and not charter.settings.secure_aggregation.site_metrics:
        told = ()
    images = member.images(charter)
    return {split: images.class_counts(split) for split in told if images.has(split)}


def _normalisation(session: Session, member: Member) -> Normalisation:
    """The federation's, or the site's own from its training images where it is to use that and has some."""
    own = session.charter.settings.data.normalisation == "site" and member.name in session.charter.training
    return member.images(session.charter).pixels.normalisation() if own else session.normalisation


def _counted(charter: Charter, member: Member, asked: str, work: Callable[[], T], *errors: type[Exception]) -> T | None:
    """What comes of work on the images; None where it fails and that goes into the sum: said of the site it would tell of its images.

    By a rate that takes so many steps to fail, a batch of one image, a model scaled until outputs overflow, their number and losses could
    be found. Where sites may tell their own metrics only ``errors`` go into the sum; others leave the site out, and the others go on.
    """
    try:
        return work()
    except Exception as error:
        if not (charter.keeps_evaluations or isinstance(error, errors)):
            raise
        _failure(charter, member, asked, error)
        return None


def _report(charter: Charter, member: Member, result: LocalResult | None, size: int, privacy: Mapping[str, object] | None) -> SiteReport:
    report = SiteReport(member.name, size, privacy=privacy)
    if charter.is_secure or result is None:
        return report
    loss = None if charter.settings.privacy.is_on else result.loss
    return replace(report, samples=result.samples, steps=result.steps, loss=loss)


def _failure(charter: Charter, member: Member, asked: str, error: Exception) -> SiteFailure:
    """Its kind for the driver; the words stay in the site's own log."""
    with suppress(OSError, PrimiaError):
        member.log(charter).write(asked, error)
    return SiteFailure.of(member.name, kind_of(error))
