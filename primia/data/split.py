"""Deals patients to sites and splits; no patient is ever in two of either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from primia.data.catalogue import SPLITS
from primia.data.randomness import stream
from primia.errors import DataError

Method = Literal["iid", "label-skew", "quantity-skew"]


@dataclass(frozen=True)
class Assignment:
    """Name of site and split for each image."""

    sites: list[str]
    splits: list[str]


def assign(
    patients: Sequence[str],
    labels: NDArray[np.int64],
    *,
    sites: Sequence[str],
    method: Method,
    alpha: float,
    seed: int,
    validation_fraction: float,
    test_fraction: float,
) -> Assignment:
    """Deal the patients of ``n`` images to ``sites``, and those of each site to the splits.

    ``iid`` gives every site the same share of every class, as far as whole patients allow;
    ``label-skew`` draws each class's shares from a Dirichlet distribution (Hsu, Qi, Brown 2019,
    arXiv:1909.06335) and ``quantity-skew`` the sizes of the sites, class mix alike. Every site gets
    a patient, and one for each split wanted where there are enough. Fractions are of images, within
    each class. The same arguments give the same result. :class:`DataError` if sites outnumber patients.
    """
    owners, counts = _count(patients, labels)
    if len(counts) < len(sites):
        raise DataError(f"{len(counts)} patients cannot fill {len(sites)} sites; ask for fewer sites or add images")
    wanted = 1 + (validation_fraction > 0) + (test_fraction > 0)
    rng = stream(seed, "sites")
    shares = _site_shares(method, len(sites), counts.shape[1], alpha, rng)
    home = _deal(counts, shares, min(wanted, len(counts) // len(sites)), rng)
    part = np.zeros(len(counts), dtype=np.int64)
    for number, site in enumerate(sites):
        here = np.flatnonzero(home == number)
        part[here] = _split(counts[here], validation_fraction, test_fraction, stream(seed, "splits", site))
    return Assignment([sites[number] for number in home[owners]], _names(part[owners]))


def assign_splits(
    patients: Sequence[str], labels: NDArray[np.int64], *, site: str, seed: int, validation_fraction: float, test_fraction: float
) -> Assignment:
    """Deal the patients of one site to the splits; all go to training if they are fewer than the splits wanted."""
    owners, counts = _count(patients, labels)
    part = _split(counts, validation_fraction, test_fraction, stream(seed, "splits", site))
    return Assignment([site] * len(labels), _names(part[owners]))


def _count(patients: Sequence[str], labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Patient number of each image ``(n,)`` and images of each patient and class ``(patients, classes)``."""
    names, owners = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    counts = np.zeros((len(names), int(labels.max(initial=0)) + 1), dtype=np.int64)
    np.add.at(counts, (owners, labels), 1)
    return owners, counts


def _split(counts: NDArray[np.int64], validation: float, test: float, rng: np.random.Generator) -> NDArray[np.int64]:
    fractions = np.array([1.0 - validation - test, validation, test])
    used = np.flatnonzero(fractions)
    if len(counts) < len(used):
        return np.zeros(len(counts), dtype=np.int64)
    shares = np.repeat(fractions[used, None], counts.shape[1], axis=1)
    return used[_deal(counts, shares, 1, rng)]


def _site_shares(method: Method, sites: int, classes: int, alpha: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Share of each class that each site is to get, ``(sites, classes)``; columns sum to 1."""
    if method == "label-skew":
        return rng.dirichlet(np.full(sites, alpha), size=classes).T
    sizes = np.full(sites, 1 / sites) if method == "iid" else rng.dirichlet(np.full(sites, alpha))
    return np.repeat(sizes[:, None], classes, axis=1)


def _deal(counts: NDArray[np.int64], shares: NDArray[np.float64], minimum: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Bin of each patient, so that bins come close to ``shares`` ``(bins, classes)`` of the images.

    Patients go, in random order, to the bin that lacks most of their main class, and among equals to the
    one that lacks most over all classes. Then the fullest bins give patients to those with fewer than ``minimum``.
    """
    lack = np.ascontiguousarray((shares * counts.sum(axis=0)).T)
    total = lack.sum(axis=0)
    tie_break = 1e-6 / max(1.0, float(counts.sum()))
    bins = np.zeros(len(counts), dtype=np.int64)
    order = rng.permutation(len(counts))
    main = counts.argmax(axis=1)
    sizes = counts.sum(axis=1)
    for patient in order:
        chosen = int(np.argmax(lack[main[patient]] + tie_break * total))
        bins[patient] = chosen
        lack[:, chosen] -= counts[patient]
        total[chosen] -= sizes[patient]
    return _fill(bins, len(shares), minimum, order)


def _fill(bins: NDArray[np.int64], count: int, minimum: int, order: NDArray[np.int64]) -> NDArray[np.int64]:
    held = np.bincount(bins, minlength=count)
    for poor in np.flatnonzero(held < minimum):
        while held[poor] < minimum:
            rich = int(held.argmax())
            moved = next(patient for patient in order[::-1] if bins[patient] == rich)
            bins[moved] = poor
            held[rich] -= 1
            held[poor] += 1
    return bins


def _names(numbers: NDArray[np.int64]) -> list[str]:
    return [SPLITS[number] for number in numbers]
