"""Federated against pooled and against each site alone, at equal optimisation steps, over several seeds.

    python experiments/reproductions/compare_modes.py --config configs/pneumonia-resnet18.ini --data ../shared/data/chest_xray \
        --output runs/pneumonia --seeds 1 2 3 [--set section.key=value]...

One split by patient (data.split_seed), several seeds of the initial model and of the training (run.seed). A round of
every mode makes the same number of optimiser steps in all. ``--local-rounds`` gives sites that train alone fewer rounds:
a third of the rounds for three sites is about as many steps as a site makes inside the federation. Runs that are there
already are kept, interrupted ones are resumed. Ends with the comparison and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

import primia
from primia.data.prepare import prepare
from primia.federation.events import Event, RoundFinished


def show(event: Event) -> None:
    if isinstance(event, RoundFinished) and event.validation:
        print(
            f"  round {event.round}: loss {event.train_loss:.4f}, validation MCC {event.validation['mcc']:.4f}, {event.seconds:.1f} s",
            flush=True,
        )


def train(config: Path, overrides: list[str], folder: Path) -> primia.Run:
    """The finished run in ``folder``: as it is, resumed, or trained now."""
    print(folder.name, flush=True)
    if (folder / "summary.json").exists():
        return primia.Run(folder)
    if folder.exists():
        return primia.train(resume=folder, on_event=show)
    settings = primia.load_config(config, [*overrides, f"run.output={folder.parent}", f"run.name={folder.name}"])
    return primia.train(settings, on_event=show)


def describe(values: list[float]) -> dict[str, object]:
    spread = stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(mean(values), 4), "sd": round(spread, 4), "values": [round(value, 4) for value in values]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--local-rounds", type=int, help="rounds of a site that trains alone; without it as many as the others")
    parser.add_argument("--set", dest="sets", action="append", default=[])
    options = parser.parse_args()
    output = options.output.resolve()
    overrides = [*([f"data.path={options.data.resolve()}"] if options.data else []), *options.sets]
    settings = primia.load_config(options.config, overrides)
    sites = [site.name for site in prepare(settings.data, output / ".shards").sites if site.train]
    alone = ["run.mode=local", *([f"federation.rounds={options.local_rounds}"] if options.local_rounds else [])]
    variants = {"federated": [], "pooled": ["run.mode=pooled"]} | {f"local-{site}": [*alone, f"run.site={site}"] for site in sites}
    scores: dict[str, list[float]] = {name: [] for name in variants}
    for name, extra in variants.items():
        for seed in options.seeds:
            run = train(options.config, [*overrides, *extra, f"run.seed={seed}"], output / f"{name}-seed{seed}")
            test = run.summary["test"]
            scores[name].append(test["mcc"])
            print(f"  test MCC {test['mcc']:.4f}, accuracy {test['accuracy']:.4f}, {run.summary['timing']['total']:.0f} s", flush=True)
    best_single = max((name for name in variants if name.startswith("local-")), key=lambda name: mean(scores[name]))
    print(
        json.dumps(
            {
                "experiment": "compare_modes",
                "config": options.config.name,
                "seeds": options.seeds,
                "test_mcc": {name: describe(values) for name, values in scores.items()},
                "federated_minus_pooled": round(mean(scores["federated"]) - mean(scores["pooled"]), 4),
                "federated_minus_best_single": round(mean(scores["federated"]) - mean(scores[best_single]), 4),
                "best_single": best_single,
            }
        )
    )


if __name__ == "__main__":
    main()
