"""May these runs be compared? What differs that must not, and what to keep in mind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain

from pydantic import ValidationError

from primia.config.effects import unmet_needs
from primia.config.fields import keys
from primia.config.settings import Settings
from primia.runs.results import RunResults
from primia.runs.summary import RunSummary

STEP_TOLERANCE = 0.02
"""Optimisation steps may differ by this fraction of the largest: rounds of sites cannot always be cut to the same number."""

_FREE_SETTINGS = frozenset(
    {
        "run.name",
        "run.output",
        "run.mode",
        "run.site",
        "run.seed",
        "run.repeat",
        "run.keep_checkpoints",
        "data.path",
        "data.cache",
        "training.evaluation_batch_size",
        "resources.actors",
        "resources.threads",
        "resources.cpus_per_actor",
        "resources.gpus_per_actor",
        *(key for key in keys() if key.startswith("search.")),
    }
)
"""Settings that say what is compared, or that change no result; the images themselves are compared by their fingerprint."""

_WEIGHTY_PACKAGES = ("primia", "torch", "torchvision")

Results = Mapping[str, RunResults]


def differing_settings(results: Results) -> dict[str, dict[str, str]]:
    """Settings that differ between the runs in which they have an effect: key -> run -> value.

    Mode, site, seed and places are left out, since they are what is compared or change nothing.
    """
    configs = {name: _effective(result.summary) for name, result in results.items()}
    keys = dict.fromkeys(chain.from_iterable(configs.values()))
    values = {key: {name: config[key] for name, config in configs.items() if key in config} for key in keys}
    return {key: by_run for key, by_run in values.items() if len(set(by_run.values())) > 1}


def differences(results: Results) -> list[str]:
    """One line for each thing that makes the runs incomparable: data, settings, number of optimisation steps."""
    found = []
    prints = {name: result.fingerprint or "unknown" for name, result in results.items()}
    if len(set(prints.values())) > 1:
        found.append(f"the images differ: fingerprint {_by_value(prints)}")
    found += [f"{key} = {_by_value(values)}" for key, values in differing_settings(results).items()]
    steps = {name: result.steps for name, result in results.items()}
    gap = 1 - min(steps.values()) / max(1, *steps.values())
    if gap > STEP_TOLERANCE:
        found.append(f"optimisation steps differ by {100 * gap:.0f} %: {_by_value({name: f'{n:,}' for name, n in steps.items()})}")
    tested = {name: f"{result.summary.test.images:,}" for name, result in results.items() if result.summary.test}
    if len(set(tested.values())) > 1:
        found.append(f"numbers of test images differ: {_by_value(tested)}")
    return found


def caveats(results: Results) -> list[str]:
    """One line for each thing that does not forbid comparing, but that the reader has to know."""
    runs = {name: result.summary for name, result in results.items()}
    return list(chain(_data_caveats(results), _seed_caveats(runs), _course_caveats(runs), _site_caveats(runs)))


def _data_caveats(results: Results) -> Iterator[str]:
    if any(result.summary.synthetic for result in results.values()):
        yield "the images are synthetic: nothing here says anything about clinical use"
    if all(result.fingerprint is None for result in results.values()):
        yield "no run folder has a data.json, so it was not checked that the images are the same"


def _seed_caveats(runs: Mapping[str, RunSummary]) -> Iterator[str]:
    seeds: dict[str, list[int]] = {}
    for run in runs.values():
        seeds.setdefault(run.kind, []).append(run.seed)
    if len({frozenset(values) for values in seeds.values()}) > 1:
        yield f"seeds differ: {_by_value({kind: ', '.join(map(str, sorted(set(values)))) for kind, values in seeds.items()})}"
    same = Counter((run.kind, run.seed, str(_effective(run))) for run in runs.values())
    for (kind, seed, _), number in same.items():
        if number > 1:
            yield f"{kind} with seed {seed} is there {number} times: repeats of a seed are no independent runs"


def _course_caveats(runs: Mapping[str, RunSummary]) -> Iterator[str]:
    for name, run in runs.items():
        if run.status != "complete":
            yield f"{name} was {run.status} after round {run.rounds}"
        if run.test is None:
            yield f"{name} has no test images, so it takes no part in the conclusion"
    faults = [f"{name} ({len(run.faults)})" for name, run in runs.items() if run.faults]
    if faults:
        yield f"faults, each a site left out of a round: {', '.join(faults)}"
    for package in _WEIGHTY_PACKAGES:
        used = {name: run.versions.get(package, "unknown") for name, run in runs.items()}
        if len(set(used.values())) > 1:
            yield f"versions of {package} differ: {_by_value(used)}"


def _site_caveats(runs: Mapping[str, RunSummary]) -> Iterator[str]:
    alone = {run.local_site for run in runs.values() if run.mode == "local"}
    if not alone:
        return
    yield "a site alone is chosen by its own validation images: compare test, not validation"
    missing = sorted({name for run in runs.values() for name, site in run.sites.items() if site.trains} - alone)
    if missing:
        named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        yield f"no run of {named} alone, so the best single site may be missing"


def _effective(run: RunSummary) -> dict[str, str]:
    """``section.key`` -> value of the settings that act in this run's mode and can change its result."""
    idle = _FREE_SETTINGS | _idle(run)
    flat = {f"{section}.{key}": value for section, values in run.config.items() for key, value in values.items()}
    flat.pop("search.space", None)
    return {key: "none" if value is None else str(value) for key, value in flat.items() if key not in idle}


def _idle(run: RunSummary) -> frozenset[str]:
    """Settings without effect in this run; none are known to be for a run of a version with other settings."""
    try:
        return frozenset(unmet_needs(Settings.model_validate(run.config)))
    except ValidationError:
        return frozenset()


def _by_value(values: Mapping[str, str]) -> str:
    """``0.1 (a, b), 0.2 (c)``."""
    holders: dict[str, list[str]] = {}
    for name, value in values.items():
        holders.setdefault(value, []).append(name)
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in holders.items())
