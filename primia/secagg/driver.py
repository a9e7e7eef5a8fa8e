"""The driver's role in secure aggregation: it routes what it cannot read, adds what it cannot tell apart, and opens the sum only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, islice

from primia.errors import ProtocolError
from primia.secagg.graph import groups, needed
from primia.secagg.masks import Mask, apply_masks, mask_key
from primia.secagg.messages import Advertisement, Roster, Shares, Task, aggregation_digest
from primia.secagg.ring import RingVector
from primia.secagg.shamir import join
from primia.secagg.site import pair_mask, private_mask_key

_TRIES = 200


class DriverRole:
    """The driver's part in one aggregation.

    A site may be lost before any step; the sum is then that of the sites whose vectors were added, and exact. Methods raise
    :class:`ProtocolError` where too few are left, or where what a site sent does not fit.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._advertisements: dict[str, Advertisement] = {}
        self._groups: Mapping[str, tuple[str, ...]] = {}
        self._aggregation = b""
        self._sharing: frozenset[str] = frozenset()
        self._delivered: dict[str, None] = {}
        self._sum: RingVector | None = None

    def rosters(self, advertisements: Mapping[str, Advertisement]) -> dict[str, Roster]:
        """What each site that advertised is told of the others."""
        self._check(advertisements)
        self._advertisements = dict(advertisements)
        keys = {name: advertisement.mask_key for name, advertisement in advertisements.items()}
        self._aggregation = aggregation_digest(self.task, keys)
        self._groups = groups(tuple(keys), self.task.neighbours, self._aggregation)
        return {
            name: Roster(keys, {other: advertisements[other] for other in self._groups[name] if other != name}) for name in advertisements
        }

    def deliver(self, outboxes: Mapping[str, Mapping[str, bytes]]) -> dict[str, dict[str, bytes]]:
        """The inbox of each site that sent its shares: sealed messages by sender."""
        self._sharing = frozenset(outboxes) & frozenset(self._advertisements)
        inboxes: dict[str, dict[str, bytes]] = {name: {} for name in self._sharing}
        for sender in sorted(self._sharing):
            for recipient, envelope in outboxes[sender].items():
                if recipient in inboxes:
                    inboxes[recipient][sender] = envelope
        return inboxes

    def add(self, sites: Sequence[str], vector: RingVector) -> None:
        """Add a masked vector, or the sum of the masked vectors of several sites; the first one is taken over."""
        vector.check(self.task.layout, f"site {', '.join(sites)}")
        unknown = [name for name in sites if name not in self._sharing or name in self._delivered]
        if unknown:
            raise ProtocolError(f"a masked vector of {unknown[0]!r} is not due: it came twice, or the site shared no secrets")
        self._delivered |= dict.fromkeys(sites)
        if self._sum is None:
            self._sum = vector.owned()
        else:
            self._sum.add_(vector)

    @property
    def survivors(self) -> tuple[str, ...]:
        """Names of the sites whose vectors are in the sum."""
        return tuple(self._delivered)

    def check_survivors(self) -> None:
        """Raise :class:`ProtocolError` where too few delivered for the sum to be opened."""
        for name, group in self._groups.items():
            there, least = sum(member in self._delivered for member in group), needed(self.task.threshold, len(group), len(self._groups))
            if name in self._delivered and there < least:
                raise ProtocolError(
                    f"{there} of {len(group)} sites in the group of {name!r} delivered, {least} are needed (secure_aggregation.threshold)"
                )

    def confirmations_for(self, name: str, signatures: Mapping[str, bytes]) -> dict[str, bytes]:
        """The signatures of a site's neighbours."""
        return {other: signatures[other] for other in self._groups[name] if other in signatures and other != name}

    def open(self, answers: Mapping[str, Shares], threads: int = 1) -> RingVector:
        """The sum over the surviving sites, from the shares that sites gave."""
        if self._sum is None:
            raise ProtocolError("no site delivered")
        masks = [Mask(mask_key(seed, b"own", self._aggregation), negative=True) for seed in self._own_seeds(answers)]
        masks += self._dangling(answers)
        apply_masks(self._sum, masks, threads)
        return self._sum

    def _check(self, advertisements: Mapping[str, Advertisement]) -> None:
        least = needed(self.task.threshold, len(self.task.sites), len(self.task.sites))
        if len(advertisements) < least:
            raise ProtocolError(
                f"{len(advertisements)} of {len(self.task.sites)} sites take part, {least} are needed (secure_aggregation.threshold)"
            )
        owners: dict[bytes, str] = {}
        for name, advertisement in advertisements.items():
            other = owners.setdefault(advertisement.identity.key, name)
            if other != name:
                raise ProtocolError(f"sites {other!r} and {name!r} have one identity key; each site needs keys of its own")

    def _own_seeds(self, answers: Mapping[str, Shares]) -> Iterator[bytes]:
        for name in self._delivered:
            shares = self._collected(name, {site: answer.own_masks for site, answer in answers.items()})
            yield self._recovered(name, shares, lambda seed: hashlib.sha256(seed).digest(), self._advertisements[name].commitment)

    def _dangling(self, answers: Mapping[str, Shares]) -> Iterator[Mask]:
        """Undo what survivors added for their pairs with sites that dropped out."""
        for name in sorted(self._sharing - set(self._delivered)):
            public = self._advertisements[name].mask_key
            shares = self._collected(name, {site: answer.mask_keys for site, answer in answers.items()})
            seed = self._recovered(name, shares, lambda seed: private_mask_key(seed).public_key().public_bytes_raw(), public)
            private = private_mask_key(seed)
            for other in self._groups[name]:
                if other in self._delivered and other != name:
                    # What the lost site would have added is just what cancels the other's half of the pair.
                    yield pair_mask(name, other, private, self._advertisements[other].mask_key, self._aggregation)

    def _collected(self, name: str, by_site: Mapping[str, Mapping[str, bytes]]) -> dict[int, bytes]:
        """Shares of one site's secret by their place."""
        group = self._groups[name]
        return {place: by_site[site][name] for place, site in enumerate(group, start=1) if name in by_site.get(site, {})}

    def _recovered(self, name: str, shares: Mapping[int, bytes], image: Callable[[bytes], bytes], known: bytes) -> bytes:
        """The secret whose ``image`` the site has advertised; a false share among them is got round where there are enough others."""
        least = needed(self.task.threshold, len(self._groups[name]), len(self._groups))
        if len(shares) < least:
            raise ProtocolError(f"{len(shares)} sites in the group of {name!r} stayed to the end, {least} are needed to open the sum")
        for places in islice(combinations(shares, least), _TRIES):
            try:
                seed = join({place: shares[place] for place in places})
            except ProtocolError:
                continue
            if image(seed) == known:
                return seed
        raise ProtocolError(f"the shares of {name!r} do not give its secret: a site sent a false share, the sum cannot be opened")
