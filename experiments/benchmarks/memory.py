"""Resident memory of the driver and of the workers over many rounds; it must stay flat.

    python experiments/benchmarks/memory.py [--rounds 200] [--sites 3] [--actors 0]

With ``--sites 1000`` it measures many virtual sites on few actors. Ends with one line of JSON: the mean over
rounds 20 to 40 and over the last twenty rounds, in MB a process (shared memory, that is the object store and mapped
shards, not counted).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from time import perf_counter

import psutil

import primia
from primia.config.settings import Settings
from primia.federation.events import Event, RoundFinished


class Meter:
    """Notes the private resident memory of every actor process after each round."""

    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = defaultdict(list)
        self.seconds: list[float] = []
        self._last = perf_counter()

    def __call__(self, event: Event) -> None:
        if not isinstance(event, RoundFinished):
            return
        now = perf_counter()
        self.seconds.append(now - self._last)
        self._last = now
        by_kind: dict[str, list[float]] = defaultdict(list)
        for process in psutil.Process().children(recursive=True):
            title = " ".join(process.cmdline())
            if title.startswith("ray::Fed"):
                memory = process.memory_info()
                by_kind["driver" if "Driver" in title else "worker"].append((memory.rss - memory.shared) / 1e6)
        memory = psutil.Process().memory_info()
        by_kind["command"].append((memory.rss - memory.shared) / 1e6)
        for kind, values in by_kind.items():
            self.samples[kind].append(max(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--actors", type=int, default=0)
    parser.add_argument("--images", type=int, default=60, help="images a site")
    options = parser.parse_args()
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.model_validate(
            {
                "run": {"output": Path(folder), "name": "memory"},
                "data": {"sites": options.sites, "demo_images": options.images, "image_size": 16},
                "training": {"batch_size": 4, "optimizer": "sgd", "learning_rate": 0.01},
                "federation": {"rounds": options.rounds, "validate_every": 10},
                "resources": {"actors": options.actors},
            }
        )
        primia.train(settings, on_event=meter)
    early = slice(min(20, options.rounds // 2), max(40, options.rounds // 2 + 1))
    result: dict[str, object] = {"benchmark": "memory", "rounds": options.rounds, "sites": options.sites}
    for kind, values in meter.samples.items():
        first, last = values[early], values[-20:]
        result[kind] = {"early_mb": round(sum(first) / len(first), 1), "late_mb": round(sum(last) / len(last), 1)}
    result["median_round_s"] = round(sorted(meter.seconds)[len(meter.seconds) // 2], 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
