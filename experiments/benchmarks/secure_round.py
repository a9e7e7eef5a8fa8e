"""Seconds of a training round with secure aggregation beside one without, on the same images, in turns.

    python experiments/benchmarks/secure_round.py [--data ../shared/data/chest_xray] [--image-size 112] [--rounds 2] [--turns 2]

Three sites, ResNet-18, one local epoch a round; without, updates go in clear. A round's time is that of its training: local work, sum,
server step; validation is apart. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

import primia
from primia.config.settings import Settings
from primia.federation.events import Event, RoundFinished


def settings(options: argparse.Namespace, folder: Path, name: str, secure: bool) -> Settings:
    source = {"source": "folder", "path": options.data} if options.data else {"source": "demo", "demo_images": 600}
    return Settings.model_validate(
        {
            "run": {"output": folder, "name": name},
            "data": {**source, "image_size": options.image_size, "cache": folder / "shards"},
            "model": {"name": "resnet18"},
            "training": {"batch_size": 32},
            "federation": {"rounds": options.rounds, "validate_every": options.rounds},
            "secure_aggregation": {"enabled": secure, "seal": False},
        }
    )


def training_seconds(options: argparse.Namespace, folder: Path, name: str, secure: bool) -> list[float]:
    """Seconds of each round, without those of the validation in the last one."""
    seconds: list[float] = []

    def hear(event: Event) -> None:
        if isinstance(event, RoundFinished):
            seconds.append(event.seconds)

    run = primia.train(settings(options, folder, name, secure), on_event=hear)
    seconds[-1] -= run.summary["timing"]["validation"]
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="chest X-rays; without it the demonstration images")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    os.environ.setdefault("RAY_worker_niceness", "0")
    measured: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.turns):
            for secure in (False, True):
                measured[secure] += (seconds := training_seconds(options, Path(folder), f"{turn}-{secure}", secure))
                print(f"secure aggregation {'on' if secure else 'off'}: {', '.join(f'{value:.2f}' for value in seconds)} s a round")
    on, off = statistics.mean(measured[True]), statistics.mean(measured[False])
    result = {"benchmark": "secure_round", "on_s": on, "off_s": off, "ratio": on / off, "rounds_on_s": measured[True]}
    print(json.dumps({**result, "rounds_off_s": measured[False], "image_size": options.image_size, "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
