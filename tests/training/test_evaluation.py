from __future__ import annotations

import json
import pickle
from time import perf_counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk
from torch import nn
from torchmetrics.functional import classification as tm

from primia.data.statistics import Normalisation
from primia.errors import NonFiniteLoss
from primia.training.evaluation import Evaluation, evaluate_model

Sample = tuple[NDArray[np.float32], NDArray[np.int64]]


def draw(images: int, classes: int, noise: float, signal: float, seed: int = 0) -> Sample:
    """Logits of a model whose own class stands out by ``signal`` times the noise."""
    rng = np.random.Generator(np.random.Philox(seed))
    labels = rng.integers(0, classes, images)
    logits = rng.normal(0, noise, (images, classes)) + rng.normal(0, noise, classes)
    logits[np.arange(images), labels] += signal * noise
    return logits.astype(np.float32), labels


def scores(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True))


def names(classes: int) -> list[str]:
    return [f"class-{index}" for index in range(classes)]


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("signal", [0.1, 2.0])
def test_metrics_are_those_of_scikit_learn(classes: int, signal: float) -> None:
    logits, labels = draw(500, classes, 1.0, signal)
    predicted = logits.argmax(1)
    result = Evaluation.of(logits, labels).metrics(names(classes))
    assert result["images"] == 500
    assert result["loss"] == pytest.approx(sk.log_loss(labels, scores(logits)), rel=1e-6)
    assert result["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert result["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert result["mcc"] == pytest.approx(sk.matthews_corrcoef(labels, predicted), abs=1e-6)
    assert result["confusion"] == sk.confusion_matrix(labels, predicted).tolist()
    columns = sk.precision_recall_fscore_support(labels, predicted, zero_division=0)
    for name, *row in zip(names(classes), *columns, strict=True):
        assert list(result["per_class"][name].values()) == pytest.approx(row), name  # type: ignore[index]


def by_torchmetrics(confusion: NDArray[np.int64]) -> dict[str, list[float]]:
    """What another implementation makes of every image."""
    classes = len(confusion)
    truth, predicted = (torch.from_numpy(np.repeat(index, confusion.ravel())) for index in np.indices(confusion.shape).reshape(2, -1))
    by_class = {"precision": tm.multiclass_precision, "recall": tm.multiclass_recall, "f1": tm.multiclass_f1_score}
    found = {name: metric(predicted, truth, classes, average=None).tolist() for name, metric in by_class.items()}
    found["accuracy"] = [tm.multiclass_accuracy(predicted, truth, classes, average="micro").item()]
    # With two classes and one of them absent torchmetrics gives values like 0.41.
    correlated = min(np.count_nonzero(confusion.sum(axis)) for axis in (0, 1)) > 1
    found["mcc"] = [tm.multiclass_matthews_corrcoef(predicted, truth, classes).item() if correlated else 0.0]
    return found


def confusions() -> st.SearchStrategy[NDArray[np.int64]]:
    """Of 2 to 5 classes; many without images, without predictions, or with one image in all."""
    count = st.one_of(st.just(0), st.integers(0, 40))
    square = st.integers(2, 5).flatmap(lambda classes: st.lists(count, min_size=classes**2, max_size=classes**2))
    return square.map(lambda counts: np.array(counts, np.int64).reshape(round(len(counts) ** 0.5), -1)).filter(np.any)


@given(confusions())
def test_metrics_of_any_confusion_are_those_of_torchmetrics(confusion: NDArray[np.int64]) -> None:
    classes = len(confusion)
    result = Evaluation(confusion, Evaluation.empty(classes).histograms, 0.0).metrics(names(classes))
    per_class = list(result["per_class"].values())  # type: ignore[attr-defined]
    found = {name: [each[name] for each in per_class] for name in ("precision", "recall", "f1")}
    found |= {name: [result[name]] for name in ("accuracy", "mcc")}
    assert found == {name: pytest.approx(values, abs=1e-6) for name, values in by_torchmetrics(confusion).items()}


def test_mcc_holds_where_products_of_counts_do_not_fit_into_64_bits() -> None:
    confusion = np.array([[3, 1], [1, 3]], np.int64) * 10**8
    assert Evaluation(confusion, Evaluation.empty(2).histograms, 0.0).metrics("ab")["mcc"] == 0.5


@pytest.mark.parametrize("images", [200, 2000])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("noise", [0.02, 0.1, 0.5, 2.0, 6.0])
@pytest.mark.parametrize("signal", [0.1, 1.0, 3.0])
def test_binned_roc_auc_is_within_a_thousandth(images: int, classes: int, noise: float, signal: float) -> None:
    """From a model that has barely begun (noise 0.02) to one that is sure of everything (noise 6)."""
    logits, labels = draw(images, classes, noise, signal)
    exact = np.mean([sk.roc_auc_score(labels == index, scores(logits)[:, index]) for index in range(classes)])
    assert Evaluation.of(logits, labels).metrics(names(classes))["roc_auc"] == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_equal_scores_count_half(classes: int) -> None:
    """A model that finds all classes alike has an area of one half, whatever its logits."""
    labels = np.arange(70) % classes
    logits = np.repeat(np.linspace(-9, 9, 70, dtype=np.float32)[:, None], classes, axis=1)
    assert Evaluation.of(logits, labels).metrics(names(classes))["roc_auc"] == 0.5


def test_a_sum_is_the_evaluation_of_all_images_together() -> None:
    logits, labels = draw(300, 3, 1.0, 1.0)
    whole = Evaluation.of(logits, labels).metrics("abc")
    parts = [Evaluation.of(logits[part], labels[part]) for part in (slice(0, 20), slice(20, 190), slice(190, 300))]
    summed = sum(parts, start=Evaluation.empty(3)).metrics("abc")
    assert summed.pop("loss") == pytest.approx(whole.pop("loss"))
    assert summed == whole


def test_metrics_can_be_written_as_json() -> None:
    document = Evaluation.of(*draw(50, 3, 1.0, 1.0)).metrics("abc")
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_a_class_without_images_counts_neither_in_balanced_accuracy_nor_in_roc_auc() -> None:
    logits, labels = draw(100, 3, 1.0, 1.0)
    labels = labels % 2
    result = Evaluation.of(logits, labels).metrics("abc")
    recalls = sk.recall_score(labels, logits.argmax(1), labels=[0, 1], average=None)
    areas = [sk.roc_auc_score(labels == index, scores(logits)[:, index]) for index in (0, 1)]
    assert result["balanced_accuracy"] == pytest.approx(recalls.mean())
    assert result["roc_auc"] == pytest.approx(np.mean(areas), abs=1e-3)
    assert result["per_class"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}  # type: ignore[index]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("predicted", ["the only class", "another class", "all classes"])
def test_mcc_is_zero_and_roc_auc_undefined_where_only_one_class_is_seen(classes: int, predicted: str) -> None:
    labels = np.zeros(6, np.int64)
    chosen = {"the only class": labels, "another class": labels + 1, "all classes": np.arange(6) % classes}[predicted]
    result = Evaluation.of(np.eye(classes, dtype=np.float32)[chosen], labels).metrics(names(classes))
    assert result["mcc"] == 0.0 and result["roc_auc"] is None


@pytest.mark.parametrize("classes", [2, 3])
def test_mcc_is_zero_where_one_class_is_predicted_throughout(classes: int) -> None:
    logits = np.tile(np.eye(classes, dtype=np.float32)[0], (6, 1))
    assert Evaluation.of(logits, np.arange(6) % classes).metrics(names(classes))["mcc"] == 0.0


def test_no_images_have_no_metrics() -> None:
    result = Evaluation.empty(2).metrics("ab")
    assert result["images"] == 0 and result["mcc"] == 0.0
    assert {result[name] for name in ("loss", "accuracy", "balanced_accuracy", "roc_auc")} == {None}


def test_is_small_and_quick() -> None:
    """10,000 images of 10 classes: it travels between machines after each validation."""
    logits, labels = draw(10_000, 10, 1.0, 1.0)
    start = perf_counter()
    evaluation = sum((Evaluation.of(logits[i : i + 256], labels[i : i + 256]) for i in range(0, 10_000, 256)), start=Evaluation.empty(10))
    assert perf_counter() - start < 1.0
    assert len(pickle.dumps(evaluation)) < 200_000


class Scaled(nn.Module):
    """Logits are the pixels."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) * self.factor


class Pixels:
    """Three pixels an image, of which the brightest is the class but for the last image."""

    labels: NDArray[np.int64] = np.array([0, 1, 2, 2, 1])
    images: NDArray[np.uint8] = np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9], [1, 2, 3], [9, 1, 0]], np.uint8).reshape(5, 3, 1, 1)

    def __len__(self) -> int:
        return 5

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.images[indices]


IDENTITY = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("batch_size", [1, 2, 5, 256])
def test_a_model_is_evaluated_on_every_image_once(batch_size: int) -> None:
    evaluation = evaluate_model(Scaled(1.0), Pixels(), IDENTITY, 3, batch_size=batch_size)
    assert evaluation.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 2]]


def test_a_model_is_evaluated_in_evaluation_mode_and_keeps_its_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten()).train()
    evaluate_model(model, Pixels(), IDENTITY, 3)
    assert model[0].running_mean is not None and not model[0].running_mean.any()  # type: ignore[union-attr, operator]


def test_outputs_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(NonFiniteLoss, match=r"outputs are not finite in evaluation; lower training\.learning_rate"):
        evaluate_model(Scaled(float("inf")), Pixels(), IDENTITY, 3)
