from __future__ import annotations

import pytest

from primia.audits.membership_audit import LOSS_THRESHOLD, OFFLINE, ONLINE, attack_membership


def run(subject, shadows=0, seed=1):
    return attack_membership(subject, shadows=shadows, seed=seed, threads=2, on_progress=lambda *at: None)


def test_without_shadows_there_is_the_loss_threshold_alone(subject):
    audit = run(subject)
    assert [attack.name for attack in audit.attacks] == [LOSS_THRESHOLD]
    assert (audit.members, audit.others) == (len(subject.members), len(subject.others))


def test_a_model_that_was_never_trained_gives_nobody_away(subject):
    """The fixture's model is untrained, so every attack is guessing."""
    audit = run(subject, shadows=2)
    assert [attack.name for attack in audit.attacks] == [LOSS_THRESHOLD, ONLINE, OFFLINE]
    assert audit.proven.epsilon == 0.0
    assert all(attack.interval[0] < 0.6 and attack.interval[1] > 0.4 for attack in audit.attacks)


def test_the_bounds_of_several_attacks_hold_together(subject):
    assert [attack.bound.confidence for attack in run(subject).attacks] == [pytest.approx(0.95)]
    assert [attack.bound.confidence for attack in run(subject, shadows=2).attacks] == [pytest.approx(1 - 0.05 / 3)] * 3


def test_delta_is_the_accountants_or_one_over_the_images(make_subject, subject):
    assert run(subject).proven.delta == pytest.approx(1 / len(subject.members))
    private = make_subject(spent={"sites": {"site-1": {"epsilon": 3.0, "delta": 0.02}}})
    assert run(private).proven.delta == 0.02
    assert run(private).budget.epsilon == 3.0
