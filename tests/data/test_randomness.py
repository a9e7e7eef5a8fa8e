from __future__ import annotations

from primia.data.randomness import stream


def test_streams_are_stable_across_machines() -> None:
    assert stream(1, "sites").integers(0, 1000, 4).tolist() == [30, 939, 777, 462]


def test_every_part_of_the_key_matters() -> None:
    draws = {stream(*key).random() for key in [(1, "a"), (2, "a"), (1, "b"), (1, "a", 0), (1, "a", 1)]}
    assert len(draws) == 5
