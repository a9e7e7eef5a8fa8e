"""The searcher's memory: an Optuna study in memory, filled from what the sweep has on record."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from primia.config.reader import differences, load_config
from primia.config.settings import SearchSettings, Settings
from primia.data.randomness import stream
from primia.search.domains import Domain, Number
from primia.search.folder import SweepFolder
from primia.search.records import State, TrialRecord, Value
from primia.search.space import Space

if TYPE_CHECKING:
    import optuna

_DIRECTIONS: tuple[Literal["maximize", "minimize"], ...] = ("maximize", "minimize")  # validation MCC, and what to hold against it
_LARGEST_SEED = 2**32


class SweepStudy:
    """Suggests values, and learns what became of them.

    The suggestion for a trial depends on the seed, its number, and what is known by then alone: a sweep that is resumed goes on as one
    that was never interrupted, as far as its trials come one after the other.
    """

    def __init__(self, space: Space, earlier: Iterable[TrialRecord] = ()) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._search = space.base.search
        self._objectives = 1 if self._search.second_objective == "none" else 2
        self._study = optuna.create_study(directions=_DIRECTIONS[: self._objectives])
        self._asked: dict[int, optuna.Trial] = {}
        self._points = self._first_points()
        for record in earlier:
            self._add(record)

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
        values = _objectives(record, self._objectives)
        if record.state is State.COMPLETE and values:
            self._study.tell(trial, values)
        elif record.state is State.PRUNED and self._objectives == 1 and record.value is not None:
            trial.report(record.value, record.rounds)
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def _add(self, record: TrialRecord) -> None:
        """A finished trial of another sweep, which is a point of this space."""
        import optuna

        if replay := self._space.replay(record.parameters):
            domains = {name: distribution(domain) for name, domain in replay.distributions.items()}
            values = _objectives(record, self._objectives)
            self._study.add_trial(optuna.trial.create_trial(params=replay.values, distributions=domains, values=values))

    def _ask(self, number: int, point: dict[str, Value] | None) -> dict[str, Value]:
        replay = None
        if point is not None:
            replay = self._space.replay(point)
            if replay is None:
                return point
            self._study.enqueue_trial(replay.values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's of what is experimental, and of bounds that depend on other settings
            self._study.sampler = self._sampler(number)
            trial = self._study.ask()
            values = self._space.draw(trial)
        self._asked[number] = trial
        return values

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        import optuna

        seed = int(stream(self._search.seed, "trial", number).integers(_LARGEST_SEED))
        if self._search.algorithm == "tpe":
            waits = self._search.max_concurrent > 1
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._search.random_trials, constant_liar=waits)
        return optuna.samplers.RandomSampler(seed=seed)

    def _first_points(self) -> Iterator[dict[str, Value]]:
        """What is tried before the searcher has a say: the settings as given, known good ones, a grid."""
        first = [self._space.given() or {}] if self._search.try_given else []
        first += known_points(self._space)
        yield from first
        if self._search.algorithm == "grid":
            yield from (point for point in self._space.combinations() if point not in first)


def known_points(space: Space) -> list[dict[str, Value]]:
    """The ``.ini`` files among ``search.warm_start``, as far as they are points of the space."""
    files = [Path(name) for name in space.base.search.warm_start if Path(name).is_file()]
    return [point for file in files if (point := space.point(load_config(file))) is not None]


def earlier_results(space: Space) -> tuple[list[TrialRecord], list[str]]:
    """Finished trials of the sweeps in ``search.warm_start`` that are points of this space, and what is to be said of each sweep.

    Raises:
        RunError: one is neither a file nor a sweep's folder.
    """
    known, notices = [], []
    count = 1 if space.base.search.second_objective == "none" else 2
    for sweep in (SweepFolder.open(Path(name)) for name in space.base.search.warm_start if not Path(name).is_file()):
        complete = [record for record in sweep.records() if record.state is State.COMPLETE and _objectives(record, count)]
        fitting = [record for record in complete if space.replay(record.parameters)]
        known += fitting
        notices.append(f"{len(fitting)} of {len(complete)} finished trials of {sweep.path} are known from the start")
        if other := _other_conditions(space, sweep):
            notices.append(f"{sweep.path} had other settings, so its results may not compare: {'; '.join(other)}")
    return known, notices


def _other_conditions(space: Space, earlier: SweepFolder) -> list[str]:
    """Settings beside the searched ones in which an earlier sweep differs."""
    lines = differences(_bare(earlier.settings()), _bare(space.base))
    return [line for line in lines if line.partition(":")[0] not in space.names and not line.startswith(("run.", "resources."))]


def distribution(domain: Domain) -> Any:
    """Optuna's form of a domain."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(domain, Number):
        return CategoricalDistribution(domain.options)
    if domain.integer:
        return IntDistribution(int(domain.low), int(domain.high), step=int(domain.step or 1))
    return FloatDistribution(domain.low, domain.high, step=domain.step, log=domain.log)


def _bare(settings: Settings) -> Settings:
    return settings.model_copy(update={"search": SearchSettings()})


def _objectives(record: TrialRecord, count: int) -> list[float] | None:
    values = [record.value, record.second][:count]
    return None if None in values else values  # type: ignore[return-value]
