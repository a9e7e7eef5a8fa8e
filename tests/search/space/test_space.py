"""The space of a search: what is drawn, when, from what; and what is refused before anything trains."""

from __future__ import annotations

from collections.abc import Mapping

import optuna
import pytest

from primia.config.reader import load_config
from primia.config.settings import SearchSettings, Settings
from primia.data.randomness import stream
from primia.errors import ConfigError
from primia.search.records import Value
from primia.search.space.domains import Choice, Number
from primia.search.space.space import Space

optuna.logging.set_verbosity(optuna.logging.WARNING)

WIDE = {
    "training.end_learning_rate": "loguniform(1e-6, training.learning_rate)",
    "training.momentum": "uniform(0.5, 0.99)",
    "training.learning_rate": "loguniform(1e-3, 1) only if training.optimizer = sgd else loguniform(1e-5, 1e-2)",
    "training.optimizer": "choice(adam, sgd)",
    "training.class_weights": "bool",
    "augmentation.rotation": "quniform(0, 92, 5)",
    "federation.sync_every_n_batch": "randint(0, 5)",
    "federation.local_epochs": "randint(1, 3) only if federation.sync_every_n_batch = 0",
    "federation.rounds": "225 / federation.sync_every_n_batch only if federation.sync_every_n_batch > 0 else 25 / federation.local_epochs",
}
PRIVATE = ("privacy.unit=image", "privacy.noise_multiplier=1", "privacy.validation=public")


def settings(space: Mapping[str, str], *overrides: str) -> Settings:
    return load_config(None, [*(f"search.{key}={text}" for key, text in space.items()), *overrides])


def space(texts: Mapping[str, str], *overrides: str) -> Space:
    return Space.of(settings(texts, *overrides))


def fault(texts: Mapping[str, str], *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        space(texts, *overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line


def draws(of: Space, number: int = 60) -> list[dict[str, Value]]:
    return [of.random(stream(seed, "test")) for seed in range(number)]


def study(seed: int = 1) -> optuna.Study:
    return optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=4))


def test_each_is_drawn_after_those_that_it_depends_on() -> None:
    names = space(WIDE).names
    assert set(names) == set(WIDE)
    for earlier, later in [
        ("training.optimizer", "training.learning_rate"),
        ("training.learning_rate", "training.end_learning_rate"),
        ("training.optimizer", "training.momentum"),
        ("federation.sync_every_n_batch", "federation.local_epochs"),
        ("federation.local_epochs", "federation.rounds"),
    ]:
        assert names.index(earlier) < names.index(later)


def test_real_trials_give_valid_settings_and_replay_to_what_they_were_asked() -> None:
    wide, sweep = space(WIDE), study()
    for number in range(20):
        trial = sweep.ask()
        values = wide.draw(trial)
        assert list(values) == [key for key in wide.names if key in values]
        trained = wide.settings(values)
        assert trained.search == SearchSettings()
        assert wide.point(trained) == values
        replay = wide.replay(values)
        assert replay is not None
        assert replay.values == trial.params
        for name, domain in replay.distributions.items():
            asked = trial.distributions[name]
            if isinstance(domain, Choice):
                assert asked == optuna.distributions.CategoricalDistribution(domain.options)
            else:
                kind = optuna.distributions.IntDistribution if domain.integer else optuna.distributions.FloatDistribution
                assert asked == kind(domain.low, domain.high, step=domain.step, log=domain.log)  # type: ignore[arg-type]
        sweep.tell(trial, float(number))


def test_what_has_no_effect_or_no_condition_is_not_drawn() -> None:
    for values in draws(space(WIDE)):
        assert ("training.momentum" in values) == (values["training.optimizer"] == "sgd")
        assert ("federation.local_epochs" in values) == (values["federation.sync_every_n_batch"] == 0)


def test_alternatives_bounds_and_what_follows() -> None:
    for values in draws(space(WIDE)):
        low, high = (1e-3, 1) if values["training.optimizer"] == "sgd" else (1e-5, 1e-2)
        assert low <= values["training.learning_rate"] <= high  # type: ignore[operator]
        assert 1e-6 <= values["training.end_learning_rate"] <= values["training.learning_rate"]  # type: ignore[operator]
        assert values["augmentation.rotation"] in range(0, 91, 5)
        sync = values["federation.sync_every_n_batch"]
        expected = -(-225 // sync) if sync else -(-25 // values["federation.local_epochs"])  # type: ignore[operator]
        assert values["federation.rounds"] == expected


def test_an_alternative_is_suggested_under_a_name_of_its_own() -> None:
    wide = space(WIDE)
    names = {values["training.optimizer"]: set(wide.replay(values).values) for values in draws(wide)}  # type: ignore[union-attr]
    assert "training.learning_rate" in names["sgd"]
    assert "training.learning_rate#2" in names["adam"]


@pytest.mark.parametrize(
    ("condition", "cases"),
    [
        ("training.batch_size = 8 or 32", {8, 32}),
        ("training.batch_size != 8 or 32", {16, 64}),
        ("training.batch_size != 8", {16, 32, 64}),
        ("training.batch_size < 16", {8}),
        ("training.batch_size <= 16", {8, 16}),
        ("training.batch_size>32", {64}),
        ("training.batch_size >= 32 and training.optimizer = adam", {32, 64}),
        ("training.batch_size >= 32 and training.optimizer = sgd", set()),
    ],
)
def test_conditions(condition: str, cases: set[int]) -> None:
    texts = {"training.batch_size": "choice(8, 16, 32, 64)", "training.weight_decay": f"uniform(0, 1) only if {condition}"}
    drawn = {values["training.batch_size"] for values in space(texts).combinations() if "training.weight_decay" in values}
    assert drawn == cases


def test_else_may_have_conditions_and_an_else_of_its_own() -> None:
    size = "training.batch_size"
    texts = {
        size: "choice(8, 16, 32, 64)",
        "federation.rounds": f"randint(1, 2) only if {size} = 8 else 64 / {size} only if {size} < 64 else 3 * {size} only if {size} > 99",
    }
    given = {(values[size], values.get("federation.rounds")) for values in space(texts, "federation.rounds=7").combinations()}
    assert given == {(8, 1), (8, 2), (16, 4), (32, 2), (64, None)}


def test_keywords_in_quotes_and_parentheses_are_part_of_a_value() -> None:
    texts = {"run.site": 'choice("a only if b", "c, d (e else f)", g or h)'}
    options = ("a only if b", "c, d (e else f)", "g or h")
    assert [values["run.site"] for values in space(texts, "run.mode=local", "run.site=x").combinations()] == list(options)


def test_combinations_are_all_points_once() -> None:
    found = list(space({"training.optimizer": "choice(adam, sgd)", "training.momentum": "choice(0, 0.5)"}).combinations())
    assert found == [
        {"training.optimizer": "adam"},
        {"training.optimizer": "sgd", "training.momentum": 0.0},
        {"training.optimizer": "sgd", "training.momentum": 0.5},
    ]


def test_values_are_of_the_settings_own_type() -> None:
    texts = {
        "training.batch_size": "randint(8, 64, 8)",
        "data.channels": "choice(1, 3)",
        "augmentation.rotation": "quniform(0, 90, 5)",
        "training.class_weights": "choice(no, yes)",
        "federation.server_learning_rate": "2 * training.learning_rate",
    }
    values = space(texts).draw(study().ask())
    assert {key: type(value) for key, value in values.items()} == {
        "training.batch_size": int,
        "data.channels": int,
        "augmentation.rotation": float,
        "training.class_weights": bool,
        "federation.server_learning_rate": float,
    }


def test_given_is_the_files_own_point() -> None:
    texts = {
        "training.learning_rate": "loguniform(1e-4, 1e-2)",
        "training.momentum": "uniform(0, 0.5)",
        "training.optimizer": "choice(sgd, adam)",
    }
    assert space(texts).given() == {"training.optimizer": "adam", "training.learning_rate": 2e-3}
    assert space(texts, "training.learning_rate=0.1").given() is None
    assert space(texts, "training.optimizer=adamw").given() is None
    assert space(texts, "training.optimizer=sgd").given() is None, "momentum 0.9 lies outside"
    assert space({"training.end_learning_rate": "loguniform(1e-6, 1e-2)"}).given() is None, "it is empty"


def test_given_differs_from_what_would_follow() -> None:
    texts = {"federation.sync_every_n_batch": "randint(1, 5)", "federation.rounds": "20 / federation.sync_every_n_batch"}
    assert space(texts, "federation.sync_every_n_batch=2", "federation.rounds=9").given() is None
    assert space(texts, "federation.sync_every_n_batch=2", "federation.rounds=10").given() is not None


def test_replay_refuses_values_that_the_space_cannot_give() -> None:
    of = space({"training.optimizer": "choice(adam, sgd)", "training.momentum": "quniform(0, 0.9, 0.3)"})
    sgd = {"training.optimizer": "sgd"}
    assert of.replay(sgd | {"training.momentum": 0.6}) is not None
    assert of.replay(sgd | {"training.momentum": 0.5}) is None
    assert of.replay(sgd) is None, "momentum is wanting"
    assert of.replay({"training.optimizer": "adam", "training.momentum": 0.5}) is not None, "momentum has no effect"
    assert of.replay({"training.optimizer": "adam", "training.beta1": 0.5}) is None, "beta1 is 0.9 in this search"
    assert of.replay({"training.optimizer": "adam", "training.beta1": 0.9}) is not None
    assert of.replay({"training.optimizer": "adam", "training.gone": 1}) is None


def test_settings_contradicting_each_other_are_named() -> None:
    of = space({"training.batch_size": "randint(8, 16)"})
    with pytest.raises(ConfigError, match=r"federation.local_epochs = 2, federation.sync_every_n_batch = 3, but .* keep one of them"):
        of.settings({"federation.local_epochs": 2, "federation.sync_every_n_batch": 3, "training.batch_size": 8})


def test_base_is_without_the_space_but_with_the_search() -> None:
    base = space({"training.batch_size": "randint(8, 16)"}, "search.trials=3").base
    assert (base.search.space, base.search.trials) == ({}, 3)


def test_a_changed_point_is_a_valid_neighbour() -> None:
    wide = space(WIDE)
    values = wide.random(stream(1))
    for seed in range(60):
        changed = wide.changed(values, stream(seed, "change"))
        assert wide.replay(changed) is not None
        values = changed


def test_changed_steps_aside_or_draws_anew() -> None:
    of = space({"training.weight_decay": "loguniform(1e-4, 1)", "training.restarts": "randint(0, 9)"})
    found = [of.changed({"training.weight_decay": 0.1, "training.restarts": 3}, stream(seed)) for seed in range(400)]
    near = [values["training.weight_decay"] for values in found if values["training.weight_decay"] in (0.08, 0.12000000000000001)]
    assert {round(value, 6) for value in near} == {0.08, 0.12}
    assert 0.68 < len(near) / len(found) < 0.82
    assert {values["training.restarts"] for values in found} == set(range(10))


def test_changed_stays_within_bounds() -> None:
    of = space({"training.learning_rate": "loguniform(0.09, 0.11)", "training.optimizer": "choice(adam, sgd)"})
    for seed in range(40):
        changed = of.changed({"training.learning_rate": 0.1, "training.optimizer": "sgd"}, stream(seed))
        assert 0.09 <= changed["training.learning_rate"] <= 0.11  # type: ignore[operator]


@pytest.mark.parametrize(
    ("key", "text", "own"),
    [
        ("data.image_size", "choice(32, 64)", True),
        ("data.normalisation", "choice(pooled, site)", False),
        ("resources.threads", "randint(1, 2)", True),
        ("run.mode", "choice(federated, pooled)", True),
        ("training.learning_rate", "uniform(0.1, 1)", False),
    ],
)
def test_which_settings_need_actors_of_their_own(key: str, text: str, own: bool) -> None:
    assert space({key: text}).needs_own_actors is own


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("training.learning_rate", "0.01", "this draws no number; write for example loguniform(1e-5, 1e-2), "),
        ("training.learning_rate", "normal(0, 1)", "normal(...) draws no number; write for example loguniform(1e-5, 1e-2), "),
        ("training.learning_rate", "randint(1, 2)", "randint(...) draws no number; write for example loguniform(1e-5, 1e-2), "),
        ("training.batch_size", "uniform(8, 64)", "uniform(...) draws no whole number; write for example randint(8, 64), "),
        ("training.batch_size", "bool", "this draws no whole number"),
        ("training.optimizer", "bool", "this draws no text; write for example choice(sgd, adam, adamw)"),
        ("training.optimizer", "2 * training.learning_rate", "this draws no text"),
        ("training.class_weights", "uniform(0, 1)", "uniform(...) draws no yes or no; write for example bool"),
        ("training.learning_rate", "loguniform(1e-5)", "write loguniform(LOW, HIGH)"),
        ("training.learning_rate", "quniform(1, 2)", "write quniform(LOW, HIGH, STEP)"),
        ("training.batch_size", "randint(8)", "write randint(LOW, HIGH, STEP), or without STEP"),
        ("training.learning_rate", "uniform(2, 1)", "its bounds 2 and 1 are the wrong way round"),
        ("training.learning_rate", "uniform(1, 1)", "its bounds are both 1; write learning_rate = 1 in section [training] instead"),
        ("training.weight_decay", "loguniform(0, 1)", "loguniform needs bounds above 0, not 0"),
        ("training.learning_rate", "quniform(1, 2, 0)", "its step is 0; it must be above 0"),
        ("training.batch_size", "randint(8, 64, 1.5)", "its step is 1.5; it must be above 0 and whole"),
        ("training.learning_rate", "uniform(1, inf)", "inf is not finite"),
        ("training.learning_rate", "uniform(1, x)", "x is neither a number nor a setting (section.key)"),
        ("training.learning_rate", "uniform(1, )", "an empty text is neither a number nor a setting"),
        ("training.optimizer", "choice(adam, lamb)", "lamb is not allowed: one of sgd, adam, adamw"),
        ("training.optimizer", "choice(adam, sgd, adam)", "adam stands in it twice; keep one"),
        ("training.optimizer", "choice(adam,)", "an empty value is not allowed: one of sgd, adam, adamw"),
        ("augmentation.translation", "uniform(0, 2)", "2 is not allowed: a number >= 0 and <= 1"),
        (
            "training.learning_rate",
            "uniform(0.1, training.weigth_decay)",
            "unknown key training.weigth_decay; did you mean training.weight_decay?",
        ),
        ("training.learning_rate", "uniform(0.1, training.optimizer)", "training.optimizer is no number"),
        ("training.batch_size", "randint(1, training.momentum)", "training.momentum is no whole number, and cannot bound one"),
        ("training.batch_size", "100 / training.optimizer", "training.optimizer is no number"),
        ("training.learning_rate", "training.weight_decay * 0.1", "the number comes first; write 0.1 * training.weight_decay"),
        ("federation.rounds", "training.batch_size / 2", "the number comes first; write NUMBER * training.batch_size"),
        ("federation.rounds", "training.batch_size * data.sites", "the number comes first; write NUMBER * training.batch_size"),
        ("augmentation.rotation", "quniform(0, 90, 1e-300)", "it has 9e+301 steps of 1e-300, and 1e+07 at most are possible"),
        ("training.weight_decay", "quniform(0, 1e300, 1e-300)", "1e300 is not allowed: a number >= 0 and <= 1e+06"),
        ("training.weight_decay", "quniform(0, 1e6, 1e-303)", "it has inf steps of 1e-303, and 1e+07 at most are possible"),
        (
            "federation.rounds",
            "randint(1, 100000000000000000000)",
            "100000000000000000000 is not allowed: a whole number >= 1 and <= 1,000,000",
        ),
        ("run.seed", "randint(0, 9223372036854775807)", "it has 9.22e+18 steps of 1, and 9e+15 at most are possible"),
        ("training.batch_size", "choice(8, 16) only if", "an empty text is no condition"),
        ("training.batch_size", "choice(8, 16) only if x = 1", "x is no setting; write section.key"),
        (
            "training.batch_size",
            "choice(8, 16) only if training.optimzer = sgd",
            "unknown key training.optimzer; did you mean training.optimizer?",
        ),
        ("training.batch_size", "choice(8, 16) only if training.optimizer = lamb", "lamb is not allowed: one of sgd, adam, adamw"),
        ("training.batch_size", "choice(8, 16) only if training.optimizer > sgd", "training.optimizer is no number"),
        ("training.batch_size", "choice(8, 16) only if training.momentum > 0 or 1", "> takes a single number"),
        ("training.batch_size", "choice(8, 16) else choice(4, 2)", "write it as: ... only if KEY = VALUE else ..."),
        ("training.batch_size", "100 / federation.sync_every_n_batch", "it is divided by federation.sync_every_n_batch = 0; add: only if"),
        (
            "federation.server_learning_rate",
            "uniform(0.1, training.end_learning_rate)",
            "training.end_learning_rate is empty; give it a value",
        ),
        (
            "training.learning_rate",
            "uniform(0.95, training.momentum)",
            "its bounds 0.95 and 0.9 are the wrong way round, where training.momentum = 0.9",
        ),
    ],
)
def test_a_malformed_expression_is_told(key: str, text: str, said: str) -> None:
    line = fault({key: text})
    assert line.startswith(f"[search] {key} = {text}: ")
    assert said in line


@pytest.mark.parametrize(
    "key",
    [
        "run.name",
        "run.output",
        "run.dry_run",
        "data.path",
        "data.cache",
        "data.classes",
        "federation.identity",
        "search.trials",
        "inference.dealer",
    ],
)
def test_settings_that_cannot_be_searched(key: str) -> None:
    assert f"[search] {key} = choice(1, 2): this setting cannot be searched: " in fault({key: "choice(1, 2)"})


def test_an_unknown_setting_is_told_where_no_file_was_read() -> None:
    with pytest.raises(ConfigError, match=r"\[search\] unknown key training.optimzer; did you mean training.optimizer\?"):
        Space.of(Settings(search=SearchSettings(space={"training.optimzer": "bool"})))


@pytest.mark.parametrize(
    ("texts", "overrides", "said"),
    [
        ({}, (), "there is nothing to search: write settings beside its keys, for example: training.learning_rate"),
        ({"training.momentum": "uniform(0, 0.9)"}, (), "there is nothing to search: training.momentum never varies"),
        ({"federation.rounds": "2 * training.batch_size"}, (), "there is nothing to search: federation.rounds never varies"),
        (
            {"training.beta1": "uniform(0, training.beta2)", "training.beta2": "uniform(0, training.beta1)"},
            (),
            "wait for each other: training.beta1 -> training.beta2 -> training.beta1",
        ),
        (
            {"training.optimizer": "choice(adam, sgd) only if training.momentum = 0", "training.momentum": "choice(0, 0.5)"},
            (),
            "wait for each other: training.optimizer -> training.momentum -> training.optimizer",
        ),
        (
            {"federation.sync_every_n_batch": "randint(0, 5)", "federation.local_epochs": "randint(1, 3)"},
            ("federation.local_epochs=2",),
            "[search] can draw federation.sync_every_n_batch = ",
        ),
        ({"federation.server_learning_rate": "0 * training.batch_size", "training.batch_size": "choice(1, 2)"}, (), "must be a number > 0"),
        ({"training.class_weights": "bool"}, PRIVATE, "exact class counts, which are not accounted for; say when it is drawn: ... only if"),
        ({"training.batch_size": "choice(8, 16)"}, (*PRIVATE, "privacy.validation=private"), "set privacy.validation = public if they may"),
        ({"privacy.unit": "choice(image, patient)"}, PRIVATE, "this setting cannot be searched: what protects images and what protects"),
        ({"data.split": "choice(iid, label-skew)"}, PRIVATE, "an image must be at the same site in all trials"),
        ({"run.mode": "choice(federated, pooled)"}, PRIVATE, "cannot be searched with privacy.unit = image"),
        ({"training.batch_size": "choice(8, 16)"}, ("search.max_epsilon=8",), "search.max_epsilon has no effect: nothing is private"),
        (
            {"training.batch_size": "choice(8, 16)"},
            ("search.second_objective=epsilon", "search.scheduler=none"),
            "search.second_objective = epsilon: nothing is private",
        ),
        ({"training.batch_size": "choice(8, 16)"}, ("search.second_objective=bytes",), "set search.scheduler = none"),
        (
            {"training.batch_size": "choice(8, 16)"},
            ("search.second_objective=bytes", "search.scheduler=none", "search.algorithm=grid"),
            "needs search.algorithm = tpe or random",
        ),
        ({"training.momentum": "uniform(0, 0.9)"}, ("search.algorithm=grid",), "a grid needs finitely many values"),
        ({"training.batch_size": "choice(8, 16)"}, ("search.scheduler=pbt",), "[search] training.batch_size cannot be searched with"),
        ({"federation.rounds": "randint(8, 16)"}, ("search.scheduler=pbt",), "[search] federation.rounds cannot be searched with"),
        ({"training.weight_decay": "uniform(0, 1)"}, ("search.scheduler=pbt", *PRIVATE), "cannot be used with privacy.unit = image"),
        (
            {"training.weight_decay": "uniform(0, 1)"},
            ("search.scheduler=pbt", "federation.batchnorm=local"),
            "cannot be used with federation.batchnorm = local",
        ),
        (
            {"training.weight_decay": "uniform(0, 1)"},
            ("search.scheduler=pbt", "federation.keep_optimizer_state=yes"),
            "cannot be used with federation.keep_optimizer_state = yes",
        ),
    ],
)
def test_a_space_that_cannot_be_searched_so_is_told(texts: Mapping[str, str], overrides: tuple[str, ...], said: str) -> None:
    assert said in fault(texts, *overrides)


@pytest.mark.parametrize(
    ("texts", "overrides"),
    [
        ({"privacy.noise_multiplier": "loguniform(0.5, 8)"}, (*PRIVATE, "search.second_objective=epsilon", "search.scheduler=none")),
        ({"data.image_size": "choice(32, 64)", "data.channels": "choice(1, 3)"}, (*PRIVATE, "search.max_epsilon=8")),
        ({"training.momentum": "quniform(0, 0.9, 0.1)", "training.optimizer": "choice(adam, sgd)"}, ("search.algorithm=grid",)),
        ({"federation.proximal_mu": "uniform(0, 1)", "training.weight_decay": "uniform(0, 1)"}, ("search.scheduler=pbt",)),
    ],
)
def test_a_space_that_can(texts: Mapping[str, str], overrides: tuple[str, ...]) -> None:
    assert space(texts, *overrides).names


def test_steps_of_decimals_are_exact_and_the_last_one_is_reached() -> None:
    tenths = Number.stepped(0.0, 0.45, 0.1)
    assert (tenths.high, tenths.size) == (0.4, 5)
    assert [tenths.at(place) for place in range(5)] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert tenths.contains(0.1 + 0.2)
    assert not tenths.contains(0.15)
    assert not tenths.contains(0.5)
