"""Images a second of federated training beside a plain PyTorch loop on the same shards and cores, in one run.

    python experiments/benchmarks/throughput.py [--data ../shared/data/chest_xray] [--rounds 4] [--precision float32]

The federation trains with three sites through the whole product (actors, vectors, checkpoints; validation
apart). The plain loop is what one would write by hand: one process, all cores, same model, batch size,
optimiser, memory format and arithmetic, on the same three shards one after the other. Both are timed in turns,
so that a busy machine slows both. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow.parquet as pq
import torch

import primia
from primia.config.settings import AugmentationSettings, DataSettings, Settings
from primia.data.prepare import prepare
from primia.data.shard import Shard
from primia.models.registry import build_model


def settings(options: argparse.Namespace, folder: Path, name: str) -> Settings:
    source = {"source": "folder", "path": options.data} if options.data else {"source": "demo", "demo_images": 600}
    return Settings.model_validate(
        {
            "run": {"output": folder, "name": name},
            "data": {**source, "image_size": options.image_size, "cache": folder / "shards"},
            "model": {"name": "resnet18"},
            "augmentation": dict.fromkeys(AugmentationSettings.model_fields, 0.0),
            "training": {"optimizer": "sgd", "learning_rate": 0.01, "batch_size": options.batch_size},
            "federation": {"rounds": options.rounds, "validate_every": options.rounds},
            "resources": {"precision": options.precision},
        }
    )


def plain_loop(paths: list[Path], batch_size: int, precision: str) -> float:
    """Images a second of one pass over all shards, after a warm-up of a few batches."""
    torch.set_num_threads(os.cpu_count() or 1)
    shards = [Shard.open(path) for path in paths]
    first = shards[0]
    model = build_model(
        Settings.model_validate({"model": {"name": "resnet18"}}).model,
        classes=len(first.classes), channels=first.channels, image_size=first.image_size, seed=1,
    ).to(memory_format=torch.channels_last)  # fmt: skip
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(shard: Shard, index: np.ndarray) -> None:  # type: ignore[type-arg]
        images = torch.from_numpy(shard.gather(index)).float().div_(255).sub_(0.5).div_(0.25).contiguous(memory_format=torch.channels_last)
        labels = torch.from_numpy(shard.labels[index])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            loss = torch.nn.functional.cross_entropy(model(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    for _ in range(3):
        step(first, np.arange(batch_size))
    begun, images = perf_counter(), 0
    for shard in shards:
        order = np.random.default_rng(0).permutation(len(shard))
        for index in np.array_split(order, -(-len(shard) // batch_size)):
            step(shard, index)
            images += len(index)
    return images / (perf_counter() - begun)


def federation(options: argparse.Namespace, folder: Path, name: str) -> float:
    """Images a second over all rounds but the first (actors warm up) and the last (it validates)."""
    run = primia.train(settings(options, folder, name))
    rows = [row for row in pq.read_table(run.path / "rounds.parquet").to_pylist() if row["site"] == "all"][1:-1]
    return sum(row["samples"] for row in rows) / sum(row["seconds"] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="image folder; without it 3 x 600 synthetic radiographs")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        chosen = settings(options, folder, "x").data
        data = prepare(DataSettings.model_validate(chosen), folder / "shards")
        paths = [site.train for site in data.sites if site.train]
        plain, federated = [], []
        for turn in range(options.turns):
            plain.append(plain_loop(paths, options.batch_size, options.precision))
            federated.append(federation(options, folder, f"turn-{turn}"))
            print(f"turn {turn}: plain {plain[-1]:.1f}, federated {federated[-1]:.1f} images/s", flush=True)
    best_plain, best_federated = max(plain), max(federated)
    print(
        json.dumps(
            {
                "benchmark": "throughput",
                "precision": options.precision,
                "sites": len(paths),
                "image_size": options.image_size,
                "batch_size": options.batch_size,
                "plain_images_per_s": round(best_plain, 1),
                "federated_images_per_s": round(best_federated, 1),
                "ratio": round(best_federated / best_plain, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
