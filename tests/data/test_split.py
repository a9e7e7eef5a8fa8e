from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.data.split import Assignment, Method, assign, assign_splits
from primia.errors import DataError

METHODS: tuple[Method, ...] = ("iid", "label-skew", "quantity-skew")


def deal(patients: list[str], labels: list[int], sites: int, method: Method = "iid", **options: float) -> Assignment:
    chosen = {"alpha": 0.5, "seed": 1, "validation_fraction": 0.15, "test_fraction": 0.15} | options
    names = [f"s{number}" for number in range(sites)]
    return assign(patients, np.array(labels), sites=names, method=method, **chosen)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=150)
@given(
    images=st.lists(st.tuples(st.integers(0, 25), st.integers(0, 3)), min_size=1, max_size=120),
    sites=st.integers(1, 6),
    method=st.sampled_from(METHODS),
    alpha=st.floats(0.05, 20),
    seed=st.integers(0, 2**32),
    fractions=st.sampled_from([(0.15, 0.15), (0.0, 0.3), (0.45, 0.45), (0.0, 0.0)]),
)
def test_no_patient_is_torn_and_no_site_is_empty(images, sites, method, alpha, seed, fractions) -> None:  # type: ignore[no-untyped-def]
    patients, labels = [f"p{patient}" for patient, _ in images], [label for _, label in images]
    options = {"alpha": alpha, "seed": seed, "validation_fraction": fractions[0], "test_fraction": fractions[1]}
    if len(set(patients)) < sites:
        with pytest.raises(DataError, match="cannot fill"):
            deal(patients, labels, sites, method, **options)
        return
    made = deal(patients, labels, sites, method, **options)
    homes, held = defaultdict(set), defaultdict(set)
    for patient, site, split in zip(patients, made.sites, made.splits, strict=True):
        homes[patient].add((site, split))
        held[site].add((patient, split))
    assert all(len(places) == 1 for places in homes.values())
    assert len(held) == sites
    wanted = {"train"} | {split for split, fraction in zip(("validation", "test"), fractions, strict=True) if fraction}
    for members in held.values():
        used = {split for _, split in members}
        assert used == (wanted if len(members) >= len(wanted) else {"train"})


def test_the_seed_decides() -> None:
    patients, labels = [f"p{number // 2}" for number in range(200)], [number % 3 for number in range(200)]
    assert deal(patients, labels, 3) == deal(patients, labels, 3)
    assert deal(patients, labels, 3) != deal(patients, labels, 3, seed=2)


def counts(made: Assignment, labels: list[int], sites: int) -> np.ndarray:  # type: ignore[type-arg]
    table = np.zeros((sites, max(labels) + 1), dtype=int)
    np.add.at(table, ([int(site[1:]) for site in made.sites], labels), 1)
    return table


def test_iid_gives_every_site_the_same_share_of_every_class() -> None:
    labels = [0] * 300 + [1] * 150 + [2] * 30
    made = deal([f"p{number}" for number in range(480)], labels, 3)
    assert np.abs(counts(made, labels, 3) - [100, 50, 10]).max() <= 1


def test_fractions_hold_within_each_class() -> None:
    labels = [0] * 400 + [1] * 100
    made = deal([f"p{number}" for number in range(500)], labels, 1, validation_fraction=0.2, test_fraction=0.1)
    found = {split: np.bincount(np.array(labels)[np.array(made.splits) == split]).tolist() for split in set(made.splits)}
    assert found == {"train": [280, 70], "validation": [80, 20], "test": [40, 10]}


def test_label_skew_moves_class_mixes_and_quantity_skew_moves_sizes() -> None:
    labels = [number % 4 for number in range(4000)]
    patients = [f"p{number}" for number in range(4000)]
    by_label = counts(deal(patients, labels, 4, "label-skew", alpha=0.2), labels, 4)
    by_size = counts(deal(patients, labels, 4, "quantity-skew", alpha=0.2), labels, 4)
    mixes = by_label / by_label.sum(axis=0)
    assert mixes.max() > 0.6
    large = by_size[by_size.sum(axis=1).argmax()]
    assert large.sum() > 2000 and np.ptp(large) <= 2


def test_large_alpha_is_nearly_iid() -> None:
    labels = [number % 2 for number in range(1000)]
    made = deal([f"p{number}" for number in range(1000)], labels, 4, "label-skew", alpha=1e6)
    assert np.abs(counts(made, labels, 4) - 125).max() <= 3


def test_patients_with_many_images_are_not_kept_from_any_split() -> None:
    patients = [f"p{number}" for number in range(60) for _ in range(1 + 4 * (number % 2))]
    splits = {"train": 0, "validation": 0, "test": 0}
    for seed in range(20):
        made = assign_splits(patients, np.zeros(len(patients), dtype=int), site="s", seed=seed, validation_fraction=0.2, test_fraction=0.2)
        for patient, split in {*zip(patients, made.splits, strict=True)}:
            splits[split] += int(patient[1:]) % 2
    share = splits["validation"] / sum(splits.values())
    assert 0.13 < share < 0.27


def test_too_many_sites() -> None:
    with pytest.raises(DataError, match="2 patients cannot fill 3 sites"):
        deal(["a", "a", "b"], [0, 1, 0], 3)
