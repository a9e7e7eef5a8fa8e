"""What came of a round, and its rows in ``rounds.parquet``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from primia.federation.messages import Contribution, SiteFailure, SiteReport
from primia.runs.rounds import ALL_SITES, HistoryRow


@dataclass
class Outcome:
    """What came back in one round.

    ``has_loss``: losses may be told. ``learning_rate``: at the start of the round. ``seconds``: from its start until the driver had the
    answer of a site, which is all that it knows of the site's time.
    """

    has_loss: bool
    learning_rate: float
    total: Contribution | None = None
    reports: list[SiteReport] = field(default_factory=list)
    failures: list[SiteFailure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def loss(self) -> float | None:
        """Mean training loss over all images of the round; None where it is private."""
        return self.total.loss_sum / max(1, self.total.samples) if self.total and self.has_loss else None


@dataclass(frozen=True)
class Evaluated:
    """Metrics over all images of a split, those of the sites that tell theirs, and the sites that are in the former."""

    pooled: Mapping[str, object]
    sites: Mapping[str, Mapping[str, object]]
    answered: tuple[str, ...]

    @property
    def mcc(self) -> float:
        """Pooled MCC."""
        return float(str(self.pooled["mcc"]))


def history_rows(round_: int, outcome: Outcome, validation: Evaluated | None, seconds: float, model_bytes: int) -> Iterator[HistoryRow]:
    """A row for each site, delivered or left out, and one for all."""
    for report in outcome.reports:
        row = _site_row(round_, report, outcome, model_bytes)
        yield _with_validation(row, validation.sites.get(report.site) if validation else None)
    yield from (HistoryRow(round_, failure.site, failure.reason) for failure in outcome.failures)
    yield _with_validation(_pooled_row(round_, outcome, seconds, model_bytes), validation.pooled if validation else None)


def _site_row(round_: int, report: SiteReport, outcome: Outcome, model_bytes: int) -> HistoryRow:
    return HistoryRow(
        round=round_,
        site=report.site,
        samples=report.samples,
        steps=report.steps,
        train_loss=report.loss,
        learning_rate=outcome.learning_rate,
        seconds=outcome.seconds[report.site],
        epsilon=float(str(report.privacy["epsilon_spent"])) if report.privacy else None,
        up_bytes=report.upload_bytes,
        down_bytes=model_bytes,
    )


def _pooled_row(round_: int, outcome: Outcome, seconds: float, model_bytes: int) -> HistoryRow:
    reports, total = outcome.reports, outcome.total
    return HistoryRow(
        round=round_,
        site=ALL_SITES,
        samples=total.samples if total else 0,
        steps=total.steps if total else 0,
        train_loss=outcome.loss,
        learning_rate=outcome.learning_rate,
        seconds=seconds,
        up_bytes=sum(report.upload_bytes for report in reports),
        down_bytes=model_bytes * len(reports),
    )


def _with_validation(row: HistoryRow, metrics: Mapping[str, object] | None) -> HistoryRow:
    if metrics is None:
        return row
    mcc, accuracy, loss = (float(str(metrics[name])) for name in ("mcc", "accuracy", "loss"))
    return replace(row, validation_mcc=mcc, validation_accuracy=accuracy, validation_loss=loss)
