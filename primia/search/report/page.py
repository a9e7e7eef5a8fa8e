"""A sweep's ``report.html``: what was tried, what came out best and by how much, and which settings matter, on one page."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from primia.config.fields import render as render_setting
from primia.config.fields import value_of
from primia.config.settings import Settings
from primia.errors import RunError
from primia.files import atomic_text
from primia.report import format as fmt
from primia.report.html import image_source, render
from primia.runs.folder import RunFolder
from primia.search.folder import SweepFolder, SweepPrivacy, SweepSummary
from primia.search.records import State, TrialRecord, best_of, undominated, value_first
from primia.search.report import figures
from primia.search.report.importance import FEWEST_TRIALS, METHOD, Parameter, importances, text_of, varied_parameters

ROW_LIMIT = 100
"""Trials listed on the page; the others are counted."""
SITE_LIMIT = 20
DRAWN_LIMIT = 1000
"""Trials in pictures; of more the best ones and some spread over the others."""
POINT_LIMIT = 200
"""Points of a trial's curve."""

_STATUS = {
    "running": "Not finished: this page shows the trials so far, and primia-ray report writes it anew while the sweep goes on",
    "stopped": "Stopped before its last trial",
    "interrupted": "Interrupted before its last trial; primia-ray tune --resume goes on with it",
}
_MODES = {"federated": "federated training", "pooled": "training on all images in one place", "local": "training at one site"}
_STATES = {
    State.COMPLETE: "trained to the end",
    State.PRUNED: "ended early (pruned)",
    State.FAILED: "failed",
    State.RUNNING: "under way or cut off",
}
_UNFINISHED = "unfinished"
_SECOND = {"epsilon": "epsilon", "bytes": "bytes moved"}
_ORDER = (State.COMPLETE, State.RUNNING, State.PRUNED, State.FAILED)


class Comparison(NamedTuple):
    """Validation MCC of the best trial and of the settings as given, and how far each had been trained for it."""

    best: float
    given: float
    when: str


@dataclass(frozen=True)
class SweepResults:
    """A sweep folder, read; ``test_mcc`` and ``synthetic`` are the best trial's own."""

    path: Path
    settings: Settings
    records: tuple[TrialRecord, ...]
    summary: SweepSummary
    test_mcc: float | None
    synthetic: bool

    @classmethod
    def read(cls, folder: SweepFolder) -> SweepResults:
        """Read a sweep, finished or not.

        Raises:
            RunError: a file cannot be read.
        """
        sweep = cls(folder.path, folder.settings(), tuple(folder.records()), folder.result(), None, False)
        if sweep.best is None:
            return sweep
        run = _run_summary(folder.path / sweep.best.folder)
        test = run.get("test")
        mcc = test.get("mcc") if isinstance(test, dict) else None
        test_mcc = mcc if isinstance(mcc, int | float) and abs(mcc) <= 1.0 + 1e-6 else None
        return cls(sweep.path, sweep.settings, sweep.records, sweep.summary, test_mcc, bool(run.get("synthetic")))

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.summary.name or self.path.resolve().name

    @property
    def best(self) -> TrialRecord | None:
        """The best trial so far."""
        return best_of(self.records)

    @property
    def command(self) -> str | None:
        """The command line that trains the best trial again; None in a private sweep, where that would spend privacy again.

        None too where ``best.ini`` is missing, or may be that of an earlier part.
        """
        folder = SweepFolder(self.path)
        return folder.train_command if self._is_best_known and not self.is_private and folder.best.is_file() else None

    @property
    def evaluate_command(self) -> str | None:
        """In a private sweep, the command line that tests the best trial's own model, the one to publish; else None."""
        if self.best is None or not self._is_best_known or not self.is_private:
            return None
        return f"primia-ray evaluate {shlex.quote(str(self.path / self.best.folder))} --data DIR"

    @property
    def is_private(self) -> bool:
        """Whether its trials spend privacy."""
        return self.settings.privacy.is_on

    @property
    def _is_best_known(self) -> bool:
        """Whether the best so far is what the sweep came to at its end."""
        return self.best is not None and self.best.number == self.summary.best

    @property
    def given(self) -> TrialRecord | None:
        """The trial of the settings as given."""
        return next((record for record in self.records if record.number == self.summary.given), None)

    @property
    def front(self) -> list[TrialRecord]:
        """Complete trials than which none is better in both objectives, the cheapest first."""
        return undominated(self.records)

    @property
    def ranked(self) -> list[TrialRecord]:
        """The best first, then the others trained to the end, then those under way, ended early and failed, each by value."""
        best = self.best
        return sorted(self.records, key=lambda record: (record is not best, _ORDER.index(record.state), -value_first(record)))

    def compare_with_given(self) -> Comparison | None:
        """The best trial against the settings as given; None where one of them is missing or has no result, or they are the same.

        Where one was ended early, both are judged at the same part of their planned rounds: a round need not be the same work in both.
        """
        if self.best is None or self.given is None or self.best is self.given or not self.best.curve or not self.given.curve:
            return None
        pair = (self.best, self.given)
        whole = all(trial.state == State.COMPLETE for trial in pair)
        part = 1.0 if whole else min(_part(trial) for trial in pair)
        best, given = (trial.value if whole else _value_at(trial, part) for trial in pair)
        if best is None or given is None:
            return None
        rounds = [trial.rounds if whole else round(part * trial.planned_rounds) for trial in pair]
        when = f"after {fmt.plural(rounds[0], 'round')}" if rounds[0] == rounds[1] else f"after {rounds[0]} and {rounds[1]} rounds"
        return Comparison(best, given, when if whole or rounds[0] == rounds[1] else f"{when}, the same part of each")

    def second_text(self, value: float | None) -> str:
        """The second objective as it is written."""
        if value is None or self.settings.search.second_objective == "epsilon":
            return fmt.rate(value)
        return fmt.size(round(value))


@dataclass(frozen=True)
class Row:
    """A trial in the page's table; ``epsilon``: at the site that spent most; ``cells``: one text a parameter."""

    record: TrialRecord
    state: str
    epsilon: str
    second: str
    cells: list[str]
    link: str


def write_sweep_report(path: Path) -> Path:
    """Write ``report.html`` into a sweep's folder and return its path. The sweep may still run; the page loads nothing from elsewhere.

    Raises:
        RunError: the folder is none of a sweep, cannot be read or cannot be written.
    """
    folder = SweepFolder.open(path)
    atomic_text(folder.report, render_sweep(folder))
    return folder.report


def render_sweep(folder: SweepFolder) -> str:
    """The page as text."""
    sweep = SweepResults.read(folder)
    search, best = sweep.settings.search, sweep.best
    drawn = replace(sweep, records=_drawn(sweep))
    parameters = varied_parameters(drawn.records, search.space)
    importance = importances(drawn.records, parameters)
    names = list(dict.fromkeys([*search.space, *(name for record in sweep.records for name in record.parameters)]))
    ranked = sweep.ranked
    has_second = search.second_objective != "none"
    return render(
        "sweep.html",
        sweep=sweep,
        search=search,
        summary=sweep.summary,
        best=best,
        status=status(sweep.summary),
        headline=headline(sweep),
        caution=caution(sweep),
        comparison=sweep.compare_with_given(),
        changes=changes(best, sweep.settings) if best else [],
        pictures=_pictures(drawn, parameters),
        undrawn=len(sweep.records) - len(drawn.records),
        importance=importance,
        importance_picture=image_source(figures.importance_bars(importance.shares)) if importance else None,
        method=METHOD,
        fewest=FEWEST_TRIALS,
        counts={state.value: sum(record.state == state for record in sweep.records) for state in State},
        slices=[(parameter.name, image_source(figures.slice_of(drawn.records, parameter, drawn.best))) for parameter in parameters],
        second=_SECOND.get(search.second_objective),
        front=[(record, sweep.second_text(record.second), _link(sweep.path, record)) for record in sweep.front[:ROW_LIMIT]]
        if has_second
        else [],
        front_picture=_front_picture(drawn) if has_second else None,
        names=names,
        rows=[_row(sweep, record, names) for record in ranked[:ROW_LIMIT]],
        has_epsilon=sweep.is_private and search.second_objective != "epsilon",
        hidden=Counter(_counted_as(record.state, sweep.summary) for record in ranked[ROW_LIMIT:]),
        schedules=_schedules(sweep)[:ROW_LIMIT],
        privacy_rows=_privacy_rows(sweep.summary.privacy),
        space=[(name, expression, _setting(value_of(sweep.settings, name))) for name, expression in search.space.items()],
        search_settings=[(key, render_setting(value)) for key, value in search if key != "space"],
    )


def headline(sweep: SweepResults) -> str:
    """How many trials of what, the best of them, how much better it is than the settings as given, and how long it took."""
    return " ".join(
        part for part in (_trials_sentence(sweep), _best_sentence(sweep), _given_sentence(sweep), _time_sentence(sweep)) if part
    )


def caution(sweep: SweepResults) -> str:
    """Why the validation MCC flatters, and the number that does not."""
    if sweep.best is None:
        return ""
    tried = sum(record.value is not None for record in sweep.records)
    flatters = f"The validation MCC of the best of {fmt.plural(tried, 'trial')} is optimistic: it was chosen because it is high."
    if tried == 1:
        flatters = "Its validation MCC is optimistic: it is that of the best round."
    if sweep.test_mcc is None:
        return (
            f"{flatters} There is no test MCC of this trial, which would be the honest number: have it judged by images that chose nothing."
        )
    return f"{flatters} The honest number is its MCC on test images, by which nothing was chosen: {fmt.score(sweep.test_mcc)}."


def status(summary: SweepSummary) -> str:
    """What a reader must know of a sweep that is not complete, with the reason."""
    said = _STATUS.get(summary.status, f"Status: {summary.status}")
    return f"{said}: {summary.reason}." if summary.reason else f"{said}."


def state_text(record: TrialRecord, summary: SweepSummary) -> str:
    """How far a trial has come; one that was under way when its sweep ended was cut off."""
    return _UNFINISHED if record.state is State.RUNNING and not summary.is_running else str(record.state)


def changes(record: TrialRecord, settings: Settings) -> list[tuple[str, str, str]]:
    """Key, the value as given and the trial's, of each setting in which they differ."""
    pairs = ((key, value_of(settings, key), value) for key, value in record.parameters.items())
    return [(key, _setting(given), _setting(value)) for key, given, value in pairs if given != value]


def _trials_sentence(sweep: SweepResults) -> str:
    counts = Counter(record.state for record in sweep.records)
    if not counts:
        return "No trial has begun yet."
    model = "a model of its own choice" if "model.name" in sweep.settings.search.space else sweep.settings.model.name
    told = fmt.listing([f"{counts[state]} {_counted_as(state, sweep.summary)}" for state in _STATES if counts[state]])
    each = "It" if len(sweep.records) == 1 else "Each"
    what = f"{each} is a {_MODES[sweep.settings.run.mode]} of {model}{_rounds_text(sweep)}."
    return f"{fmt.plural(len(sweep.records), 'trial')}: {told}. {what}"


def _counted_as(state: State, summary: SweepSummary) -> str:
    """What is said of trials of a state where they are counted."""
    return _UNFINISHED if state is State.RUNNING and not summary.is_running else _STATES[state]


def _rounds_text(sweep: SweepResults) -> str:
    """How many rounds the longest trial has, by the settings as given where no trial came to plan them; empty where that is not known."""
    rounds = max(record.planned_rounds for record in sweep.records)
    if not rounds and "federation.rounds" not in sweep.settings.search.space:
        rounds = sweep.settings.federation.rounds
    return f" over up to {fmt.plural(rounds, 'round')}" if rounds else ""


def _best_sentence(sweep: SweepResults) -> str:
    if sweep.best is None:
        return "None has come to a result yet." if sweep.records else ""
    return f"The best is trial {sweep.best.number}, with a validation MCC of {fmt.score(sweep.best.value)}."


def _given_sentence(sweep: SweepResults) -> str:
    if sweep.best is None or sweep.given is None:
        return ""
    if sweep.best is sweep.given:
        return (
            "Those are the settings as given: no other trial did better." if len(sweep.records) > 1 else "Those are the settings as given."
        )
    if (comparison := sweep.compare_with_given()) is None:
        return f"The settings as given (trial {sweep.given.number}) came to no result."
    gain = comparison.best - comparison.given
    how = f"{fmt.score(abs(gain))} {'more' if gain >= 0 else 'less'} than the settings as given (trial {sweep.given.number})"
    return f"That is {how}: {fmt.score(comparison.best)} against {fmt.score(comparison.given)}, {comparison.when}."


def _time_sentence(sweep: SweepResults) -> str:
    training = sum(record.seconds for record in sweep.records)
    if sweep.summary.is_running:
        return f"So far it has trained for {fmt.duration(training)}." if training else ""
    known = sweep.summary.training_seconds
    return f"It took {fmt.duration(sweep.summary.wall_seconds)}, with {fmt.duration(training if known is None else known)} of training."


def _drawn(sweep: SweepResults) -> tuple[TrialRecord, ...]:
    """The trials that pictures show, in their order; the curve of each is thinned."""
    records = sweep.records
    if len(records) > DRAWN_LIMIT:
        best = {record.number for record in sweep.ranked[: DRAWN_LIMIT // 2]}
        others = [record.number for record in records if record.number not in best]
        best |= set(others[:: -(-len(others) // (DRAWN_LIMIT // 2))])
        records = tuple(record for record in records if record.number in best)
    return tuple(replace(record, curve=_thinned(record.curve)) if len(record.curve) > POINT_LIMIT else record for record in records)


def _thinned(curve: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """The last point, and others spread before it."""
    step = -(-len(curve) // POINT_LIMIT)
    return curve[::-step][::-1]


def _pictures(sweep: SweepResults, parameters: Sequence[Parameter]) -> dict[str, str | None]:
    """By name; None where there is nothing to draw."""
    records, best = sweep.records, sweep.best
    has_values, has_curves = any(record.value is not None for record in records), any(record.curve for record in records)
    drawn = {
        "history": figures.history(records, best) if has_values else None,
        "curves": figures.curves(records, best) if has_curves else None,
        "parallel": figures.parallel_coordinates(records, parameters, best) if parameters else None,
    }
    return {name: image_source(svg) if svg else None for name, svg in drawn.items()}


def _front_picture(sweep: SweepResults) -> str | None:
    if not any(record.value is not None and record.second is not None for record in sweep.records):
        return None
    objective = sweep.settings.search.second_objective
    return image_source(figures.front(sweep.records, sweep.front, _SECOND[objective], in_bytes=objective == "bytes"))


def _row(sweep: SweepResults, record: TrialRecord, names: Sequence[str]) -> Row:
    cells = [text_of(record.parameters.get(name)) for name in names]
    epsilon = fmt.rate(max(record.epsilon.values(), default=None))
    return Row(record, state_text(record, sweep.summary), epsilon, sweep.second_text(record.second), cells, _link(sweep.path, record))


def _schedules(sweep: SweepResults) -> list[TrialRecord]:
    """Trials of population based training that go on from others."""
    if sweep.settings.search.scheduler != "pbt":
        return []
    return [record for record in sweep.records if record.cause and record.state != State.FAILED]


def _link(sweep: Path, record: TrialRecord) -> str:
    """The trial's own page, relative to the sweep's; empty where there is none."""
    page = f"{record.folder}/report.html"
    return quote(page) if (sweep / page).is_file() else ""


def _privacy_rows(privacy: SweepPrivacy | None) -> list[tuple[str, float, float | None]]:
    """Site, epsilon over all trials and delta, the most spent first."""
    if privacy is None:
        return []
    spent = sorted(privacy.sites.items(), key=lambda item: (-item[1], item[0]))
    return [(site, epsilon, privacy.delta.get(site)) for site, epsilon in spent[:SITE_LIMIT]]


def _setting(value: object) -> str:
    """As the ``.ini`` has it, numbers to four digits."""
    return text_of(value) if isinstance(value, float) else render_setting(value) or fmt.MISSING


def _part(trial: TrialRecord) -> float:
    """How much of its planned rounds a trial had trained when it was last validated."""
    return trial.curve[-1][0] / max(1, trial.planned_rounds)


def _value_at(trial: TrialRecord, part: float) -> float | None:
    """Best validation MCC within the first ``part`` of the planned rounds."""
    return max((mcc for round_, mcc in trial.curve if round_ <= part * trial.planned_rounds + 1e-9), default=None)


def _run_summary(run: Path) -> Mapping[str, object]:
    """A trial's ``summary.json``; empty where it has none, or none that can be read."""
    with suppress(RunError):
        return RunFolder(run).read_summary()
    return {}
