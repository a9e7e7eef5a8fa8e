"""``report.html``: what was trained on what, how well it does and where it does worst, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from primia.config.settings import Settings
from primia.files import atomic_text
from primia.report import figures
from primia.report import format as fmt
from primia.report.html import image_source, render
from primia.runs.results import RunResults
from primia.runs.summary import SPLITS, Metrics, RunSummary, Split, Traffic, WorstSite

COLUMN_LIMIT = 40
CLASS_ROWS = 500
ROW_LIMIT = 20
"""Sites, faults and skipped files listed on the page; the others are counted."""

_NAMED_CLASSES = 4
_MODELS = {"convnet": "small convolutional network", "resnet18": "ResNet-18"}
_MODES = {"federated": "federated (sites train together)", "pooled": "pooled (all images in one place)", "local": "local (one site alone)"}
_STATUS = {
    "stopped": "Stopped early: validation did not get better any more, see federation.patience.",
    "interrupted": "Interrupted: this run did not reach its last round.",
    "pruned": "Ended early by the search that it is a trial of, so it has not seen its last round.",
}
_PHASES = {"data": "preparing images", "start": "starting"}
_COUNTED = ("train", "validation", "test")
_ALL_SITES = "all sites"

CountRows = list[tuple[str, list[tuple[str, list[int]]]]]


@dataclass(frozen=True)
class Baseline:
    """What always answering the most frequent class would score; its MCC is 0."""

    name: str
    accuracy: float
    balanced_accuracy: float


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a finished run folder and return its path. It loads nothing from elsewhere.

    Raises:
        RunError: the folder is missing, not finished, cannot be read or cannot be written.
    """
    path = run / "report.html"
    atomic_text(path, render_report(RunResults.read(run)))
    return path


def render_report(results: RunResults) -> str:
    """The page as text."""
    run, rounds = results.summary, results.rounds
    counts, hidden_counts = _count_rows(run)
    traffic = _traffic_rows(run)
    rate_svg = figures.learning_rate_curve(rounds)
    judged = run.judged
    matrix = figures.confusion_matrix(judged.confusion, list(judged.per_class)) if judged else None
    return render(
        "run.html",
        run=run,
        mode=f"{_MODES[run.mode]}{': ' + run.local_site if run.local_site else ''}",
        status=_STATUS.get(run.status, f"Status: {run.status}."),
        headline=headline(run),
        worst=_worst(run),
        all_sites=_ALL_SITES,
        results=[_split_results(run, split, metrics) for split in SPLITS if (metrics := run.on(split))],
        baseline=_baseline(judged) if judged else None,
        confusion=image_source(matrix) if matrix else None,
        class_rows=list(judged.per_class.items())[:CLASS_ROWS] if judged else [],
        hidden_classes=max(0, len(judged.per_class) - CLASS_ROWS) if judged else 0,
        curves=image_source(figures.training_curves(rounds, run.best_round)),
        learning_rate=image_source(rate_svg) if rate_svg else None,
        hidden_rounds=results.hidden_rounds,
        first_rate=rounds[0].learning_rate if rounds else None,
        count_rows=counts,
        count_classes=_counted(run),
        privacy_rows=sorted(run.privacy.sites.items(), key=lambda item: -item[1].epsilon)[:ROW_LIMIT],
        hidden_counts=hidden_counts,
        phases=[(_PHASES.get(phase, phase), seconds) for phase, seconds in run.timing.items() if phase != "total"],
        traffic_rows=traffic,
        hidden_traffic=len(run.communication.sites) - len(traffic),
        settings=_settings_rows(run.config),
        limit=ROW_LIMIT,
    )


def headline(run: RunSummary) -> str:
    """What was trained on what, in which way, and with what result, in plain sentences."""
    sites = run.training_sites
    model = _MODELS.get(run.model.name, run.model.name)
    made = "synthetic images" if run.synthetic else "images"
    if run.data.train_patients is not None:
        made = f"{made} of {fmt.plural(run.data.train_patients, 'patient')}"
    elif run.data.train_images is not None:
        made = f"{run.data.train_images:,} {made}"
    return (
        f"A {model} with {run.model.parameters:,} parameters was trained on {made} "
        f"of {fmt.plural(len(sites), 'site')} to tell {_classes(run.data.classes)} apart. {_manner(run)} {_outcome(run)}"
    )


def _classes(names: Sequence[str]) -> str:
    return fmt.listing(names) if len(names) <= _NAMED_CLASSES else f"{len(names)} classes"


def _manner(run: RunSummary) -> str:
    if run.mode == "federated":
        return "Each site trained on its own images; model updates and summary statistics left it, images did not."
    if run.mode == "pooled":
        return "The images of all sites were used as one set."
    return f"Only the images of {run.local_site} were used."


def _outcome(run: RunSummary) -> str:
    if run.judged is None:
        return "It was not evaluated."
    result = f"On {run.judged.images:,} {_judged_by(run)}, it reaches an MCC of {fmt.score(run.judged.mcc)}"
    result += f" and a balanced accuracy of {fmt.percent(run.judged.balanced_accuracy)}"
    worst = _worst(run)
    return f"{result}; it does worst at {worst.name}, with an MCC of {fmt.score(worst.mcc)}." if worst else f"{result}."


def _judged_by(run: RunSummary) -> str:
    """The images that the result is from, and what a reader must know of them."""
    if run.test:
        return "test images that it had not seen"
    if run.status == "pruned" and any(sum(site.values()) for site in run.data.counts.get("test", {}).values()):
        return "validation images (it was ended early, so the test images were not touched)"
    return "validation images, by which it was also chosen (there are no test images)"


def _worst(run: RunSummary) -> WorstSite | None:
    """The worst site, where there are several."""
    return run.worst_site if run.site_count(run.judged_split) > 1 else None


def _split_results(run: RunSummary, split: Split, pooled: Metrics) -> tuple[Split, list[tuple[str, Metrics]], int]:
    """The split, metrics by site (the worst ones where there are many) and of all sites, and how many sites are not listed."""
    rows = run.sites_on(split, ROW_LIMIT)
    return split, [*rows, (_ALL_SITES, pooled)], run.site_count(split) - len(rows)


def _baseline(metrics: Metrics) -> Baseline | None:
    support = {name: row.support for name, row in metrics.per_class.items()}
    present = sum(number > 0 for number in support.values())
    if present < 2:
        return None
    name = max(support, key=lambda name: support[name])
    return Baseline(name, support[name] / sum(support.values()), 1 / present)


def _count_rows(run: RunSummary) -> tuple[CountRows, int]:
    """Images by site, split and class, the sum over all sites last; and how many sites are not listed."""
    counts = run.data.counts
    splits = [split for split in _COUNTED if counts.get(split)]
    names = list(dict.fromkeys(name for split in splits for name in counts[split]))
    rows: CountRows = [
        (name, [(split, _by_class(counts[split][name], run)) for split in splits if name in counts[split]]) for name in names[:ROW_LIMIT]
    ]
    totals = [
        (split, [sum(column) for column in zip(*(_by_class(site, run) for site in counts[split].values()), strict=True)])
        for split in splits
    ]
    return [*rows, (_ALL_SITES, totals)], max(0, len(names) - ROW_LIMIT)


def _by_class(counts: dict[str, int], run: RunSummary) -> list[int]:
    """Images of each class that has a column, and of all classes."""
    return [*(counts.get(label, 0) for label in _counted(run)), sum(counts.get(label, 0) for label in run.data.classes)]


def _counted(run: RunSummary) -> Sequence[str]:
    """Classes that get a column each; none where they are very many."""
    return run.data.classes if len(run.data.classes) <= COLUMN_LIMIT else ()


def _traffic_rows(run: RunSummary) -> list[tuple[str, Traffic]]:
    """Each site's traffic; of more than :data:`ROW_LIMIT` sites the busiest."""
    sites = list(run.communication.sites.items())
    if len(sites) <= ROW_LIMIT:
        return sites
    return sorted(sites, key=lambda item: -(item[1].up_bytes + item[1].down_bytes))[:ROW_LIMIT]


def _settings_rows(config: dict[str, dict[str, object]]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Key, value and description by section; sections without a setting are left out."""
    return [
        (section, [(key, _setting(value), _description(section, key)) for key, value in values.items()])
        for section, values in config.items()
        if values
    ]


def _setting(value: object) -> str:
    if value is None or value in ("", [], {}):
        return fmt.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "; ".join(f"{key} = {text}" for key, text in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _description(section: str, key: str) -> str:
    """From the settings' own descriptions; empty for a setting that this version does not know."""
    model = getattr(Settings(), section, None)
    field = type(model).model_fields.get(key) if model is not None else None
    return (field.description or "") if field else ""
