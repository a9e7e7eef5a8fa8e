"""Who shares secrets with whom: all with all, or a random k-regular graph where there are many (SecAgg+: Bell et al., CCS 2020)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from math import ceil, log2

COMPLETE_UP_TO = 32
_SMALLEST_DEGREE = 20


def degree(sites: int, wanted: int = 0) -> int:
    """Neighbours of each site: those wanted, else all of up to 32 sites and 4 log2(sites), at least 20, beyond.

    Always even where it is not all, and never more than all.
    """
    if wanted == 0:
        wanted = sites - 1 if sites <= COMPLETE_UP_TO else max(_SMALLEST_DEGREE, ceil(4 * log2(sites)))
    even = wanted + wanted % 2
    return sites - 1 if even >= sites - 1 else even


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


def needed(fraction: float, members: int) -> int:
    """Members of a group that must stay: more than half whatever the fraction, and two at least."""
    return max(2, members // 2 + 1, ceil(fraction * members - 1e-9))
