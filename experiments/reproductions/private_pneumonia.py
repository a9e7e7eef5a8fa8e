"""What differential privacy costs on the chest X-rays: a private federation beside its non-private twin, over several seeds.

    python experiments/reproductions/private_pneumonia.py --data ../shared/data/chest_xray --output runs/private-pneumonia \
        --seeds 1 2 3 [--config configs/pneumonia-private.ini] [--set section.key=value]...

One split by patient (data.split_seed), several seeds of the initial model and of the training (run.seed). The twin has the
same network, passes and secure aggregation, but neither clipping nor noise, and the batches, optimiser and class weights that
suit a training without them (``TWIN``). Settings are chosen by validation; that choice is not part of epsilon. Runs that are
there already are kept, interrupted ones are resumed. Ends with a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import primia
from primia.federation.events import Event, RoundFinished

TWIN = (
    "privacy.unit=none",
    "privacy.target_epsilon=",
)


def show(event: Event) -> None:
    if isinstance(event, RoundFinished) and event.validation:
        print(f"  round {event.round}: validation MCC {event.validation['mcc']:.4f}, {event.seconds:.1f} s", flush=True)


def train(config: Path, overrides: list[str], folder: Path) -> dict[str, Any]:
    """Summary of the finished run in ``folder``: as it is, resumed, or trained now."""
    print(folder.name, flush=True)
    if (folder / "summary.json").exists():
        return primia.Run(folder).summary
    if folder.exists():
        return primia.train(resume=folder, on_event=show).summary
    settings = primia.load_config(config, [*overrides, f"run.output={folder.parent}", f"run.name={folder.name}"])
    return primia.train(settings, on_event=show).summary


def result(summary: dict[str, Any]) -> dict[str, float | None]:
    """What the table shows of a run; epsilon and delta are the largest of any site."""
    sites = summary["privacy"]["sites"].values()
    spent = {key: max((site[key] for site in sites), default=None) for key in ("epsilon", "delta")}
    metrics = {f"{split}_{metric}": summary[split][metric] for split in ("validation", "test") for metric in ("mcc", "accuracy")}
    return {**metrics, **spent, "seconds": summary["timing"]["total"]}


def describe(results: list[dict[str, Any]]) -> dict[str, object]:
    """Mean, standard deviation and values of each number that all runs have."""
    return {key: _spread([one[key] for one in results]) for key, value in results[0].items() if value is not None}


def _spread(values: list[float]) -> dict[str, object]:
    spread = stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(mean(values), 4), "sd": round(spread, 4), "values": [round(value, 4) for value in values]}


def show_table(results: dict[str, list[dict[str, Any]]], seeds: list[int]) -> None:
    print(f"{'':12}{'seed':>5}{'val. MCC':>10}{'test MCC':>10}{'test acc.':>10}{'epsilon':>9}{'seconds':>9}")
    for name, ones in results.items():
        for seed, one in zip(seeds, ones, strict=True):
            epsilon = "none" if one["epsilon"] is None else f"{one['epsilon']:.3f}"
            scores = f"{one['validation_mcc']:10.4f}{one['test_mcc']:10.4f}{one['test_accuracy']:10.4f}"
            print(f"{name:12}{seed:5}{scores}{epsilon:>9}{one['seconds']:9.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).parents[2] / "configs/pneumonia-private.ini")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--set", dest="sets", action="append", default=[], help="for both, and above the twin's own settings")
    options = parser.parse_args()
    output, data = options.output.resolve(), options.data.resolve()
    results: dict[str, list[dict[str, Any]]] = {}
    for name, extra in {"private": (), "non-private": TWIN}.items():
        results[name] = [
            result(train(options.config, [f"data.path={data}", *extra, *options.sets, f"run.seed={seed}"], output / f"{name}-seed{seed}"))
            for seed in options.seeds
        ]
    show_table(results, options.seeds)
    summary = {name: describe(ones) for name, ones in results.items()}
    cost = mean(one["test_mcc"] for one in results["non-private"]) - mean(one["test_mcc"] for one in results["private"])
    print(
        json.dumps(
            {
                "experiment": "private_pneumonia",
                "config": options.config.name,
                "seeds": options.seeds,
                **summary,
                "cost_of_privacy_in_test_mcc": round(cost, 4),
            }
        )
    )


if __name__ == "__main__":
    main()
