"""Who shares secrets with whom: all with all, or a random k-regular graph where there are many (SecAgg+: Bell et al., CCS 2020)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from math import ceil, log2

COMPLETE_UP_TO = 32
_SMALLEST_DEGREE = 20


def degree(sites: int, wanted: int = 0) -> int:
    """Neighbours of each site: all of up to 32 sites; beyond, those wanted or 4 log2(sites), and 20 at least.

    Always even where it is not all, and never more than all. Fewer are not given: on a ring of two neighbours each, two lost sites cut
    the others into parts.
    """
    if sites <= COMPLETE_UP_TO:
        return sites - 1
    least = max(_SMALLEST_DEGREE, wanted or ceil(4 * log2(sites)))
    return min(sites - 1, least + least % 2)


@lru_cache(maxsize=8)
def groups(sites: tuple[str, ...], wanted: int, key: bytes) -> Mapping[str, tuple[str, ...]]:
    """Each site's group, in the order of names: the site itself and its neighbours.

    A Harary graph over an order of the sites that is a pseudorandom function of ``key``, which nobody knows before all have
    chosen their keys of this aggregation.
    """
    k = degree(len(sites), wanted)
    if k == len(sites) - 1:
        everybody = tuple(sorted(sites))
        return dict.fromkeys(sites, everybody)
    order = sorted(sites, key=lambda name: hashlib.sha256(key + name.encode()).digest())
    reach, n = k // 2, len(order)
    return {name: tuple(sorted(order[(at + step) % n] for step in range(-reach, reach + 1))) for at, name in enumerate(order)}


def needed(fraction: float, members: int, sites: int) -> int:
    """Members of a group, of so many sites in all, that must stay: more than half whatever the fraction, and two at least.

    On a graph of k neighbours, k / 2 + 2 at least. Then the survivors hang together: a ring is cut by two gaps of k / 2 and more, and
    who stands beside a gap has k / 2 + 1 in its group, itself included. Nor can two of them be told other lists of survivors: the next
    two with other lists would need k + 4 that stayed, and their groups have k + 2 outside of the gap between them.
    """
    return max(2, members // 2 + 1 + (members < sites), ceil(fraction * members - 1e-9))


def accomplices(fraction: float, sites: int, wanted: int = 0) -> int:
    """Sites that must tell the driver what they know, at least, before it learns more than a sum, in an aggregation of so many.

    Those that a group needs can open masks. On a graph of k neighbours accomplices beside the two gaps of a cut count as there, and fill
    up what the groups there need beyond k / 2 + 1.
    """
    k = degree(sites, wanted)
    least = needed(fraction, k + 1, sites)
    return least if k == sites - 1 else 2 * (least - 1 - k // 2)
