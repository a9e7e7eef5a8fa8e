"""Reaching the sites' actors: dispatch, the round's one deadline, and what becomes of actors that die.

Results are taken in the fixed order of the hosts, whatever arrives first, so that float sums are the same
in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from threading import Event as Flag
from time import monotonic
from typing import Any, NamedTuple, Protocol

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayError, RayTaskError

from primia.errors import PrimiaError
from primia.federation.driver.actors import Actors, check_nodes
from primia.federation.messages import SiteFailure
from primia.federation.refusals import Kind

_POLL_S = 0.5
_RESTART_S = 60.0
_PING_S = 2.0


Arguments = Callable[[tuple[str, ...]], tuple[object, ...]]


class Stopped(Exception):
    """Somebody asked the run to stop while it waited for sites."""


class Answer(NamedTuple):
    """What one host answered: its result, or a failure of each of its sites that were asked."""

    sites: tuple[str, ...]
    result: Any
    failures: tuple[SiteFailure, ...]


class Hosts(Protocol):
    """All sites, wherever they are."""

    def share(self, value: object) -> Any:
        """A handle on ``value``, to be passed to calls instead of it where it is large or passed often."""
        ...

    def ask(self, method: str, sites: Sequence[str], arguments: Arguments) -> Iterator[Answer]:
        """Call a :class:`~primia.federation.site.host.SiteHost` method on each host that has sites among ``sites``, all at once.

        ``arguments`` makes a host's arguments from the names of its sites. Answers come in fixed order; a lost or late host gives
        failures, a host's own error is raised.
        """
        ...


class _Host:
    """One actor and what is known of its health."""

    def __init__(self, actors: Actors, host: int) -> None:
        self.sites = tuple(site.name for site in actors.hosts[host])
        self._start = partial(actors.start, host)
        self._actor = self._start()
        self._lost = False
        self._late: Any = None

    def call(self, method: str, *arguments: object) -> Any:
        """Dispatch a call; a reference to its result."""
        return self._actor.call.remote(method, *arguments)

    def available(self, check_stopped: Callable[[], None]) -> str:
        """Empty where the actor can take a call, else why not; waits for a lost actor to come back."""
        if self._late is not None:
            if not ray.wait([self._late], timeout=0)[0]:
                return "still busy with an earlier round"
            self._late = None
        return self._revive(check_stopped) if self._lost else ""

    def lose(self) -> None:
        """Note that the actor died."""
        self._lost = True

    def overdue(self, reference: object) -> None:
        """Note that a call goes on beyond the deadline: Ray does not end it."""
        self._late = reference

    def stop(self) -> None:
        """End the actor."""
        ray.kill(self._actor)

    def leave(self, charter: str) -> None:
        """Let the actor forget a federation, without waiting for it; one that is gone has forgotten it."""
        with suppress(RayActorError):
            self._actor.call.remote("leave", charter)

    def _revive(self, check_stopped: Callable[[], None]) -> str:
        end = monotonic() + _RESTART_S
        while monotonic() < end:
            check_stopped()
            try:
                ray.get(self._actor.ping.remote(), timeout=_PING_S)
            except ActorDiedError:
                self._actor = self._start()
            except (RayActorError, GetTimeoutError):
                Flag().wait(_POLL_S / 5)
            else:
                self._lost = False
                return ""
        return f"its actor did not come back within {_RESTART_S:.0f} s"


class RayHosts:
    """The sites as Ray actors, one a host.

    ``stopped`` is looked at while waiting; once set, waiting raises :class:`Stopped`.

    Raises:
        ConfigError: no node can hold one of the actors, which a pool has seen to before.
    """

    def __init__(self, actors: Actors, deadline_s: float, stopped: Flag) -> None:
        if not actors.pool:
            check_nodes(actors)
        self._hosts = [_Host(actors, host) for host in range(len(actors.hosts))]
        self._is_shared = bool(actors.pool)
        self._deadline_s = deadline_s
        self._stopped = stopped

    def share(self, value: object) -> Any:
        """See :class:`Hosts`."""
        return ray.put(value)

    def ask(self, method: str, sites: Sequence[str], arguments: Arguments) -> Iterator[Answer]:
        """See :class:`Hosts`."""
        deadline, wanted, calls = monotonic() + self._deadline_s, set(sites), []
        for host in self._hosts:
            names = tuple(name for name in host.sites if name in wanted)
            if names:
                calls.append((host, names, self._dispatch(host, method, *arguments(names))))
        for host, names, call in calls:
            result, reason = self._collect(host, call, deadline)
            yield Answer(names, result, () if result is not None else _failures(names, reason))

    def close(self, charter: str) -> None:
        """Let the actors go: a run's own end, those of a pool forget the federation of that charter."""
        for host in self._hosts:
            if self._is_shared:
                host.leave(charter)
            else:
                host.stop()

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise Stopped

    def _dispatch(self, host: _Host, method: str, *arguments: object) -> tuple[Any, str]:
        reason = host.available(self._check_stopped)
        if reason:
            return None, reason
        try:
            return host.call(method, *arguments), ""
        except RayActorError as error:
            host.lose()
            return None, _first_line(error)

    def _collect(self, host: _Host, call: tuple[Any, str], deadline: float) -> tuple[Any, str]:
        reference, reason = call
        if reference is None:
            return None, reason
        try:
            return self._result(reference, deadline), ""
        except GetTimeoutError:
            host.overdue(reference)
            return None, f"{Kind.LATE.value}: {self._deadline_s:g} s (federation.round_deadline)"
        except RayActorError:
            host.lose()
            return None, "its actor died; it comes back from its shard"
        except RayTaskError:  # its words are not for the driver
            return None, Kind.FAILED.value
        except RayError as error:
            return None, _first_line(error)

    def _result(self, reference: Any, deadline: float) -> Any:
        while not ray.wait([reference], timeout=_POLL_S)[0]:
            self._check_stopped()
            if monotonic() > deadline:
                raise GetTimeoutError
        self._check_stopped()
        try:
            return ray.get(reference)
        except PrimiaError as error:
            raise (getattr(error, "cause", None) or error) from None


def _failures(sites: Sequence[str], reason: str) -> tuple[SiteFailure, ...]:
    return tuple(SiteFailure(site, reason, Kind.LOST, lost=True) for site in sites)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
