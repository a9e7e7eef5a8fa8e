"""``primia-ray evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from primia.cli.terminal import Terminal


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[Path, typer.Option(help="Labelled images: class folders, or sites with class folders.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
    on_bad_image: Annotated[
        Literal["error", "skip"], typer.Option(help="error, or skip: unreadable images are named and counted.")
    ] = "error",
) -> None:
    """Test a run's model on labelled images that it has not seen.

    Class folders must carry the names that the model was trained with. Where the folder has a test split,
    only that is used.

    Example: primia-ray evaluate runs/first --data other_hospital/ --json
    """
    import json

    from primia import api

    results = api.evaluate(run, data, on_bad_image=on_bad_image)
    if as_json:
        typer.echo(json.dumps(results, indent=1))
        return
    from primia.report.tables import evaluation_tables

    console = Terminal()
    console.print(
        f"{results['images']} images: accuracy {results['accuracy']:.1%}, balanced accuracy {results['balanced_accuracy']:.1%}, "
        f"MCC {results['mcc']:.3f}, ROC-AUC {'-' if results['roc_auc'] is None else format(results['roc_auc'], '.3f')}"
    )
    for name, metrics in results.get("sites", {}).items():
        console.print(f"  {name}: {metrics['images']} images, MCC {metrics['mcc']:.3f}, accuracy {metrics['accuracy']:.1%}")
    for table in evaluation_tables(results, "all images"):
        console.print(table)
    for image in results["skipped"]:
        console.say(f"skipped {image}")
