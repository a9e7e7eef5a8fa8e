"""Pooled, each site alone, and federated, side by side; and whether the comparison is an honest one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean, stdev

from primia.errors import RunError
from primia.report.comparability import caveats, differences, differing_settings
from primia.runs.results import RunResults
from primia.runs.summary import Metrics


@dataclass(frozen=True)
class Scores:
    """What a run is compared by. Test scores are over the test images of all sites, also for a site that trained alone.

    ``own_site_test_mcc``: of a site that trained alone, on its own test images. ``worst_site_mcc``: the lowest of all sites' test MCC.
    """

    test_mcc: float | None
    test_balanced_accuracy: float | None
    test_roc_auc: float | None
    own_site_test_mcc: float | None
    worst_site_mcc: float | None
    validation_mcc: float | None
    validation_balanced_accuracy: float | None
    validation_roc_auc: float | None


_MODES = ("federated", "pooled", "local")
SCORES = tuple(field.name for field in fields(Scores))


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison; ``steps`` counts the optimisation steps of all sites in all rounds."""

    name: str
    path: Path
    mode: str
    site: str
    seed: int
    status: str
    rounds: int
    best_round: int
    steps: int
    worst_site: str
    scores: Scores


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation of ``n`` runs; the deviation of a single run is unknown (None)."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ in their seed only. ``settings``: those that set it apart from other groups of the same mode and site."""

    mode: str
    site: str
    settings: tuple[tuple[str, str], ...]
    runs: tuple[ComparedRun, ...]

    @property
    def label(self) -> str:
        """Mode, site and the settings that set the group apart."""
        name = f"{self.mode} {self.site}".rstrip()
        return f"{name} ({', '.join(f'{key} = {value}' for key, value in self.settings)})" if self.settings else name

    def statistic(self, score: str) -> Statistic | None:
        """Over the group's runs that have the score, one of :data:`SCORES`."""
        values = [value for run in self.runs if (value := getattr(run.scores, score)) is not None]
        if not values:
            return None
        return Statistic(mean(values), stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    ``differences``: why the runs must not be compared as they are; empty where data, settings (but mode, site and
    seed) and the number of optimisation steps agree. ``caveats``: what to keep in mind all the same.
    ``conclusions``: a line a comparison, in plain words.
    """

    groups: tuple[RunGroup, ...]
    differences: tuple[str, ...]
    caveats: tuple[str, ...]
    conclusions: tuple[str, ...]

    @property
    def is_fair(self) -> bool:
        """Whether nothing stands against comparing."""
        return not self.differences

    @property
    def runs(self) -> tuple[ComparedRun, ...]:
        """All runs, group by group."""
        return tuple(run for group in self.groups for run in group.runs)


def compare(runs: Sequence[Path]) -> Comparison:
    """Read finished runs and compare them.

    Raises:
        RunError: no run is given, one is given twice, or one cannot be read.
    """
    if not runs:
        raise RunError("nothing to compare: give run folders, such as runs/*")
    if len({path.resolve() for path in runs}) < len(runs):
        raise RunError("a run folder is given twice; a run cannot be compared with itself")
    results = _named(runs)
    groups = _groups(results)
    found = differences(results)
    return Comparison(groups, tuple(found), tuple(caveats(results)), tuple(_conclusions(groups, fair=not found)))


def _named(runs: Sequence[Path]) -> dict[str, RunResults]:
    """Results by folder name, or by path where two folders have the same name."""
    names = [path.resolve().name for path in runs]
    unique = len(set(names)) == len(names)
    return {name if unique else str(path): RunResults.read(path) for name, path in zip(names, runs, strict=True)}


def _groups(results: Mapping[str, RunResults]) -> tuple[RunGroup, ...]:
    """Federated first, then pooled, then each site alone; in a group by seed."""
    kinds: dict[tuple[str, str], dict[str, RunResults]] = {}
    for name, result in results.items():
        kinds.setdefault((result.summary.mode, result.summary.local_site), {})[name] = result
    ordered = sorted(kinds.items(), key=lambda item: (_MODES.index(item[0][0]), item[0][1]))
    return tuple(group for (mode, site), alike in ordered for group in _split_by_settings(mode, site, alike))


def _split_by_settings(mode: str, site: str, alike: Mapping[str, RunResults]) -> list[RunGroup]:
    apart = differing_settings(alike)
    members: dict[tuple[tuple[str, str], ...], list[ComparedRun]] = {}
    for name, result in alike.items():
        settings = tuple((key, by_run[name]) for key, by_run in apart.items() if name in by_run)
        members.setdefault(settings, []).append(_compared(name, result))
    return [RunGroup(mode, site, settings, tuple(sorted(runs, key=lambda run: run.seed))) for settings, runs in members.items()]


def _compared(name: str, result: RunResults) -> ComparedRun:
    run = result.summary
    own = run.sites[run.local_site].test if run.local_site else None
    worst = run.worst_site if run.test else None
    return ComparedRun(
        name=name,
        path=result.path,
        mode=run.mode,
        site=run.local_site,
        seed=run.seed,
        status=run.status,
        rounds=run.rounds,
        best_round=run.best_round,
        steps=result.steps,
        worst_site=worst.name if worst else "",
        scores=Scores(
            *_three(run.test),
            own_site_test_mcc=own.mcc if own else None,
            worst_site_mcc=worst.mcc if worst else None,
            **dict(zip(("validation_mcc", "validation_balanced_accuracy", "validation_roc_auc"), _three(run.validation), strict=True)),
        ),
    )


def _three(metrics: Metrics | None) -> tuple[float | None, float | None, float | None]:
    return (metrics.mcc, metrics.balanced_accuracy, metrics.roc_auc) if metrics else (None, None, None)


def _conclusions(groups: Sequence[RunGroup], *, fair: bool) -> list[str]:
    """Each federated group (or pooled, where none is federated) against the best single site, and against pooled."""
    scored = [(group, statistic) for group in groups if (statistic := group.statistic("test_mcc"))]
    alone = [item for item in scored if item[0].mode == "local"]
    pooled = [item for item in scored if item[0].mode == "pooled"]
    federated = [item for item in scored if item[0].mode == "federated"]
    best_alone = [max(alone, key=lambda item: item[1].mean)] if alone else []
    pairs = [(one, other) for one in federated or pooled for other in (best_alone + pooled if federated else best_alone)]
    if not pairs:
        return ["nothing to conclude: give a federated run with test images, and a pooled one or one of each site alone"]
    end = "" if fair else "; but the runs are not comparable, see above"
    return [_verdict(*one, *other) + end for one, other in pairs]


def _verdict(group: RunGroup, one: Statistic, rival: RunGroup, other: Statistic) -> str:
    """Such as ``federated beats the best single site (b) by +0.031 MCC (3 seeds)``."""
    gain = one.mean - other.mean
    against = f"the best single site ({rival.site})" if rival.mode == "local" else rival.label
    if round(gain, 3) == 0.0:
        said = f"{group.label} equals {against} to three decimals of test MCC"
    else:
        said = f"{group.label} {'beats' if gain > 0 else 'falls behind'} {against} by {'+' * (gain > 0)}{abs(gain):.3f} test MCC"
    return f"{said} ({_seeds(one, other)}){_spread(gain, one, other)}"


def _seeds(one: Statistic, other: Statistic) -> str:
    if one.n == other.n:
        return f"{one.n} seed{'s' if one.n > 1 else ''}"
    return f"{one.n} against {other.n} seeds"


def _spread(gain: float, one: Statistic, other: Statistic) -> str:
    """Whether the gain is more than the standard deviation of a difference between two runs."""
    if one.sd is None or other.sd is None:
        return ", spread between seeds unknown"
    spread = math.hypot(one.sd, other.sd)
    return f", within the spread between seeds (±{spread:.3f})" if abs(gain) <= spread else f", spread between seeds ±{spread:.3f}"
