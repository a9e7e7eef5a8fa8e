"""Names of work: the same whatever a run calls it, another where the work is another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from primia.config.settings import Settings
from primia.data.statistics import Normalisation
from primia.federation.exchange import Charter, Session
from primia.federation.work import evaluation_work, training_work
from primia.secagg.identity import Identity
from primia.training.learner import LearnerSpec, LocalWork

GREY = Normalisation((0.5,), (0.25,))


@pytest.fixture(scope="module")
def session() -> Session:
    settings = Settings.model_validate({"training": {"schedule": "constant", "optimizer": "sgd"}})
    driver = Identity.generate("demo@primia.example").public
    charter = Charter("id", "run", ("a", "b"), settings, ("x", "y"), 1, Path("sites"), driver, None, ("a", "b"))
    spec = LearnerSpec(settings.model, settings.training, settings.augmentation, 0.0, "float32", "cpu", ("x", "y"), 1, 32, 1, (1.0, 3.0))
    return Session(charter, spec, GREY, 100.0)


def name(session: Session, model: str = "model", batch_size: int = 8, **changed: Any) -> str:
    work = replace(LocalWork("a", 2, 5, 4, 4, GREY), **changed)
    return training_work(session, work, batch_size, model)


def learner(session: Session, **changed: Any) -> Session:
    return replace(session, learner=replace(session.learner, **changed))


def training(session: Session, **changed: Any) -> Session:
    return learner(session, training=session.learner.training.model_copy(update=changed))


SAME: dict[str, Callable[[Session], Session]] = {
    "charter": lambda session: replace(session, charter=replace(session.charter, id="other", run="other", sites=("a", "b", "c"))),
    "weight": lambda session: replace(session, total_weight=1.0),
    "device and precision": lambda session: learner(session, device="cuda", precision="bfloat16"),
    "class weights times two": lambda session: learner(session, class_weights=(2.0, 6.0)),
    "class names": lambda session: learner(session, classes=("p", "q")),
    "what this optimiser has not": lambda session: training(session, beta1=0.1, beta2=0.2, evaluation_batch_size=3),
    "image size, which the shards have": lambda session: learner(session, image_size=33),
    "batch size, which is given apart": lambda session: training(session, batch_size=3),
    "where the rate does not go": lambda session: training(session, end_learning_rate=0.1),
}
OTHER: dict[str, Callable[[Session], Session]] = {
    "seed": lambda session: learner(session, seed=2),
    "class weights": lambda session: learner(session, class_weights=(3.0, 1.0)),
    "rate": lambda session: training(session, learning_rate=0.1),
    "momentum": lambda session: training(session, momentum=0.1),
    "schedule": lambda session: training(session, schedule="cosine"),
}


@pytest.mark.parametrize("change", SAME)
def test_the_same_work_has_the_same_name(session: Session, change: str) -> None:
    assert name(SAME[change](session)) == name(session)
    assert name(session, rounds=50) == name(session), "a constant rate does not depend on the number of rounds"


@pytest.mark.parametrize("change", OTHER)
def test_other_work_has_another_name(session: Session, change: str) -> None:
    assert name(OTHER[change](session)) != name(session)


def test_model_steps_and_normalisation_are_in_the_name(session: Session) -> None:
    names = [
        name(session),
        name(session, model="other"),
        name(session, steps=5),
        name(session, batch_size=7),
        name(session, first_step=8),
        name(session, normalisation=Normalisation((0.4,), (0.25,))),
        evaluation_work(session, "test", GREY, "model"),
        evaluation_work(session, "validation", GREY, "model"),
        evaluation_work(session, "test", GREY, "other"),
        evaluation_work(session, "test", Normalisation((0.4,), (0.25,)), "model"),
    ]
    assert len(set(names)) == len(names)
    assert evaluation_work(OTHER["seed"](session), "test", GREY, "model") == evaluation_work(session, "test", GREY, "model")


@pytest.mark.parametrize(
    "change", [lambda s: training(s, momentum=0.1), lambda s: learner(s, proximal_mu=0.5)], ids=["momentum", "pull to the start"]
)
def test_in_a_single_step_what_has_no_effect_is_not_in_the_name(session: Session, change: Callable[[Session], Session]) -> None:
    assert name(change(session), steps=1) == name(session, steps=1)
    assert name(change(session)) != name(session)


def test_weights_that_are_alike_are_none_and_numbers_have_one_form(session: Session) -> None:
    assert name(learner(session, class_weights=(1.0, 1.0))) == name(learner(session, class_weights=None))
    assert name(learner(session, proximal_mu=0)) == name(learner(session, proximal_mu=0.0))
    near = Normalisation((0.5 + 1e-13,), (0.25,))
    assert evaluation_work(session, "test", near, "model") == evaluation_work(session, "test", GREY, "model")
