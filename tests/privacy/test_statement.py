from __future__ import annotations

from dataclasses import replace

import pytest

from primia.privacy.site import Statement
from primia.privacy.statement import paragraph

STATEMENT = Statement(
    unit="image",
    epsilon=2.981,
    epsilon_all_runs=2.981,
    delta=1e-4,
    accountant="prv",
    noise_multiplier=1.23,
    sample_rate=0.05,
    sampling="Poisson",
    steps=200,
    clip=1.0,
    views=1,
    units=10000,
    neighbours="add or remove one image",
    noisy_statistics=False,
)


def test_one_site_word_for_word() -> None:
    assert paragraph([STATEMENT], secure_aggregation=False) == (
        "Training was differentially private for each training image: at each site with epsilon = 2.99 at delta = 0.0001, for data "
        "sets that differ by one image that is there or not. Each site trained by DP-SGD (Abadi et al., 2016): the gradient of each "
        "image was clipped to an L2 norm of 1, and Gaussian noise with a noise multiplier of 1.23 was added at the site by a "
        "cryptographic generator. Batches were Poisson samples of images at a rate of 0.05, kept secret by the site, over 200 steps. "
        "The guarantee holds against everybody outside the site: the driver, the other sites, and whoever sees an update or the final "
        "model. Epsilon was computed by numerical composition of privacy loss random variables (Gopi et al., 2021), with Opacus. "
        "Settings, numbers of units and numbers of steps are taken as public. Validation and test images are not covered: metrics on "
        "them are exact."
    )


def test_several_sites_are_given_by_their_worst_and_their_ranges() -> None:
    other = replace(STATEMENT, epsilon=1.0, delta=1e-3, noise_multiplier=0.9, sample_rate=0.1, steps=100)
    text = paragraph([STATEMENT, other], secure_aggregation=False)
    for part in ("epsilon at most 2.99 at delta = 0.0001 to 0.001", "of 0.9 to 1.23", "rate of 0.05 to 0.1", "over 100 to 200 steps"):
        assert part in text


def test_patients_with_views() -> None:
    text = paragraph([replace(STATEMENT, unit="patient", views=4)], secure_aggregation=False)
    assert "for all training images of each patient together" in text and "differ by one patient that is there or not" in text
    assert "the gradients of up to 4 images of a patient were averaged, the gradient of each patient was clipped" in text
    assert "an image without one counts as a patient of its own" in text
    assert "4 augmented copies of an image" in paragraph([replace(STATEMENT, views=4)], secure_aggregation=False)


def test_without_sampling_none_is_claimed() -> None:
    text = paragraph([replace(STATEMENT, sampling="none", sample_rate=1.0)], secure_aggregation=False)
    assert "Each of 200 steps was on all images." in text and "Poisson" not in text


def test_secure_aggregation_is_beside_the_guarantee_of_units_but_not_of_sites() -> None:
    local = paragraph([STATEMENT], secure_aggregation=True)
    assert "Secure aggregation hid single updates as well, but the guarantee does not rest on it." in local
    site = replace(STATEMENT, unit="site", sampling="none", sample_rate=1.0, steps=15)
    masked, plain = (paragraph([site], secure_aggregation=secure) for secure in (True, False))
    assert "not against the driver, which by secure aggregation saw no single update, but saw their sum before the noise." in masked
    assert "not against the driver, which saw each update before the noise." in plain
    for text in (masked, plain):
        assert "for federations that differ by one site that is there or not" in text and "In each of 15 rounds" in text
        assert "Poisson" not in text and "DP-SGD" not in text


def test_statistics_other_runs_and_the_accountant_are_named() -> None:
    text = paragraph([replace(STATEMENT, noisy_statistics=True, epsilon_all_runs=7.0, accountant="rdp")], secure_aggregation=False)
    assert "from the training images with noise, which epsilon includes" in text
    assert "Over all runs of this federation on the same data, epsilon is at most 7. That sum is for runs whose settings" in text
    assert "Rényi differential privacy (Mironov et al., 2019)" in text


@pytest.mark.parametrize(("epsilon", "shown"), [(2.0, "2"), (2.001, "2.01"), (0.12341, "0.124"), (12.01, "12.1"), (0.0, "0")])
def test_epsilon_is_never_rounded_down(epsilon: float, shown: str) -> None:
    text = paragraph([replace(STATEMENT, epsilon=epsilon, epsilon_all_runs=epsilon)], secure_aggregation=False)
    assert f"epsilon = {shown} at delta" in text


@pytest.mark.parametrize(
    ("pretrained", "said"),
    [
        ("imagenet", "from torchvision's ImageNet weights;"),
        ("/home/me/start.pth", "from the weights in the file 'start.pth';"),
        ("No", "'No'"),
    ],
)
@pytest.mark.parametrize("unit", ["image", "patient", "site"])
def test_starting_weights_are_named_as_not_covered(pretrained: str, said: str, unit: str) -> None:
    text = paragraph([replace(STATEMENT, unit=unit)], secure_aggregation=False, pretrained=pretrained)
    assert said in text and "the guarantee does not cover the images that those were trained on." in text and "/home" not in text
    assert "does not cover the images" not in paragraph([STATEMENT], secure_aggregation=False, pretrained="no")


def test_fewer_rounds_than_planned_cost_all_that_were_planned() -> None:
    early = replace(STATEMENT, epsilon_spent=1.5)
    assert "epsilon at most 2.99" in paragraph([early, STATEMENT], secure_aggregation=False)
    assert "Epsilon is that of all planned rounds, although fewer were trained" in paragraph([early], secure_aggregation=False)
    assert "planned" not in paragraph([replace(STATEMENT, epsilon_spent=2.981)], secure_aggregation=False)
