"""Encrypted inference against its aims: comparisons, one image, a stream of images, MNIST's network, and the oracle.

    pip install sycret                                                # optional: the anchor for comparisons
    python experiments/benchmarks/encrypted_inference.py [--run RUN --data DIR] [--agreement 500]

ResNet-18 at 224 x 224, three channels, three classes, all parties as Ray actors on this machine. Without a run its weights are
random and its images are the demonstration's. ``online_s_per_batch`` is from the data owner's first byte to its result, with keys
made ahead of time; ``throughput`` is all images, keys included, two batches under way. Actors run at the usual priority, not at
Ray's nice 15. The WAN figure is computed from counted bytes and exchanges. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from time import perf_counter
from typing import Any

import numpy as np
import psutil
import torch

from primia.cluster.session import ray_session
from primia.config.reader import dump_config
from primia.config.settings import InferenceSettings, Settings
from primia.data.decode import decode
from primia.data.statistics import Normalisation
from primia.inference import job
from primia.inference.model import compile_run
from primia.inference.service import Mode
from primia.inference.spec import InferenceSpec
from primia.models.file import ModelCard, load_model, save_model
from primia.models.registry import build_model
from primia.mpc.aes import fresh_seed
from primia.mpc.compiler import Compiled
from primia.mpc.data_owner import DataOwner
from primia.mpc.dealer import Dealer
from primia.mpc.dpf import backend, evaluate, generate, roots_from_seed
from primia.mpc.dpf_layout import key_bytes
from primia.mpc.keys import BatchKeys
from primia.mpc.local import run_together
from primia.mpc.messages import Message, Role
from primia.mpc.model_owner import ModelOwner
from primia.mpc.oracle import batch_rounding, random_rounding
from primia.mpc.workers import Workers
from primia.training.images import normalise_

COMPARISONS = 2**18
WAN_BYTES_S, WAN_ROUND_TRIP_S = 100e6 / 8, 0.04
STORE_BYTES = 4 * 2**30


def best_ns(work: Callable[[], object], count: int, repeats: int = 7) -> float:
    """Nanoseconds of the quickest of some runs, each over ``count`` items: others use this machine too."""
    work()
    times = []
    for _ in range(repeats):
        begun = perf_counter()
        work()
        times.append(perf_counter() - begun)
    return min(times) / count * 1e9


def comparisons(bits: int) -> dict[str, float]:
    """One core, this project's DPF."""
    alone, aes, values = Workers(1), backend(), np.random.default_rng(0).integers(0, 2**bits, COMPARISONS).astype(np.uint32)
    roots = np.stack([roots_from_seed(fresh_seed(), 0, 0, party, COMPARISONS)[0] for party in range(2)])
    keys = generate(bytes(16), roots, values, bits, alone, aes)
    return {
        "bits": bits,
        "evaluate_ns": best_ns(lambda: evaluate(bytes(16), roots[0], values, keys, alone, aes), COMPARISONS),
        "generate_pair_ns": best_ns(lambda: generate(bytes(16), roots, values, bits, alone, aes), COMPARISONS),
        "key_bytes": key_bytes(bits, COMPARISONS) / COMPARISONS,
    }


def sycret() -> dict[str, float] | None:
    """The same on sycret's 32-bit comparison, one thread; None where it is not installed."""
    try:
        from sycret import LeFactory
    except ImportError:
        return None
    count = 2**14
    factory = LeFactory(n_threads=1)
    keys, _ = factory.keygen(count)
    values = np.random.default_rng(0).integers(0, 2**32, count).astype(np.int64)
    return {
        "evaluate_ns": best_ns(lambda: factory.eval(0, values, keys), count, 3),
        "generate_pair_ns": best_ns(lambda: factory.keygen(count), count, 3),
        "key_bytes": keys.nbytes / count,
    }


def random_run(folder: Path, name: str, pooling: str, channels: int, size: int, images: Path) -> Path:
    """A run folder with an untrained network whose BatchNorm has seen ``images``."""
    settings = Settings.model_validate(
        {
            "model": {"name": name, "pooling": pooling},
            "data": {"image_size": size, "channels": channels, "source": "folder", "path": images},
        }
    )
    classes = ("bacterial", "normal", "viral") if channels == 3 else tuple("0123456789")
    model = build_model(settings.model, classes=len(classes), channels=channels, image_size=size, seed=1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(8, channels, size, size, generator=generator))
    normalisation = Normalisation((0.5,) * channels, (0.25,) * channels)
    card = ModelCard(settings.model, classes, channels, size, normalisation, True, folder.name, {})
    folder.mkdir(parents=True)
    (folder / "config.ini").write_text(dump_config(settings))
    save_model(folder, card, {key: value.numpy() for key, value in model.state_dict().items() if value.ndim})
    return folder


def repooled(run: Path, folder: Path, pooling: str) -> Path:
    """The same weights with another pooling of the stem."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints", "tensorboard", "sites"))
    card = json.loads((folder / "model.json").read_text())
    card["model"]["pooling"] = pooling
    (folder / "model.json").write_text(json.dumps(card))
    return folder


class PeakMemory:
    """The largest resident memory, shared pages included, of each actor while it runs."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        self._ended = Event()

    def __enter__(self) -> PeakMemory:
        self._thread = Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            for process in psutil.process_iter(["name", "cmdline", "memory_info"]):
                command = " ".join(process.info["cmdline"] or [])
                if command.startswith("ray::") and "Actor" in command and process.info["memory_info"]:
                    name = command.split(".")[0].removeprefix("ray::").strip()
                    self.bytes[name] = max(self.bytes.get(name, 0), process.info["memory_info"].rss)


class Bench:
    """Jobs on a Ray cluster of their own, for one run folder."""

    def __init__(self, run: Path, calibration: Path | None, folder: Path) -> None:
        self._run, self._calibration, self._folder = run, calibration, folder

    def stream(self, data: Path, pipeline: int = 2) -> dict[str, Any]:
        """Keys made while images are under way."""
        return self._jobs(data, pipeline, None)

    def online(self, data: Path) -> dict[str, Any]:
        """Keys made before, so that nothing else runs; one batch under way."""
        keys = self._folder / f"keys-{self._run.name}"
        try:
            return self._jobs(data, 1, keys)
        finally:
            shutil.rmtree(keys, ignore_errors=True)

    def _jobs(self, data: Path, pipeline: int, keys: Path | None) -> dict[str, Any]:
        common = {
            "run": self._run,
            "inference": InferenceSettings(pipeline=pipeline),
            "threads": psutil.cpu_count() or 1,
            "calibration": self._calibration,
            "keys": keys,
        }
        output = self._folder / f"{self._run.name}-{pipeline}.csv"
        with PeakMemory() as memory, ray_session(store_bytes=STORE_BYTES):
            if keys:
                job.run(InferenceSpec(mode=Mode.PREPARE, preprocess=len(list(data.iterdir())), **common))
            mode = Mode.CONSUME if keys else Mode.STREAM
            summary: dict[str, Any] = job.run(InferenceSpec(mode=mode, data=data, output=output, **common))["summary"]
        rate = summary["images"] / (summary["seconds"] - summary["setup_seconds"])
        return {**summary["encrypted"], "images_per_s": rate, "peak_bytes": memory.bytes}


def agreement(run: Path, calibration: Path | None, data: Path, count: int) -> dict[str, float]:
    """The integer oracle, which the secure result equals, against the model in floating point, on ``count`` images."""
    model, card = load_model(run)
    compiled = compile_run(run, calibration, InferenceSettings(), Workers(2))
    oracle, same, largest, flagged = compiled.oracle(Workers(2)), 0, 0.0, 0
    files = sorted(path for path in data.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    chosen = [files[int(number)] for number in np.linspace(0, len(files) - 1, count)]
    for first in range(0, count, 4):
        pixels = np.stack([decode(path, channels=card.channels, image_size=card.image_size) for path in chosen[first : first + 4]])
        images = normalise_(torch.from_numpy(pixels).float().div_(255), card.normalisation)
        with torch.inference_mode():
            expected = model(images).numpy()
        found = oracle.run(compiled.encoded(images), random_rounding(fresh_seed()))
        same += int((found.outputs.argmax(1) == expected.argmax(1)).sum())
        largest = max(largest, float(np.abs(found.outputs - expected).max()))
        flagged += bool(found.out_of_range)
    return {"images": count, "same_class": same, "largest_error_of_a_logit": largest, "batches_out_of_range": flagged}


def equals_oracle(compiled: Compiled, image: torch.Tensor) -> bool:
    """Whether the three parties, in this process, give the oracle's result bit for bit."""
    workers, aes = Workers(2), backend()
    dealer, data_owner = Dealer(workers, aes), DataOwner(workers, aes)
    model_owner = ModelOwner(compiled.program, compiled.weights, compiled.biases, workers, aes)
    run_together({Role.DEALER: dealer.setup(), Role.MODEL_OWNER: model_owner.setup(), Role.DATA_OWNER: data_owner.setup()})
    kept: dict[Role, list[Message]] = {Role.MODEL_OWNER: [], Role.DATA_OWNER: []}
    run_together(
        {
            Role.DEALER: dealer.preprocess(1, 1),
            Role.MODEL_OWNER: model_owner.preprocess(1, 1, kept[Role.MODEL_OWNER].append),
            Role.DATA_OWNER: data_owner.preprocess(1, 1, kept[Role.DATA_OWNER].append),
        }
    )
    seeds = [kept[role][0].arrays[0].tobytes() for role in (Role.MODEL_OWNER, Role.DATA_OWNER)]
    encoded = compiled.encoded(image)
    secure = run_together(
        {
            Role.MODEL_OWNER: model_owner.infer(1, BatchKeys(1, iter(kept[Role.MODEL_OWNER]))),
            Role.DATA_OWNER: data_owner.infer(encoded, BatchKeys(1, iter(kept[Role.DATA_OWNER]))),
        }
    )[Role.DATA_OWNER]
    expected = compiled.oracle(workers).run(encoded, batch_rounding(compiled.program, *seeds))
    return bool(np.array_equal(secure.outputs, expected.outputs)) and secure.out_of_range == expected.out_of_range


def copies(source: Path, folder: Path, count: int) -> Path:
    """A flat folder of ``count`` images from anywhere under ``source``."""
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    folder.mkdir()
    for number in np.linspace(0, len(files) - 1, count).astype(int):
        shutil.copy(files[number], folder / f"{number:05d}{files[number].suffix}")
    return folder


def demo_images(folder: Path, size: int, each: int) -> Path:
    """The demonstration's images as files."""
    command = [sys.executable, "-m", "primia.cli.main", "data", "demo", "--output", str(folder), "--images", str(each), "--size", str(size)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def wan_s(costs: dict[str, Any], online_s: float) -> float:
    """Online seconds over 100 Mbit/s and 40 ms there and back, computed."""
    return online_s + costs["exchanges_per_batch"] * WAN_ROUND_TRIP_S + costs["online_bytes_per_image"] / WAN_BYTES_S


def measured(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, object]]:
    """Every figure, one after the other."""
    yield "comparison", comparisons(18)
    yield "comparison_15_bits", comparisons(15)
    yield "sycret", sycret()
    source = arguments.data or demo_images(folder / "demo", 224, 24)
    few, many = copies(source, folder / "few", 6), copies(source, folder / "many", arguments.images)
    maxima = arguments.run or random_run(folder / "max", "resnet18", "max", 3, 224, few)
    calibration = None if arguments.run else copies(source, folder / "calibration", 16)
    average = repooled(maxima, folder / "average", "avg")
    compiled = compile_run(maxima, calibration, InferenceSettings(), Workers(2))
    generator = torch.Generator().manual_seed(3)
    yield "equals_oracle", all(equals_oracle(compiled, torch.randn(1, 3, 224, 224, generator=generator) * 0.5) for _ in range(3))
    for name, run in (("max", maxima), ("avg", average)):
        one = Bench(run, calibration, folder).online(few)
        yield f"resnet18_{name}", one | {"wan_s": wan_s(one, one["online_s_per_batch"])}
    yield "throughput", Bench(maxima, calibration, folder).stream(many)
    digits = random_run(folder / "digits", "convnet", "max", 1, 28, few)
    batches = Bench(digits, few, folder).online(copies(demo_images(folder / "small", 28, 60), folder / "small-flat", 128))
    yield "mnist_convnet", batches | {"online_ms_per_image": 1000 * batches["online_s_per_batch"] / batches["batch_images"]}
    if arguments.agreement:
        yield "agreement", agreement(maxima, calibration, source, arguments.agreement)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="run folder of a ResNet-18 at 224 pixels with three channels")
    parser.add_argument("--data", type=Path, help="images for it")
    parser.add_argument("--images", type=int, default=16, help="images of the throughput")
    parser.add_argument("--agreement", type=int, default=0, help="images on which the oracle is compared with floating point")
    arguments = parser.parse_args()
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # as Ray spells it
    results: dict[str, object] = {"aes": backend().name, "cores": psutil.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="primia-") as name:
        for key, value in measured(arguments, Path(name)):
            print(f"{key}: {json.dumps(value)}", flush=True)
            results[key] = value
    print(json.dumps(results))


if __name__ == "__main__":
    main()
