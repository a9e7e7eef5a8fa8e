"""Keys without effect are told."""

from __future__ import annotations

import pytest

from primia.config.effects import NEEDS, has_effect, unmet_needs
from primia.config.fields import form_of, keys
from primia.config.reader import read_config
from primia.config.settings import Settings


@pytest.mark.parametrize(
    ("overrides", "idle"),
    [
        (["training.momentum=0.5"], ["training.momentum"]),
        (["training.momentum=0.5", "training.optimizer=sgd"], []),
        (["training.beta1=0.5", "training.beta2=0.9", "training.optimizer=sgd"], ["training.beta1", "training.beta2"]),
        (["training.beta1=0.5", "training.optimizer=adamw"], []),
        (["data.dirichlet_alpha=1", "data.source=mnist"], ["data.dirichlet_alpha"]),
        (["data.dirichlet_alpha=1", "data.source=mnist", "data.split=label-skew"], []),
        (["data.dirichlet_alpha=1", "data.split=label-skew"], ["data.split", "data.dirichlet_alpha"]),
        (["federation.proximal_mu=0.1", "run.mode=pooled"], ["federation.proximal_mu"]),
        (["federation.proximal_mu=0.1"], []),
        (["run.site=a"], ["run.site"]),
        (["run.site=a", "run.mode=local"], []),
        (["federation.server_momentum=0.5"], ["federation.server_momentum"]),
        (["federation.server_momentum=0.5", "federation.server_optimizer=fedavgm"], []),
        (["federation.server_beta2=0.5", "federation.server_optimizer=fedavgm"], ["federation.server_beta2"]),
        (["federation.server_epsilon=0.5", "federation.server_optimizer=fedyogi"], []),
        (["training.end_learning_rate=1e-4", "training.schedule=constant"], ["training.end_learning_rate"]),
        (["training.end_learning_rate=1e-4", "training.schedule=log-linear"], []),
        (["data.demo_images=30"], []),
        (["data.demo_images=30", "data.source=mnist"], ["data.demo_images"]),
        (["federation.local_epochs=1", "federation.sync_every_n_batch=4"], ["federation.local_epochs"]),
        (["federation.batchnorm=local", "model.normalisation=group"], ["federation.batchnorm"]),
    ],
)
def test_a_given_key_without_effect_is_told(overrides: list[str], idle: list[str]) -> None:
    warnings = read_config(None, overrides)[1]
    assert [warning.split(" = ")[0] for warning in warnings] == idle


def test_the_line_says_what_would_be_needed() -> None:
    assert read_config(None, ["training.momentum=0.5"])[1] == [
        "training.momentum = 0.5 has no effect: it needs training.optimizer = sgd, not adam"
    ]


def test_a_given_default_without_effect_is_told_too() -> None:
    assert read_config(None, ["training.momentum=0.9"])[1]


def test_an_empty_value_is_not_given() -> None:
    assert read_config(None, ["training.momentum="])[1] == []


def test_the_table_names_real_keys_and_values() -> None:
    for need in NEEDS:
        assert need.key in keys()
        assert need.other in keys()
        choices = form_of(need.other).choices
        assert not choices or set(need.values) < set(choices)


def test_the_first_unmet_need_is_named() -> None:
    assert unmet_needs(Settings())["data.dirichlet_alpha"].other == "data.source"


def test_a_given_key_whose_need_is_searched_can_have_an_effect() -> None:
    assert read_config(None, ["training.momentum=0.5", "search.training.optimizer=choice(adam, sgd)"])[1] == []


def test_a_searched_key_without_effect_is_told() -> None:
    assert read_config(None, ["search.training.momentum=uniform(0, 0.9)"])[1] == [
        "[search] training.momentum has no effect: it needs training.optimizer = sgd, not adam"
    ]


def test_has_effect_goes_by_any_values() -> None:
    values = {"training.optimizer": "sgd"}
    assert has_effect("training.momentum", values.__getitem__)
    assert not has_effect("training.beta1", values.__getitem__)
