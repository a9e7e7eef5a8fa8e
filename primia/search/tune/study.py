"""The searcher's memory: an Optuna study in memory, filled from what the sweep has on record."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from primia.data.randomness import stream
from primia.errors import ConfigError
from primia.search.records import State, TrialRecord, Value
from primia.search.space.domains import Domain, Number
from primia.search.space.space import Space
from primia.search.tune.warm_start import Known, objectives

if TYPE_CHECKING:
    import optuna

_DIRECTIONS: tuple[Literal["maximize", "minimize"], ...] = ("maximize", "minimize")  # validation MCC, and what to hold against it
_LARGEST_SEED = 2**32
_DRAWS = 100


class SweepStudy:
    """Suggests values, and learns what became of them.

    The suggestion for a trial depends on the seed, its number, and what is known by then alone: a sweep that is resumed goes on as one
    that was never interrupted, as far as its trials come one after the other.
    """

    def __init__(self, space: Space, known: Iterable[Known] = ()) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._search = space.base.search
        self._has_one_objective = self._search.second_objective == "none"
        self._study = optuna.create_study(directions=_DIRECTIONS[: 1 if self._has_one_objective else 2])
        self._asked: dict[int, optuna.Trial] = {}
        known = list(known)
        self._finished = [each for each in known if each.objectives]
        self._points = self._first_points([dict(each.parameters) for each in known if not each.objectives])
        for each in self._finished:
            self._add(each)

    def suggest(self, number: int) -> dict[str, Value] | None:
        """Values for the trial of that number; None where a grid has no more."""
        point = next(self._points, None)
        if point is None and self._search.algorithm == "grid":
            return None
        return self._ask(number, point)

    def recall(self, number: int, values: Mapping[str, Value]) -> None:
        """Take note that a trial was given these values in an earlier part of the sweep."""
        next(self._points, None)
        self._ask(number, dict(values))

    def learn(self, record: TrialRecord) -> None:
        """Take note of what became of a trial."""
        import optuna

        trial = self._asked.pop(record.number, None)
        if trial is None:
            return  # the settings as given, where they are no point of the space
        values = objectives(record, self._space)
        if record.state is State.COMPLETE and values:
            self._study.tell(trial, values)
        elif record.state is State.PRUNED and self._has_one_objective and record.value is not None:
            trial.report(record.value, record.rounds)
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def _add(self, known: Known) -> None:
        """A finished trial of another sweep, which is a point of this space."""
        import optuna

        if replay := self._space.replay(known.parameters):
            domains = {name: distribution(domain) for name, domain in replay.distributions.items()}
            self._study.add_trial(optuna.trial.create_trial(params=replay.values, distributions=domains, values=known.objectives))

    def _ask(self, number: int, point: dict[str, Value] | None) -> dict[str, Value]:
        replay = None
        if point is not None:
            replay = self._space.replay(point)
            if replay is None:
                return point
            self._study.enqueue_trial(replay.values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's of what is experimental, and of bounds that depend on other settings
            self._asked[number], values = self._drawn(number)
        return values

    def _drawn(self, number: int) -> tuple[optuna.Trial, dict[str, Value]]:
        """A point; one that contradicts itself is replaced by chance, since the estimator would learn nothing from it and insist.

        Raises:
            ConfigError: hardly any point does not.
        """
        import optuna

        # After what is known already, since the same numbers would draw what an earlier sweep of this seed has drawn.
        seed = int(stream(self._search.seed, "trial", len(self._finished) + number).integers(_LARGEST_SEED))
        by_chance = optuna.samplers.RandomSampler(seed=seed)
        self._study.sampler = self._estimator(seed) if self._search.algorithm == "tpe" else by_chance
        for _ in range(_DRAWS):
            trial = self._study.ask()
            try:
                values = self._space.draw(trial)
                self._space.settings(values)
                return trial, values
            except ConfigError as error:
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
                self._study.sampler, contradiction = by_chance, error
        raise contradiction

    def _estimator(self, seed: int) -> optuna.samplers.BaseSampler:
        import optuna

        waits = self._search.max_concurrent > 1
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._search.random_trials, constant_liar=waits)

    def _first_points(self, known: list[dict[str, Value]]) -> Iterator[dict[str, Value]]:
        """What is tried before the searcher has a say: the settings as given, known good ones, a grid."""
        first = [self._space.given() or {}] if self._search.try_given else []
        first += known
        yield from first
        if self._search.algorithm == "grid":
            done = [*first, *(each.parameters for each in self._finished)]
            yield from (point for point in self._space.combinations() if point not in done)


def distribution(domain: Domain) -> Any:
    """Optuna's form of a domain."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(domain, Number):
        return CategoricalDistribution(domain.options)
    if domain.integer:
        return IntDistribution(int(domain.low), int(domain.high), step=int(domain.step or 1))
    return FloatDistribution(domain.low, domain.high, step=domain.step, log=domain.log)
