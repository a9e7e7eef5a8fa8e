"""Does ASHA find settings as good as a search without it, in half the time? MNIST at three label-skewed sites, the same space and seed.

Prints one line of JSON: best validation MCC and wall time of both sweeps, and the rounds that each trained.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from primia import api
from primia.config.reader import load_config


def sweep(scheduler: str, options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """One sweep's result."""
    settings = load_config(
        Path("configs/mnist.ini"),
        [
            f"data.path={options.data}",
            "data.split=label-skew",
            "federation.rounds=9",
            f"federation.sync_every_n_batch={options.batches}",
            f"search.trials={options.trials}",
            f"search.seed={options.seed}",
            f"search.scheduler={scheduler}",
            f"run.output={folder}",
            f"run.name={scheduler}",
        ],
    )
    done = api.tune(settings)
    records, summary = done.records, done.summary
    return {
        "mcc": round(float(summary["value"]), 4),
        "wall_s": round(summary["wall_seconds"], 1),
        "training_s": round(summary["training_seconds"], 1),
        "rounds": sum(record.rounds for record in records),
        "states": {state: sum(record.state == state for record in records) for state in sorted({str(record.state) for record in records})},
    }


def main() -> None:
    """Both sweeps, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="torchvision's MNIST root")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--batches", type=int, default=40, help="batches of a round at each site")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="where to keep the sweeps; they are removed where it is not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.output or Path(temporary)
        found = {scheduler: sweep(scheduler, options, folder) for scheduler in ("none", "asha")}
    whole, pruned = found["none"], found["asha"]
    found["ratio"] = {"wall": round(pruned["wall_s"] / whole["wall_s"], 3), "mcc": round(pruned["mcc"] - whole["mcc"], 4)}  # type: ignore[operator, dict-item]
    print(json.dumps({"reproduction": "pruned_search", "trials": options.trials, **found}))


if __name__ == "__main__":
    main()
