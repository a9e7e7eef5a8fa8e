from __future__ import annotations

import numpy as np
import pytest

from primia.audits.one_run import GRADIENTS, IMAGES, UPDATES, OddImages, OneRunAudit, audit_in_one_run, rehearsed_guesses
from primia.audits.one_run_bound import refuted_epsilon
from primia.data.shard import Shard
from primia.errors import RunError
from primia.privacy.accounting import epsilon
from primia.privacy.mechanism import Mechanism

# Sampling and noise are real: a bound above a true statement has a chance below 1e-7 in each case here, by the binomial tail of the
# guesses' accuracy (as simulated); a tenth of the noise is missed with one below 1e-30.

STATEMENT = {
    "unit": "image",
    "epsilon": 3.0,
    "delta": 1e-5,
    "accountant": "rdp",
    "noise_multiplier": 4.0,
    "sample_rate": 1.0,
    "steps": 4,
    "clip": 1.0,
    "views": 1,
    "units": 6,
}


def audited(make_subject, canaries: int = 1000, **changes) -> OneRunAudit:
    statement = STATEMENT | changes
    private = {"unit": statement["unit"], "noise_multiplier": 4.0, "delta": 1e-5, "physical_batch": 64}
    sites = {statement.pop("site", "site-1"): statement}
    subject = make_subject(spent={"sites": sites}, privacy=private, federation={"weighting": "uniform"})
    return audit_in_one_run(subject, subject.stated, canaries=canaries, most_steps=100, seed=1, on_progress=lambda *at: None)


@pytest.mark.parametrize("unit, views", [("image", 1), ("image", 2), ("patient", 1), ("patient", 2)])
@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_sites_mechanisms_hold(make_subject, unit, views, accountant):
    found = audited(make_subject, canaries=400, unit=unit, views=views, accountant=accountant)
    assert set(found.bounds) == {GRADIENTS, IMAGES}
    assert found.epsilon == epsilon([Mechanism(4.0, 1.0, 1.0, 6).spend(4)], 1e-5, accountant)
    assert not found.is_refuted and found.proven.epsilon < found.epsilon
    assert all(bound.confidence == 0.975 for bound in found.bounds.values()), "both kinds hold together"


def test_a_mechanism_for_whole_sites_holds(make_subject):
    found = audited(make_subject, unit="site", site="all sites", units=3)
    assert set(found.bounds) == {UPDATES} and not found.is_refuted


@pytest.mark.parametrize("unit", ["image", "site"])
def test_noise_weaker_than_stated_is_said(make_subject, unit, monkeypatch):
    """The run's code adds a tenth of what it states: refuted but with a chance below 1e-30 (see test_canaries)."""
    weaken_noise(monkeypatch)
    found = audited(make_subject, unit=unit, site="site-1")
    assert found.is_refuted and found.proven.epsilon > found.epsilon
    assert found.proven.epsilon <= found.ceiling


def weaken_noise(monkeypatch) -> None:
    from primia.privacy.noise import SecureGenerator

    real = SecureGenerator.rounded_gaussian
    monkeypatch.setattr(SecureGenerator, "rounded_gaussian", lambda self, count, deviation: real(self, count, deviation / 10))


def test_the_weakest_mechanism_is_audited_and_for_no_more_steps_than_asked(make_subject):
    sites = {"site-1": STATEMENT, "site-2": STATEMENT | {"noise_multiplier": 2.0, "steps": 8}}
    subject = make_subject(spent={"sites": sites}, privacy={"unit": "image", "noise_multiplier": 2.0})
    told = []
    found = audit_in_one_run(subject, subject.stated, canaries=20, most_steps=3, seed=1, on_progress=lambda *at: told.append(at))
    assert (found.stated.site, found.stated.steps, found.steps) == ("site-2", 8, 3)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert found.epsilon == epsilon([Mechanism(2.0, 1.0, 1.0, 6).spend(3)], 1e-5, "rdp")


def test_without_differential_privacy_nothing_is_stated(subject):
    assert subject.stated is None


def test_a_site_that_is_not_of_the_run_is_one_line(make_subject):
    with pytest.raises(RunError, match="'elsewhere' that is not in this run"):
        audited(make_subject, site="elsewhere")


def test_odd_images_are_negatives_under_another_class(subject):
    shard = Shard.open(subject.training_sites[0].train)
    odd, index = OddImages(shard, 2, seed=1), np.arange(3)
    assert len(odd) == len(shard) and np.array_equal(odd.gather(index), 255 - shard.gather(index))
    assert (odd.labels != shard.labels).all() and set(odd.labels) <= {0, 1}


def test_as_many_are_guessed_as_proves_most_if_all_is_as_stated():
    weak, strong = (rehearsed_guesses(Mechanism(noise, 1.0, 1.0, 10), 1, 1000, 1e-5, 0.95, seed=1) for noise in (0.3, 2.0))
    assert weak > strong
    assert refuted_epsilon(1000, strong, strong, delta=1e-5, confidence=0.95) > 2.0
