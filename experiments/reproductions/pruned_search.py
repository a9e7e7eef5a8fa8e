"""Does ASHA find settings as good as a search without it, in half the time? MNIST at three label-skewed sites, the same space and seeds.

Prints one line of JSON for each seed (best validation MCC, wall time and rounds of both sweeps, and their ratios) and one of the means.
With ``--output`` the sweeps are kept, and those that are there already are not run again: so other values of ``--grace`` compare to the
same search without pruning.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from primia import api
from primia.api import Sweep
from primia.config.reader import load_config

Result = dict[str, float]


def sweep(scheduler: str, seed: int, options: argparse.Namespace, folder: Path) -> Result:
    """One sweep's result."""
    name = scheduler if scheduler == "none" else f"{scheduler}-{options.grace:g}-{options.reduction:g}"
    settings = load_config(
        Path("configs/mnist.ini"),
        [
            f"data.path={options.data}",
            "data.split=label-skew",
            "federation.rounds=9",
            f"federation.sync_every_n_batch={options.batches}",
            f"search.trials={options.trials}",
            f"search.seed={seed}",
            f"run.repeat=seed-{seed}",
            f"search.scheduler={scheduler}",
            *([] if scheduler == "none" else [f"search.grace={options.grace}", f"search.reduction={options.reduction}"]),
            f"run.output={folder / str(seed)}",
            f"run.name={name}",
        ],
    )
    done = Sweep(folder / str(seed) / name)
    if not done.path.exists():
        done = api.tune(settings)
    if done.summary["status"] != "complete":
        raise SystemExit(f"{done.path} is not complete: go on with it, or remove it")
    records, summary = done.records, done.summary
    return {
        "mcc": round(float(summary["value"]), 4),
        "wall_s": round(summary["wall_seconds"], 1),
        "training_s": round(summary["training_seconds"], 1),
        "rounds": sum(record.rounds for record in records),
        "complete": sum(record.state == "complete" for record in records),
    }


def compared(seed: int, options: argparse.Namespace, folder: Path) -> dict[str, Result]:
    """Both sweeps of a seed, one after the other."""
    whole, pruned = (sweep(scheduler, seed, options, folder) for scheduler in ("none", "asha"))
    ratio = {key: round(pruned[key] / whole[key], 3) for key in ("wall_s", "rounds")}
    return {"none": whole, "asha": pruned, "ratio": ratio | {"mcc_gained": round(pruned["mcc"] - whole["mcc"], 4)}}


def main() -> None:
    """All seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="torchvision's MNIST root")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--batches", type=int, default=40, help="batches of a round at each site")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="search.seed")
    parser.add_argument("--grace", type=float, default=0.1, help="search.grace")
    parser.add_argument("--reduction", type=float, default=3.0, help="search.reduction")
    parser.add_argument("--output", type=Path, help="where to keep sweeps of these --trials and --batches")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        ratios = []
        for seed in options.seeds:
            found = compared(seed, options, options.output or Path(temporary))
            ratios.append(found["ratio"])
            print(json.dumps({"reproduction": "pruned_search", "seed": seed, **found}), flush=True)
    print(
        json.dumps({"reproduction": "pruned_search", "mean": {key: round(statistics.mean(r[key] for r in ratios), 4) for key in ratios[0]}})
    )


if __name__ == "__main__":
    main()
