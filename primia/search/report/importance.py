"""Which settings a sweep has varied, on what scale, and how much each decides about being among the best."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from primia.report.format import MISSING
from primia.search.records import State, TrialRecord, Value
from primia.search.space.grammar import parse_expression

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

METHOD = "PED-ANOVA"
FEWEST_TRIALS = 10
"""With fewer trials trained to the end, importance says little."""

_BEST_SHARE, _FEWEST_BEST = 0.25, 5
_ENDED = (State.COMPLETE, State.PRUNED)
_LEAST = 1e-30
"""The smallest value on a logarithmic axis."""


@dataclass(frozen=True)
class Parameter:
    """A setting that took several values; ``values`` are those, without repetition, in order."""

    name: str
    scale: Literal["linear", "log", "category"]
    values: tuple[Value, ...]

    @classmethod
    def of(cls, name: str, expression: str, values: Iterable[Value]) -> Parameter:
        """``expression``: as the space has it; only its first word counts."""
        different = tuple(sorted(set(values), key=lambda value: (isinstance(value, str), value)))
        if expression.startswith("choice") or any(isinstance(value, bool | str) for value in different):
            return cls(name, "category", different)
        logarithmic = expression.startswith("loguniform") and all(value >= _LEAST for value in different)  # type: ignore[operator]
        return cls(name, "log" if logarithmic else "linear", different)

    @property
    def labels(self) -> tuple[str, ...]:
        """The values as they are written on an axis."""
        return tuple(map(text_of, self.values))

    def position(self, value: Value) -> float:
        """Where a value stands on the parameter's axis: the number itself, or which of the categories it is."""
        return float(self.values.index(value) if self.scale == "category" else value)


@dataclass(frozen=True)
class Importance:
    """Shares that add up to 1, largest first; how many trials they are from, and how many of those count as the best."""

    shares: Mapping[str, float]
    trials: int
    best: int


def text_of(value: Value | None) -> str:
    """A value in tables and on axes: four significant digits, yes and no."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def varied_parameters(records: Sequence[TrialRecord], space: Mapping[str, str]) -> list[Parameter]:
    """The space's parameters with at least two values among trials that have a result, without those that just follow from others."""
    values: dict[str, list[Value]] = {name: [] for name, expression in space.items() if parse_expression(name, expression).is_drawn}
    for record in records:
        for name, value in record.parameters.items():
            if record.value is not None and name in values:
                values[name].append(value)
    return [Parameter.of(name, space[name], taken) for name, taken in values.items() if len(set(taken)) > 1]


def importances(records: Sequence[TrialRecord], parameters: Sequence[Parameter]) -> Importance | None:
    """How differently each parameter is distributed among the best trials and among all; None where there is too little to compare.

    Trials that were ended early count too, with their value so far: what is asked of a trial is only whether it is among the best, which a
    quarter are, or five where there are few. Inactive parameters are a case of their own (conditional PED-ANOVA).
    """
    ended = [record for record in records if record.state in _ENDED and record.value is not None]
    if len(ended) < FEWEST_TRIALS or len(parameters) < 2:
        return None
    import optuna

    best = max(_FEWEST_BEST, round(_BEST_SHARE * len(ended)))
    distributions = {parameter.name: _distribution(parameter) for parameter in parameters}
    with _quiet():
        study = optuna.create_study(direction="maximize")
        study.add_trials([_trial(record, distributions) for record in ended])
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=best / len(ended))
        amounts = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
    total = sum(amounts.values())
    return Importance({name: amount / total for name, amount in amounts.items()}, len(ended), best) if total else None


def _distribution(parameter: Parameter) -> BaseDistribution:
    """The range that was tried."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    low, high = parameter.values[0], parameter.values[-1]
    if parameter.scale == "category":
        return CategoricalDistribution(parameter.values)
    if all(isinstance(value, int) for value in parameter.values):
        return IntDistribution(int(low), int(high), log=parameter.scale == "log")
    return FloatDistribution(float(low), float(high), log=parameter.scale == "log")


def _trial(record: TrialRecord, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    import optuna

    active = {name: value for name, value in record.parameters.items() if name in distributions}
    return optuna.trial.create_trial(value=record.value, params=active, distributions={name: distributions[name] for name in active})


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna logs that a study is made, and warns of few trials, which the page says better."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
