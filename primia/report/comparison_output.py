"""A comparison as a terminal table, and as a CSV, JSON or HTML file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from primia.data.closed import refuse_box
from primia.errors import ConfigError
from primia.files import atomic_text, check_free
from primia.report import format as fmt
from primia.report.compare import SCORES, ComparedRun, Comparison, RunGroup
from primia.report.figures import score_dots
from primia.report.html import image_source, render
from primia.report.tables import foreign
from primia.untrusted.shown import write_csv

_COLUMNS: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "test_mcc": ("test\nMCC", fmt.score),
    "test_balanced_accuracy": ("bal.\nacc.", fmt.percent),
    "test_roc_auc": ("ROC-\nAUC", fmt.score),
    "worst_site_mcc": ("worst\nsite", fmt.score),
    "own_site_test_mcc": ("own\nsite", fmt.score),
    "validation_mcc": ("val.\nMCC", fmt.score),
}
_PAGE_COLUMNS = {
    "test_mcc": "test MCC",
    "test_balanced_accuracy": "balanced accuracy",
    "test_roc_auc": "ROC-AUC",
    "worst_site_mcc": "MCC, worst site",
    "own_site_test_mcc": "MCC, own site",
    "validation_mcc": "validation MCC",
}


def comparison_table(comparison: Comparison) -> RenderableType:
    """Runs group by group with the mean and spread of each group, then whether they compare, and the conclusion last."""
    fair = [Text("comparable: the same images, settings and optimisation steps", style="green")] if len(comparison.runs) > 1 else []
    unfair = [Text("NOT comparable as they are:", style="bold red"), *(foreign(f"  {line}") for line in comparison.differences)]
    return Group(
        _runs_table(comparison),
        *(fair if comparison.is_fair else unfair),
        *(foreign(f"note: {line}", "dim") for line in comparison.caveats),
        *(foreign(line, "bold") for line in comparison.conclusions),
    )


def write_comparison(comparison: Comparison, output: Path) -> None:
    """Write a comparison in the format that the suffix names.

    Raises:
        ConfigError: the suffix is none of .csv, .json, .html.
        RunError: the file cannot be written.
        ConsentError: it would lie in a site box.
    """
    write = _writer(output)
    refuse_box(output)
    atomic_text(output, write(comparison))


def check_output(output: Path, *, overwrite: bool = False) -> None:
    """Raise, before any work, what would keep :func:`write_comparison` from writing ``output``.

    Raises:
        ConfigError: the suffix is none of .csv, .json, .html.
        RunError: its folder is missing, or something is there already; a file may be replaced with ``overwrite``.
        ConsentError: it would lie in a site box.
    """
    _writer(output)
    refuse_box(output)
    check_free(output, overwrite=overwrite)


def to_csv(comparison: Comparison) -> str:
    """One row a run."""
    rows = [_row(run) for run in comparison.runs]
    text = io.StringIO()
    write_csv(text, list(rows[0]), rows)
    return text.getvalue()


def to_json(comparison: Comparison) -> str:
    """Runs, groups with mean and standard deviation of every score, verdict and conclusions."""
    document = {
        "comparable": comparison.is_fair,
        "differences": comparison.differences,
        "caveats": comparison.caveats,
        "conclusions": comparison.conclusions,
        "groups": [_group(group) for group in comparison.groups],
        "runs": [_row(run) for run in comparison.runs],
    }
    return json.dumps(document, indent=1) + "\n"


def to_html(comparison: Comparison) -> str:
    """A self-contained page."""
    scores = {group.label: [run.scores.test_mcc for run in group.runs if run.scores.test_mcc is not None] for group in comparison.groups}
    shown = {label: values for label, values in scores.items() if values}
    return render(
        "comparison.html",
        comparison=comparison,
        columns=[(name, _PAGE_COLUMNS[name], _COLUMNS[name][1]) for name in _shown_columns(comparison)],
        synthetic=any("synthetic" in line for line in comparison.caveats),
        dots=image_source(score_dots(shown, "test MCC: a dot a run, a bar the mean")) if shown else None,
    )


_WRITERS = {".csv": to_csv, ".json": to_json, ".html": to_html}


def _writer(output: Path) -> Callable[[Comparison], str]:
    try:
        return _WRITERS[output.suffix.lower()]
    except KeyError:
        raise ConfigError(f"cannot write {output}: name it .csv, .json or .html") from None


def _row(run: ComparedRun) -> dict[str, object]:
    values = asdict(run)
    scores = values.pop("scores")
    return {**values, "path": str(run.path), **scores}


def _group(group: RunGroup) -> dict[str, object]:
    statistics = {name: group.statistic(name) for name in SCORES}
    return {
        "label": group.label,
        "mode": group.mode,
        "site": group.site,
        "settings": dict(group.settings),
        "seeds": [run.seed for run in group.runs],
        "scores": {name: asdict(statistic) if statistic else None for name, statistic in statistics.items()},
    }


def _shown_columns(comparison: Comparison) -> list[str]:
    alone = any(group.mode == "local" for group in comparison.groups)
    return [name for name in _COLUMNS if alone or name != "own_site_test_mcc"]


def _runs_table(comparison: Comparison) -> Table:
    columns = _shown_columns(comparison)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("", overflow="fold")
    for heading in ("seed", "rounds", "steps", *(_COLUMNS[name][0] for name in columns)):
        table.add_column(Group(*heading.split("\n")), justify="right", no_wrap=True)
    for group in comparison.groups:
        table.add_row(foreign(group.label, "bold"))
        for run in group.runs:
            cells = [_COLUMNS[name][1](getattr(run.scores, name)) for name in columns]
            table.add_row(foreign(f"  {run.name}"), str(run.seed), str(run.rounds), fmt.count(run.steps), *cells)
        if len(group.runs) > 1:
            table.add_row(f"  mean of {len(group.runs)}", "", "", "", *(_mean(group, name) for name in columns), style="italic")
            table.add_row("  ± sd", "", "", "", *(_deviation(group, name) for name in columns), style="italic")
        table.add_section()
    return table


def _mean(group: RunGroup, score: str) -> str:
    statistic = group.statistic(score)
    return _COLUMNS[score][1](statistic.mean if statistic else None)


def _deviation(group: RunGroup, score: str) -> str:
    statistic = group.statistic(score)
    return _COLUMNS[score][1](statistic.sd if statistic else None)
