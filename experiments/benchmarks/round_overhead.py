"""Seconds of a round in which no site does any work: dispatch, vectors out and back, sum, server step, checkpoint.

    python experiments/benchmarks/round_overhead.py [--sites 8] [--rounds 20]

The real loop, driver, actors and checkpoints; only the learner's training step is left out. Two vectors: the
ResNet-18's (11.2 M float32 parameters, 44.7 MB) and a tiny one. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from threading import Event as Flag
from time import perf_counter, time

import numpy as np

from primia.cluster.session import ray_session
from primia.config.settings import Settings
from primia.data.shard import Dataset
from primia.data.statistics import PixelSums
from primia.federation.checkpoint import Checkpoints, RunState
from primia.federation.events import RoundFinished
from primia.federation.hosts import RayHosts, WorkerOptions
from primia.federation.plan import SitePlan, assign_hosts
from primia.federation.rounds import RoundLoop
from primia.federation.run_folder import RunFolder
from primia.federation.setup import RunSetup, prepare_run
from primia.federation.site import Session, SiteFacts, SiteHost
from primia.federation.worker import FederatedWorker
from primia.training.evaluation import Evaluation
from primia.training.learner import Learner, LocalResult, LocalWork

CLASSES = ("a", "b", "c")


class IdleLearner(Learner):
    """Loads and gives back real vectors, and does nothing in between."""

    def train(self, data: Dataset, work: LocalWork) -> LocalResult:
        return LocalResult(loss=0.0, samples=1, steps=0, learning_rate=0.1, seconds=0.0)

    def evaluate(self, data: Dataset, normalisation: object) -> Evaluation:
        return Evaluation.of(np.eye(len(CLASSES), dtype=np.float32), np.arange(len(CLASSES)))


class IdleHost(SiteHost):
    def _learner(self, session: Session) -> Learner:
        if session.id not in self._learners:
            self._learners[session.id] = IdleLearner(session.learner)
        return self._learners[session.id]

    def _dataset(self, site: SitePlan, split: str) -> Dataset:
        return None  # type: ignore[return-value]


class IdleWorker(FederatedWorker):
    def __init__(self, sites: Sequence[SitePlan], threads: int) -> None:
        super().__init__(sites, threads)
        self._host = IdleHost(sites)


def measure(model: str, image_size: int, sites: int, rounds: int, cpus: int, folder: Path) -> dict[str, float]:
    """Median and worst seconds of a round after the first two."""
    settings = Settings.model_validate(
        {"model": {"name": model}, "federation": {"rounds": rounds, "validate_every": 10_000}, "training": {"batch_size": 1}}
    )
    names = [f"site-{index}" for index in range(sites)]
    plans = tuple(SitePlan(name, (Path("-"),), (Path("-"),), (), trains=True, selects=True) for name in names)
    run = RunFolder.create(folder / model, settings, "none")
    setup = RunSetup(settings, plans, CLASSES, 1, image_size, True, (), (), "cpu", run.path, time(), 0.0)
    facts = [SiteFacts(name, {"train": np.ones(3, dtype=np.int64)}, PixelSums(100, (5000,), (1000000,))) for name in names]
    prepared = prepare_run(setup, facts)
    options = WorkerOptions(cpus=round(cpus / sites * 0.99, 3), gpus=0, threads=1, worker=IdleWorker)
    hosts = RayHosts(assign_hosts(plans, sites), options, 600.0, Flag())
    loop = RoundLoop(setup, prepared, hosts, Checkpoints(run.checkpoints, 2), RunState(prepared.initial))
    seconds, last = [], perf_counter()
    for event in loop.run():
        if isinstance(event, RoundFinished):
            now = perf_counter()
            seconds.append(now - last)
            last = now
    hosts.close()
    return {"median_s": statistics.median(seconds[2:-1]), "worst_s": max(seconds[2:-1]), "vector_bytes": prepared.initial.nbytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    result: dict[str, object] = {"benchmark": "round_overhead", "sites": options.sites, "rounds": options.rounds}
    with tempfile.TemporaryDirectory() as folder, ray_session(store_bytes=4 * 2**30) as resources:
        for name, model, size in (("resnet18", "resnet18", 64), ("tiny", "convnet", 8)):
            result[name] = measure(model, size, options.sites, options.rounds, resources.cpus, Path(folder))
            print(f"{name}: {result[name]}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
