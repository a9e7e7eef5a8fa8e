from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from primia.data.shard import Dataset
from primia.data.statistics import Normalisation
from primia.errors import DataError, NonFiniteLoss, TrainingError
from primia.training.batches import batches
from primia.training.learner import Learner, LocalResult, LocalWork

MakeLearner = Callable[..., Learner]
MakeWork = Callable[..., LocalWork]


def rounds(learner: Learner, data: Dataset, make_work: MakeWork, number: int = 3) -> list[LocalResult]:
    results = []
    for index in range(number):
        results.append(learner.train(data, make_work(round=index + 1, rounds=number, first_step=6 * index)))
    return results


GOLDEN = {
    "sgd": [0.91262142, 0.62158380, 0.58499361],
    "adam": [0.64321886, 0.39494846, 0.39153019],
    "augmented": [0.92370002, 0.73878469, 0.71064204],
    "weighted": [0.99797852, 0.81008750, 0.76913456],
    "fedprox": [0.91170055, 0.60522050, 0.53845153],
    "resnet18": [1.11195069, 0.82912251, 0.69175273],
}
"""Losses of three rounds; with other processors' kernels (AVX2, none) they were within 1e-4 of these."""


@pytest.mark.parametrize("name", list(GOLDEN))
def test_golden_losses(name: str, make_data: Callable[..., Dataset], make_learner: MakeLearner, make_work: MakeWork) -> None:
    """Losses of a small run with a fixed seed: a refactor must reproduce them."""
    arguments: dict[str, dict[str, object]] = {
        "sgd": {"training": {"optimizer": "sgd", "schedule": "cosine"}},
        "adam": {"training": {"learning_rate": 2e-3, "schedule": "log-linear"}},
        "augmented": {
            "training": {"optimizer": "sgd"},
            "augmentation": {"rotation": 10, "noise": 0.05, "brightness": 0.1, "horizontal_flip": 0.5},
        },
        "weighted": {"training": {"optimizer": "sgd", "label_smoothing": 0.1}, "class_weights": (0.5, 1.0, 2.0)},
        "fedprox": {"training": {"optimizer": "sgd"}, "proximal_mu": 1.0},
        "resnet18": {
            "model": {"name": "resnet18", "normalisation": "group"},
            "training": {"optimizer": "sgd", "learning_rate": 1e-4},
            "image_size": 32,
        },
    }
    learner = make_learner(**arguments[name])
    data = make_data(24, size=32) if name == "resnet18" else make_data(42)
    losses = [result.loss for result in rounds(learner, data, make_work)]
    assert losses == pytest.approx(GOLDEN[name], rel=1e-3)


def test_the_same_work_gives_bit_equal_results_whatever_was_done_before(
    data: Dataset, make_learner: MakeLearner, make_work: MakeWork
) -> None:
    arguments = {"augmentation": {"rotation": 10, "noise": 0.1}}
    fresh, used = make_learner(**arguments), make_learner(**arguments)
    start = fresh.parameters(), fresh.buffers()
    used.train(data, make_work(site="hospital-b", round=2))
    used.evaluate(data, make_work().normalisation)
    torch.rand(5)
    used.load(*start)
    results = [learner.train(data, make_work()) for learner in (fresh, used)]
    assert replace(results[0], seconds=0) == replace(results[1], seconds=0)
    assert np.array_equal(fresh.parameters(), used.parameters()) and np.array_equal(fresh.buffers(), used.buffers())


def test_the_global_generators_are_left_alone(data: Dataset, make_learner: MakeLearner, make_work: MakeWork) -> None:
    before = torch.random.get_rng_state()
    make_learner(augmentation={"noise": 0.1}).train(data, make_work())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_augmentation_is_drawn_anew_for_each_step_and_site(data: Dataset, make_learner: MakeLearner, make_work: MakeWork) -> None:
    learner = make_learner(augmentation={"noise": 0.2})
    index = np.arange(4)
    works = [(make_work(), 0), (make_work(), 1), (make_work(site="hospital-b"), 0), (make_work(round=2, first_step=6), 0)]
    images = [learner._images(data, index, work, step) for work, step in works]
    assert all(not torch.equal(images[0], other) for other in images[1:])
    assert torch.equal(images[0], learner._images(data, index, *works[0]))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_rounds_with_kept_optimiser_state_equal_one_long_round(
    optimizer: str, data: Dataset, make_learner: MakeLearner, make_work: MakeWork
) -> None:
    straight, interrupted = (make_learner(training={"optimizer": optimizer}) for _ in range(2))
    straight.train(data, make_work(steps=9))
    interrupted.train(data, make_work(steps=5))
    resumed = make_learner(training={"optimizer": optimizer})
    resumed.load(interrupted.parameters(), interrupted.buffers())
    resumed.load_optimizer_state(interrupted.optimizer_state())
    resumed.train(data, make_work(round=2, first_step=5, steps=4))
    assert np.array_equal(straight.parameters(), resumed.parameters())
    assert np.array_equal(straight.buffers(), resumed.buffers())


def test_a_loaded_optimiser_state_is_for_the_next_work_only(data: Dataset, make_learner: MakeLearner, make_work: MakeWork) -> None:
    learner = make_learner()
    start = learner.parameters(), learner.buffers()
    learner.train(data, make_work())
    fresh = learner.parameters()
    learner.load_optimizer_state(learner.optimizer_state())
    changed = []
    for _ in range(2):
        learner.load(*start)
        learner.train(data, make_work())
        changed.append(learner.parameters())
    assert not np.array_equal(changed[0], fresh) and np.array_equal(changed[1], fresh)


def test_work_reports_samples_steps_and_the_schedules_rate(data: Dataset, make_learner: MakeLearner, make_work: MakeWork) -> None:
    learner = make_learner(training={"schedule": "log-linear", "learning_rate": 1e-2, "end_learning_rate": 1e-4})
    result = learner.train(data, make_work(round=2, rounds=2, first_step=6, steps=6))
    assert (result.samples, result.steps) == (42, 6) and result.seconds > 0
    assert result.learning_rate == pytest.approx(10 ** (-2 - 2 * (1 + 5 / 6) / 2))


def test_the_loss_is_the_mean_over_images_before_each_step(data: Dataset, make_learner: MakeLearner, make_work: MakeWork) -> None:
    """A learning rate of next to nothing: then it is that of the initial model in training mode."""
    learner = make_learner(training={"optimizer": "sgd", "learning_rate": 1e-12})
    result = learner.train(data, make_work(steps=6))
    model, total = make_learner().model.train(), 0.0
    for index in batches(42, 8, seed=3, site="hospital-a", first_step=0, steps=6):
        images = (torch.from_numpy(data.gather(index)).float() / 255 - 0.45) / 0.22
        total += len(index) * F.cross_entropy(model(images), torch.from_numpy(data.labels[index])).item()
    assert result.loss == pytest.approx(total / 42, rel=1e-5)


def test_learns(data: Dataset, make_learner: MakeLearner, make_work: MakeWork) -> None:
    learner = make_learner(training={"optimizer": "sgd", "learning_rate": 0.05})
    results = rounds(learner, data, make_work, number=8)
    assert results[-1].loss < 0.5 * results[0].loss
    accuracy = learner.evaluate(data, make_work().normalisation).metrics(learner.spec.classes)["accuracy"]
    assert isinstance(accuracy, float) and accuracy > 0.9


def test_bfloat16_computes_nearly_the_same_and_keeps_parameters_float32(
    data: Dataset, make_learner: MakeLearner, make_work: MakeWork
) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        learner = make_learner(precision=precision, training={"optimizer": "sgd"})
        losses[precision] = learner.train(data, make_work()).loss
        assert {parameter.dtype for parameter in learner.model.parameters()} == {torch.float32}
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bfloat16"] != losses["float32"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_steps_are_those_of_a_plain_loop(optimizer: str, data: Dataset, make_learner: MakeLearner, make_work: MakeWork) -> None:
    """Memory formats, fused steps and the rest change nothing: textbook PyTorch gives the same weights but for rounding."""
    learner, model = make_learner(training={"optimizer": optimizer}), make_learner().model.to(memory_format=torch.contiguous_format)
    kinds = {
        "sgd": (torch.optim.SGD, {"momentum": 0.9}),
        "adam": (torch.optim.Adam, {}),
        "adamw": (torch.optim.AdamW, {"weight_decay": 0.0}),
    }
    kind, options = kinds[optimizer]
    plain = kind(model.parameters(), lr=0.01, **options)
    model.train()
    for index in batches(42, 8, seed=3, site="hospital-a", first_step=0, steps=3):
        images = (torch.from_numpy(data.gather(index)).float() / 255 - 0.45) / 0.22
        plain.zero_grad()
        F.cross_entropy(model(images), torch.from_numpy(data.labels[index])).backward()
        plain.step()
    learner.train(data, make_work(steps=3))
    for ours, theirs in zip(learner.model.parameters(), model.parameters(), strict=True):
        assert (ours - theirs).abs().mean() < 1e-4


def one_step(learner: Learner, images: torch.Tensor, labels: torch.Tensor, anchors: list[torch.Tensor]) -> list[torch.Tensor]:
    learner.model.train()
    learner._step(images, labels, anchors)
    return [parameter.grad.clone() for parameter in learner.model.parameters() if parameter.grad is not None]


def batch(data: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(data.gather(np.arange(8))).float() / 255, torch.from_numpy(data.labels[:8])


def test_fedprox_adds_the_gradient_of_the_explicit_term(data: Dataset, make_learner: MakeLearner) -> None:
    mu, (images, labels) = 0.7, batch(data)
    learner, model = make_learner(proximal_mu=mu), make_learner().model.train()
    generator = torch.Generator().manual_seed(0)
    anchors = [parameter.detach() + torch.randn(parameter.shape, generator=generator) for parameter in model.parameters()]
    distance = torch.stack([((parameter - anchor) ** 2).sum() for parameter, anchor in zip(model.parameters(), anchors, strict=True)]).sum()
    (F.cross_entropy(model(images), labels) + mu / 2 * distance).backward()
    for ours, parameter in zip(one_step(learner, images, labels, anchors), model.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad)


def test_fedprox_stays_nearer_to_the_loaded_model(data: Dataset, make_learner: MakeLearner, make_work: MakeWork) -> None:
    def distance(mu: float) -> float:
        learner = make_learner(proximal_mu=mu, training={"optimizer": "sgd"})
        start = learner.parameters()
        learner.train(data, make_work(steps=12))
        return float(np.linalg.norm(learner.parameters() - start))

    assert distance(10.0) < 0.7 * distance(0.0)


def test_class_weights_and_label_smoothing_by_hand(data: Dataset, make_learner: MakeLearner) -> None:
    """Weights divide by the batch's own sum of weights; smoothing spreads a share of the target over all classes, weighted too."""
    images, labels = batch(data)
    weights, smoothing = torch.tensor([0.5, 1.0, 3.0]), 0.2
    learner = make_learner(class_weights=tuple(weights.tolist()), training={"label_smoothing": smoothing})
    with torch.no_grad():
        log_scores = F.log_softmax(make_learner().model.train()(images), dim=1)
    target = (1 - smoothing) * F.one_hot(labels, 3) + smoothing / 3
    expected = -(target * weights * log_scores).sum() / weights[labels].sum()
    learner.model.train()
    assert learner._step(images, labels, []) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({}, r"\(now 1e\+20\)$"),
        ({"class_weights": (1.0, 1.0, 80.0)}, r"or look at the class weights \(largest 80\)$"),
        ({"precision": "bfloat16"}, r"or set resources\.precision = float32$"),
    ],
)
def test_a_loss_that_is_not_finite_names_site_round_batch_and_a_hint(
    arguments: dict[str, object], hint: str, data: Dataset, make_learner: MakeLearner, make_work: MakeWork
) -> None:
    learner = make_learner(training={"optimizer": "sgd", "learning_rate": 1e20}, model={"normalisation": "group"}, **arguments)
    where = r"^site hospital-a, round 2, batch \d of 6: the \w+ is no longer finite; lower training\.learning_rate "
    with pytest.raises(NonFiniteLoss, match=where + ".*" + hint) as caught:
        learner.train(data, make_work(round=2))
    assert isinstance(caught.value, TrainingError)


def test_a_last_step_that_ruins_the_model_is_noticed(data: Dataset, make_learner: MakeLearner, make_work: MakeWork) -> None:
    learner = make_learner(training={"optimizer": "sgd", "learning_rate": 1e30, "weight_decay": 1e6})
    learner.load(learner.parameters() * 1e4, learner.buffers())
    with pytest.raises(NonFiniteLoss, match=r"batch 1 of 1: the model is no longer finite"):
        learner.train(data, make_work(steps=1))


def test_one_image_alone_is_too_few_for_batchnorm(
    make_data: Callable[..., Dataset], make_learner: MakeLearner, make_work: MakeWork
) -> None:
    alone = make_data(1, size=32)
    with pytest.raises(DataError, match=r"needs more than one image .* model.normalisation = group"):
        make_learner(model={"name": "resnet18"}, image_size=32).train(alone, make_work())
    grouped = make_learner(model={"name": "resnet18", "normalisation": "group"}, image_size=32)
    assert grouped.train(alone, make_work()).samples > 0


def test_after_a_failure_the_learner_works_on_as_new(data: Dataset, make_learner: MakeLearner, make_work: MakeWork) -> None:
    learner, other = make_learner(), make_learner()
    start = learner.parameters(), learner.buffers()
    with pytest.raises(NonFiniteLoss):
        learner.train(data, replace(make_work(), normalisation=Normalisation((0.0,), (0.0,))))
    learner.load(*start)
    for each in (learner, other):
        each.train(data, make_work())
    assert np.array_equal(learner.parameters(), other.parameters())


def test_a_learner_needs_no_pretrained_file(make_learner: MakeLearner) -> None:
    """The weights come with load(), so the file need not be on the site's machine."""
    assert np.array_equal(make_learner(model={"pretrained": "only-at-the-driver.pth"}).parameters(), make_learner().parameters())


def test_nothing_that_grows_stays_allocated(data: Dataset, make_learner: MakeLearner, make_work: MakeWork) -> None:
    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    learner = make_learner(proximal_mu=0.1)
    counts = []
    for index in range(3):
        learner.train(data, make_work(round=index + 1, first_step=6 * index))
        learner.evaluate(data, make_work().normalisation)
        counts.append(tensors())
    assert counts[0] == counts[1] == counts[2]
    assert all(parameter.grad is None for parameter in learner.model.parameters())
