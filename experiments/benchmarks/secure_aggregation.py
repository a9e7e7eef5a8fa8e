"""Secure aggregation against its aims, and beside Flower's SecAgg+.

    python experiments/benchmarks/secure_aggregation.py [--flower PYTHON] [--only PART] [--quick]

Parts: ``ten`` (ResNet-18 at 10 sites of which one drops out; aims: 0.15 s a site, 0.5 s at the driver, 1.01 times the bytes of float32),
``hundred`` (the same model, 100 sites of which 10 drop out, 20 neighbours each; aim: 8 s at the driver), ``thousand`` (1,000 small
virtual sites of which 50 drop out), ``degrees`` (keys and shares by the number of neighbours). Sites drop out after they have shared
their keys, which costs the driver most. All roles are in this process, one step of one site after the other, so that a site has a
core to itself; the driver opens the sum on ``--threads`` cores. Vectors are made one at a time and added up without masks too: the
opened sum must equal that, bit for bit. Bytes are those of a site's messages, without how Ray packs them. ``protocol_s`` is what all
parties compute, one after the other; ``wall_s`` has the making of vectors and the check besides.

``--flower``: the interpreter of an environment with flwr, see flower_secagg.py; ``ten`` is then measured in turns with it, both from
the same kind of vectors. Flower's clipping range is its default, 8; this project's that of a first round, 16. ``*_cpu_s`` is processor
time, which other programs on a busy machine do not count towards. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, ParamSpec, TypeVar

import numpy as np

from primia.config.settings import SecureAggregationSettings
from primia.federation.encoding import UpdateEncoding, rounding_key
from primia.federation.messages import Contribution
from primia.federation.update import Update
from primia.secagg import identity
from primia.secagg.driver import DriverRole
from primia.secagg.identity import Identity, PublicIdentity
from primia.secagg.messages import Task
from primia.secagg.ring import RingVector
from primia.secagg.site import SiteRole

RESNET18 = (11_170_000, 9_600)
"""Parameters, and numbers of BatchNorm."""

SITE_STEPS = ("advertise", "share", "encode", "mask", "confirm", "unmask")
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """An aggregation to be measured.

    ``cached_keys``: sites have read their neighbours' public keys before, as virtual sites of one process have.
    """

    sites: int
    dropouts: int
    parameters: int
    buffers: int
    neighbours: int = 0
    cached_keys: bool = False


class Clock:
    """Seconds by party and step."""

    def __init__(self) -> None:
        self.wall: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.cpu: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))

    def __call__(self, party: str, step: str, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        cpu, begun = process_time(), perf_counter()
        result = work(*arguments, **options)
        self.wall[party][step] += perf_counter() - begun
        self.cpu[party][step] += process_time() - cpu
        return result

    @property
    def total_s(self) -> float:
        """Of all parties."""
        return sum(sum(steps.values()) for steps in self.wall.values())


class Plain:
    """What the aggregation must give: the sum of the encoded vectors, and the mean of the contributions in float64."""

    def __init__(self, encoding: UpdateEncoding, parameters: int) -> None:
        self._sum = RingVector.zeros(encoding.layout)
        self._exact = np.zeros(parameters)
        self._weight = 0.0

    def add(self, vector: RingVector, update: Update) -> None:
        self._sum.add_(vector)
        self._exact += update.parameters
        self._weight += update.weight

    def equals(self, total: RingVector) -> bool:
        return np.array_equal(self._sum.narrow, total.narrow) and np.array_equal(self._sum.wide, total.wide)

    def errors(self, total: Contribution) -> dict[str, float]:
        """Of the mean update: what encoding has cost."""
        difference = total.update.parameters / np.float64(total.update.weight) - self._exact / self._weight
        return {"error_max": float(np.abs(difference).max()), "error_rms": float(np.sqrt(np.mean(difference**2)))}


def weight(site: int) -> int:
    """Images of a site."""
    return 400 + 60 * (site % 10)


def contribution(site: int, case: Case) -> Contribution:
    """Weighted changes with a standard deviation of 0.01, and BatchNorm statistics."""
    generator, images = np.random.default_rng(site), np.float32(weight(site))
    parameters = generator.standard_normal(case.parameters, np.float32) * (np.float32(0.01) * images)
    buffers = generator.random(case.buffers, np.float32) * images
    return Contribution(Update(parameters, buffers, float(images)), int(images), int(images) // 32, 0.7 * float(images))


def payload(message: object) -> int:
    """Bytes of a message: of its keys, names and vectors."""
    if isinstance(message, np.ndarray):
        return message.nbytes
    if isinstance(message, bytes | str):
        return len(message.encode() if isinstance(message, str) else message)
    if isinstance(message, Mapping):
        return sum(payload(key) + payload(value) for key, value in message.items())
    if is_dataclass(message):
        return sum(payload(getattr(message, field.name)) for field in fields(message))
    return 8


def trust(peer: PublicIdentity) -> None:
    """Pinning is a look-up; nothing here would fail it."""


class Aggregation:
    """One aggregation from keys to the opened sum, timed."""

    def __init__(self, case: Case, identities: Mapping[str, Identity], threads: int) -> None:
        settings = SecureAggregationSettings()
        names = tuple(identities)[: case.sites]
        total_weight = sum(weight(number) for number in range(case.sites))
        self._case, self._identities, self._threads = case, identities, threads
        self._staying = names[: case.sites - case.dropouts]
        self._encoding = UpdateEncoding(case.parameters, case.buffers, total_weight, settings.range)
        self._task = Task("benchmark", "run", 1, "train", names, settings.threshold, case.neighbours, self._encoding.layout)
        self._driver = DriverRole(self._task)
        self._roles: dict[str, SiteRole] = {}
        self._sent: defaultdict[str, int] = defaultdict(int)
        self.clock = Clock()

    def run(self) -> dict[str, Any]:
        """Every figure of it; ends the benchmark where the sum is wrong."""
        begun = perf_counter()
        plain = Plain(self._encoding, self._case.parameters)
        self._deliver(self._exchange_keys(), plain)
        total = self._open()
        if not plain.equals(total):
            raise SystemExit(f"{self._case}: the opened sum is not that of the vectors")
        decoded = self.clock("driver", "decode", self._encoding.decode, total)
        seconds = {"protocol_s": self.clock.total_s, "wall_s": perf_counter() - begun}
        return self._figures() | seconds | {"exact": True, "clipped": decoded.clipped} | plain.errors(decoded)

    def _site(self, name: str, step: str, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """A site's step, whose result it sends."""
        result = self.clock(name, step, work, *arguments, **options)
        self._sent[name] += payload(result)
        return result

    def _exchange_keys(self) -> Mapping[str, Mapping[str, bytes]]:
        names, driver = self._task.sites, self._driver
        self._roles = {name: self.clock(name, "advertise", SiteRole, self._identities[name], self._task) for name in names}
        advertisements = {name: self._site(name, "advertise", role.advertise) for name, role in self._roles.items()}
        rosters = self.clock("driver", "rosters", driver.rosters, advertisements)
        outboxes = {}
        for name in names:
            if not self._case.cached_keys:
                identity._bundle.cache_clear()
            outboxes[name] = self._site(name, "share", self._roles[name].share, rosters[name], trust)
        return self.clock("driver", "deliver", driver.deliver, outboxes)

    def _deliver(self, inboxes: Mapping[str, Mapping[str, bytes]], plain: Plain) -> None:
        for number, name in enumerate(self._staying):
            value = contribution(number, self._case)
            vector = self.clock(name, "encode", self._encoding.encode, value, rounding_key(1, name, 1))
            plain.add(vector, value.update)
            masked = self._site(name, "mask", self._roles[name].mask, vector, inboxes[name])
            self.clock("driver", "add", self._driver.add, [name], masked)

    def _open(self) -> RingVector:
        clock, driver, roles = self.clock, self._driver, self._roles
        clock("driver", "survivors", driver.check_survivors)
        survivors = driver.survivors
        signatures = {name: self._site(name, "confirm", roles[name].confirm, survivors) for name in survivors}
        others = {name: clock("driver", "survivors", driver.confirmations_for, name, signatures) for name in survivors}
        answers = {name: self._site(name, "unmask", roles[name].unmask, others[name]) for name in survivors}
        return clock("driver", "open", driver.open, answers, self._threads)

    def _figures(self) -> dict[str, Any]:
        wall, cpu = self.clock.wall, self.clock.cpu
        seconds = [sum(wall[name].values()) for name in self._staying]
        sent = float(np.mean([self._sent[name] for name in self._staying]))
        return {
            "site_s": float(np.mean(seconds)),
            "site_max_s": max(seconds),
            "site_cpu_s": float(np.mean([sum(cpu[name].values()) for name in self._staying])),
            "site_steps_s": {step: float(np.mean([wall[name][step] for name in self._staying])) for step in SITE_STEPS},
            "site_steps_cpu_s": {step: float(np.mean([cpu[name][step] for name in self._staying])) for step in SITE_STEPS},
            "driver_s": sum(wall["driver"].values()),
            "driver_cpu_s": sum(cpu["driver"].values()),
            "driver_steps_s": dict(wall["driver"]),
            "bytes_up": sent,
            "bytes_ratio": sent / (4 * (self._case.parameters + self._case.buffers)),
        }


def over_turns(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds: the median over turns, and all of them; what must hold: in every turn; the rest: of the last turn."""
    merged = dict(turns[-1])
    for key in ("site_s", "site_max_s", "site_cpu_s", "driver_s", "driver_cpu_s", "strategy_s"):
        if key in merged:
            merged[key] = median(turn[key] for turn in turns)
    merged["turns"] = {key: [turn[key] for turn in turns] for key in ("site_s", "driver_s")}
    if "within_quantisation" in merged:
        merged["within_quantisation"] = all(turn["within_quantisation"] for turn in turns)
    return merged


def flower(python: str, case: Case) -> dict[str, Any]:
    """Flower's SecAgg+ on the same case."""
    script = Path(__file__).with_name("flower_secagg.py")
    numbers = {"--sites": case.sites, "--dropouts": case.dropouts, "--parameters": case.parameters + case.buffers}
    command = [python, str(script), *(str(part) for pair in numbers.items() for part in pair)]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    result: dict[str, Any] = json.loads(lines[-1])
    return result


class Bench:
    """The parts, by name."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._size = (100_000, 100) if options.quick else RESNET18
        self._identities: dict[str, Identity] = {}

    def parts(self) -> Mapping[str, Callable[[], Iterator[tuple[str, object]]]]:
        return {"ten": self.ten, "hundred": self.hundred, "thousand": self.thousand, "degrees": self.degrees}

    def ten(self) -> Iterator[tuple[str, object]]:
        case = Case(10, 1, *self._size)
        ours, theirs = [], []
        for _ in range(self._options.turns):
            ours.append(self._run(case))
            if self._options.flower:
                theirs.append(flower(self._options.flower, case))
        yield "ten", over_turns(ours)
        if theirs:
            yield "ten_flower", over_turns(theirs)

    def hundred(self) -> Iterator[tuple[str, object]]:
        case = Case(30, 3, *self._size, 10) if self._options.quick else Case(100, 10, *self._size, 20)
        yield "hundred", self._run(case)

    def thousand(self) -> Iterator[tuple[str, object]]:
        sites = 60 if self._options.quick else 1000
        yield "thousand", self._run(Case(sites, sites // 20, 10_000, 0, cached_keys=True))

    def degrees(self) -> Iterator[tuple[str, object]]:
        """Processor time of the median site in the quickest turn: milliseconds, in which another program's turn would weigh much."""
        found: dict[int, list[dict[str, float]]] = {10: [], 20: [], 40: []}
        for _ in range(self._options.turns):
            for degree, turns in found.items():
                turns.append(self._keys(Case(50, 5, 16, 0, degree)))
        quickest = {degree: {step: min(turn[step] for turn in turns) for step in turns[0]} for degree, turns in found.items()}
        yield (
            "degrees",
            {str(degree): steps | {"ms_a_neighbour": 1000 * sum(steps.values()) / degree} for degree, steps in quickest.items()},
        )

    def _keys(self, case: Case) -> dict[str, float]:
        aggregation = Aggregation(case, self._known(case.sites), self._options.threads)
        aggregation.run()
        sites = [steps for party, steps in aggregation.clock.cpu.items() if party != "driver" and "unmask" in steps]
        return {f"{step}_cpu_s": median(steps[step] for steps in sites) for step in SITE_STEPS if step != "encode"}

    def _run(self, case: Case) -> dict[str, Any]:
        return Aggregation(case, self._known(case.sites), self._options.threads).run()

    def _known(self, sites: int) -> Mapping[str, Identity]:
        """Identities are made once for all parts: a site has its own before it comes to an aggregation."""
        for number in range(len(self._identities), sites):
            name = f"site-{number:04d}"
            self._identities[name] = Identity.generate(name)
        return self._identities


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flower", metavar="PYTHON", help="interpreter of an environment with flwr")
    parser.add_argument("--only", metavar="PART", choices=("ten", "hundred", "thousand", "degrees"))
    parser.add_argument("--quick", action="store_true", help="small numbers, a few seconds")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the driver")
    options = parser.parse_args()
    results: dict[str, object] = {"benchmark": "secure_aggregation", "cores": os.cpu_count(), "threads": options.threads}
    for name, part in Bench(options).parts().items():
        if options.only in (None, name):
            for key, value in part():
                print(f"{key}: {json.dumps(value)}", flush=True)
                results[key] = value
    results["load"] = os.getloadavg()
    results["peak_bytes"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps(results))


if __name__ == "__main__":
    main()
