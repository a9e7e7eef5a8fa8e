"""What the terminal shows of an inference, in the clear or encrypted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from primia.cli.terminal import Terminal, bars

if TYPE_CHECKING:
    from rich.table import Table

_NAMED = 10


@contextmanager
def transfer_progress(console: Terminal) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal; gives what takes the images done and in all."""
    with bars(console) as shown:
        task = shown.add_task("loading the model", total=None)
        yield lambda done, total: shown.update(task, description="predicting", completed=done, total=total)


@contextmanager
def job_progress(console: Terminal) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Shows a job's events: the plan, and a progress bar."""
    with transfer_progress(console) as show:

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "plan":
                _show_plan(console, event["plan"])
            elif event["event"] == "progress":
                show(event["done"], event["total"])

        yield on_event


def _show_plan(console: Terminal, plan: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title=f"plan: ring of {plan['ring_bits']} bits, AES {plan['aes']}", title_justify="left"
    )
    table.add_column("layer", overflow="fold")
    for heading in ("output", "weight bits", "ReLU bits", "max bits"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in plan["layers"]:
        widths = [str(layer[key] or "-") for key in ("weight_bits", "comparison_bits", "pool_bits")]
        table.add_row(layer["name"], " x ".join(map(str, layer["shape"])), *widths)
    console.print(table)
    console.say(
        f"an image: {plan['comparisons']:,} comparisons, {plan['exchanges']} exchanges, {_size(plan['key_bytes'])} of keys, "
        f"{_size(plan['online_bytes'])} online; expected {plan['expected_preprocessing_core_s']:.2f} s of keys and "
        f"{plan['expected_online_core_s']:.2f} s online on one core"
    )
    found = plan["calibration"]
    if found["images"]:
        console.say(
            f"calibration: {found['same_class']} of {found['images']} images get the class that the model gives in the clear, "
            f"largest error of a logit {found['largest_error']:.4f}"
        )


def show_summary(console: Terminal, summary: dict[str, Any]) -> None:
    """Counts, classes and, where the truth is known, scores."""
    from primia.report import format as fmt
    from primia.runs.summary import Metrics

    if summary["synthetic"]:
        console.print("The model was trained on synthetic images: it knows nothing of patients.", style="yellow")
    failed = [f"{summary[key]:,} {what}" for key, what in (("unreadable", "unreadable"), ("out_of_range", "out of range")) if summary[key]]
    console.print(", ".join([f"{fmt.plural(summary['images'], 'image')}: {summary['ok']:,} predicted", *failed]))
    metrics = Metrics.model_validate(summary["metrics"]) if summary["metrics"] else None
    console.print(_class_table(summary["predicted"], metrics))
    if metrics:
        scores = (
            f"accuracy {fmt.percent(metrics.accuracy)}, balanced {fmt.percent(metrics.balanced_accuracy)}, MCC {fmt.score(metrics.mcc)}"
        )
        console.print(f"{scores}, over the {fmt.plural(metrics.images, 'image')} predicted")
    _show_failures(console, summary["failures"])


def _class_table(predicted: dict[str, int], metrics: Any) -> Table:
    from rich import box
    from rich.table import Table

    from primia.report import format as fmt

    total = sum(predicted.values())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class", overflow="fold")
    for heading in ("predicted", "share", *(["truth"] if metrics else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, count in predicted.items():
        true = [fmt.count(metrics.per_class[name].support)] if metrics else []
        table.add_row(name, fmt.count(count), fmt.percent(count / total if total else None), *true)
    return table


def _show_failures(console: Terminal, failures: Sequence[dict[str, str]]) -> None:
    for row in failures[:_NAMED]:
        line = f"{row['status']}: {row['file']} ({row['reason']})"
        console.say(line, "yellow")
    if len(failures) > _NAMED:
        console.say(f"... and {len(failures) - _NAMED:,} more without a prediction", "yellow")


def show_costs(console: Terminal, costs: dict[str, Any]) -> None:
    """What encryption took."""
    together = f"batches of {costs['batch_images']}" if costs["batch_images"] > 1 else "one image a batch"
    console.say(
        f"encrypted, {together}: keys {costs['preprocessing_s_per_batch']:.2f} s and online {costs['online_s_per_batch']:.2f} s a batch, "
        f"{costs['exchanges_per_batch']} exchanges, {_size(costs['online_bytes_per_image'])} online and "
        f"{_size(costs['key_bytes_per_image'])} of keys an image"
    )


def show_agreement(console: Terminal, found: dict[str, Any]) -> None:
    """How near the result is to the one in the clear."""
    console.say(
        f"check: {found['same_class']:,} of {found['images']:,} images get the class that the model gives in the clear, "
        f"largest difference of a probability {found['largest_difference']:.4f}"
    )


def _size(count: float) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"
