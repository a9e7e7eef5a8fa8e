"""Sweep folders as a search leaves them: real shapes, made-up numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from primia.config.settings import SearchSettings
from primia.search.folder import SweepFolder
from primia.search.records import State, TrialRecord, Value

ROUNDS = 25
SITES = ("hospital-a", "hospital-b", "hospital-c")
SPACE = """\
training.learning_rate = loguniform(1e-5, 1e-2)
training.end_learning_rate = loguniform(1e-6, training.learning_rate)
training.optimizer = choice(adam, sgd)
training.momentum = uniform(0.5, 0.99) only if training.optimizer = sgd
training.weight_decay = uniform(0, 0.1)
training.class_weights = bool
training.batch_size = choice(8, 16, 32, 64)
augmentation.rotation = quniform(0, 90, 5)
federation.sync_every_n_batch = randint(1, 9)
federation.rounds = 225 / federation.sync_every_n_batch
"""
GIVEN: dict[str, Value] = {
    "training.learning_rate": 1e-4,
    "training.end_learning_rate": 1e-5,
    "training.optimizer": "adam",
    "training.weight_decay": 0.0,
    "training.class_weights": False,
    "training.batch_size": 16,
    "augmentation.rotation": 0.0,
    "federation.sync_every_n_batch": 9,
    "federation.rounds": ROUNDS,
}

Records = dict[int, TrialRecord]


def draw(rng: np.random.Generator) -> dict[str, Value]:
    """A point of :data:`SPACE`."""
    rate = float(10 ** rng.uniform(-5, -2))
    optimizer = ("adam", "sgd")[rng.integers(2)]
    every = int(rng.integers(1, 10))
    momentum: dict[str, Value] = {"training.momentum": float(rng.uniform(0.5, 0.99))} if optimizer == "sgd" else {}
    return {
        "training.learning_rate": rate,
        "training.end_learning_rate": float(10 ** rng.uniform(-6, np.log10(rate))),
        "training.optimizer": optimizer,
        **momentum,
        "training.weight_decay": float(rng.uniform(0, 0.1)),
        "training.class_weights": bool(rng.integers(2)),
        "training.batch_size": int((8, 16, 32, 64)[rng.integers(4)]),
        "augmentation.rotation": float(5 * rng.integers(19)),
        "federation.sync_every_n_batch": every,
        "federation.rounds": -(-225 // every),
    }


def skill(parameters: Mapping[str, Value]) -> float:
    """The learning rate decides, the rotation a little, nothing else."""
    off = np.log10(float(parameters["training.learning_rate"])) + 3
    return float(0.85 - 0.11 * off**2 - 0.001 * abs(float(parameters["augmentation.rotation"]) - 30))


def trial(number: int, parameters: Mapping[str, Value], rng: np.random.Generator, part: float = 1.0, **changes: Any) -> TrialRecord:
    """A trial that has trained ``part`` of its rounds."""
    planned = int(parameters["federation.rounds"])
    rounds = max(1, round(part * planned))
    step = max(1, planned // ROUNDS)
    curve = [(r, skill(parameters) * (1 - np.exp(-5 * r / planned)) + rng.normal(0, 0.008)) for r in range(step, rounds + 1, step)]
    best_round, value = max(curve, key=lambda point: point[1], default=(0, None))
    known: dict[str, Any] = {
        "state": State.COMPLETE if part == 1 else State.PRUNED,
        "folder": f"trials/{number:04d}",
        "value": value,
        "rounds": rounds,
        "planned_rounds": planned,
        "best_round": best_round,
        "seconds": 11.3 * ROUNDS * part,
        "bytes": 90_000_000 * rounds,
        "curve": tuple(curve),
    }
    return TrialRecord(number=number, parameters=parameters, **(known | changes))


def records(trials: int, seed: int = 1) -> Records:
    """Trial 1 has the settings as given; two in five are pruned, every tenth fails."""
    rng = np.random.Generator(np.random.Philox(seed))
    made = {1: trial(1, GIVEN, rng)}
    for number in range(2, trials + 1):
        parameters = draw(rng)
        if number % 10 == 7:
            cause = "at hospital-b in round 3, batch 4: the loss is not finite (nan); lower training.learning_rate"
            made[number] = trial(number, parameters, rng, state=State.FAILED, value=None, curve=(), rounds=2, seconds=21.0, cause=cause)
        else:
            made[number] = trial(number, parameters, rng, part=0.3 if number % 5 in (2, 4) and skill(parameters) < 0.8 else 1.0)
    return made


def summary(made: Records, **changes: Any) -> dict[str, Any]:
    """``sweep.json`` of a sweep that is over."""
    complete = [record for record in made.values() if record.state == State.COMPLETE]
    best = max(complete, key=lambda record: record.value or -1, default=None)
    return {
        "name": "pneumonia",
        "status": "complete",
        "reason": "",
        "best": best.number if best else None,
        "value": best.value if best else None,
        "front": [],
        "given": 1,
        "wall_seconds": 4512.0,
        "training_seconds": sum(record.seconds for record in made.values()),
        "started": "2026-11-25T03:49:27+00:00",
        "max_epsilon": None,
        "privacy": None,
        "versions": {"python": "3.11.7", "optuna": "5.0.0"},
    } | changes


PRIVACY = {
    "unit": "image",
    "delta": dict.fromkeys(SITES, 1e-05),
    "accountant": "prv",
    "sites": {"hospital-a": 7.25, "hospital-b": 6.5, "hospital-c": 3.125},
    "trials": 20,
    "sentence": "Over all 20 trials together, no site has spent more than epsilon 7.25 at delta = 1e-05, for each image.",
}


def make_sweep(
    folder: Path,
    made: Records | None = None,
    *,
    search: str = "",
    space: str = SPACE,
    given: Mapping[str, Value] = GIVEN,
    change: Callable[[dict[str, Any]], None] | None = None,
    finished: bool = True,
    test_mcc: float | None = 0.7654,
) -> Path:
    """Write a sweep folder; ``change`` gets the summary before it is written. The best trial has a run folder with a page."""
    sweep = SweepFolder(folder)
    sweep.trials.mkdir(parents=True)
    made = records(20) if made is None else made
    sweep.config.write_text(_config(search + space, given))
    sweep.write_records(made.values())
    document = summary(made)
    if document["best"] is not None:
        run = folder / made[document["best"]].folder
        run.mkdir()
        (run / "summary.json").write_text(json.dumps({"synthetic": True, "test": test_mcc and {"mcc": test_mcc}}))
        (run / "report.html").write_text("a page")
    if change:
        change(document)
    if finished:
        sweep.write_summary(document)
        sweep.best.write_text("[run]\n")
    else:
        sweep.begin(SearchSettings(try_given=document["given"] is not None))
    return folder


def _config(search: str, given: Mapping[str, Value]) -> str:
    sections: dict[str, list[str]] = {}
    for key, value in given.items():
        section, name = key.split(".")
        text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
        sections.setdefault(section, []).append(f"{name} = {text}")
    blocks = [f"[{section}]\n" + "\n".join(lines) for section, lines in sections.items()]
    return "\n\n".join([*blocks, f"[search]\n{search}"])
