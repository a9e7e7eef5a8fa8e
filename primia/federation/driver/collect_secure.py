"""Sums that the driver cannot take apart: secure aggregation across hosts (its roles are in :mod:`primia.secagg`)."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from primia.errors import FederationError, ProtocolError
from primia.federation.driver.collect import (
    TRIES,
    CollectedFacts,
    Collection,
    PlainCollector,
    Scores,
    SharedOnce,
    SiteEvaluated,
    ToldScores,
    answered,
    demand_usable,
    joined,
    spent,
)
from primia.federation.driver.hosts import Arguments, Hosts
from primia.federation.encoding import EvaluationEncoding, FactsEncoding, UpdateEncoding
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
    evaluation_terms,
    facts_terms,
    model_digest,
    round_terms,
)
from primia.federation.update import GlobalModel
from primia.models.flat import FlatSpec
from primia.secagg.driver import DriverRole
from primia.secagg.messages import Task
from primia.secagg.ring import Layout, RingVector

_SMALLEST_SUM = 2
Value = TypeVar("Value")
Failures = Generator[SiteFailure, None, Value]


class SecureCollector:
    """Every sum is over masked contributions. A site that is lost at any step costs its own contribution only.

    Sites among fewer than two cannot hide in a sum: an evaluation by a single site is the metrics that it tells of itself.
    """

    def __init__(self, hosts: Hosts, charter: Charter, flat: FlatSpec, plain: PlainCollector) -> None:
        self._hosts = hosts
        self._charter = charter
        self._flat = flat
        self._plain = plain
        self._share = SharedOnce(hosts)

    def facts(self, training: Sequence[str], others: Sequence[str]) -> CollectedFacts:
        """See :class:`~primia.federation.driver.collect.Collector`."""
        absent = self.join([*training, *others])
        training = [name for name in training if name not in absent]
        others = [name for name in others if name not in absent]
        _demand_two(training, absent)
        encoding = FactsEncoding(len(self._charter.classes), self._charter.channels)
        begun = Collection(self._begin("facts", 0, training, encoding.layout, facts_terms(self._charter)))
        failures = list(begun)
        role, inboxes = _there(begun.total)
        counts: dict[str, Any] = {}
        for answer in self._hosts.ask("facts", [*inboxes, *others], lambda names: (self._charter, names, _part(inboxes, names))):
            result: HostFacts = answered(answer)
            demand_usable(result.failures)
            counts |= result.counts
            failures += result.failures
            if isinstance(result.total, RingVector):
                role.add([name for name in result.delivered if name in inboxes], result.total)
        opened = Collection(self._open(role))
        failures += opened
        absent |= {failure.site: failure.reason for failure in failures if not failure.counted}
        return CollectedFacts(encoding.decode(_there(opened.total)), counts, absent)

    def join(self, sites: Sequence[str]) -> dict[str, str]:
        """See :class:`~primia.federation.driver.collect.Collector`."""
        return joined(self._hosts, self._charter, sites)[1]

    def statements(self, sites: Sequence[str]) -> dict[str, Mapping[str, object]]:
        """See :class:`~primia.federation.driver.collect.Collector`."""
        return spent(self._hosts, self._charter, sites)

    def train(self, session: Session, task: RoundTask, start: GlobalModel) -> Collection[SiteReport | SiteFailure, Contribution]:
        """See :class:`~primia.federation.driver.collect.Collector`."""
        return Collection(self._train(session, task, start))

    def evaluate(
        self, session: Session, split: str, sites: Sequence[str], model: GlobalModel
    ) -> Collection[SiteEvaluated | SiteFailure, Scores]:
        """See :class:`~primia.federation.driver.collect.Collector`."""
        if len(sites) < _SMALLEST_SUM:
            return Collection(self._told(session, split, sites, model))
        return Collection(self._evaluate(session, split, sites, model))

    def _told(
        self, session: Session, split: str, sites: Sequence[str], model: GlobalModel
    ) -> Generator[SiteEvaluated | SiteFailure, None, Scores | None]:
        """The only site's own metrics stand for the sum's."""
        told: Metrics | None = None
        for item in self._plain.evaluate(session, split, sites, model):
            told = item.metrics if isinstance(item, SiteEvaluated) else told
            yield item
        return None if told is None else ToldScores(told)

    def _train(
        self, session: Session, task: RoundTask, start: GlobalModel
    ) -> Generator[SiteReport | SiteFailure, None, Contribution | None]:
        encoding = UpdateEncoding(self._flat.parameter_count, self._flat.buffer_count, session.total_weight, task.range)
        terms = round_terms(session, task, model_digest(start))
        role, inboxes = yield from self._begin("train", task.round, task.sites, encoding.layout, terms)
        model = self._hosts.share(start)
        task = replace(task, sites=tuple(inboxes), inboxes=inboxes)
        for answer in self._hosts.ask("train", task.sites, lambda names: (self._share(session), task.of(names), model)):
            result: HostResult = answer.result or HostResult(None, (), answer.failures)
            yield from result.failures
            names = [report.site for report in result.reports]
            refused = _added(role, names, result.total)
            yield from [SiteFailure(name, refused) for name in names] if refused else result.reports
        if len(role.survivors) < task.least:
            return None  # unopened: a sum that is not used must not be seen, since the round will be asked for again
        return encoding.decode((yield from self._open(role)))

    def _evaluate(
        self, session: Session, split: str, sites: Sequence[str], model: GlobalModel
    ) -> Generator[SiteEvaluated | SiteFailure, None, Scores | None]:
        """A site that was lost is asked again, which begins anew with all: opening both sums would tell what it adds to them."""
        encoding = EvaluationEncoding(len(self._charter.classes))
        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            role, evaluated, failures = self._masked_evaluation(session, split, sites, model, encoding.layout)
            if last or not any(failure.lost for failure in failures):
                yield from failures
                yield from evaluated
                return encoding.decode((yield from self._open(role))) if role.survivors else None
        raise AssertionError("the last attempt returns")

    def _masked_evaluation(
        self, session: Session, split: str, sites: Sequence[str], model: GlobalModel, layout: Layout
    ) -> tuple[DriverRole, list[SiteEvaluated], list[SiteFailure]]:
        terms = evaluation_terms(session, split, model.round, model_digest(model))
        begun = Collection(self._begin(split, model.round, sites, layout, terms))
        evaluated: list[SiteEvaluated] = []
        failures = list(begun)
        role, inboxes = _there(begun.total)
        reference = self._hosts.share(model)

        def arguments(names: tuple[str, ...]) -> tuple[object, ...]:
            return self._share(session), split, names, reference, _part(inboxes, names)

        for answer in self._hosts.ask("evaluate", tuple(inboxes), arguments):
            result: HostEvaluation = answer.result or HostEvaluation(None, (), {}, answer.failures)
            failures += result.failures
            refused = _added(role, result.delivered, result.total)
            if refused:
                failures += [SiteFailure(name, refused) for name in result.delivered]
            else:
                evaluated += [SiteEvaluated(name, result.metrics.get(name)) for name in result.delivered]
        return role, evaluated, failures

    def _begin(
        self, purpose: str, round_: int, sites: Sequence[str], layout: Layout, terms: str
    ) -> Failures[tuple[DriverRole, Mapping[str, Inbox]]]:
        """Keys and shares: the driver's role, and the inbox of each site that goes on."""
        settings = self._charter.settings.secure_aggregation
        federation = self._charter.settings.federation.identity
        task = Task(federation, self._charter.run, round_, purpose, tuple(sites), settings.threshold, settings.neighbours, layout, terms)
        role = DriverRole(task)
        failures: list[SiteFailure] = []
        advertisements = self._ask("advertise", sites, lambda names: (self._charter, task, names), failures)
        yield from failures
        try:
            rosters = role.rosters(advertisements)
        except ProtocolError as error:
            raise _explained(error, failures) from None
        failures = []
        outboxes = self._ask("share", tuple(rosters), lambda names: (self._charter, purpose, _part(rosters, names)), failures)
        yield from failures
        return role, role.deliver(outboxes)

    def _open(self, role: DriverRole) -> Failures[RingVector]:
        """Confirmations and shares: the sum."""
        purpose, survivors = role.task.purpose, role.survivors
        role.check_survivors()
        late: list[SiteFailure] = []
        signatures = self._ask("confirm", survivors, lambda names: (self._charter, purpose, names, survivors), late)
        confirmations = {name: role.confirmations_for(name, signatures) for name in signatures}
        answers = self._ask("unmask", tuple(confirmations), lambda names: (self._charter, purpose, _part(confirmations, names)), late)
        yield from (replace(failure, counted=True) for failure in late)
        try:
            return role.open(answers, threads=os.cpu_count() or 1)
        except ProtocolError as error:
            raise _explained(error, late) from None

    def _ask(self, method: str, sites: Sequence[str], arguments: Arguments, failures: list[SiteFailure]) -> dict[str, Any]:
        """What each site gave; failures are appended."""
        values: dict[str, Any] = {}
        for answer in self._hosts.ask(method, sites, arguments):
            reply: HostReply = answer.result or HostReply({}, answer.failures)
            values |= reply.values
            failures += reply.failures
        return values


def _demand_two(training: Sequence[str], absent: Mapping[str, str]) -> None:
    if len(training) >= _SMALLEST_SUM:
        return
    first = next(iter(absent.values()), "")
    if not training and absent:
        raise FederationError(f"no training site takes part: {first}")
    why = f" ({first})" if absent else ""
    raise FederationError(
        f"secure aggregation needs two training sites at least, {len(training)} can take part{why}: a sum over one site hides nothing; "
        "set secure_aggregation.enabled = no to train all the same"
    )


def _added(role: DriverRole, sites: Sequence[str], total: object) -> str:
    """Add what a host delivered to the sum; empty, or why it was not: one site's nonsense is no reason to end the round."""
    if not sites:
        return ""
    if not isinstance(total, RingVector):
        return "sent no masked vector"
    try:
        role.add(sites, total)
    except ProtocolError as error:
        return str(error)
    return ""


def _explained(error: ProtocolError, failures: Sequence[SiteFailure]) -> ProtocolError:
    """The error with the first site's reason: what the user can do is there."""
    return ProtocolError(f"{error}; {failures[0].site}: {failures[0].reason}" if failures else str(error))


def _part(values: Mapping[str, Value], names: Sequence[str]) -> dict[str, Value]:
    return {name: values[name] for name in names if name in values}


def _there(value: Value | None) -> Value:
    if value is None:
        raise ProtocolError("an aggregation ended without a result")
    return value
