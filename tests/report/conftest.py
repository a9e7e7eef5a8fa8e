"""A run folder as a run of three hospitals leaves it: real shapes, made-up numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from primia.config.settings import Settings

SITES = ("hospital-a", "hospital-b", "hospital-c")
CLASSES = ("bacterial", "normal", "viral")
ROUNDS = 6
STEPS = 8


def metrics(confusion: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """``summary.json``'s metrics of a confusion matrix (rows: truth)."""
    n, right = int(confusion.sum()), np.diag(confusion)
    truth, predicted = confusion.sum(1), confusion.sum(0)
    recall = right / np.maximum(truth, 1)
    precision = right / np.maximum(predicted, 1)
    spread = np.sqrt(float(n**2 - (predicted**2).sum()) * float(n**2 - (truth**2).sum()))
    return {
        "images": n,
        "loss": 0.4321,
        "accuracy": float(right.sum() / n),
        "balanced_accuracy": float(recall.mean()),
        "mcc": float((n * right.sum() - truth @ predicted) / spread),
        "roc_auc": 0.9123,
        "confusion": confusion.tolist(),
        "per_class": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(2 * right[i] / max(1, truth[i] + predicted[i])),
                "support": int(truth[i]),
            }
            for i, name in enumerate(classes)
        },
    }


def confusion(images: int, skill: float, classes: int) -> np.ndarray:
    """A matrix in which a share ``skill`` of each class is right and the rest goes to the next class."""
    truth = np.full(classes, images // classes)
    matrix = np.diag(np.round(truth * skill).astype(int))
    for row in range(classes):
        matrix[row, (row + 1) % classes] += truth[row] - matrix[row, row]
    return matrix


def rounds_table(training: Sequence[str], validating: Sequence[str], rounds: int, skill: float, rate: Callable[[int], float]) -> pa.Table:
    """``rounds.parquet``; the second site fails in round 3."""
    rows = []
    for round_ in range(1, rounds + 1):
        score = skill * (1 - 0.6**round_) - 0.1 * (round_ == rounds)
        for index, site in enumerate(training):
            failed = index == 1 and round_ == 3
            row = {"round": round_, "site": site, "status": "the worker died" if failed else "ok", "samples": None, "steps": None}
            if not failed:
                row |= {
                    "train_loss": 1.1 * 0.7**round_ + 0.05 * index,
                    "learning_rate": rate(round_),
                    "seconds": 2.1,
                }
                row |= {
                    "validation_mcc": max(-1.0, score - 0.04 * index) if site in validating else None,
                    "up_bytes": 400_000,
                    "down_bytes": 400_000,
                }
            rows.append(row)
        rows.append(
            {
                "round": round_,
                "site": "all",
                "status": "ok",
                "samples": 540,
                "steps": STEPS * (len(training) - (round_ == 3 and len(training) > 1)),
                "train_loss": 1.1 * 0.7**round_ + 0.05,
            }
            | {"learning_rate": rate(round_), "seconds": 2.4, "up_bytes": 1, "down_bytes": 1, "validation_mcc": score - 0.04}
        )
    schema = pa.schema(
        [("round", pa.int64()), ("site", pa.string()), ("status", pa.string()), ("samples", pa.int64()), ("steps", pa.int64())]
        + [(name, pa.float64()) for name in ("train_loss", "learning_rate", "seconds")]
        + [("up_bytes", pa.int64()), ("down_bytes", pa.int64())]
        + [(f"validation_{name}", pa.float64()) for name in ("mcc", "accuracy", "loss")]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def make_run(
    folder: Path,
    *,
    mode: str = "federated",
    site: str = "",
    seed: int = 1,
    skill: float = 0.9,
    rounds: int = ROUNDS,
    sites: Sequence[str] = SITES,
    classes: Sequence[str] = CLASSES,
    fingerprint: str = "5eed",
    settings: dict[str, dict[str, Any]] | None = None,
    rate: Callable[[int], float] = lambda round_: 1e-3 * 0.6**round_,
    change: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Write a finished run; ``skill`` is the share of right answers at the first site, each next one being worse by 0.05.

    ``change`` gets the summary before it is written. All modes take equal optimisation steps.
    """
    folder.mkdir(parents=True)
    size = len(classes)
    validating = [site] if mode == "local" else list(sites)
    matrices = {name: confusion(20 * size, skill - 0.05 * (index % 8), size) for index, name in enumerate(sites)}
    site_metrics = {name: metrics(matrix, classes) for name, matrix in matrices.items()}
    pooled = metrics(sum(matrices.values()), classes)  # type: ignore[arg-type]
    worst = min(site_metrics, key=lambda name: float(site_metrics[name]["mcc"]))
    config = Settings().model_dump(mode="json")
    config["run"] |= {"name": folder.name, "mode": mode, "site": site, "seed": seed}
    for section, values in (settings or {}).items():
        config[section] |= values
    trained = {"federated": list(sites), "pooled": ["pooled"], "local": [site]}[mode]
    table = rounds_table(trained, validating, rounds, skill, rate)
    if mode != "federated":
        steps = [STEPS * len(sites) - (row["round"] == 3) * STEPS for row in table.to_pylist()]
        table = table.set_column(4, "steps", pa.array(steps, pa.int64()))
    summary: dict[str, Any] = {
        "name": folder.name,
        "mode": mode,
        "seed": seed,
        "status": "complete",
        "rounds": rounds,
        "best_round": rounds - 1,
        "synthetic": True,
        "validation": site_metrics[site] if mode == "local" else pooled,
        "test": pooled,
        "sites": {
            name: {"validation": value if name in validating else None, "test": value, "trains": True, "train_images": 180}
            for name, value in site_metrics.items()
        },
        "worst_site": {"name": worst, "mcc": site_metrics[worst]["mcc"]},
        "timing": {"total": 75.0, "data": 4.2, "start": 6.5, "training": 58.9, "validation": 4.4, "test": 1.0},
        "communication": {
            "up_bytes": 1_200_000 * len(trained),
            "down_bytes": 2_400_000 * len(trained),
            "sites": {name: {"up_bytes": 1_200_000, "down_bytes": 2_400_000} for name in trained},
        },
        "model": {"name": "convnet", "parameters": 98_765},
        "data": {
            "classes": list(classes),
            "image_size": 64,
            "channels": 1,
            "skipped": [],
            "train_images": 180 if mode == "local" else 180 * len(sites),
            "counts": {
                split: {name: dict.fromkeys(classes, images) for name in sites}
                for split, images in (("train", 60), ("validation", 20), ("test", 20))
            },
        },
        "privacy": {
            "unit": "none",
            "secure_aggregation": mode == "federated",
            "sealed": False,
            "chooses_model": True,
            "sites": {},
            "statement": "Nothing is hidden.",
        },
        "faults": [{"round": 3, "site": site, "reason": "the worker died"} for site in trained[1:2]],
        "versions": {"python": "3.11.7", "torch": "2.14.1", "primia": "0.1.0"},
        "config": config,
    }
    if change:
        change(summary)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "data.json").write_text(json.dumps({"fingerprint": fingerprint}))
    (folder / "config.ini").write_text("[run]\n")
    pq.write_table(table, folder / "rounds.parquet")
    return folder


@pytest.fixture(name="make_run")
def _make_run(tmp_path: Path) -> Callable[..., Path]:
    """``make_run(name, **options)`` in a temporary folder."""
    return lambda name="run", **options: make_run(tmp_path / name, **options)
