"""What the terminal shows of a run: tables that fit 80 columns and use more where there is more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from primia.report import format as fmt
from primia.runs.results import RoundResult
from primia.runs.summary import Metrics, RunSummary, Split
from primia.untrusted.shown import visible

SITE_LIMIT = 20
CLASS_ROWS = 200
_CONFUSION_LIMIT = 15
_CONFUSION_NAME_WIDTH = 40
_ROUND_SITE_LIMIT = 4

Summary = RunSummary | Mapping[str, object]


def metrics_table(summary: Summary) -> Table:
    """Test and validation metrics of the best model: a row a site and one for all sites; the worst site is marked.

    Of more than 20 sites, those with the lowest MCC.
    """
    run = RunSummary.of(summary)
    table = _table(f"{run.mode}, seed {run.seed}, model of round {run.best_round} of {run.rounds}")
    table.add_column("", overflow="fold")
    for name in ("images", "accuracy", "balanced acc.", "MCC", "ROC-AUC"):
        table.add_column(name, justify="right", no_wrap=True)
    if run.test:
        _add_split(table, run, "test")
    _add_split(table, run, "validation")
    return table


def class_table(summary: Summary) -> RenderableType:
    """Per-class metrics and the confusion matrix over all sites: of the test, or of the validation where there is no test."""
    run = RunSummary.of(summary)
    if run.judged is None:
        return Text("no evaluation")
    return Group(*evaluation_tables(run.judged, f"{run.judged_split}, all sites"))


def evaluation_tables(metrics: Metrics | Mapping[str, object], title: str) -> list[Table]:
    """Per-class metrics and, for at most 15 classes, the confusion matrix of one evaluation."""
    evaluation = metrics if isinstance(metrics, Metrics) else Metrics.model_validate(metrics)
    few = len(evaluation.per_class) <= _CONFUSION_LIMIT
    return [_per_class(evaluation, title), *([_confusion(evaluation)] if few else [])]


def round_table(rounds: Sequence[RoundResult], best_round: int | None = None, hidden: int = 0) -> Table:
    """A line a validated round: loss, MCC over all sites and at each (at most four sites, else the lowest), learning rate, time.

    The best round is marked. Rounds without a validation are left out, and of a long run ``hidden`` ones.
    """
    validated = [round_ for round_ in rounds if round_.validation_mcc is not None]
    names = list(dict.fromkeys(name for round_ in validated for name, site in round_.sites.items() if site.validation_mcc is not None))
    shown = names if len(names) <= _ROUND_SITE_LIMIT else []
    table = _table("validation by round")
    for heading in ("round", "train loss", "MCC"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in shown or (["lowest site"] if names else []):
        table.add_column(foreign(name), justify="right", overflow="fold")
    table.add_column(Group("learning", "rate"), justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for round_ in validated:
        cells = [fmt.loss(round_.train_loss), fmt.score(round_.validation_mcc), *_site_scores(round_, shown, bool(names))]
        best = round_.round == best_round
        table.add_row(
            f"{'* ' if best else ''}{round_.round}",
            *cells,
            fmt.rate(round_.learning_rate),
            fmt.duration(round_.seconds),
            style="bold" if best else "",
        )
    _add_rest(table, hidden, "rounds between these, in rounds.parquet")
    return table


def communication_table(summary: Summary) -> Table:
    """Bytes from (up) and to (down) each site, the busiest 20 of them, and all together."""
    traffic = RunSummary.of(summary).communication
    table = _table("communication")
    table.add_column("", overflow="fold")
    table.add_column("up", justify="right", no_wrap=True)
    table.add_column("down", justify="right", no_wrap=True)
    busiest = sorted(traffic.sites.items(), key=lambda item: -(item[1].up_bytes + item[1].down_bytes))
    shown = list(traffic.sites.items()) if len(busiest) <= SITE_LIMIT else busiest[:SITE_LIMIT]
    for name, site in shown:
        table.add_row(foreign(name), fmt.size(site.up_bytes), fmt.size(site.down_bytes))
    _add_rest(table, len(busiest) - len(shown), "more sites")
    table.add_row("all sites", fmt.size(traffic.up_bytes), fmt.size(traffic.down_bytes), style="bold")
    return table


def foreign(text: str, style: str = "") -> Text:
    """Somebody else's text as a cell."""
    return Text(visible(text), style=style)


def _table(title: str) -> Table:
    return Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False, collapse_padding=True)


def _add_split(table: Table, run: RunSummary, split: Split) -> None:
    table.add_row(Text(split, style="italic"))
    sites = run.sites_on(split, SITE_LIMIT)
    for name, metrics in sites:
        worst = run.is_worst(name, split)
        label = Text.assemble("  ", foreign(name), (" (worst)", "yellow") if worst else "")
        table.add_row(label, *_metric_cells(metrics))
    _add_rest(table, run.site_count(split) - len(sites), "better sites")
    table.add_row("  all sites", *_metric_cells(run.on(split)), style="bold", end_section=split == "test")


def _add_rest(table: Table, number: int, what: str) -> None:
    if number > 0:
        table.add_row(Text(f"  … and {number:,} {what}", style="dim"))


def _metric_cells(metrics: Metrics | None) -> list[str]:
    if metrics is None:
        return [fmt.MISSING] * 5
    return [
        fmt.count(metrics.images),
        fmt.percent(metrics.accuracy),
        fmt.percent(metrics.balanced_accuracy),
        fmt.score(metrics.mcc),
        fmt.score(metrics.roc_auc),
    ]


def _per_class(metrics: Metrics, title: str) -> Table:
    table = _table(title)
    table.add_column("class", overflow="fold")
    for heading in ("images", "precision", "recall", "F1"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in list(metrics.per_class.items())[:CLASS_ROWS]:
        table.add_row(foreign(name), fmt.count(row.support), fmt.percent(row.precision), fmt.percent(row.recall), fmt.percent(row.f1))
    _add_rest(table, len(metrics.per_class) - CLASS_ROWS, "more classes, in summary.json")
    return table


def _confusion(metrics: Metrics) -> Table:
    """Columns are headed by the classes' names, or by their numbers where the names are long."""
    names = list(metrics.per_class)
    numbered = sum(map(len, names)) > _CONFUSION_NAME_WIDTH
    table = _table("rows: truth, columns: prediction")
    table.add_column("", overflow="fold")
    for number, name in enumerate(names, start=1):
        table.add_column(foreign(str(number) if numbered else name), justify="right", no_wrap=True)
    for truth, (name, row) in enumerate(zip(names, metrics.confusion, strict=True)):
        cells = [Text(fmt.count(number), style=_confusion_style(number, truth == column)) for column, number in enumerate(row)]
        table.add_row(foreign(f"{truth + 1} {name}" if numbered else name), *cells)
    return table


def _confusion_style(number: int, correct: bool) -> str:
    if correct:
        return "bold"
    return "" if number else "dim"


def _site_scores(round_: RoundResult, shown: Sequence[str], any_site: bool) -> list[str]:
    scores = {name: site.validation_mcc for name, site in round_.sites.items() if site.validation_mcc is not None}
    if shown:
        return [fmt.score(scores.get(name)) for name in shown]
    return [fmt.score(min(scores.values(), default=None))] if any_site else []
