from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from primia.audits.canaries import (
    CanaryLearner,
    GradientCanaries,
    LikelihoodRatios,
    score_images,
    score_updates,
    toss,
    with_canaries,
)
from primia.audits.one_run_bound import OneRunBound, one_run_bound
from primia.config.settings import AugmentationSettings, ModelSettings, TrainingSettings
from primia.data.shard import JoinedDataset
from primia.data.statistics import Normalisation
from primia.federation.private_updates import PrivateUpdates
from primia.federation.update import GlobalModel, Update
from primia.privacy.accounting import epsilon
from primia.privacy.mechanism import Mechanism
from primia.privacy.noise import SecureGenerator
from primia.privacy.sampling import Units
from primia.training.learner import LearnerSpec, LocalWork

SIDE = 32
PARAMETERS = 3 * SIDE * SIDE + 3
IMAGES = 24
DELTA = 1e-5
CANARIES = 600
GUESSES = 240
STEPS = 32
STATED = Mechanism(noise_multiplier=3.0, clip=1.0, sample_rate=0.25, units=1024)
SITES = Mechanism(noise_multiplier=4.0, clip=1.0, sample_rate=1.0, units=1024)
ROUNDS = 4
WORK = LocalWork("hospital-a", 1, 1, 0, STEPS, Normalisation((0.0,), (0.05,)))

# Sampling and noise are the real ones, so these tests draw anew each time. Chances of a false result, by the binomial tails of the
# guesses' accuracy under each mechanism as simulated: a bound above a true statement below 1e-18 in every case; a fault that is missed
# below 1e-19 for those of a factor of 10 and more and for the sampling rate, and 1e-11 for half of the noise. That takes
# 100 000 canaries; with 1000 a fifth of the noise is found, and half of it goes unnoticed.


@pytest.fixture(autouse=True)
def _small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """One linear layer of 3075 parameters, all zero: a thousand canaries have a parameter, or a pixel, each."""

    def build(*arguments: object, **keywords: object) -> nn.Module:
        model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 3))
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        return model

    monkeypatch.setattr("primia.training.learner.build_model", build)


def spec() -> LearnerSpec:
    """So small a rate that the model stays where it is."""
    return LearnerSpec(
        model=ModelSettings.model_validate({"normalisation": "weight"}),
        training=TrainingSettings.model_validate({"optimizer": "sgd", "learning_rate": 1e-9, "momentum": 0.0, "schedule": "constant"}),
        augmentation=AugmentationSettings.model_validate(dict.fromkeys(AugmentationSettings.model_fields, 0.0)),
        proximal_mu=0.0,
        precision="float32",
        device="cpu",
        classes=("low", "middle", "high"),
        channels=1,
        image_size=SIDE,
        seed=3,
        class_weights=None,
    )


class Pixels:
    """Images of one bright pixel each, at a place of its own: their gradients are as good as orthogonal, 11 and 16 long."""

    def __init__(self, images: int) -> None:
        self.labels = np.arange(images) % 3

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        images = np.zeros((len(indices), 1, SIDE, SIDE), np.uint8)
        images.reshape(len(indices), -1)[np.arange(len(indices)), indices] = 255
        return images


@dataclass(frozen=True)
class Case:
    """What is stated and what is run: the same where all is well. ``copies``: images of a canary; ``split``: each is sampled by itself."""

    stated: Mechanism = STATED
    ran: Mechanism = STATED
    unit: str = "image"
    views: int = 1
    strength: float = 10.0
    copies: int = 1
    split: bool = False

    def units(self) -> Units:
        if self.unit == "patient":
            return Units.grouped([f"p{image % 12}" for image in range(IMAGES)], self.views)
        return Units.images(IMAGES, self.views)

    def members(self, included: np.ndarray) -> list[np.ndarray]:
        whole = [np.full(self.copies, canary, np.int64) for canary in np.flatnonzero(included)]
        return [part for each in whole for part in np.split(each, self.copies)] if self.split else whole

    def epsilon(self, accountant: str = "rdp") -> float:
        return epsilon([self.stated.spend(STEPS)], DELTA, accountant)


def site(make_data):
    """The site's own images, dark ones: not clipped, bright ones would drown the canaries, and so hide the fault."""
    data = make_data(IMAGES, size=SIDE)
    data.images //= 64
    return data


def by_gradients(case: Case, make_data) -> OneRunBound:
    """Worst-case gradients through the learner."""
    canaries = GradientCanaries.spread(CANARIES, PARAMETERS, case.strength, seed=1)
    included, ratios = toss(CANARIES, seed=1), LikelihoodRatios(canaries, case.stated)
    learner = CanaryLearner(spec(), physical_batch=256, canaries=canaries, seen=ratios.see)
    learner.protect(with_canaries(case.units(), IMAGES, case.members(included)), case.ran)
    learner.train(site(make_data), WORK)
    return one_run_bound(ratios.scores, included, guesses=GUESSES, delta=DELTA)


def by_images(case: Case, make_data) -> OneRunBound:
    """Images through the learner, network and all."""
    pixels, included, sums = Pixels(CANARIES), toss(CANARIES, seed=1), []
    learner = CanaryLearner(spec(), physical_batch=256, seen=sums.append)
    learner.protect(with_canaries(case.units(), IMAGES, case.members(included)), case.ran)
    learner.train(JoinedDataset([site(make_data), pixels]), WORK)
    everything = np.arange(CANARIES)
    images = (torch.from_numpy(pixels.gather(everything)).float() / 255 / 0.05).split(1)
    labels = torch.from_numpy(pixels.labels).split(1)
    members, total = list(zip(images, labels, strict=True)), torch.stack(sums).sum(0)
    scores = score_images(learner.model, lambda shown, classes: cross_entropy(learner.model(shown), classes), members, total)
    return one_run_bound(scores, included, guesses=GUESSES, delta=DELTA)


KINDS = [("image", 1, 1), ("image", 3, 3), ("patient", 1, 3), ("patient", 2, 3)]


@pytest.mark.parametrize("unit, views, copies", KINDS)
@pytest.mark.parametrize("proven", [by_gradients, by_images])
def test_no_more_is_proven_than_is_stated(proven, unit, views, copies, make_data):
    bound = proven(case := Case(unit=unit, views=views, copies=copies), make_data)
    assert all(bound.epsilon < case.epsilon(accountant) for accountant in ("prv", "rdp"))


FAULTS = {
    "not clipped": {"ran": replace(STATED, clip=128.0, noise_multiplier=3.0 / 128), "strength": 20.0},
    "a tenth of the noise": {"ran": replace(STATED, noise_multiplier=0.3)},
    "drawn more often": {"stated": replace(STATED, sample_rate=0.1), "ran": replace(STATED, sample_rate=1.0)},
    "images drawn, patients stated": {"unit": "patient", "copies": 10, "split": True},
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("proven", [by_gradients, by_images])
def test_a_fault_is_shown(proven, fault, make_data):
    case = Case(**FAULTS[fault])
    assert proven(case, make_data).epsilon > case.epsilon("rdp") >= case.epsilon("prv")


def test_half_of_the_noise_shows_over_many_runs_on_data_of_their_own(make_data):
    """Such runs count as one with all their canaries."""
    each, parts, stated = 3000, [], replace(SITES, noise_multiplier=2.0, units=4096)
    for run in range(34):
        canaries, included = GradientCanaries.spread(each, PARAMETERS, 10.0, seed=run), toss(each, seed=run)
        ratios = LikelihoodRatios(canaries, stated)
        learner = CanaryLearner(spec(), physical_batch=1000, canaries=canaries, seen=ratios.see)
        members = [np.array([canary]) for canary in np.flatnonzero(included)]
        learner.protect(with_canaries(Units((), 1), IMAGES, members), replace(stated, noise_multiplier=1.0))
        learner.train(site(make_data), replace(WORK, steps=1))
        parts.append((ratios.scores, included))
    scores, coins = (np.concatenate(values) for values in zip(*parts, strict=True))
    assert one_run_bound(scores, coins, guesses=2000, delta=DELTA).epsilon > epsilon([stated.spend(1)], DELTA, "rdp")


class FloatingNoise(CanaryLearner):
    """Adds noise in floating point to a sum in floating point, of the stated size."""

    def _noise(self, total: torch.Tensor, step: float, mechanism: Mechanism) -> None:
        rng = np.random.Generator(np.random.Philox(key=int.from_bytes(os.urandom(16))))
        noise = torch.from_numpy(rng.normal(0.0, mechanism.noise_multiplier * mechanism.clip, len(total)).astype(np.float32))
        noised = (total * step).float() + noise
        parts = noised.split([parameter.numel() for parameter in self.model.parameters()])
        for parameter, part in zip(self.model.parameters(), parts, strict=True):
            parameter.grad = part.view(parameter.shape) / mechanism.expected_units


def by_low_bits(learns: type[CanaryLearner]) -> OneRunBound:
    """One step, whose low bits are looked at (Mironov, CCS 2012): a sum near 0 is a multiple of 2^-24 if a canary was added to its noise.

    Noise by itself near 0 is finer: the nearer to 0, the less likely it is such a multiple by chance.
    """
    canaries, included, seen = GradientCanaries.spread(3000, PARAMETERS, 10.0, seed=1), toss(3000, seed=1), []
    learner = learns(spec(), physical_batch=256, canaries=canaries, seen=seen.append)
    members = [np.array([canary]) for canary in np.flatnonzero(included)]
    learner.protect(with_canaries(Units((), 1), IMAGES, members), replace(SITES, units=4096))
    learner.train(Pixels(IMAGES), replace(WORK, steps=1))
    sums = seen[0].numpy()[canaries.places].astype(np.float64)
    finer = np.log2(0.5 / np.maximum(np.abs(sums), 1e-9))
    scores = np.where(finer < 0, 0.0, np.where(sums % 2.0**-24 == 0, finer, -1.0))
    return one_run_bound(scores, included, guesses=120, delta=DELTA)


def test_low_bits_of_noise_in_floating_point_are_a_fault_and_the_learners_show_nothing():
    """Some 100 of 3000 canaries are shown to be out, as many likely in: missed, or found by chance, with a chance below 1e-7."""
    stated = epsilon([SITES.spend(1)], DELTA, "prv")
    assert by_low_bits(FloatingNoise).epsilon > stated
    assert by_low_bits(CanaryLearner).epsilon < stated


def by_updates(ran: Mechanism, clip, noise, strength: float = 10.0) -> OneRunBound:
    """Whole sites, as many as a federation may have one day."""
    canaries, included = GradientCanaries.spread(CANARIES, 4000, strength, seed=2), toss(CANARIES, seed=2)
    scores = score_updates(canaries, included, ran, parameters=4000, rounds=ROUNDS, clip=clip, noise=noise)
    return one_run_bound(scores, included, guesses=GUESSES, delta=DELTA)


def driver(noise_multiplier: float):
    """The sites' and the driver's halves of a federation that protects sites."""
    stage = PrivateUpdates(SITES.clip, SITES.units, noise_multiplier, SecureGenerator())
    none = np.zeros(0, np.float32)
    start = GlobalModel(0, np.zeros(4000, np.float32), none)
    return (
        lambda vector: stage.encode(Update(vector, none, 1.0), start).parameters,
        lambda vector: stage.decode(Update(vector, none, 1.0), start).parameters,
    )


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_no_more_is_proven_of_sites_than_is_stated(accountant):
    assert by_updates(SITES, *driver(SITES.noise_multiplier)).epsilon < epsilon([SITES.spend(ROUNDS)], DELTA, accountant)


def test_faults_in_what_protects_sites_are_shown():
    clip, noise = driver(SITES.noise_multiplier)
    _, faint = driver(SITES.noise_multiplier / 10)
    stated = epsilon([SITES.spend(ROUNDS)], DELTA, "rdp")
    assert by_updates(SITES, lambda vector: vector, noise).epsilon > stated
    assert by_updates(SITES, clip, faint).epsilon > stated
