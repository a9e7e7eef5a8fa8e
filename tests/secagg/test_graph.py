"""The neighbour graph: regular, symmetric, connected, and another one each time."""

from __future__ import annotations

import pytest

from primia.secagg.graph import degree, groups, needed


@pytest.mark.parametrize(("sites", "wanted", "found"), [(3, 0, 2), (32, 0, 31), (33, 0, 22), (100, 0, 28), (1000, 0, 40), (100, 20, 20)])
def test_degree(sites: int, wanted: int, found: int) -> None:
    assert degree(sites, wanted) == found


@pytest.mark.parametrize(("sites", "wanted", "found"), [(3, 99, 2), (10, 3, 4), (10, 9, 9), (2, 1, 1)])
def test_a_wanted_degree_is_made_even_and_never_more_than_all(sites: int, wanted: int, found: int) -> None:
    assert degree(sites, wanted) == found


@pytest.mark.parametrize(("sites", "wanted"), [(5, 0), (50, 0), (50, 6), (101, 20)])
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
    assert groups(names, 6, b"one") == groups(names[::-1], 6, b"one") != groups(names, 6, b"two")


@pytest.mark.parametrize(
    ("fraction", "members", "least"), [(0.6, 3, 2), (0.6, 10, 6), (0.6, 5, 3), (0.51, 4, 3), (0.51, 2, 2), (1.0, 7, 7), (0.6, 21, 13)]
)
def test_needed_is_always_a_majority(fraction: float, members: int, least: int) -> None:
    assert needed(fraction, members) == least
