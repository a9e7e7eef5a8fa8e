"""How contributions leave a host: added up, sealed one by one, or masked one by one and then added up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from primia.federation.messages import Charter, Contribution, Inbox, RoundTask, seal_context
from primia.federation.site.member import Member
from primia.secagg.ring import RingVector

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Outbox(Protocol[T_contra]):
    """Takes one contribution a site; they leave as one ``total``, or each ``sealed``."""

    @property
    def total(self) -> Any:
        """The sum so far, plain or masked; None where there is none."""
        ...

    @property
    def sealed(self) -> Mapping[str, bytes]:
        """Sealed contributions by site."""
        ...

    def put(self, member: Member, value: T_contra) -> int:
        """Take a site's contribution, whose memory may be overwritten; bytes that leave the site."""
        ...


class PlainOutbox(Generic[T]):
    """Adds contributions up; whoever receives the sum of a single site sees that site's."""

    def __init__(self, nbytes: Callable[[T], int] = lambda value: 0) -> None:
        self.total: T | None = None
        self.sealed: Mapping[str, bytes] = {}
        self._nbytes = nbytes

    def put(self, member: Member, value: T) -> int:
        """See :class:`Outbox`."""
        if self.total is None:
            self.total = value
        else:
            self.total += value  # type: ignore[operator]
        return self._nbytes(value)


class SealedOutbox:
    """Seals each contribution for the driver, bound to federation, run, round and sender."""

    def __init__(self, charter: Charter, task: RoundTask) -> None:
        self._charter = charter
        self._task = task
        self.total: None = None
        self.sealed: dict[str, bytes] = {}

    def put(self, member: Member, value: Contribution) -> int:
        """See :class:`Outbox`."""
        charter = self._charter
        member.pin(charter, charter.driver)
        context = seal_context(charter, self._task, member.name)
        self.sealed[member.name] = member.identity(charter).seal(charter.driver, context, value.to_bytes())
        return len(self.sealed[member.name])


class MaskedOutbox(Generic[T]):
    """Encodes and masks each contribution; the total is uniformly random to whoever has not all sites' masks.

    ``work``: name of what is contributed in the sites' journals (:mod:`primia.federation.site.work`), empty where it has none.
    """

    def __init__(
        self,
        charter: Charter,
        purpose: str,
        inboxes: Mapping[str, Inbox],
        terms: str,
        encode: Callable[[T, str], RingVector],
        work: str = "",
    ) -> None:
        self.total: RingVector | None = None
        self.sealed: Mapping[str, bytes] = {}
        self._charter = charter
        self._purpose = purpose
        self._inboxes = inboxes
        self._terms = terms
        self._encode = encode
        self._work = work

    def put(self, member: Member, value: T) -> int:
        """See :class:`Outbox`."""
        encoded = self._encode(value, member.name)
        vector = member.mask(self._charter, self._purpose, encoded, self._inboxes[member.name], self._terms, self._work)
        size = vector.nbytes
        if self.total is None:
            self.total = vector
        else:
            self.total.add_(vector)
        return size


class LateOutbox(Generic[T]):
    """An outbox that is made for the first contribution: for a call that no site answers, nothing is computed."""

    def __init__(self, make: Callable[[], Outbox[T]]) -> None:
        self._make = make
        self._outbox: Outbox[T] | None = None

    @property
    def total(self) -> Any:
        """See :class:`Outbox`."""
        return self._outbox.total if self._outbox else None

    @property
    def sealed(self) -> Mapping[str, bytes]:
        """See :class:`Outbox`."""
        return self._outbox.sealed if self._outbox else {}

    def put(self, member: Member, value: T) -> int:
        """See :class:`Outbox`."""
        self._outbox = self._outbox or self._make()
        return self._outbox.put(member, value)
