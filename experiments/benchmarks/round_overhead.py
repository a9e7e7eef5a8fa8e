"""Seconds of a round in which no site does any work: dispatch, vectors out and back, sum, server step, checkpoint.

    python experiments/benchmarks/round_overhead.py [--sites 8] [--rounds 20]

The real loop, actors, stages and checkpoints; only the learner is replaced. ``resnet18``: a site takes the vector
(11.2 M float32 parameters, 44.7 MB) and gives a copy back, as in measurements of other frameworks. ``resnet18_model``: it
also loads the vector into the network and reads it out again. ``tiny``: a vector of 0.4 MB. Each with updates in clear, sealed for the
driver, and masked (secure aggregation). Ends with one line of JSON.
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
from numpy.typing import NDArray

from primia.cluster.session import ray_session
from primia.config.settings import Settings
from primia.data.shard import Dataset
from primia.data.statistics import PixelSums
from primia.federation.driver.actors import Actors, WorkerOptions
from primia.federation.driver.checkpoint import Checkpoints, RunState
from primia.federation.driver.hosts import RayHosts
from primia.federation.driver.prepare import prepare_run
from primia.federation.driver.rounds import RoundLoop
from primia.federation.events import RoundFinished
from primia.federation.messages import Charter, Session
from primia.federation.plan import SitePlan, assign_hosts
from primia.federation.run_spec import RunSetup
from primia.federation.site.gate import Gate
from primia.federation.site.host import SiteHost
from primia.federation.site.member import Member
from primia.federation.site.worker import FederatedWorker
from primia.federation.sources import PackedSite, SiteImages, SiteSource
from primia.federation.update import Vector
from primia.runs.folder import RunFolder
from primia.secagg.identity import Identity
from primia.training.evaluation import Evaluation
from primia.training.learner import Learner, LocalResult, LocalWork

CLASSES = ("a", "b", "c")
PROTECTIONS = ("clear", "sealed", "masked")


class ModelLearner(Learner):
    """Loads vectors into the network, reads them out, and does nothing in between."""

    def train(self, data: Dataset, work: LocalWork) -> LocalResult:
        return LocalResult(loss=0.0, samples=1, steps=0, learning_rate=0.1, seconds=0.0)

    def evaluate(self, data: Dataset, normalisation: object) -> Evaluation:
        return Evaluation.of(np.eye(len(CLASSES), dtype=np.float32), np.arange(len(CLASSES)))


class VectorLearner(ModelLearner):
    """Keeps the vectors it was given."""

    def load(self, parameters: Vector, buffers: Vector) -> None:
        self._vectors = parameters, buffers

    def parameters(self) -> Vector:
        return self._vectors[0].copy()

    def buffers(self) -> Vector:
        return self._vectors[1].copy()


class IdleImages(SiteImages):
    """A hundred images that nobody looks at."""

    def dataset(self, split: str) -> Dataset:
        return range(100)  # type: ignore[return-value]

    def class_counts(self, split: str) -> NDArray[np.int64]:
        return np.full(len(CLASSES), 33)

    @property
    def pixels(self) -> PixelSums:  # type: ignore[override]
        return PixelSums(100, (5000,), (1000000,))


class IdleMember(Member):
    """A site of such images."""

    def images(self, charter: Charter) -> SiteImages:
        return IdleImages({"train": (Path("-"),), "validation": (Path("-"),)}, boxed=False, mock=False)

    def steps(self, charter: Charter) -> int:
        return 1


class IdleHost(SiteHost):
    def __init__(self, sites: Sequence[SiteSource], learner: type[Learner]) -> None:
        super().__init__(sites)
        self._gate = Gate(map(IdleMember, sites), self._gate.failure)
        self._make = learner

    def _learner(self, session: Session) -> Learner:
        if session.charter.id not in self._learners:
            self._learners[session.charter.id] = self._make(session.learner)
        return self._learners[session.charter.id]


class ModelWorker(FederatedWorker):
    def __init__(self, sites: Sequence[SiteSource], threads: int) -> None:
        super().__init__(sites, threads)
        self._host = IdleHost(sites, ModelLearner)


class VectorWorker(FederatedWorker):
    def __init__(self, sites: Sequence[SiteSource], threads: int) -> None:
        super().__init__(sites, threads)
        self._host = IdleHost(sites, VectorLearner)


def measure(
    name: str, worker: type[FederatedWorker], model: str, image_size: int, protection: str, sites: int, rounds: int, cpus: int, folder: Path
) -> dict[str, float]:
    """Median and worst seconds of a round after the first two."""
    settings = Settings.model_validate(
        {
            "model": {"name": model},
            "federation": {"rounds": rounds, "validate_every": 10_000},
            "training": {"batch_size": 1},
            "secure_aggregation": {"enabled": protection == "masked", "seal": protection == "sealed"},
        }
    )
    names = [f"site-{index}" for index in range(sites)]
    plans = tuple(SitePlan(PackedSite(name), trains=True, selects=True, owns=True) for name in names)
    run = RunFolder.create(folder / f"{name}-{protection}", settings, "none")
    setup = RunSetup(settings, plans, CLASSES, 1, image_size, True, (), (), "cpu", run.path, time(), 0.0)
    options = WorkerOptions(cpus=round(cpus / sites * 0.99, 3), gpus=0, threads=1, worker=worker)
    hosts = RayHosts(Actors(assign_hosts(plans, sites), options), 600.0, Flag())
    prepared = prepare_run(setup, hosts, Identity.generate(settings.federation.identity))
    loop = RoundLoop(setup, prepared, Checkpoints(run.checkpoints, 2), RunState(prepared.initial))
    seconds, last = [], perf_counter()
    for event in loop.run():
        if isinstance(event, RoundFinished):
            now = perf_counter()
            seconds.append(now - last)
            last = now
    hosts.close(setup.charter_id)
    return {"median_s": statistics.median(seconds[2:-1]), "worst_s": max(seconds[2:-1]), "vector_bytes": prepared.initial.nbytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    result: dict[str, object] = {"benchmark": "round_overhead", "sites": options.sites, "rounds": options.rounds}
    with tempfile.TemporaryDirectory() as folder, ray_session(store_bytes=4 * 2**30) as resources:
        for name, worker, model, size in (
            ("resnet18", VectorWorker, "resnet18", 64),
            ("resnet18_model", ModelWorker, "resnet18", 64),
            ("tiny", VectorWorker, "convnet", 8),
        ):
            for protection in PROTECTIONS:
                place = (options.sites, options.rounds, resources.cpus, Path(folder))
                result[f"{name}_{protection}"] = measured = measure(name, worker, model, size, protection, *place)
                print(f"{name}, {protection}: {measured}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
