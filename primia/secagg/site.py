"""A site's role in secure aggregation (Bonawitz et al., CCS 2017, figure 4; on a graph: Bell et al., CCS 2020, algorithm 3)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from primia.errors import ProtocolError
from primia.secagg.graph import groups, needed
from primia.secagg.identity import Identity, PublicIdentity
from primia.secagg.masks import Mask, apply_masks, mask_key
from primia.secagg.messages import Advertisement, Roster, Shares, Task, aggregation_digest, survivors_text
from primia.secagg.ring import RingVector
from primia.secagg.shamir import SHARE_BYTES, fresh_secret, split

_STEPS = ("advertise", "share", "mask", "confirm", "unmask")


def private_mask_key(seed: bytes) -> X25519PrivateKey:
    """The X25519 key that belongs to a seed; seeds rather than keys are shared, since they fit the field of Shamir's shares."""
    return X25519PrivateKey.from_private_bytes(hashlib.sha256(b"primia mask key " + seed).digest())


def pair_mask(own: str, other: str, private: X25519PrivateKey, public: bytes, aggregation: bytes) -> Mask:
    """What ``own`` adds for its pair with ``other``; the two cancel."""
    try:
        secret = private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise ProtocolError(f"the mask key of {other!r} is no key") from None
    return Mask(mask_key(secret, b"pair", aggregation), negative=own > other)


class SiteRole:
    """One site's part in one aggregation: each step once and in order, so that no key can serve twice.

    What a driver that follows the protocol learns of this site's vector is its share of the sum over the sites that delivered, as long as
    fewer than t sites of a group tell it what they know, t being those that a group needs. A driver that deviates is met by signatures,
    commitments, bound envelopes and the consistency check: on a complete graph of g sites it needs 2 t - g accomplices. On a graph of k
    neighbours sites that are lost cannot cut the others into parts, but 2 (t - 1 - k / 2) accomplices beside them can. Every method
    raises :class:`ProtocolError` where the driver or another site deviates; the site then takes no further part.
    """

    def __init__(self, identity: Identity, task: Task) -> None:
        if identity.name not in task.sites:
            raise ProtocolError(f"site {identity.name!r} is not among the sites of this aggregation")
        self.task = task
        self._identity = identity
        self._name = identity.name
        self._done = 0
        self._mask_seed = fresh_secret()
        self._own_seed = fresh_secret()
        self._private = private_mask_key(self._mask_seed)
        self._aggregation = b""
        self._group: tuple[str, ...] = ()
        self._needed = 0
        self._roster = Roster({}, {})
        self._shares: dict[str, tuple[bytes, bytes]] = {}
        self._survivors: frozenset[str] = frozenset()

    @property
    def group(self) -> tuple[str, ...]:
        """The site itself and those whose keys it has checked; empty before :meth:`share`."""
        return self._group

    def advertise(self) -> Advertisement:
        """Fresh public keys, signed."""
        self._step("advertise")
        key, commitment = self._private.public_key().public_bytes_raw(), hashlib.sha256(self._own_seed).digest()
        signature = self._identity.sign(Advertisement.signed_text(self.task, key, commitment))
        return Advertisement(self._identity.public, key, commitment, signature)

    def share(self, roster: Roster, pin: Callable[[PublicIdentity], None]) -> dict[str, bytes]:
        """Shares of both secrets, one sealed message for each neighbour; ``pin`` raises where an identity is not the known one."""
        self._step("share")
        self._check_roster(roster)
        self._roster = roster
        self._aggregation = aggregation_digest(self.task, roster.mask_keys)
        self._group = groups(tuple(roster.mask_keys), self.task.neighbours, self._aggregation)[self._name]
        self._needed = needed(self.task.threshold, len(self._group), len(roster.mask_keys))
        self._check_neighbours(pin)
        places = range(1, len(self._group) + 1)
        pairs = zip(split(self._own_seed, self._needed, places), split(self._mask_seed, self._needed, places), strict=True)
        messages = dict(zip(self._group, pairs, strict=True))
        self._shares = {self._name: messages.pop(self._name)}
        return {name: self._seal(name, own + key) for name, (own, key) in messages.items()}

    def mask(self, vector: RingVector, inbox: Mapping[str, bytes], terms: str = "", threads: int = 1) -> RingVector:
        """``vector`` plus its own mask and those of its pairs with all whose shares are in ``inbox``, in place.

        ``terms``: digest of what the vector was made from. All keys of the aggregation depend on the task's terms, so sites that were told
        others than their neighbours could not add up to anything; and a site that was told others than the task's masks nothing.
        """
        self._step("mask")
        if terms != self.task.terms:
            raise ProtocolError(f"site {self._name!r} was given another model or other settings than its task is about; nothing is masked")
        vector.check(self.task.layout, f"site {self._name!r}")
        for sender, envelope in inbox.items():
            self._shares[sender] = self._open(sender, envelope)
        self._demand(self._shares, "exchanged shares")
        masks = [Mask(mask_key(self._own_seed, b"own", self._aggregation))]
        masks += [
            pair_mask(self._name, other, self._private, self._roster.mask_keys[other], self._aggregation)
            for other in self._shares
            if other != self._name
        ]
        apply_masks(vector, masks, threads)
        return vector

    def confirm(self, survivors: Sequence[str]) -> bytes:
        """A signature on the list of those whose vectors arrived."""
        self._step("confirm")
        self._survivors = frozenset(survivors)
        strangers = self._survivors - set(self._roster.mask_keys)
        unknown = {name for name in self._group if name in self._survivors and name not in self._shares}
        if strangers or unknown or self._name not in self._survivors:
            raise ProtocolError(f"the driver's list of who delivered cannot be true at site {self._name!r}; the sum is not opened")
        self._demand([name for name in self._group if name in self._survivors], "delivered")
        return self._identity.sign(survivors_text(self._aggregation, self._survivors))

    def unmask(self, confirmations: Mapping[str, bytes]) -> Shares:
        """Shares that open the sum: for each of the group one kind or the other, never both.

        ``confirmations``: signatures of the group's sites on the list that this site signed. Without enough of them the driver may have
        told others another list, and could then take away both kinds of masks of one site.
        """
        self._step("unmask")
        text = survivors_text(self._aggregation, self._survivors)
        confirmed = {self._name}
        for name, signature in confirmations.items():
            if name in self._roster.neighbours and name in self._survivors:
                self._roster.neighbours[name].identity.verify(signature, text)
                confirmed.add(name)
        self._demand(confirmed, "confirmed who delivered")
        own_masks = {name: own for name, (own, _) in self._shares.items() if name in self._survivors}
        keys = {name: key for name, (_, key) in self._shares.items() if name not in self._survivors}
        return Shares(own_masks, keys)

    def _step(self, name: str) -> None:
        if self._done >= len(_STEPS) or _STEPS[self._done] != name:
            raise ProtocolError(f"site {self._name!r} was asked to {name} out of turn or twice in one aggregation")
        self._done += 1

    def _demand(self, names: Collection[str], did: str) -> None:
        if len(names) < self._needed:
            raise ProtocolError(
                f"{len(names)} of the {len(self._group)} sites in the group of {self._name!r} {did}, {self._needed} are needed"
            )

    def _check_roster(self, roster: Roster) -> None:
        names = set(roster.mask_keys)
        if not names <= set(self.task.sites) or roster.mask_keys.get(self._name) != self._private.public_key().public_bytes_raw():
            raise ProtocolError(f"the roster is not that of this aggregation at site {self._name!r}: forged or replayed")
        least = needed(self.task.threshold, len(self.task.sites), len(self.task.sites))
        if len(names) < least:
            raise ProtocolError(
                f"{len(names)} of {len(self.task.sites)} sites take part, {least} are needed (secure_aggregation.threshold)"
            )

    def _check_neighbours(self, pin: Callable[[PublicIdentity], None]) -> None:
        seen = {self._identity.public.key}
        for name in self._group:
            if name == self._name:
                continue
            advertisement = self._roster.neighbours.get(name)
            if advertisement is None or advertisement.identity.name != name or advertisement.mask_key != self._roster.mask_keys[name]:
                raise ProtocolError(f"the advertisement of {name!r} is missing or another's at site {self._name!r}")
            text = Advertisement.signed_text(self.task, advertisement.mask_key, advertisement.commitment)
            advertisement.identity.verify(advertisement.signature, text)
            pin(advertisement.identity)
            if advertisement.identity.key in seen:
                raise ProtocolError(f"site {name!r} has the same identity key as another site: two sites with one identity")
            seen.add(advertisement.identity.key)

    def _context(self, sender: str, recipient: str) -> dict[str, object]:
        where = {"federation": self.task.federation, "run": self.task.run, "round": self.task.round, "purpose": self.task.purpose}
        return where | {"aggregation": self._aggregation.hex(), "sender": sender, "recipient": recipient}

    def _seal(self, recipient: str, payload: bytes) -> bytes:
        return self._identity.seal(self._roster.neighbours[recipient].identity, self._context(self._name, recipient), payload)

    def _open(self, sender: str, envelope: bytes) -> tuple[bytes, bytes]:
        if sender not in self._roster.neighbours or sender == self._name:
            raise ProtocolError(f"site {self._name!r} got shares from {sender!r}, which is not its neighbour")
        payload = self._identity.open(self._roster.neighbours[sender].identity, self._context(sender, self._name), envelope)
        if len(payload) != 2 * SHARE_BYTES:
            raise ProtocolError(f"site {sender!r} sent shares of {len(payload)} bytes where {2 * SHARE_BYTES} are due")
        return payload[:SHARE_BYTES], payload[SHARE_BYTES:]
