"""The driver's side of what sites contribute: how a sum over sites comes about, in the clear or without seeing a single site's part."""

from __future__ import annotations

import json
import secrets
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from primia.data.statistics import PixelSums
from primia.errors import FederationError, ProtocolError
from primia.federation.driver.hosts import Answer, Arguments, Hosts
from primia.federation.messages import (
    Charter,
    Contribution,
    HostEvaluation,
    HostFacts,
    HostReply,
    HostResult,
    Metrics,
    RoundTask,
    Session,
    SiteFailure,
    SiteReport,
    TrainingFacts,
    seal_context,
)
from primia.federation.update import GlobalModel
from primia.models.flat import FlatSpec
from primia.secagg.identity import Identity, PublicIdentity
from primia.training.evaluation import Evaluation
from primia.untrusted.documents import parse_object, validated
from primia.untrusted.files import Unusable, printable

Item = TypeVar("Item")
Total = TypeVar("Total")

TRIES = 2
"""Times that facts and evaluations are asked for: they change nothing, so a site that was lost meanwhile may be asked again."""

_Count = Annotated[int, Field(ge=0, le=10**12)]
_Some = Annotated[int, Field(ge=1, le=10**12)]
_Whole = Annotated[int, Field(gt=-(2**63), lt=2**63)]
_Reason = Annotated[str, Field(max_length=20_000)]


class _Document(BaseModel):
    """Facts in a run folder; ``numbers``: steps, images and sites. Noised pixel sums may be below 0."""

    model_config = ConfigDict(strict=True, extra="ignore")

    class_counts: list[_Count]
    pixels: Annotated[tuple[_Whole, list[_Whole], list[_Whole]], Field(strict=False)]
    numbers: Annotated[tuple[_Some, _Some, _Some], Field(strict=False)]
    counts: dict[str, dict[Literal["train", "validation", "test"], list[_Count]]]
    absent: dict[str, _Reason]


class Collection(Generic[Item, Total]):
    """Iterate over what sites report; :attr:`total` is the sum of their contributions after that, None where nobody delivered."""

    def __init__(self, items: Generator[Item, None, Total | None]) -> None:
        self.total: Total | None = None
        self._items = items

    def __iter__(self) -> Iterator[Item]:
        self.total = yield from self._items


@dataclass
class CollectedFacts:
    """The sum of training facts, the counts that sites tell, and the sites that are absent, with the reason."""

    total: TrainingFacts
    counts: dict[str, Mapping[str, NDArray[np.int64]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """For the run folder."""
        total, pixels = self.total, self.total.pixels
        return json.dumps(
            {
                "class_counts": total.class_counts.tolist(),
                "pixels": [pixels.count, pixels.total, pixels.squares],
                "numbers": [total.steps, total.images, total.sites],
                "counts": {site: {split: counts.tolist() for split, counts in told.items()} for site, told in self.counts.items()},
                "absent": self.absent,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> CollectedFacts:
        """Inverse of :meth:`to_json`.

        Raises:
            Unusable: the text is none of its.
        """
        document: _Document = validated(_Document, parse_object(text))
        count, total, squares = document.pixels
        steps, images, sites = document.numbers
        counts: dict[str, Mapping[str, NDArray[np.int64]]] = {
            site: {split: np.array(told, np.int64) for split, told in splits.items()} for site, splits in document.counts.items()
        }
        pixels = PixelSums(count, tuple(total), tuple(squares))
        class_counts = np.array(document.class_counts, np.int64)
        return cls(TrainingFacts(class_counts, pixels, steps, images, sites), counts, document.absent)

    def check_fit(self, sites: Sequence[str], classes: int, channels: int, *, exact: bool) -> None:
        """Compare with the run that they are to be facts of; ``exact``: pixels are told as they are, without noise.

        Raises:
            Unusable: they are of other sites, classes or channels, or no images can have such pixels.
        """
        if strangers := {*self.counts, *self.absent} - set(sites):
            raise Unusable(f"they name {printable(min(strangers), 60)!r}, which is no site of this run")
        vectors = [self.total.class_counts, *(counts for told in self.counts.values() for counts in told.values())]
        if any(len(counts) != classes for counts in vectors):
            raise Unusable(f"they are not of {classes} classes")
        if self.total.sites > len(sites) or int(self.total.class_counts.sum()) > self.total.images:
            raise Unusable("more sites than there are, or more images of classes than images")
        self.total.pixels.check(channels, exact=exact)


@dataclass(frozen=True)
class SiteEvaluated:
    """A site's evaluation is in the sum; ``metrics`` where it tells its own."""

    site: str
    metrics: Metrics | None


class Scores(Protocol):
    """What an evaluation comes to."""

    def metrics(self, classes: Sequence[str]) -> Mapping[str, object]:
        """Metrics as plain numbers."""
        ...


@dataclass(frozen=True)
class ToldScores:
    """The metrics that one site tells of itself, where it alone has images of a split."""

    told: Metrics

    def metrics(self, classes: Sequence[str]) -> Metrics:
        """See :class:`Scores`."""
        return self.told


class Collector(Protocol):
    """Collects what sites contribute."""

    def join(self, sites: Sequence[str]) -> dict[str, str]:
        """Meet the sites; why some of them do not take part."""
        ...

    def facts(self, training: Sequence[str], others: Sequence[str]) -> CollectedFacts:
        """Facts of all sites; only ``training`` sites are in the sum."""
        ...

    def statements(self, sites: Sequence[str]) -> dict[str, Mapping[str, object]]:
        """What each site that answers has spent of its privacy in this run."""
        ...

    def train(self, session: Session, task: RoundTask, start: GlobalModel) -> Collection[SiteReport | SiteFailure, Contribution]:
        """A round's local work."""
        ...

    def evaluate(
        self, session: Session, split: str, sites: Sequence[str], model: GlobalModel
    ) -> Collection[SiteEvaluated | SiteFailure, Scores]:
        """Metrics of ``model`` on one split of each named site."""
        ...


class PlainCollector:
    """The driver sees sums over the sites of each host: of a single site where each has an actor of its own.

    Updates come sealed for ``identity``, the driver's keys, where the charter says so.
    """

    def __init__(self, hosts: Hosts, charter: Charter, flat: FlatSpec, identity: Identity) -> None:
        self._hosts = hosts
        self._charter = charter
        self._flat = flat
        self._identity = identity
        self._share = SharedOnce(hosts)
        self._senders: dict[str, PublicIdentity] = {}

    def join(self, sites: Sequence[str]) -> dict[str, str]:
        """See :class:`Collector`."""
        self._senders, absent = joined(self._hosts, self._charter, sites)
        return absent

    def statements(self, sites: Sequence[str]) -> dict[str, Mapping[str, object]]:
        """See :class:`Collector`."""
        return spent(self._hosts, self._charter, sites)

    def facts(self, training: Sequence[str], others: Sequence[str]) -> CollectedFacts:
        """See :class:`Collector`."""
        absent = self.join([*training, *others])
        facts = CollectedFacts(TrainingFacts.zero(len(self._charter.classes), self._charter.channels), {}, absent)
        for answer in ask_again(self._hosts, "facts", tuple(self._senders), lambda names: (self._charter, names, {})):
            result: HostFacts = answered(answer)
            facts.counts |= result.counts
            demand_usable(result.failures)
            facts.absent |= {failure.site: failure.reason for failure in result.failures}
            if isinstance(result.total, TrainingFacts):
                facts.total += result.total
        return facts

    def train(self, session: Session, task: RoundTask, start: GlobalModel) -> Collection[SiteReport | SiteFailure, Contribution]:
        """See :class:`Collector`."""
        return Collection(self._train(session, task, start))

    def evaluate(
        self, session: Session, split: str, sites: Sequence[str], model: GlobalModel
    ) -> Collection[SiteEvaluated | SiteFailure, Scores]:
        """See :class:`Collector`."""
        return Collection(self._evaluate(session, split, sites, model))

    def _train(
        self, session: Session, task: RoundTask, start: GlobalModel
    ) -> Generator[SiteReport | SiteFailure, None, Contribution | None]:
        total: Contribution | None = None
        task, model = replace(task, nonce=secrets.token_hex(8)), self._hosts.share(start)
        for answer in self._hosts.ask("train", task.sites, lambda names: (self._share(session), task.of(names), model)):
            result: HostResult = answer.result or HostResult(None, (), answer.failures)
            yield from result.failures
            if isinstance(result.total, Contribution):
                total = _added(total, result.total)
                yield from result.reports
            for report in result.reports if self._charter.is_sealed else ():
                try:
                    total = _added(total, self._opened(task, report.site, result.sealed))
                except ProtocolError as error:
                    yield SiteFailure(report.site, str(error))
                else:
                    yield report
        return total

    def _opened(self, task: RoundTask, site: str, sealed: Mapping[str, bytes]) -> Contribution:
        """A site's sealed contribution; ProtocolError where it is none of this site's, this round's, or this model's."""
        if site not in sealed or site not in self._senders:
            raise ProtocolError(f"site {site!r} sent no sealed update, or has not joined")
        payload = self._identity.open(self._senders[site], seal_context(self._charter, task, site), sealed[site])
        return Contribution.from_bytes(payload, self._flat)

    def _evaluate(
        self, session: Session, split: str, sites: Sequence[str], model: GlobalModel
    ) -> Generator[SiteEvaluated | SiteFailure, None, Scores | None]:
        total: Evaluation | None = None
        reference = self._hosts.share(model)

        def arguments(names: tuple[str, ...]) -> tuple[object, ...]:
            return self._share(session), split, names, reference, {}

        for answer in ask_again(self._hosts, "evaluate", sites, arguments):
            result: HostEvaluation = answer.result or HostEvaluation(None, (), {}, answer.failures)
            if isinstance(result.total, Evaluation):
                total = result.total if total is None else total + result.total
            yield from result.failures
            yield from (SiteEvaluated(name, result.metrics.get(name)) for name in result.delivered)
        return total


class SharedOnce:
    """Puts a value into the hosts' store once, however often it is passed."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._last: tuple[object, Any] = (None, None)

    def __call__(self, value: object) -> Any:
        """A handle on ``value``."""
        if self._last[0] is not value:
            self._last = (value, self._hosts.share(value))
        return self._last[1]


def ask_again(hosts: Hosts, method: str, sites: Sequence[str], arguments: Arguments) -> Iterator[Answer]:
    """As :meth:`Hosts.ask`, and once more to a host that was lost meanwhile."""
    for answer in hosts.ask(method, sites, arguments):
        for _ in range(1, TRIES):
            if answer.result is None:
                (answer,) = hosts.ask(method, answer.sites, arguments)
        yield answer


def joined(hosts: Hosts, charter: Charter, sites: Sequence[str]) -> tuple[dict[str, PublicIdentity], dict[str, str]]:
    """Public keys of the sites that take part, and why others do not.

    Raises:
        FederationError: an actor cannot be started.
    """
    identities: dict[str, PublicIdentity] = {}
    absent: dict[str, str] = {}
    for answer in ask_again(hosts, "join", sites, lambda names: (charter, names)):
        reply: HostReply = answered(answer)
        identities |= reply.values  # type: ignore[arg-type]
        absent |= {failure.site: failure.reason for failure in reply.failures}
    return identities, absent


def demand_usable(failures: Iterable[SiteFailure]) -> None:
    """Raise what a run ends with that cannot begin for one of these failures: it would only come again in each round."""
    for failure in failures:
        if failure.kind.error:
            raise failure.kind.error(f"site {failure.site!r}: {failure.reason}")


def spent(hosts: Hosts, charter: Charter, sites: Sequence[str]) -> dict[str, Mapping[str, object]]:
    """The statements of the sites that answer."""
    statements: dict[str, Mapping[str, object]] = {}
    if charter.settings.privacy.is_by_site:
        for answer in hosts.ask("statements", sites, lambda names: (charter, names)):
            statements |= answer.result.values if answer.result else {}
    return statements


def answered(answer: Answer) -> Any:
    """The result of a host.

    Raises:
        FederationError: it has none, although it was asked twice: its actor cannot be started.
    """
    if answer.result is None:
        names = ", ".join(answer.sites[:3]) + (" ..." if len(answer.sites) > 3 else "")
        reason = answer.failures[0].reason
        raise FederationError(f"the actor of {names} cannot be started: {reason}; check memory and free CPUs of the cluster")
    return answer.result


def _added(total: Contribution | None, contribution: Contribution) -> Contribution:
    if total is None:
        return contribution.owned()
    total += contribution
    return total
