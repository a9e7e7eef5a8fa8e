"""The one gate in front of all calls of a host: nobody reaches a site without it.

A :class:`Gated` host has no sites of its own. Each of its public methods is a registered call, which is handed an :class:`Entry`; only
through that are sites reached, each one after the owner's grant has been read anew, the call has been compared with what went before, and
its line is in the site's audit log. A refusal is logged too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, get_type_hints

from primia.errors import PrimiaError, ProtocolError
from primia.federation.messages import Charter, HostReply, Session, SiteFailure
from primia.federation.refusals import Kind
from primia.federation.site.canonical import Unreadable, canonical_arguments
from primia.federation.site.log import words_of
from primia.federation.site.member import Member

P = ParamSpec("P")
T = TypeVar("T")
Host = TypeVar("Host", bound="Gated")

CALLS: set[str] = set()
"""Names of all calls."""

UNREADABLE = "refused: a call that cannot be read"
"""What the audit log says of a call whose arguments are not what it declares: fixed, since nothing of such a call can be quoted."""

_MOST_FEDERATIONS = 64
"""Federations whose terms are remembered."""


class NoSuchCall(ProtocolError):
    """A call of a name that no site answers to."""


def _anything(member: Member) -> None:
    """No condition of this call's own."""


@dataclass(frozen=True)
class Visit:
    """What a call asks for: under which charter, of which sites, for which purpose, in which session and round.

    ``check`` raises where the call does not fit the site. ``is_logged``: a line is written before the site is reached; otherwise, where
    images are not touched, or where the site writes a fuller line before anything leaves, refusals only.
    """

    charter: Charter
    sites: tuple[str, ...]
    purpose: str
    round: int | None = None
    session: Session | None = None
    check: Callable[[Member], None] = _anything
    is_logged: bool = True

    @property
    def event(self) -> dict[str, object]:
        """For the audit log."""
        return {"purpose": self.purpose} | ({} if self.round is None else {"round": self.round})


@dataclass
class _Terms:
    """What a federation was first seen with, under one charter id: nothing of it may change."""

    charter: Charter
    session: Session | None = None
    round: int = 0


class Gate:
    """Holds a host's sites; ``failure`` says what the driver is told of an error."""

    def __init__(self, members: Iterable[Member], failure: Callable[[Charter, Member, str, Exception], SiteFailure]) -> None:
        self.failure = failure
        self._members = {member.name: member for member in members}
        self._terms: OrderedDict[str, _Terms] = OrderedDict()

    def member(self, name: str) -> Member | None:
        """A site by name; for :class:`Entry` only."""
        return self._members.get(name)

    def admit(self, member: Member, visit: Visit) -> None:
        """Let a call in to a site, with a line in its log.

        Raises:
            ConsentError, BudgetSpent: the owner does not allow it.
            ProtocolError: the call does not fit the federation's terms, or the site.
        """
        self._compare(visit)
        member.admit(visit.charter)
        visit.check(member)
        if visit.is_logged:
            member.note(visit.charter, {**visit.event, "outcome": "delivers"})
        self._remember(visit)

    def forget(self, charter: str) -> None:
        """Forget a federation."""
        self._terms.pop(charter, None)
        for member in self._members.values():
            member.leave(charter)

    def refuse(self, call: str, error: Exception) -> tuple[SiteFailure, ...]:
        """Refuse a call that cannot be read, for all sites of the host, since whom it is about cannot be read either."""
        fault = error.where if isinstance(error, Unreadable) else type(error).__name__
        for member in self._members.values():
            with suppress(PrimiaError, OSError):
                member.note_refusal(None, {"purpose": call, "fault": fault, "outcome": UNREADABLE})
        return tuple(SiteFailure.of(name, Kind.PROTOCOL) for name in self._members)

    def _compare(self, visit: Visit) -> None:
        known = self._terms.get(visit.charter.id)
        if known is None:
            return
        if known.charter != visit.charter:
            raise ProtocolError(
                "the call has other terms (run, sites, settings or driver) than this federation began with; start a new run with them"
            )
        if visit.session is not None and known.session is not None and known.session != visit.session:
            raise ProtocolError("the call has another session (learner, normalisation or weights) than this federation began with")
        if visit.purpose == "train" and visit.session is not None and (visit.round or 0) < known.round:
            raise ProtocolError(f"round {visit.round} was asked for after round {known.round}; a driver that starts again joins first")

    def _remember(self, visit: Visit) -> None:
        terms = self._terms.setdefault(visit.charter.id, _Terms(visit.charter))
        terms.session = terms.session or visit.session
        if visit.purpose == "join":
            terms.round = 0
        elif visit.purpose == "train":
            terms.round = max(terms.round, visit.round or 0)
        self._terms.move_to_end(visit.charter.id)
        while len(self._terms) > _MOST_FEDERATIONS:
            self.forget(next(iter(self._terms)))  # with all that was begun under its terms: no later call is compared with them


@dataclass
class Entry:
    """One call's way to the sites that it names; ``failures`` are of those that were refused, or could not do what was asked."""

    gate: Gate
    visit: Visit
    failures: list[SiteFailure] = field(default_factory=list)

    def each(self, step: Callable[[Member], T]) -> dict[str, T]:
        """What each named site of this host gives; no error of a site is raised, of whatever kind."""
        values: dict[str, T] = {}
        for name in self.visit.sites:
            member = self.gate.member(name)
            if member is None:
                continue
            try:
                self.gate.admit(member, self.visit)
            except Exception as error:
                self._leave_out(member, error, member.note_refusal, "refused")
                continue
            try:
                values[name] = step(member)
            except Exception as error:
                self._leave_out(member, error, member.note, "left out")
        return values

    def reply(self, step: Callable[[Member], object]) -> HostReply:
        """:meth:`each` as the reply to a small step."""
        return HostReply(self.each(step), tuple(self.failures))

    def _leave_out(self, member: Member, error: Exception, note: Callable[[Charter, Mapping[str, object]], None], what: str) -> None:
        asked = self.visit.purpose if self.visit.round is None else f"{self.visit.purpose} of round {self.visit.round}"
        self.failures.append(self.gate.failure(self.visit.charter, member, asked, error))
        with suppress(PrimiaError, OSError):  # a log that cannot be written is the failure itself, most likely
            note(self.visit.charter, {**self.visit.event, "outcome": f"{what}: {words_of(error)}"})


class Gated:
    """Base of what answers calls: a public method that is no registered call cannot be written."""

    _gate: Gate

    def __call__(self, method: object, *arguments: object) -> Any:
        """Answer the call of this name.

        Raises:
            NoSuchCall: there is none; nothing else can be reached, and that it was tried is in the log.
        """
        if type(method) is not str or method not in CALLS:
            self._gate.refuse("unknown call", Unreadable("one of a site's calls", "its name"))
            raise NoSuchCall(f"no call of a site; calls: {', '.join(sorted(CALLS))}")
        return getattr(self, method)(*arguments)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, value in vars(cls).items():
            if not name.startswith("_") and not (name in CALLS and getattr(value, "is_call", False)):
                raise TypeError(f"{cls.__name__}.{name} does not pass the gate; make it a site_call, or private")


def site_call(
    describe: Callable[P, Visit],
) -> Callable[[Callable[Concatenate[Host, Entry, P], T]], Callable[Concatenate[Host, P], T]]:
    """Register a call; ``describe`` makes the :class:`Visit` of its arguments, and its annotations say what those are.

    Both are given one copy of the arguments (:mod:`primia.federation.site.canonical`), so that what is checked is what is done. A call that
    cannot be read is answered with failures.
    """

    def register(method: Callable[Concatenate[Host, Entry, P], T]) -> Callable[Concatenate[Host, P], T]:
        @wraps(method)
        def call(self: Host, /, *arguments: P.args, **named: P.kwargs) -> T:
            try:
                given = canonical_arguments(describe, arguments, named)
                visit = cast("Callable[..., Visit]", describe)(**given)
            except Exception as error:
                reply: T = get_type_hints(method)["return"].of_failures(self._gate.refuse(method.__name__, error))
                return reply
            return cast("Callable[..., T]", method)(self, Entry(self._gate, visit), **given)

        return _registered(method.__name__, call)

    return register


def farewell(method: Callable[[Host, str], None]) -> Callable[[Host, str], None]:
    """Register a call that reaches no site: it lets the gate forget a charter, by its id, before the host's own part."""

    def of(charter: str) -> str:
        return charter

    @wraps(method)
    def call(self: Host, /, *arguments: object, **named: object) -> None:
        try:
            known = of(**canonical_arguments(of, arguments, named))
        except Exception as error:
            self._gate.refuse(method.__name__, error)
            return
        self._gate.forget(known)
        method(self, known)

    return _registered(method.__name__, call)


def _registered(name: str, call: Callable[P, T]) -> Callable[P, T]:
    call.is_call = True  # type: ignore[attr-defined]
    CALLS.add(name)
    return call


def names_of(sites: Iterable[str] | Mapping[str, object]) -> tuple[str, ...]:
    """Names that a call is about, each once."""
    return tuple(dict.fromkeys(sites))
