"""Pictures for the HTML pages, as SVG text: white background, legible in print and in grey."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from primia.runs.results import RoundResult
from primia.untrusted.shown import visible

SITE_LINE_LIMIT = 8
"""Up to so many sites have lines of their own; more are drawn as the band from the lowest to the highest."""

INK = "#1f2933"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c6d31")
"""Of lines and dots, told apart by the colour-blind: the first six are from the palette of Okabe and Ito."""

_GRID = "#e3e7eb"
_DASHES = ("-", "--", "-.", ":")
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "primia",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "legend.frameon": False,
}
CLASS_LIMIT = 60
"""Classes of the largest confusion matrix that is drawn: of more nothing could be read."""

_TEXT_CELLS = 15

Points = tuple[Sequence[int], Sequence[float]]


def training_curves(rounds: Sequence[RoundResult], best_round: int) -> str:
    """Training loss (where it is told) and validation MCC by round: sites thin, all sites bold, the best round marked."""
    shown = [("train_loss", "training loss")] if any(item.train_loss is not None for item in rounds) else []
    shown.append(("validation_mcc", "validation MCC"))
    with svg_figure(4.3 * len(shown), 3.5) as (figure, svg):
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        for axes, (name, title) in zip(panels, shown, strict=True):
            _draw_sites(axes, _by_site(rounds, name))
            _draw_pooled(axes, [(item.round, getattr(item, name)) for item in rounds])
            axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
            axes.set_xlabel("round")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _mark_best(panels[-1], rounds, best_round)
        if len(panels) > 1:
            panels[0].set_ylim(bottom=0)
        handles = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    return svg.getvalue()


def learning_rate_curve(rounds: Sequence[RoundResult]) -> str | None:
    """Learning rate at the start of each round; None where it never changes."""
    rates = [(item.round, item.learning_rate) for item in rounds if item.learning_rate]
    values = [rate for _, rate in rates]
    if len(set(values)) < 2:
        return None
    with svg_figure(8.6, 1.7) as (figure, svg):
        axes = figure.subplots()
        axes.plot(*zip(*rates, strict=True), color=INK, marker="o", markersize=3)
        axes.set_title("learning rate", loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if max(values) > 20 * min(values):
            axes.set_yscale("log")
            plain_numbers(axes.yaxis)
    return svg.getvalue()


def confusion_matrix(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> str | None:
    """Rows: truth, columns: prediction; shade: share of the row; counts in the cells, with shares for few classes.

    None for more than :data:`CLASS_LIMIT` classes.
    """
    if len(classes) > CLASS_LIMIT:
        return None
    counts = np.asarray(confusion, dtype=np.int64)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    side = min(7.0, 1.3 + 0.68 * len(classes))
    with svg_figure(side + 0.5, side) as (figure, svg):
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        axes.grid(visible=False)
        ticks = range(len(classes))
        short = [shorten(name) for name in classes]
        turned = max(map(len, short)) > 9 or len(short) > 6
        axes.set_xticks(ticks, short, rotation=35 if turned else 0, ha="right" if turned else "center")
        axes.set_yticks(ticks, short)
        axes.set_xlabel("predicted")
        axes.set_ylabel("truth")
        if len(classes) <= _TEXT_CELLS:
            _write_cells(axes, counts, shares)
    return svg.getvalue()


def score_dots(groups: Mapping[str, Sequence[float]], label: str) -> str:
    """One row a group: a dot for each run, a bar for the mean."""
    with svg_figure(8.6, 0.9 + 0.38 * len(groups)) as (figure, svg):
        axes = figure.subplots()
        for row, scores in enumerate(groups.values()):
            axes.plot(scores, [row] * len(scores), "o", color=COLOURS[0], alpha=0.75, markersize=6)
            axes.plot([float(np.mean(scores))], [row], "|", color=INK, markersize=18, markeredgewidth=2)
        axes.set_yticks(range(len(groups)), [shorten(name, 48) for name in groups])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlabel(label)
    return svg.getvalue()


@contextmanager
def svg_figure(width_inches: float, height_inches: float) -> Iterator[tuple[Figure, io.StringIO]]:
    """A figure, and the buffer that holds its SVG once the block is left; no global pyplot state."""
    svg = io.StringIO()
    with style.context(_STYLE):
        figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
        yield figure, svg
        figure.savefig(svg, format="svg", metadata={"Date": None})


def plain_numbers(axis: Axis) -> None:
    """For a logarithmic axis, whose own formatter writes mathtext: that is off because site names may hold dollar signs."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def shorten(name: str, length: int = 22) -> str:
    """At most ``length`` characters, an ellipsis for the rest; all of them can be drawn."""
    name = visible(name)
    return name if len(name) <= length else name[: length - 1] + "…"


def _by_site(rounds: Sequence[RoundResult], field: str) -> dict[str, Points]:
    series: dict[str, tuple[list[int], list[float]]] = {}
    for item in rounds:
        for name, site in item.sites.items():
            value = getattr(site, field)
            if value is not None:
                xs, ys = series.setdefault(name, ([], []))
                xs.append(item.round)
                ys.append(value)
    return dict(series)


def _draw_sites(axes: Axes, series: Mapping[str, Points]) -> None:
    if len(series) > SITE_LINE_LIMIT:
        _draw_band(axes, series)
    elif len(series) > 1:
        for index, (name, (xs, ys)) in enumerate(sorted(series.items())):
            axes.plot(
                xs,
                ys,
                color=COLOURS[index],
                linestyle=_DASHES[index % len(_DASHES)],
                linewidth=1.1,
                label=shorten(name),
                marker=_marker(xs),
                markersize=4,
            )


def _draw_band(axes: Axes, series: Mapping[str, Points]) -> None:
    values: dict[int, list[float]] = {}
    for xs, ys in series.values():
        for x, y in zip(xs, ys, strict=True):
            values.setdefault(x, []).append(y)
    rounds = sorted(values)
    lowest, highest = [min(values[x]) for x in rounds], [max(values[x]) for x in rounds]
    axes.fill_between(rounds, lowest, highest, color=COLOURS[5], alpha=0.35, linewidth=0, label="lowest to highest site")


def _draw_pooled(axes: Axes, points: Sequence[tuple[int, float | None]]) -> None:
    known = [(x, y) for x, y in points if y is not None]
    xs, ys = [x for x, _ in known], [y for _, y in known]
    axes.plot(xs, ys, color=INK, linewidth=2.4, label="all sites", marker=_marker(xs), markersize=4)


def _marker(xs: Sequence[int]) -> str:
    """A single point has no line, so it needs a marker."""
    return "o" if len(xs) == 1 else ""


def _mark_best(axes: Axes, rounds: Sequence[RoundResult], best_round: int) -> None:
    best = next((item.validation_mcc for item in rounds if item.round == best_round), None)
    if best is None:
        return
    axes.axvline(best_round, color="#9aa5b1", linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    axes.plot([best_round], [best], "o", markersize=7, color="white", markeredgecolor=INK, markeredgewidth=2, zorder=5)
    late = best_round > rounds[len(rounds) // 2].round
    axes.annotate(
        f"best: round {best_round}, {best:.3f}",
        (best_round, 0),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if late else 5, 5),
        textcoords="offset points",
        ha="right" if late else "left",
        va="bottom",
    )


def _write_cells(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    few = len(counts) <= 6
    for (row, column), number in np.ndenumerate(counts):
        share = shares[row, column]
        text = f"{number:,}\n{100 * share:.0f} %" if few else f"{number:,}"
        axes.text(column, row, text, ha="center", va="center", fontsize=9 if few else 8, color="white" if share > 0.55 else INK)
