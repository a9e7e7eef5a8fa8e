"""The neighbour graph: regular, symmetric, connected, and another one each time."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from itertools import product

import pytest

from primia.secagg.graph import accomplices, degree, groups, needed


@pytest.mark.parametrize(("sites", "wanted", "found"), [(3, 0, 2), (32, 0, 31), (33, 0, 22), (100, 0, 28), (1000, 0, 40), (100, 20, 20)])
def test_degree(sites: int, wanted: int, found: int) -> None:
    assert degree(sites, wanted) == found


@pytest.mark.parametrize(
    ("sites", "wanted", "found"), [(3, 99, 2), (10, 3, 9), (10, 9, 9), (2, 1, 1), (40, 2, 20), (40, 21, 22), (33, 99, 32)]
)
def test_a_wanted_degree_is_made_even_and_never_more_than_all(sites: int, wanted: int, found: int) -> None:
    assert degree(sites, wanted) == found


@pytest.mark.parametrize(("sites", "wanted"), [(5, 0), (50, 0), (50, 26), (101, 20)])
def test_groups_are_regular_symmetric_and_connected(sites: int, wanted: int) -> None:
    names = tuple(f"site-{index}" for index in range(sites))
    found = groups(names, wanted, b"key")
    k = degree(sites, wanted)
    for name, members in found.items():
        assert len(members) == k + 1 and name in members and list(members) == sorted(set(members))
        assert all(name in found[member] for member in members)
    reached, edge = {names[0]}, {names[0]}
    while edge:
        edge = {member for name in edge for member in found[name]} - reached
        reached |= edge
    assert reached == set(names)


def test_the_graph_follows_from_the_key_alone() -> None:
    names = tuple(f"site-{index}" for index in range(50))
    assert groups(names, 20, b"one") == groups(names[::-1], 20, b"one") != groups(names, 20, b"two")


@pytest.mark.parametrize(
    ("fraction", "members", "sites", "least"),
    [
        (0.6, 3, 3, 2),
        (0.6, 10, 10, 6),
        (0.6, 5, 5, 3),
        (0.51, 4, 4, 3),
        (0.51, 2, 2, 2),
        (1.0, 7, 7, 7),
        (0.6, 21, 40, 13),
        (0.51, 21, 40, 12),
        (0.51, 21, 21, 11),
    ],
)
def test_needed_is_always_a_majority_and_more_on_a_graph(fraction: float, members: int, sites: int, least: int) -> None:
    assert needed(fraction, members, sites) == least


def parts(names: Collection[str], groups: Mapping[str, tuple[str, ...]]) -> list[set[str]]:
    """What hangs together by groups."""
    left, found = set(names), []
    while left:
        part = edge = {min(left)}
        while edge:
            edge = {member for name in edge for member in groups[name] if member in left} - part
            part = part | edge
        found.append(part)
        left -= part
    return found


WANTED = 20
REACH = 10
"""Neighbours of each site, and how far they reach on the ring to each side."""


def ring(sites: int) -> tuple[list[str], Mapping[str, tuple[str, ...]]]:
    """Names in their order on the ring, and the groups."""
    names = tuple(f"site-{index:03d}" for index in range(sites))
    order = sorted(names, key=lambda name: hashlib.sha256(b"key" + name.encode()).digest())
    return order, groups(names, WANTED, b"key")


def takes_part(present: Collection[str], found: Mapping[str, tuple[str, ...]], fraction: float, name: str) -> bool:
    """Whether a site helps to open the sum over those who are ``present``."""
    return len(set(present) & set(found[name])) >= needed(fraction, WANTED + 1, len(found))


@pytest.mark.parametrize("sites", [33, 41, 60, 101])
@pytest.mark.parametrize("fraction", [0.51, 0.6])
def test_lost_sites_do_not_cut_the_others_into_parts(sites: int, fraction: float) -> None:
    """The attack: gaps on a ring that whoever is beside them puts up with. Each part's sum is opened, and other rings give others."""
    order, found = ring(sites)
    for first, second in product(range(REACH + 2), repeat=2):
        for apart in (1, 3, REACH, (sites - first - second) // 2):
            lost = {*order[:first], *order[first + apart : first + apart + second]}
            present = set(order) - lost
            if all(takes_part(present, found, fraction, name) for name in present):
                assert len(parts(present, found)) == 1


@pytest.mark.parametrize("fraction", [0.51, 0.6, 0.8])
def test_accomplices_that_cut_a_ring_are_as_many_as_is_said(fraction: float) -> None:
    """Half of them in each of two gaps, on the side of those who must not notice; one fewer, and these refuse."""
    order, found = ring(101)
    least = accomplices(fraction, 101, WANTED)
    for helpers, is_cut in ((least, True), (least - 1, False)):
        gaps, counts = (order[:REACH], order[50 : 50 + REACH]), (least // 2, helpers - least // 2)
        helping = {name for gap, count in zip(gaps, counts, strict=True) for name in gap[:count]}
        honest = set(order) - set(gaps[0]) - set(gaps[1])
        assert len(parts(honest, found)) == 2
        assert all(takes_part(honest | helping, found, fraction, name) for name in honest) == is_cut
