"""Pictures of a sweep, as SVG text. Narrow ones, which stand side by side on a wide page and one below the other on a narrow one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from primia.report import format as fmt
from primia.report.figures import COLOURS, INK, shorten, svg_figure
from primia.search.records import State, TrialRecord
from primia.search.report.importance import Parameter, text_of

VALUE = "validation MCC"

_SOFT = "#9aa5b1"
_WIDTH = 4.4
_SLICE = (2.85, 2.2)
_MARKS: dict[State, tuple[str, str, bool]] = {
    State.COMPLETE: ("o", COLOURS[0], True),
    State.PRUNED: ("v", COLOURS[4], False),
    State.FAILED: ("x", COLOURS[1], True),
    State.RUNNING: ("o", "#52606d", False),
}
"""Shape, colour and whether it is filled: told apart in grey too."""
_SHADES: Colormap = LinearSegmentedColormap.from_list("shades", colormaps["Blues"](np.linspace(0.25, 1.0, 64)))
_ROW_CHARACTERS = 56
_CHARACTER, _LABEL_GAP = 0.042, 0.26
"""Of a slice's tick labels, as shares of its axis: the width of a character, and how far at least two of them are apart."""
_CATEGORY_CHARACTERS = 28
_MANY = 40
"""More lines than that are drawn fainter."""
_BACKDROP: dict[str, Any] = {"bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.6}}


def history(records: Sequence[TrialRecord], best: TrialRecord | None) -> str:
    """Each trial's value, by state, and the best so far of those trained to the end; failed ones stand at the lower edge."""
    with svg_figure(_WIDTH, 3.2) as (figure, svg):
        axes = figure.subplots()
        scored = [record for record in records if record.value is not None and record.state != State.FAILED]
        complete = [record for record in scored if record.state == State.COMPLETE]
        if complete:
            highest = np.maximum.accumulate([_value(record) for record in complete])
            numbers = [record.number for record in complete]
            axes.step([*numbers, records[-1].number], [*highest, highest[-1]], where="post", color=INK, linewidth=1.4, label="best so far")
        _scatter(axes, scored, {record.number: float(record.number) for record in scored})
        failed = [record.number for record in records if record.state == State.FAILED]
        if failed:
            marker, colour, _ = _MARKS[State.FAILED]
            edge = axes.get_xaxis_transform()
            axes.plot(failed, [0.03] * len(failed), marker, color=colour, markersize=5, transform=edge, label=str(State.FAILED))
        if best is not None and best.value is not None:
            _ring(axes, float(best.number), best.value)
        _title(axes, "trial by trial", "trial")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _legend(figure)
    return svg.getvalue()


def curves(records: Sequence[TrialRecord], best: TrialRecord | None) -> str:
    """Validation MCC by round of every trial; the best is bold, those that were ended early are dashed and end in a mark."""
    with svg_figure(_WIDTH, 3.2) as (figure, svg):
        axes = figure.subplots()
        drawn = [record for record in records if record.curve and record is not best]
        faint = 0.75 if len(drawn) <= _MANY else 0.35
        for state in (State.PRUNED, State.FAILED, State.RUNNING, State.COMPLETE):
            _lines(axes, [record for record in drawn if record.state == state], state, faint)
        if best is not None and best.curve:
            xs, ys = zip(*best.curve, strict=True)
            axes.plot(xs, ys, color=INK, linewidth=2.6, marker="o" if len(xs) == 1 else "", label=f"best: trial {best.number}", zorder=5)
        _title(axes, "round by round", "round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _legend(figure)
    return svg.getvalue()


def importance_bars(shares: Mapping[str, float]) -> str:
    """A bar for each parameter, its name above it."""
    with svg_figure(_WIDTH, 0.5 + 0.42 * len(shares)) as (figure, svg):
        axes = figure.subplots()
        for row, (name, share) in enumerate(shares.items()):
            axes.barh(row, share, height=0.4, color=COLOURS[0])
            axes.text(0, row - 0.28, f"{name}   {100 * share:.0f} %", ha="left", va="bottom")
        axes.set_ylim(len(shares) - 0.6, -0.95)
        axes.set_yticks([])
        axes.set_xlim(0, max(shares.values()))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        axes.xaxis.set_major_locator(MaxNLocator(5))
    return svg.getvalue()


def parallel_coordinates(records: Sequence[TrialRecord], parameters: Sequence[Parameter], best: TrialRecord | None) -> str:
    """A line for each trial through its values, one axis below the other, the result at the bottom; darker is better.

    A line passes by the axes of parameters that had no effect in its trial: it has a dot only where it has a value.
    """
    scored = sorted((record for record in records if record.value is not None), key=_value)
    values = [_value(record) for record in scored]
    result = Parameter(VALUE, "linear", tuple(sorted(set(values))))
    rows = [*parameters, result]
    shade = Normalize(float(np.percentile(values, 20)), max(values))
    faint = 0.8 if len(scored) <= _MANY else 0.4
    with svg_figure(_WIDTH, 0.3 + 0.58 * len(rows)) as (figure, svg):
        axes = figure.subplots()
        for record in scored:
            is_best = record is best
            points = [(_along(row, record.parameters[row.name]), y) for y, row in enumerate(parameters) if row.name in record.parameters]
            xs, ys = zip(*points, (_along(result, _value(record)), len(parameters)), strict=True)
            colour = COLOURS[1] if is_best else _SHADES(shade(_value(record)))
            width, size = (2.2, 5.0) if is_best else (0.8, 2.5)
            axes.plot(
                xs, ys, color=colour, linewidth=width, marker="o", markersize=size, alpha=1.0 if is_best else faint, zorder=3 + is_best
            )
        for y, row in enumerate(rows):
            _row_axis(axes, y, row)
        axes.set(xlim=(-0.03, 1.03), ylim=(len(rows) - 0.55, -0.5))
        axes.axis("off")
    return svg.getvalue()


def slice_of(records: Sequence[TrialRecord], parameter: Parameter, best: TrialRecord | None) -> str:
    """Value against one parameter; points of one category are spread a little, so that they do not hide each other."""
    shown = [record for record in records if record.value is not None and parameter.name in record.parameters]
    spread = 0.35 if parameter.scale == "category" else 0.0
    places = {
        record.number: parameter.position(record.parameters[parameter.name]) + spread * (record.number * 0.618 % 1 - 0.5)
        for record in shown
    }
    with svg_figure(*_SLICE) as (figure, svg):
        axes = figure.subplots()
        _scatter(axes, shown, places, size=4.0)
        if best is not None and best.value is not None and best.number in places:
            _ring(axes, places[best.number], best.value, 8.0)
        axes.set_title(shorten(parameter.name, 38), loc="left", fontsize=9, fontweight="bold")
        axes.set_ylabel(VALUE)
        _slice_axis(axes, parameter)
    return svg.getvalue()


def front(records: Sequence[TrialRecord], chosen: Sequence[TrialRecord], label: str, in_bytes: bool) -> str:
    """Validation MCC against what it costs; the front is joined by steps, its trials are named by number."""
    shown = [record for record in records if record.value is not None and record.second is not None]
    places = {record.number: float(record.second) for record in shown if record.second is not None}
    steps = sorted((places[record.number], _value(record), record.number) for record in chosen if record.number in places)
    with svg_figure(6.2, 3.6) as (figure, svg):
        axes = figure.subplots()
        if steps:
            xs, ys, _ = zip(*steps, strict=True)
            axes.step(xs, ys, where="post", color=INK, linewidth=1.4, label="front")
        _scatter(axes, shown, places)
        for x, y, _ in steps:
            _ring(axes, x, y)
        axes.margins(0.08, 0.12)
        _name_points(axes, steps)
        axes.set(xlabel=label, ylabel=VALUE)
        if in_bytes:
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: fmt.size(round(value))))
        _legend(figure)
    return svg.getvalue()


def _value(record: TrialRecord) -> float:
    assert record.value is not None
    return record.value


def _title(axes: Axes, title: str, across: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set(xlabel=across, ylabel=VALUE)


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside lower center", ncols=5, columnspacing=1.0, handlelength=1.4, handletextpad=0.4)


def _scatter(axes: Axes, records: Sequence[TrialRecord], places: Mapping[int, float], size: float = 5.0) -> None:
    for state, (marker, colour, filled) in _MARKS.items():
        group = [record for record in records if record.state == state]
        if group:
            xs, ys = [places[record.number] for record in group], [_value(record) for record in group]
            face = colour if filled else "white"
            axes.plot(xs, ys, marker, color=colour, markerfacecolor=face, markersize=size, alpha=0.85, label=_label(state), zorder=3)


def _label(state: State) -> str:
    """In the legend: whether what is not over still runs cannot be told by the trial alone."""
    return "unfinished" if state is State.RUNNING else str(state)


def _ring(axes: Axes, x: float, y: float, size: float = 10.0) -> None:
    axes.plot([x], [y], "o", markersize=size, color="none", markeredgecolor=INK, markeredgewidth=1.6, zorder=5)


def _name_points(axes: Axes, points: Sequence[tuple[float, float, int]]) -> None:
    """The numbers of points in their order; those that all but touch share one label."""
    width, height = np.diff(axes.get_xlim())[0], np.diff(axes.get_ylim())[0]
    labels: list[tuple[float, float, list[str]]] = []
    for x, y, number in points:
        if labels and abs(x - labels[-1][0]) < 0.05 * width and abs(y - labels[-1][1]) < 0.08 * height:
            labels[-1][2].append(str(number))
        else:
            labels.append((x, y, [str(number)]))
    for x, y, numbers in labels:
        axes.annotate(
            shorten(", ".join(numbers)), (x, y), xytext=(-6, 5), textcoords="offset points", ha="right", va="bottom", fontweight="bold"
        )


def _lines(axes: Axes, records: Sequence[TrialRecord], state: State, alpha: float) -> None:
    """The curves of one state; one legend entry for all."""
    if not records:
        return
    marker, colour, _ = _MARKS[state]
    ends = [record.curve[-1] for record in records]
    dash = "solid" if state == State.COMPLETE else (0, (3, 1.5))
    axes.add_collection(
        LineCollection([list(record.curve) for record in records], colors=colour, linewidths=1.0, linestyles=dash, alpha=alpha)
    )
    axes.plot(*zip(*ends, strict=True), marker, color=colour, markersize=3.5, alpha=alpha, label=_label(state))


def _along(parameter: Parameter, value: object) -> float:
    """A value's place between the lowest (0) and the highest (1)."""
    low, here, high = (parameter.position(item) for item in (parameter.values[0], value, parameter.values[-1]))  # type: ignore[arg-type]
    if parameter.scale == "log":
        low, here, high = np.log([low, here, high])
    return float((here - low) / (high - low)) if high > low else 0.5


def _row_axis(axes: Axes, y: int, parameter: Parameter) -> None:
    """A horizontal axis with its name above and its ends, or all categories, below."""
    axes.plot([0, 1], [y, y], color=_SOFT, linewidth=1, zorder=2)
    axes.text(0, y - 0.13, shorten(parameter.name, _ROW_CHARACTERS), ha="left", va="bottom", fontweight="bold", zorder=6, **_BACKDROP)
    shown = parameter.values if parameter.scale == "category" else parameter.values[:: max(1, len(parameter.values) - 1)]
    for value in shown:
        x = _along(parameter, value)
        text = shorten(text_of(value), max(3, _ROW_CHARACTERS // len(shown)))
        side = "left" if x == 0 else "right" if x == 1 else "center"
        axes.text(x, y + 0.1, text, ha=side, va="top", fontsize=8, color="#52606d", zorder=6, **_BACKDROP)


def _slice_axis(axes: Axes, parameter: Parameter) -> None:
    if parameter.scale == "category":
        short = [shorten(text, 12) for text in parameter.labels]
        turned = any(len(short) * ((len(left) + len(right)) / 2 + 1) > _CATEGORY_CHARACTERS for left, right in pairwise(short))
        axes.set_xticks(range(len(short)), short, rotation=35 if turned else 0, ha="right" if turned else "center")
        axes.set_xlim(-0.6, len(short) - 0.4)
        return
    low, high = float(parameter.values[0]), float(parameter.values[-1])
    if parameter.scale == "log":
        axes.set_xscale("log")
        pad = (high / low) ** 0.05
        axes.set_xlim(low / pad, high * pad)  # its own choice would be a whole decade
    else:
        pad = 0.05 * (high - low)
        axes.set_xlim(low - pad, high + pad)
    ticks = _apart([(_along(parameter, tick), tick, f"{tick:g}") for tick in _ticks(parameter)])
    axes.set_xticks([tick for _, tick, _ in ticks], [text for _, _, text in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _ticks(parameter: Parameter) -> list[float]:
    """Round numbers within the parameter's range, or its values where they are few and round themselves."""
    values = [float(value) for value in parameter.values]
    low, high = values[0], values[-1]
    if parameter.scale == "linear" and len(values) <= 6 and all(value == float(f"{value:.3g}") for value in values):
        return values
    if parameter.scale == "log" and len(powers := _round_numbers(low, high)) > 1:
        return powers
    whole = all(isinstance(value, int) for value in parameter.values)
    locator = MaxNLocator(3, integer=whole, steps=[1, 2, 2.5, 5, 10])
    return [float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high] or [low, high]


def _round_numbers(low: float, high: float) -> list[float]:
    """Powers of ten between two numbers; with their double and their fivefold where these are less than two decades apart."""
    firsts = (1, 2, 5) if high < 100 * low else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = [float(f"{first}e{power}") for power in powers for first in firsts]
    return [number for number in numbers if low <= number <= high]


def _apart(ticks: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """The first, the last and as many between them as leave room for each other's labels; each is its place (0 to 1), number and text."""

    def has_room(left: tuple[float, float, str], right: tuple[float, float, str]) -> bool:
        return right[0] - left[0] >= max(_LABEL_GAP, _CHARACTER * ((len(left[2]) + len(right[2])) / 2 + 1))

    *others, last = ticks
    kept: list[tuple[float, float, str]] = []
    for tick in others:
        if has_room(tick, last) and (not kept or has_room(kept[-1], tick)):
            kept.append(tick)
    return [*kept, last]
