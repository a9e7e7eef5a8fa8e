from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from primia.data.shard import Dataset
from primia.errors import NonFiniteLoss, PrivacyError
from primia.privacy.clipping import ClippedSum
from primia.privacy.grid import grid_step
from primia.privacy.learner import PrivateLearner
from primia.privacy.mechanism import Mechanism
from primia.privacy.sampling import Units
from primia.training.learner import Learner, LocalWork

MakeLearner = Callable[..., PrivateLearner]
MakeData = Callable[..., Dataset]
MakeWork = Callable[..., LocalWork]
OPEN = Mechanism(noise_multiplier=0.0, clip=16.0, sample_rate=1.0, units=24)
"""Neither clips, nor noises, nor samples: plain training on the whole shard as one batch."""


def trained(learner: PrivateLearner, data: Dataset, work: LocalWork, units: Units, mechanism: Mechanism) -> np.ndarray:  # type: ignore[type-arg]
    learner.protect(units, mechanism)
    learner.train(data, work)
    return learner.parameters()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("physical_batch", [5, 100])
def test_without_noise_clip_and_sampling_it_is_plain_training(
    optimizer: str, physical_batch: int, make_learner: MakeLearner, make_data: MakeData, make_work: MakeWork
) -> None:
    """The same steps, pull of FedProx and smoothing as the learner's on one batch of all images, in micro-batches or not."""
    arguments: dict[str, object] = {
        "training": {"optimizer": optimizer, "batch_size": 24, "label_smoothing": 0.1, "weight_decay": 0.01},
        "proximal_mu": 0.5,
    }
    data = make_data(24)
    private, plain = make_learner(**arguments, physical_batch=physical_batch), Learner(make_learner(**arguments).spec)
    start = plain.parameters()
    work = make_work(steps=3 if optimizer == "sgd" else 1)
    changed = trained(private, data, work, Units.images(24), OPEN) - start
    plain.train(data, work)
    expected = plain.parameters() - start
    if optimizer == "sgd":
        assert np.linalg.norm(changed - expected) < 0.01 * np.linalg.norm(expected)
    else:  # Adam divides by each gradient's size, which makes much of what is below a step of the grid
        assert (np.abs(changed - expected) < 0.01 * np.abs(expected)).mean() > 0.8


def test_the_gradient_is_divided_by_the_expected_size_never_the_drawn_one(
    make_learner: MakeLearner, make_data: MakeData, make_work: MakeWork
) -> None:
    """Each unit's step alone adds up to the full step, whatever sizes were drawn."""
    data, plain = make_data(24), {"optimizer": "sgd", "momentum": 0.0}
    start = make_learner(training=plain).parameters()
    full = trained(make_learner(training=plain), data, make_work(steps=1), Units.images(24), OPEN) - start
    members = Units.images(24).members
    parts = [
        trained(make_learner(training=plain), data, make_work(steps=1), Units(members[first : first + 12], 1), OPEN) - start
        for first in (0, 12)
    ]
    np.testing.assert_allclose(parts[0] + parts[1], full, atol=1e-6)


def test_a_step_without_images_is_noise_of_the_stated_size(make_learner: MakeLearner, make_data: MakeData, make_work: MakeWork) -> None:
    mechanism = Mechanism(noise_multiplier=3.0, clip=0.5, sample_rate=1e-12, units=24)
    learner = make_learner(training={"learning_rate": 1e-12, "momentum": 0.0})
    start = learner.parameters().astype(np.float64)
    learner = make_learner(training={"learning_rate": 1e-12 * 24, "momentum": 0.0})
    changed = trained(learner, make_data(24), make_work(steps=1), Units.images(24), mechanism) - start
    # learning rate / expected units = 1, so the step is the noise itself.
    assert changed.std() == pytest.approx(1.5, rel=0.02)
    assert abs(changed.mean()) < 5 * 1.5 / np.sqrt(len(changed))


def test_every_gradient_is_whole_steps_whatever_the_data(
    make_learner: MakeLearner, make_data: MakeData, make_work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack on noise in floating point asked which sums a float32 noise can lead from to this output. All can, in whole steps."""
    mechanism, step = Mechanism(noise_multiplier=0.01, clip=0.5, sample_rate=0.5, units=24), grid_step(0.5)
    seen: list[torch.Tensor] = []

    def caught(learner: PrivateLearner) -> None:
        seen.append(torch.cat([p.grad.double().flatten() for p in learner.model.parameters() if p.grad is not None]))

    for images in (24, 23):
        learner = make_learner()
        monkeypatch.setattr(learner._optimizer, "step", partial(caught, learner))
        monkeypatch.setattr(learner, "_begin", list)
        trained(learner, make_data(24), make_work(steps=2), Units(Units.images(24).members[:images], 1), mechanism)
    assert len(seen) == 4
    for gradient in seen:
        whole = gradient * mechanism.expected_units / step
        assert (whole - whole.round()).abs().max() < 0.05 and gradient.unique().numel() > 100


def test_micro_batches_are_of_a_size_that_only_public_numbers_decide(
    make_learner: MakeLearner, make_data: MakeData, make_work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit's rounding follows from the size of its batch, so it must not follow from how many were drawn."""
    learner, sizes = make_learner(physical_batch=100), set()
    add = learner._add_clipped
    monkeypatch.setattr(learner, "_add_clipped", lambda *arguments: sizes.add(len(arguments[-1].index)) or add(*arguments))
    trained(learner, make_data(40), make_work(steps=12), Units.images(40), Mechanism(1.0, 1.0, 0.4, 40))
    assert sizes == {8}


def test_patients_and_views(make_learner: MakeLearner, make_data: MakeData, make_work: MakeWork) -> None:
    """Two images of each of twelve patients, both shown: means of pairs, so the mean over all images again."""
    data, start = make_data(24), make_learner().parameters()
    whole = trained(make_learner(), data, make_work(), Units.images(24), OPEN) - start
    pairs = Units.grouped([f"p{image % 12}" for image in range(24)], views=2)
    mechanism = Mechanism(0.0, 16.0, 1.0, 12)
    by_patient = trained(make_learner(physical_batch=7), data, make_work(), pairs, mechanism) - start
    assert np.linalg.norm(by_patient - whole) < 0.01 * np.linalg.norm(whole)


def test_each_view_is_augmented_apart(make_learner: MakeLearner, make_data: MakeData, make_work: MakeWork) -> None:
    arguments = {"augmentation": {"noise": 0.3}}
    data, single = make_data(24), Units.images(24)
    learners = [make_learner(**arguments) for _ in range(2)]
    one, again = (trained(learner, data, make_work(steps=1), single, OPEN) for learner in learners)
    assert np.array_equal(one, again), "the test's generator repeats itself"
    four = trained(make_learner(**arguments), data, make_work(steps=1), Units.images(24, views=4), OPEN)
    plain = trained(make_learner(), data, make_work(steps=1), single, OPEN)
    assert not np.array_equal(one, plain) and not np.array_equal(one, four)


def test_nothing_of_what_was_drawn_is_told(make_learner: MakeLearner, make_data: MakeData, make_work: MakeWork) -> None:
    learner = make_learner(training={"schedule": "log-linear", "learning_rate": 1e-2, "end_learning_rate": 1e-4})
    learner.protect(Units.images(40), Mechanism(1.0, 1.0, 0.2, 40))
    result = learner.train(make_data(40), make_work(round=2, rounds=2, first_step=6, steps=6))
    assert (result.loss, result.samples, result.steps) == (None, 48, 6) and result.seconds > 0
    assert result.learning_rate == pytest.approx(10 ** (-2 - 2 * (1 + 5 / 6) / 2))


def test_learns_with_noise(make_learner: MakeLearner, make_data: MakeData, make_work: MakeWork) -> None:
    learner, data = make_learner(training={"learning_rate": 0.2}), make_data(200)
    learner.protect(Units.images(200), Mechanism(0.5, 1.0, 0.2, 200))
    learner.train(data, make_work(steps=60))
    accuracy = learner.evaluate(data, make_work().normalisation).metrics(learner.spec.classes)["accuracy"]
    assert isinstance(accuracy, float) and accuracy > 0.8


def test_protection_holds_for_one_work(make_learner: MakeLearner, make_data: MakeData, make_work: MakeWork) -> None:
    learner = make_learner()
    with pytest.raises(RuntimeError, match="without protect"):
        learner.train(make_data(24), make_work())
    trained(learner, make_data(24), make_work(), Units.images(24), OPEN)
    with pytest.raises(RuntimeError, match="without protect"):
        learner.train(make_data(24), make_work())


def test_kept_optimiser_state_goes_on(make_learner: MakeLearner, make_data: MakeData, make_work: MakeWork) -> None:
    data, units = make_data(24), Units.images(24)
    straight = trained(make_learner(), data, make_work(steps=5), units, OPEN)
    learner = make_learner()
    trained(learner, data, make_work(steps=2), units, OPEN)
    resumed = make_learner()
    resumed.load(learner.parameters(), learner.buffers())
    resumed.load_optimizer_state(learner.optimizer_state())
    np.testing.assert_allclose(trained(resumed, data, make_work(steps=3), units, OPEN), straight, atol=1e-6)


def test_a_ruined_model_is_named(make_learner: MakeLearner, make_data: MakeData, make_work: MakeWork) -> None:
    learner = make_learner(training={"learning_rate": 1e30, "weight_decay": 1e6})
    with pytest.raises(NonFiniteLoss, match=r"^site hospital-a, round 1, batch 2 of 2: the model is no longer finite"):
        trained(learner, make_data(24), make_work(steps=2), Units.images(24), OPEN)
    assert all(parameter.grad is None for parameter in learner.model.parameters())


def test_noise_is_another_one_in_each_learner_and_each_work(make_learner: MakeLearner, make_data: MakeData, make_work: MakeWork) -> None:
    """Twice the same noise would fall out of the difference."""
    spec, data, mechanism = make_learner(training={"momentum": 0.0}).spec, make_data(24), Mechanism(1.0, 1.0, 1e-12, 24)
    seen = []
    for learner in (PrivateLearner(spec, physical_batch=16), PrivateLearner(spec, physical_batch=16)):
        start = learner.parameters(), learner.buffers()
        for _ in range(2):
            learner.load(*start)
            seen.append(trained(learner, data, make_work(steps=1), Units.images(24), mechanism) - start[0])
    assert all(np.corrcoef(one, other)[0, 1] < 0.1 for one, other in combinations(seen, 2))


@pytest.mark.parametrize("steps", [2, 9])
def test_every_step_of_a_work_is_noised_alike(steps: int, make_learner: MakeLearner, make_data: MakeData, make_work: MakeWork) -> None:
    learner = make_learner(training={"learning_rate": 1e-12 * 24, "momentum": 0.0})
    start = learner.parameters().astype(np.float64)
    changed = trained(learner, make_data(24), make_work(steps=steps), Units.images(24), Mechanism(3.0, 0.5, 1e-12, 24)) - start
    assert changed.std() == pytest.approx(1.5 * np.sqrt(steps), rel=0.02)


def test_every_batch_is_augmented_by_secret_draws_of_its_own(
    make_learner: MakeLearner, make_data: MakeData, make_work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    for _ in range(2):
        learner = PrivateLearner(make_learner().spec, physical_batch=5)
        augmented = learner._augmented

        def seen(*given: Any, augmented: Callable[..., torch.Tensor] = augmented) -> torch.Tensor:
            seeds.append(given[-1])
            return augmented(*given)

        monkeypatch.setattr(learner, "_augmented", seen)
        trained(learner, make_data(24), make_work(steps=4), Units.images(24), OPEN)
    assert len(seeds) == len(set(seeds)) == 2 * 4 * 5 and max(seeds) > 2**60


@pytest.mark.parametrize("spoilt", [{}, {"class_weights": (1e-300, 1e-300, 1e-300)}], ids=["dead weights", "dead weights and classes"])
def test_kernels_that_know_places_are_refused_whatever_weights_a_driver_sends(
    make_learner: MakeLearner, make_data: MakeData, make_work: MakeWork, spoilt: dict[str, object]
) -> None:
    """The attack: weights, or weights of classes, with which all gradients vanish while places are compared."""
    learner, mechanism = make_learner(**spoilt), Mechanism(1.0, 1.0, 0.5, 24)
    learner.load(np.zeros_like(learner.parameters()), learner.buffers())
    trained(learner, make_data(24), make_work(steps=1), Units.images(24), mechanism)
    learner = make_learner(**spoilt)
    learner.load(np.zeros_like(learner.parameters()), learner.buffers())
    learner.model.register_forward_pre_hook(lambda _, given: (given[0] * (1 + 1e-5 * torch.arange(len(given[0]))[:, None, None, None]),))
    with pytest.raises(PrivacyError, match="depends on its place"):
        trained(learner, make_data(24), make_work(steps=1), Units.images(24), mechanism)
    assert not learner.parameters().any(), "what was loaded is there again"


def test_places_are_compared_anew_for_another_number_of_threads(
    make_learner: MakeLearner, make_data: MakeData, make_work: MakeWork, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, compared, seen = make_learner(), ClippedSum.check_places, list[int]()
    monkeypatch.setattr(ClippedSum, "check_places", lambda *given: seen.append(torch.get_num_threads()) or compared(*given))
    for count in (1, 1, 2, 2, 1):
        threads(count)
        trained(learner, make_data(24), make_work(steps=1), Units.images(24), OPEN)
    assert seen == [1, 2]


@pytest.mark.parametrize(("name", "size"), [("convnet", 16), ("resnet18", 32)])
@pytest.mark.parametrize("normalisation", ["weight", "group"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_places_are_compared_on_gradients_of_every_layer(
    make_learner: MakeLearner, monkeypatch: pytest.MonkeyPatch, name: str, size: int, normalisation: str, precision: str
) -> None:
    learner = make_learner(model={"name": name, "normalisation": normalisation}, image_size=size, precision=precision)
    learner.load(np.zeros_like(learner.parameters()), learner.buffers())

    def seen(clipped: ClippedSum, images: torch.Tensor, labels: torch.Tensor) -> None:
        vectors = clipped._image_gradients(images, labels, torch.ones(len(images)))
        parts = torch.split(vectors, [parameter.numel() for parameter in learner.model.parameters()], 1)
        assert all(bool((part != 0).any(1).all()) for part in parts) and vectors.isfinite().all()

    monkeypatch.setattr(ClippedSum, "check_places", seen)
    learner._check_places(3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_it_is_the_same(make_learner: MakeLearner, make_data: MakeData, make_work: MakeWork) -> None:
    data, mechanism = make_data(24), Mechanism(0.5, 0.1, 0.5, 24)
    results = [trained(make_learner(device=device), data, make_work(), Units.images(24), mechanism) for device in ("cpu", "cuda")]
    np.testing.assert_allclose(results[0], results[1], atol=1e-3)
