from __future__ import annotations

import pytest
import torch

from primia.audits.inversion import Effort
from primia.audits.noise_level import NoiseLevel
from primia.audits.reconstruction import reconstruct

NOISE = NoiseLevel(1.0, 1.0, 8.0, False)


def run(subject, images=2, iterations=2, threads=2, seed=1, on_progress=lambda *at: None):
    return reconstruct(
        subject, images=images, noise=NOISE, effort=Effort(iterations=iterations), seed=seed, threads=threads, on_progress=on_progress
    )


def test_bare_gradients_give_images_away_and_protected_ones_do_not(subject):
    audit = run(subject, images=1, iterations=80)
    ssim = {protection: audit.select("first", protection)[0].similarity.ssim for protection in audit.protections}
    assert list(ssim) == ["none", "masked", "sum", "noised"]
    assert ssim["none"] > 0.4
    assert max(ssim["masked"], ssim["noised"]) < 0.3
    assert audit.select("first", "none")[0].identified


def test_every_image_is_attacked_under_every_protection_with_every_network(subject):
    told = []
    audit = run(subject, on_progress=lambda *at: told.append(at))
    assert told == [(done, 16) for done in range(1, 17)]
    assert audit.networks == ("first", "best")
    assert all([result.original for result in audit.select(n, p)] == [0, 1] for n in audit.networks for p in audit.protections)


def test_a_network_that_stands_in_the_way_is_tried_without_what_does(make_subject):
    subject = make_subject(model={"pooling": "max", "normalisation": "batch"})
    assert run(subject, images=1).networks == ("first", "best", "open")


def test_images_are_of_the_sites_in_turn_and_of_all_classes(subject):
    originals = run(subject, images=3).originals
    assert [original.site for original in originals] == ["site-1", "site-2", "site-3"]
    assert {original.label for original in originals} == {0, 1, 2}
    assert all(original.company.shape == (2, 1, 16, 16) and len(original.company_labels) == 2 for original in originals)


def test_a_single_site_has_no_sum_to_hide_in(make_subject):
    audit = run(make_subject(run={"mode": "local", "site": "site-1"}), images=1)
    assert audit.protections == ("none", "masked", "noised")
    assert audit.parties == 1


@pytest.mark.parametrize("threads", [1, 3])
def test_results_follow_from_the_seed_and_not_from_the_number_of_threads(subject, threads):
    first, again = run(subject, images=1, threads=2), run(subject, images=1, threads=threads)
    for network in first.networks:
        for protection in ("none", "sum", "noised"):
            one, other = first.select(network, protection)[0], again.select(network, protection)[0]
            assert torch.allclose(one.picture, other.picture, atol=1e-4)


def test_the_best_model_is_left_as_it_was(make_subject):
    subject = make_subject(model={"normalisation": "batch"})
    before = {name: value.clone() for name, value in subject.best_model.state_dict().items()}
    run(subject, images=1)
    assert all(torch.equal(value, before[name]) for name, value in subject.best_model.state_dict().items())
    assert not subject.best_model.training


def test_the_label_is_inferred_where_one_image_is_seen_and_told_where_several_are(subject):
    audit = run(subject)
    for result in audit.results:
        assert (result.label is None) == (result.protection == "sum")
        if result.protection == "none":
            assert result.label == audit.originals[result.original].label
