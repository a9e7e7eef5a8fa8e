"""What the two roles of secure aggregation exchange; plain picklable data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache

from primia.secagg.identity import PublicIdentity
from primia.secagg.ring import Layout


@dataclass(frozen=True)
class Task:
    """One aggregation: what for, among whom, and how many may be lost.

    Attributes:
        federation: the federation's identity.
        run: name of the run.
        round: round of the run.
        purpose: what is summed (facts, train, validation, test).
        sites: names of those who may take part.
        threshold: fraction of a group that must stay to the end.
        neighbours: wanted degree of the graph, see :func:`primia.secagg.graph.degree`.
        layout: what each site sends.
        terms: digest of whatever else the sites' vectors follow from; a site masks nothing that was made on other terms.
    """

    federation: str
    run: str
    round: int
    purpose: str
    sites: tuple[str, ...]
    threshold: float
    neighbours: int
    layout: Layout
    terms: str = ""

    @property
    def digest(self) -> bytes:
        """Names the task and all of its terms."""
        return _digest(self)


@lru_cache(maxsize=64)
def _digest(task: Task) -> bytes:
    return hashlib.sha256(json.dumps(asdict(task), sort_keys=True).encode()).digest()


@dataclass(frozen=True)
class Advertisement:
    """A site's keys for one aggregation, signed with its identity key.

    ``mask_key``: X25519 public key of the pairwise masks. ``commitment``: SHA-256 of the seed of its own mask.
    """

    identity: PublicIdentity
    mask_key: bytes
    commitment: bytes
    signature: bytes

    @staticmethod
    def signed_text(task: Task, mask_key: bytes, commitment: bytes) -> bytes:
        """What the signature is on."""
        return b"primia advertisement " + task.digest + mask_key + commitment


@dataclass(frozen=True)
class Roster:
    """What a site is told of the others: everybody's mask key, and the whole advertisement of each of its neighbours."""

    mask_keys: Mapping[str, bytes]
    neighbours: Mapping[str, Advertisement]


def aggregation_digest(task: Task, mask_keys: Mapping[str, bytes]) -> bytes:
    """Names this very aggregation: the task and the fresh keys of all who take part, so that nothing of another one fits."""
    content = b"".join(hashlib.sha256(name.encode()).digest() + mask_keys[name] for name in sorted(mask_keys))
    return hashlib.sha256(b"primia aggregation " + task.digest + content).digest()


def survivors_text(aggregation: bytes, survivors: Iterable[str]) -> bytes:
    """What a site signs when it is told whose vectors arrived."""
    names = json.dumps(sorted(survivors)).encode()
    return b"primia survivors " + aggregation + hashlib.sha256(names).digest()


@dataclass(frozen=True)
class Shares:
    """A site's answer at the end, by the name of the one it is a share of.

    ``own_masks``: of seeds of those who delivered. ``mask_keys``: of private mask keys of those who dropped out.
    """

    own_masks: Mapping[str, bytes]
    mask_keys: Mapping[str, bytes]
