"""What comes of a sweep: the best trial and its settings, the front, privacy over all trials, and every trial's report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from primia.config.reader import dump_config
from primia.config.settings import Settings
from primia.errors import RunError
from primia.federation.driver.summary import versions
from primia.files import atomic_text
from primia.privacy.accounting import history_epsilon
from primia.privacy.ledger import Ledger
from primia.privacy.rounding import bound
from primia.report import format as fmt
from primia.runs.folder import RunFolder
from primia.runs.rounds import ALL_SITES
from primia.search.folder import SweepFolder, SweepPrivacy
from primia.search.records import Amount, TrialRecord, best_of, undominated, with_summary
from primia.search.report.page import write_sweep_report
from primia.search.space.space import Space
from primia.search.tune.callback import write_trial_report
from primia.untrusted.documents import validated
from primia.untrusted.files import Unusable

_MECHANISMS = 16
"""Kinds of noise and sampling rate that are composed numerically; of more the bound by Rényi divergence is taken, some 10 % above."""

_PRIVACY = (
    "This search trained {trials} on the same images. Together they spent {spent} at each site (unit: one {unit}); since the best of them "
    "was chosen after all were seen, this, and not what its own training spent, is what its publication costs. The sum takes settings and "
    "ends of the trials as fixed ahead; the limit search.max_epsilon does not."
)

_UNSTATED = (
    " Not counted is what these trials, which came to no statement, spent after the last one that did: {trials}. It stands in the sites' "
    "boxes (primia-ray site show)."
)


class _Part(BaseModel):
    """A part of a run's summary; the rest is passed over."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Statement(_Part):
    epsilon_all_runs: Amount | None
    delta: Annotated[float, Field(gt=0.0, lt=1.0)]


class _Privacy(_Part):
    sites: dict[str, _Statement]


class _Told(_Part):
    privacy: _Privacy


def write_results(folder: SweepFolder, space: Space, records: Iterable[TrialRecord], status: str, reason: str, wall_s: float) -> None:
    """Write the sweep folder's results; ``wall_s``: seconds of the whole sweep, earlier parts of it included.

    ``status``: complete, stopped (for a ``reason``, before the last trial), or interrupted, where the trials' own reports are left out.

    Raises:
        RunError: a file cannot be written.
    """
    rows = [_with_run(record, folder, space) for record in records]
    folder.write_records(rows)
    best = best_of(rows)
    if best:
        atomic_text(folder.best, _best_ini(folder, best, space.base))
    search = space.base.search
    result = {
        "status": status,
        "reason": reason,
        "best": best.number if best else None,
        "value": best.value if best else None,
        "front": tuple(record.number for record in undominated(rows)) if search.second_objective != "none" else (),
        "wall_seconds": wall_s,
        "training_seconds": sum(record.seconds for record in rows),
        "max_epsilon": search.max_epsilon,
        "privacy": _privacy(folder, space, rows),
        "versions": versions(),
    }
    folder.write_summary(folder.result().model_copy(update=result).model_dump(mode="json"))
    if status != "interrupted":
        for record in rows:
            write_trial_report(folder.path / record.folder)
    write_sweep_report(folder.path)


def _with_run(record: TrialRecord, folder: SweepFolder, space: Space) -> TrialRecord:
    """With what the run's own summary says, which a trial that the scheduler has ended could not tell any more."""
    with suppress(RunError):
        return with_summary(record, RunFolder(folder.path / record.folder).read_summary(), space.base.search.second_objective)
    return record


def _best_ini(folder: SweepFolder, best: TrialRecord, base: Settings) -> str:
    """The trial's settings as those of a run of its own, beside the sweep."""
    settings = RunFolder(folder.path / best.folder).settings()
    run = settings.run.model_copy(update={"name": "", "output": base.run.output})
    head = f"# Trial {best.number} of the sweep {folder.path.name}: validation MCC {best.value:.4f}"
    if settings.privacy.is_on:
        head += ".\n# Training it again spends privacy again, and gives another value: what is drawn, and the noise, are secret."
    else:
        head += " at equal seed, run.repeat, threads and actors."
    if best.cause:
        head += f"\n# It {best.cause}, so these settings alone need not reach that."
    return f"{head}\n{dump_config(settings.model_copy(update={'run': run}))}"


def _privacy(folder: SweepFolder, space: Space, records: Sequence[TrialRecord]) -> SweepPrivacy | None:
    settings = space.base.privacy
    spent, trials = _by_ledgers(folder, space.base)
    unstated: list[int] = []
    if not spent:
        spent, unstated = _by_summaries(folder, records)
        trials = len(records)
    if not spent:
        return None
    all_spent = bound([epsilon for epsilon, _ in spent.values()], [delta for _, delta in spent.values()])
    sentence = _PRIVACY.format(trials=fmt.plural(trials, "trial"), spent=all_spent, unit=settings.unit)
    if unstated:
        sentence += _UNSTATED.format(trials=", ".join(map(str, unstated)))
    return SweepPrivacy(
        unit=settings.unit,
        accountant=settings.accountant,
        delta={site: delta for site, (_, delta) in spent.items()},
        sites={site: total for site, (total, _) in spent.items()},
        trials=trials,
        unstated=tuple(unstated),
        sentence=sentence,
    )


def _by_ledgers(folder: SweepFolder, base: Settings) -> tuple[dict[str, tuple[float, float]], int]:
    """(epsilon, delta) of each site over all trials, by the sweep's own ledgers, and the number of trials that stand there.

    Failed and interrupted ones count, those that could not begin do not.
    """
    ledgers = {path.parent.name: path for path in folder.sites.glob("*/privacy.jsonl")}
    if (folder.sites / "privacy.jsonl").exists():
        ledgers[ALL_SITES] = folder.sites / "privacy.jsonl"
    spent: dict[str, tuple[float, float]] = {}
    runs: set[str] = set()
    for site, path in sorted(ledgers.items()):
        if charges := Ledger(path).charges(base.federation.identity):
            delta = charges[-1].delta
            spends = [charge.spend for charge in charges]
            spent[site] = history_epsilon(spends, delta, base.privacy.accountant, _MECHANISMS), delta
            runs |= {charge.run for charge in charges}
    return spent, len(runs)


def _by_summaries(folder: SweepFolder, records: Sequence[TrialRecord]) -> tuple[dict[str, tuple[float, float]], list[int]]:
    """The same where the ledgers are in the sites' boxes, as the sites have stated it; and the trials that came to no statement."""
    spent: dict[str, tuple[float, float]] = {}
    unstated = []
    for record in records:
        try:
            told: _Told = validated(_Told, RunFolder(folder.path / record.folder).read_summary())
        except (RunError, Unusable):
            unstated.append(record.number)
            continue
        for site, statement in told.privacy.sites.items():
            if (total := statement.epsilon_all_runs) is not None:
                spent[site] = max(spent.get(site, (0.0, 0.0)), (total, statement.delta))
    return spent, unstated
