"""Evaluation from Python: a run's model on labelled images."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

from primia.api.training import Run
from primia.data.prepare import prepare_evaluation


def evaluate(run: Run | Path | str, data: Path | str, *, on_bad_image: Literal["error", "skip"] = "error") -> dict[str, Any]:
    """Metrics of a run's model on labelled images: over all of them, and under ``sites`` for each site where there are several.

    ``data``: class folders named as the model's classes, or any layout that ``train`` takes; where it has a test
    split, that is used. Images are packed into a temporary folder, one pass, nothing is kept.

    Raises:
        ModelError, DataError: one line that says what does not fit.
    """
    from primia.data.shard import Shard
    from primia.models.file import load_model
    from primia.training.evaluation import evaluate_model

    folder = run.path if isinstance(run, Run) else Path(run)
    model, card = load_model(folder)
    with tempfile.TemporaryDirectory(prefix="primia-") as cache:
        images = prepare_evaluation(
            Path(data),
            classes=card.classes,
            channels=card.channels,
            image_size=card.image_size,
            cache=Path(cache),
            on_bad_image=on_bad_image,
        )
        sites = {
            site.name: evaluate_model(model, Shard.open(site.test), card.normalisation, len(card.classes))
            for site in images.sites
            if site.test
        }
    first, *rest = sites.values()
    results: dict[str, Any] = sum(rest, start=first).metrics(card.classes) | {
        "run": str(folder),
        "data": str(data),
        "skipped": list(images.skipped),
    }
    if len(sites) > 1:
        results["sites"] = {name: evaluation.metrics(card.classes) for name, evaluation in sites.items()}
    return results
